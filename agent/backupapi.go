package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/roles/backup"
	"github.com/ahelme/comfyume/ui"
)

// Backup is one row of BackupList.
type Backup struct {
	Name    string    `json:"name"`
	Place   string    `json:"place"`
	Node    string    `json:"node"`
	Made    time.Time `json:"made"`
	Files   int       `json:"files"`
	Bytes   int64     `json:"bytes"`
	Missing int       `json:"missing"` // files that were not to be had
}

// BackupList answers GET /api/backup.
type BackupList struct {
	Schema  int      `json:"schema_version"`
	Places  []string `json:"places"`
	Backups []Backup `json:"backups"` // of each place the newest first
	Problem string   `json:"problem,omitempty"`
}

// BackupStates answers GET /api/backup/status.
type BackupStates struct {
	Schema int         `json:"schema_version"`
	Places []ui.Backup `json:"places"`
	Drills []string    `json:"drills"` // the last of each place that had one, in a line
}

// BackupInit answers POST /api/backup/init.
type BackupInit struct {
	Schema int      `json:"schema_version"`
	Places []string `json:"places"`
	// Kit is the recovery kit if a new key was made: the only time that it is shown.
	Kit     string `json:"kit,omitempty"`
	Problem string `json:"problem,omitempty"` // of places that could not be prepared
}

// BackupCheck answers POST /api/backup/verify.
type BackupCheck struct {
	Backup  Backup        `json:"backup"`
	Damaged []cluster.Ref `json:"damaged"`
}

func rowOf(h backup.Head, place string) Backup {
	return Backup{Name: h.Name, Place: place, Node: h.Node, Made: h.Made, Files: h.Files, Bytes: h.Bytes, Missing: h.Missing}
}

// asked is what a backup command asks.
type asked struct {
	Name    string `json:"name,omitempty"`
	Place   string `json:"place,omitempty"` // part of its name; "" = the first
	Key     string `json:"key,omitempty"`   // of the recovery kit
	NewKit  bool   `json:"new_kit,omitempty"`
	Confirm bool   `json:"confirm,omitempty"`

	User cluster.User `json:"user,omitempty"`
	Path string       `json:"path,omitempty"`
}

// keeping is what this node keeps.
func (a *api) keeping() (*backups, error) {
	if b := a.agent.backups.Load(); b != nil {
		return b, nil
	}
	return nil, cluster.Errorf(cluster.NotFound, "this node keeps no backups: ask the one that was started with --keep, or start this one with --keep=dir:FOLDER")
}

// backupVerb answers what a backup command asks.
func (a *api) backupVerb(do func(ctx context.Context, b *backups, in asked) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var in asked
		raw, err := io.ReadAll(io.LimitReader(r.Body, 1<<16))
		if err == nil && len(bytes.TrimSpace(raw)) > 0 {
			err = json.Unmarshal(raw, &in)
		}
		if err != nil {
			answerError(w, cluster.Errorf(cluster.Invalid, "the request cannot be read"))
			return
		}
		b, err := a.keeping()
		var out any
		if err == nil {
			out, err = do(r.Context(), b, in)
		}
		if err != nil {
			answerError(w, err)
			return
		}
		answer(w, http.StatusOK, out)
	}
}

// place finds the place that is meant.
func (b *backups) place(name string) (*backupPlace, error) {
	for _, p := range b.places {
		if strings.Contains(p.vault.Place(), name) {
			return p, nil
		}
	}
	return nil, cluster.Errorf(cluster.NotFound, "no place of this node's backups is called %q: see comfyume-agent backup status", name)
}

func (b *backups) placeNames() (out []string) {
	for _, p := range b.places {
		out = append(out, p.vault.Place())
	}
	return out
}

func listBackups(ctx context.Context, b *backups, _ asked) (any, error) {
	out := BackupList{Schema: 2, Places: b.placeNames(), Backups: []Backup{}}
	var problems []error
	for _, p := range b.places {
		all, err := p.vault.List(ctx)
		problems = append(problems, err)
		for _, h := range all {
			out.Backups = append(out.Backups, rowOf(h, p.vault.Place()))
		}
	}
	out.Problem = messages(problems)
	if out.Problem != "" && len(out.Backups) == 0 {
		return nil, cluster.Errorf(cluster.Unavailable, "%s", out.Problem)
	}
	return out, nil
}

func backupStatus(_ context.Context, b *backups, _ asked) (any, error) {
	out := BackupStates{Schema: 1, Places: b.states(), Drills: []string{}}
	for _, p := range b.places {
		p.mu.Lock()
		if p.drill != nil {
			out.Drills = append(out.Drills, p.drill.String())
		}
		p.mu.Unlock()
	}
	return out, nil
}

// prepareBackups makes the places those of this workshop, all under one lock. The key
// of a new lock is shown once and kept nowhere.
func prepareBackups(ctx context.Context, b *backups, in asked) (any, error) {
	lock, err := readOwn(b.cfg.StateDir, lockFile)
	if err != nil {
		return nil, err
	}
	for _, p := range b.places {
		if lock != "" || in.NewKit {
			break
		}
		lock, _ = p.vault.Lock(ctx) // of another machine of this workshop; what is wrong with the place is said below
	}
	var key backup.Key
	if lock == "" || in.NewKit {
		if key, err = backup.NewKey(); err != nil {
			return nil, fmt.Errorf("make a recovery key: %w", err)
		}
		lock = key.Lock()
	}
	var failed []error
	for _, p := range b.places {
		failed = append(failed, b.prepare(ctx, p, lock, in.NewKit))
	}
	if text := messages(failed); text != "" && (len(b.places) == 1 || !slices.Contains(failed, nil)) {
		return nil, cluster.Errorf(cluster.CodeOf(errors.Join(failed...)), "%s", text)
	}
	// A key that was made is shown whatever else goes wrong: it is kept nowhere.
	kept := writeSecret(filepath.Join(b.cfg.StateDir, lockFile), []byte(lock+"\n"))
	b.change()
	out := BackupInit{Schema: 1, Places: []string{}, Problem: messages(append(slices.Clone(failed), kept))}
	for i, p := range b.places {
		if failed[i] == nil {
			out.Places = append(out.Places, p.vault.Place())
		}
	}
	if !key.IsZero() {
		out.Kit = recoveryKit(b.cfg, key, b.node)
	}
	return out, nil
}

// prepare makes one place ours.
func (b *backups) prepare(ctx context.Context, p *backupPlace, lock string, again bool) error {
	if again { // no key is lost half-way: the place has the new lock or keeps the old one
		if err := p.vault.Relock(ctx, lock); err != nil && cluster.CodeOf(err) != cluster.NotFound {
			return err
		}
	}
	got, err := p.vault.Prepare(ctx, string(b.core.raft.Lineage().Cluster), lock)
	if err == nil && got != lock {
		err = cluster.Errorf(cluster.Conflict, "%s is locked with another key than the other places: comfyume-agent backup init --new-kit gives all of them a new one", p.vault.Place())
	}
	return err
}

// recoveryKit is an env file with all that a restore on an empty machine needs.
func recoveryKit(cfg *Config, key backup.Key, node string) string {
	var s strings.Builder
	fmt.Fprintf(&s, "# Recovery kit of a ComfyuME workshop, made by %s at %s.\n", node, time.Now().UTC().Format(time.RFC3339))
	s.WriteString("# Keep it off the machines of the workshop; whoever has it can read everything.\n")
	s.WriteString("# On an empty machine: comfyume-agent backup restore --env-file=THIS-FILE\n")
	var specs []string
	for _, t := range cfg.Keep {
		specs = append(specs, t.Spec)
	}
	fmt.Fprintf(&s, "COMFYUME_KEEP=%s\nCOMFYUME_RECOVERY_KEY=%s\n", envQuoted(strings.Join(specs, ",")), envQuoted(key.Text()))
	if cfg.KeepKeys.ID != "" {
		fmt.Fprintf(&s, "R2_ACCESS_KEY_ID=%s\nR2_SECRET_ACCESS_KEY=%s\n", envQuoted(cfg.KeepKeys.ID), envQuoted(cfg.KeepKeys.Secret))
	}
	if cfg.KeepKeys.CA != "" {
		fmt.Fprintf(&s, "COMFYUME_KEEP_CA=%s\n", envQuoted(cfg.KeepKeys.CA))
	}
	return s.String()
}

func makeBackup(ctx context.Context, b *backups, _ asked) (any, error) {
	var out []Backup
	var failed []error
	for _, p := range b.places { // one that is away takes nothing from the others
		m, err := b.make(ctx, p)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		out = append(out, rowOf(m.Head(), p.vault.Place()))
	}
	if len(failed) == 1 {
		return nil, failed[0]
	}
	if len(failed) > 1 {
		return nil, cluster.Errorf(cluster.Unavailable, "%s", messages(failed))
	}
	return out, nil
}

func verifyBackup(ctx context.Context, b *backups, in asked) (any, error) {
	p, err := b.place(in.Place)
	if err != nil {
		return nil, err
	}
	m, err := p.vault.Find(ctx, in.Name)
	if err != nil {
		return nil, err
	}
	bad, err := p.vault.Verify(ctx, m)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	p.damaged = len(bad)
	p.mu.Unlock()
	return BackupCheck{Backup: rowOf(m.Head(), p.vault.Place()), Damaged: append([]cluster.Ref{}, bad...)}, nil
}

// keyOf is the key that came with a request, or that of the settings.
func (b *backups) keyOf(in asked) (backup.Key, error) {
	text := in.Key
	if text == "" {
		text = string(b.cfg.RecoveryKey)
	}
	if text == "" {
		return backup.Key{}, cluster.Errorf(cluster.Forbidden, "this needs the recovery key: give the kit, --env-file=KIT")
	}
	return backup.ParseKey(text)
}

func drillBackup(ctx context.Context, b *backups, in asked) (any, error) {
	p, err := b.place(in.Place)
	if err != nil {
		return nil, err
	}
	key, err := b.keyOf(in)
	if err != nil {
		return nil, err
	}
	return b.drill(ctx, p, key)
}

// restoreBackup puts the table back to a backup's. Files come from there, as they
// are asked for and by and by.
func (a *api) restoreBackup(ctx context.Context, b *backups, in asked) (any, error) {
	p, err := b.place(in.Place)
	if err != nil {
		return nil, err
	}
	m, err := p.vault.Find(ctx, in.Name)
	if err != nil {
		return nil, err
	}
	key, err := b.keyOf(in)
	if err != nil {
		return nil, err
	}
	table, err := p.vault.OpenTable(ctx, m, key)
	if err != nil {
		return nil, err
	}
	text, err := a.restoreFrom(ctx, bytes.NewReader(table), in.Confirm)
	if err != nil {
		return nil, err
	}
	if n := len(m.Missing); n > 0 {
		text += fmt.Sprintf(" %d files are not in that backup.", n)
	}
	if in.Confirm { // this workshop goes on with that one's backups
		if _, err = p.vault.Prepare(ctx, string(b.core.raft.Lineage().Cluster), key.Lock()); err == nil {
			err = writeSecret(filepath.Join(b.cfg.StateDir, lockFile), []byte(key.Lock()+"\n"))
		}
	}
	return struct {
		Text string `json:"text"`
	}{fmt.Sprintf("Backup %s: %s", m.Name, text)}, err
}
