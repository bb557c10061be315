package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/consensus"
	"github.com/ahelme/comfyume/roles/backup"
)

// What a restore on an empty machine leaves for the first start.
const (
	bringTable = "restore.table" // the table, as writeImage writes it
	bringNote  = "restore.json"
)

// bringing says what is being brought back.
type bringing struct {
	Backup   string `json:"backup"`
	Workshop string `json:"workshop"`
	Place    string `json:"place"`
	Entered  bool   `json:"entered"` // the table is in place; the backups go on when the place knows the workshop's new id
}

// Prepared says what PrepareRestore did.
type Prepared struct {
	Backup string    `json:"backup"`
	Made   time.Time `json:"made"`
	Node   string    `json:"node"`
	Files  int       `json:"files"` // of the machine itself
	Jobs   int       `json:"jobs"`
	Env    string    `json:"settings,omitempty"` // file with the settings that the machine had
}

// PrepareRestore makes an empty state folder that of the machine that made a backup
// (name "" = the newest of all places), before its first start:
// its place in the network, its passwords, the table. All of it is read and checked
// before anything is written.
func PrepareRestore(ctx context.Context, cfg *Config, key backup.Key, name string) (Prepared, error) {
	if err := emptyFolder(cfg.StateDir); err != nil {
		return Prepared{}, err
	}
	v, m, err := findBackup(ctx, cfg, name)
	if err != nil {
		return Prepared{}, err
	}
	own, err := v.OpenSecrets(ctx, m, key)
	if err != nil {
		return Prepared{}, err
	}
	table, err := v.OpenTable(ctx, m, key)
	if err != nil {
		return Prepared{}, err
	}
	if _, err := readImage(bytes.NewReader(table)); err != nil {
		return Prepared{}, err
	}
	if err := openFolder(cfg.StateDir); err != nil {
		return Prepared{}, err
	}
	out := Prepared{Backup: m.Name, Made: m.Made, Node: m.Node, Jobs: m.Jobs}
	own[lockFile] = []byte(key.Lock() + "\n")
	for _, name := range slices.Sorted(maps.Keys(own)) {
		rel, ok := ownTarget(name)
		if !ok {
			return out, cluster.Errorf(cluster.Invalid, "backup %s names a file %q that belongs to no machine of ours: nothing was started", m.Name, name)
		}
		to := filepath.Join(cfg.StateDir, rel)
		if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
			return out, fmt.Errorf("restore %s: %w", name, err)
		}
		data := own[name]
		if name == ownSettings {
			data, out.Env = restoredSettings(data, own, cfg.StateDir), to
		}
		if err := writeSecret(to, data); err != nil {
			return out, err
		}
		out.Files++
	}
	note, err := json.Marshal(bringing{Backup: m.Name, Workshop: m.Workshop, Place: v.Place()})
	if err != nil {
		return out, err
	}
	if err := writeSecret(filepath.Join(cfg.StateDir, bringTable), table); err != nil {
		return out, err
	}
	return out, writeSecret(filepath.Join(cfg.StateDir, bringNote), note)
}

// emptyFolder refuses a folder in which an agent has worked.
func emptyFolder(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return cluster.Errorf(cluster.Unavailable, "the state folder %s cannot be read: %v", dir, err)
	}
	for _, e := range entries {
		if e.Name() != "lost+found" {
			return cluster.Errorf(cluster.Conflict, "the state folder %s is not empty (%s lies there): start the agent and use backup restore with it, or name an empty folder with --state-dir", dir, e.Name())
		}
	}
	return nil
}

// findBackup finds a backup in the places of --keep: of several that fit, the newest.
// A place that is away does not stand in the way of the others.
func findBackup(ctx context.Context, cfg *Config, name string) (v *backup.Vault, m *backup.Manifest, err error) {
	if len(cfg.Keep) == 0 {
		return nil, nil, cluster.Errorf(cluster.Invalid, "say where the backups are: --keep=dir:FOLDER or --keep=s3:ADDRESS, or the recovery kit with --env-file=KIT")
	}
	var failed []error
	for _, t := range cfg.Keep {
		one, err := backup.New(backup.Config{Target: t, Logger: logger(cfg)})
		var found *backup.Manifest
		if err == nil {
			found, err = one.Find(ctx, name)
		}
		if err != nil {
			failed = append(failed, err)
			continue
		}
		if m == nil || found.Made.After(m.Made) {
			v, m = one, found
		}
	}
	switch {
	case m != nil:
		for _, err := range failed {
			logger(cfg).Warn("a place of backups was not looked at: it may have a newer one", "err", err)
		}
		return v, m, nil
	case len(failed) == 1:
		return nil, nil, failed[0]
	}
	return nil, nil, cluster.Errorf(cluster.NotFound, "%s", messages(failed))
}

func logger(cfg *Config) *slog.Logger {
	if cfg.Logger == nil {
		return slog.Default()
	}
	return cfg.Logger
}

// restoredSettings has the certificate's paths lead to where it was restored.
func restoredSettings(lines []byte, own map[string][]byte, dir string) []byte {
	var out strings.Builder
	for line := range strings.Lines(string(lines)) {
		for key, name := range map[string]string{"SSL_CERT_PATH": ownCert, "SSL_KEY_PATH": ownKey} {
			if rel, _ := ownTarget(name); strings.HasPrefix(line, key+"=") && own[name] != nil {
				line = fmt.Sprintf("%s=%s\n", key, envQuoted(filepath.Join(dir, rel)))
			}
		}
		out.WriteString(line)
	}
	return []byte(out.String())
}

// bringBack puts the table in place that a restore left for the first start. It
// waits until this node knows whether others hold the workshop: then theirs counts.
func (a *Agent) bringBack(ctx context.Context) error {
	note, err := readOwn(a.cfg.StateDir, bringNote)
	if err != nil || note == "" {
		return err
	}
	var what bringing
	if err := json.Unmarshal([]byte(note), &what); err != nil {
		return cluster.Errorf(cluster.Invalid, "%s in the state folder cannot be read: empty the folder and restore again", bringNote)
	}
	c := a.swarm.core
	path := filepath.Join(a.cfg.StateDir, bringTable)
	if c == nil || what.Entered {
		_ = os.Remove(path) // of a start that ended between the two
		return nil
	}
	a.log.Info("bringing back", "backup", what.Backup)
	for c.raft.Lineage().Cluster == "" || !c.raft.Leads() && c.raft.Leader() == "" {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
	}
	if string(c.raft.Lineage().Cluster) == what.Workshop || !c.raft.Leads() {
		a.log.Warn("other machines hold the workshop's table: theirs counts, and the backup's was not put in its place", "backup", what.Backup)
	} else if err := putBack(ctx, c, path); err != nil {
		return fmt.Errorf("bring back backup %s: %w", what.Backup, err)
	}
	what.Entered = true
	raw, err := json.Marshal(what)
	if err != nil {
		return err
	}
	return errors.Join(writeSecret(filepath.Join(a.cfg.StateDir, bringNote), raw), os.Remove(path))
}

func putBack(ctx context.Context, c *core, path string) error {
	// A log takes no image before its first entries are applied: one of our own that
	// went through says that they are.
	for {
		err := c.caughtUp(ctx)
		if err == nil {
			break
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(retry):
		}
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	im, err := readImage(f)
	if err != nil {
		return err
	}
	return restoreTable(ctx, c, im, f)
}

// restoreTable replaces the table by an image's.
func restoreTable(ctx context.Context, c *core, im consensus.Image, from io.Reader) error {
	return c.raft.Restore(ctx, im, io.LimitReader(from, im.Size))
}

// goOn lets a workshop that was brought back go on with the backups of the old one.
func (b *backups) goOn(ctx context.Context) {
	path := filepath.Join(b.cfg.StateDir, bringNote)
	note, err := readOwn(b.cfg.StateDir, bringNote)
	var what bringing
	if err != nil || note == "" || json.Unmarshal([]byte(note), &what) != nil || !what.Entered {
		return
	}
	done := true
	for _, p := range b.places {
		lock, err := p.vault.Lock(ctx)
		if err == nil {
			_, err = p.vault.Prepare(ctx, string(b.core.raft.Lineage().Cluster), lock)
		}
		if err != nil && ctx.Err() == nil {
			done = false
			b.log.Warn("the backups do not go on there yet", "place", p.vault.Place(), "err", err)
		}
	}
	if done {
		if err := os.Remove(path); err != nil {
			b.log.Warn("the note of a restore was not taken away", "err", err)
		}
	}
}
