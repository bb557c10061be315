package agent

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/blob"
	"github.com/ahelme/comfyume/cluster/files"
	"github.com/ahelme/comfyume/cluster/people"
	"github.com/ahelme/comfyume/roles/backup"
)

// keepDir is how --keep names a folder.
const keepDir = "dir:"

// keepPath is the folder that --keep names.
func keepPath(keep string) (string, error) {
	folder, ok := strings.CutPrefix(keep, keepDir)
	if !ok || !filepath.IsAbs(folder) {
		return "", cluster.Errorf(cluster.Invalid, "--keep=%s: use dir: and a whole path, e.g. --keep=dir:/mnt/backup", keep)
	}
	return folder, nil
}

func keepError(keep string) error {
	_, err := keepPath(keep)
	return err
}

// backups makes a backup when something has moved, and says how the last went.
type backups struct {
	dir   *backup.Dir
	core  *core
	node  string
	every time.Duration
	log   *slog.Logger

	mu    sync.Mutex
	moved bool // since the last backup began
	last  *backup.Manifest
	err   error // of the last try
	tried time.Time
}

// startBackups begins to keep backups if this node shall.
func (a *Agent) startBackups() error {
	if a.cfg.Keep == "" {
		return nil
	}
	folder, err := keepPath(a.cfg.Keep)
	if err != nil {
		return err
	}
	b := &backups{dir: backup.New(folder, a.cfg.Logger), core: a.swarm.core, node: a.self.Name, every: a.cfg.KeepEvery, log: a.log, moved: true}
	a.backups.Store(b)
	a.stack.run("backups", b.run)
	return nil
}

// kept is a file of the backups, for a machine that lost its own. NotFound when
// this node keeps none, or it is not in them.
func (a *Agent) kept(ctx context.Context, ref cluster.Ref) (blob.File, error) {
	b := a.backups.Load()
	if b == nil {
		return nil, cluster.Errorf(cluster.NotFound, "file %s is not here", ref.Short())
	}
	return b.dir.OpenBlob(ctx, ref)
}

func (b *backups) run(ctx context.Context) error {
	var watching sync.WaitGroup
	defer watching.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w := b.core.machine.Watch()
	defer w.Close()
	watching.Go(func() {
		for {
			ch, err := w.Next(ctx)
			if err != nil {
				return
			}
			if len(ch.Jobs)+len(ch.Users)+len(ch.Tables) > 0 {
				b.mu.Lock()
				b.moved = true
				b.mu.Unlock()
			}
		}
	})
	first := time.NewTimer(min(b.every, time.Minute))
	defer first.Stop()
	tick := time.NewTicker(b.every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-first.C:
		case <-tick.C:
		}
		b.mu.Lock()
		due := b.moved
		b.mu.Unlock()
		if !due {
			continue
		}
		if _, err := b.make(ctx); err != nil && ctx.Err() == nil {
			b.log.Error("no whole backup was made", "folder", b.dir.Path(), "err", err)
		}
	}
}

// make makes a backup now.
func (b *backups) make(ctx context.Context) (*backup.Manifest, error) {
	b.mu.Lock()
	b.moved = false
	b.mu.Unlock()
	begin := time.Now()
	m, err := b.dir.Run(ctx, b)
	b.mu.Lock()
	b.err, b.tried = err, time.Now()
	if m != nil {
		b.last = m
	}
	b.moved = b.moved || err != nil
	b.mu.Unlock()
	if err != nil {
		return m, err
	}
	b.log.Info("backup made", "name", m.Name, "files", len(m.Blobs), "bytes", m.Bytes(), "took", time.Since(begin).Round(time.Millisecond))
	if err := b.dir.Thin(time.Now()); err != nil {
		b.log.Warn("old backups were not thinned out", "err", err)
	}
	return m, nil
}

// Write writes the table down. What it names is what it named before or after
// that: a file that was deleted meanwhile is copied as well.
func (b *backups) Write(_ context.Context, w io.Writer) (backup.Image, error) {
	all := cluster.Change{Tables: map[string]uint64{"all": 1}}
	refs := b.core.machine.Refs(all)
	im, body, err := b.core.raft.Snapshot()
	if err != nil {
		return backup.Image{}, err
	}
	defer body.Close()
	if err := writeImage(w, im, body); err != nil {
		return backup.Image{}, err
	}
	refs = append(refs, b.core.machine.Refs(all)...)
	names, docs := b.names()
	slices.Sort(refs)
	refs = slices.DeleteFunc(slices.Compact(refs), func(r cluster.Ref) bool { return !r.Valid() })
	return backup.Image{Workshop: string(im.Lineage.Cluster), Node: b.node, Index: im.Index, Made: time.UnixMilli(im.Made), Refs: refs, Files: names, Docs: docs}, nil
}

// names are people's own names for their files, and their documents.
func (b *backups) names() (list []backup.File, docs []backup.Doc) {
	var users []cluster.User
	b.core.machine.People(func(t *people.Table) {
		for _, p := range t.People() {
			users = append(users, p.Name)
		}
	})
	b.core.machine.Files(func(t *files.Table) {
		for _, u := range users {
			for _, area := range []files.Area{files.Input, files.Output} {
				for _, f := range t.Files(u, area) {
					list = append(list, backup.File{Path: path.Join(string(u), string(area), f.Place.Subfolder, f.Place.Name), Ref: f.Ref})
				}
			}
			for _, d := range t.Docs(u, "") {
				full, ok := t.Doc(u, d.Path)
				name := path.Join(string(u), "documents", d.Path)
				switch {
				case !ok || full.Gone:
				case full.Ref != "":
					list = append(list, backup.File{Path: name, Ref: full.Ref})
				default:
					docs = append(docs, backup.Doc{Path: name, Data: full.Data})
				}
			}
		}
	})
	return list, docs
}

// Open returns a file of the workshop's.
func (b *backups) Open(ctx context.Context, ref cluster.Ref) (blob.File, error) {
	return b.core.mirror.Open(ctx, ref)
}

// checkBackups tells when the last backup is too old, or not whole.
func checkBackups(b *backups) check {
	return check{
		name: "backup", every: 10 * time.Second, fresh: time.Minute,
		cure: "see what is said; then try again: comfyume-agent backup run",
		do: func(context.Context) (string, error) {
			b.mu.Lock()
			defer b.mu.Unlock()
			switch {
			case b.err != nil:
				return "", b.err
			case b.last == nil:
				return "the first one is to come", nil
			}
			return fmt.Sprintf("%s, %d files", b.last.Name, len(b.last.Blobs)), nil
		},
	}
}

// Backup is one row of BackupList.
type Backup struct {
	Name    string    `json:"name"`
	Node    string    `json:"node"`
	Made    time.Time `json:"made"`
	Files   int       `json:"files"`
	Bytes   int64     `json:"bytes"`
	Missing int       `json:"missing"` // files that were not to be had
}

// BackupList answers GET /api/backup.
type BackupList struct {
	Schema  int      `json:"schema_version"`
	Folder  string   `json:"folder"`
	Backups []Backup `json:"backups"` // the newest first
	Problem string   `json:"problem,omitempty"`
}

// BackupCheck answers POST /api/backup/verify.
type BackupCheck struct {
	Backup  Backup        `json:"backup"`
	Damaged []cluster.Ref `json:"damaged"`
}

func rowOf(m *backup.Manifest) Backup {
	return Backup{Name: m.Name, Node: m.Node, Made: m.Made, Files: len(m.Blobs), Bytes: m.Bytes(), Missing: len(m.Missing)}
}

// keeping is what this node keeps.
func (a *api) keeping() (*backups, error) {
	if b := a.agent.backups.Load(); b != nil {
		return b, nil
	}
	return nil, cluster.Errorf(cluster.NotFound, "this node keeps no backups: ask the one that was started with --keep, or start this one with --keep=dir:FOLDER")
}

// backupVerb answers what a backup command asks.
func (a *api) backupVerb(do func(ctx context.Context, b *backups, r *http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		b, err := a.keeping()
		var out any
		if err == nil {
			out, err = do(r.Context(), b, r)
		}
		if err != nil {
			answerError(w, err)
			return
		}
		answer(w, http.StatusOK, out)
	}
}

func listBackups(_ context.Context, b *backups, _ *http.Request) (any, error) {
	all, err := b.dir.List()
	if err != nil && len(all) == 0 {
		return nil, err
	}
	out := BackupList{Schema: 1, Folder: b.dir.Path(), Backups: []Backup{}}
	if err != nil {
		out.Problem = cluster.MessageOf(err)
	}
	for i := range all {
		out.Backups = append(out.Backups, rowOf(&all[i]))
	}
	return out, nil
}

func prepareBackups(_ context.Context, b *backups, _ *http.Request) (any, error) {
	if err := b.dir.Prepare(string(b.core.raft.Lineage().Cluster)); err != nil {
		return nil, err
	}
	b.mu.Lock()
	b.err, b.moved = nil, true
	b.mu.Unlock()
	return BackupList{Schema: 1, Folder: b.dir.Path(), Backups: []Backup{}}, nil
}

func makeBackup(ctx context.Context, b *backups, _ *http.Request) (any, error) {
	m, err := b.make(ctx)
	if err != nil {
		return nil, err
	}
	return rowOf(m), nil
}

func verifyBackup(ctx context.Context, b *backups, r *http.Request) (any, error) {
	m, err := b.dir.Find(r.URL.Query().Get("name"))
	if err != nil {
		return nil, err
	}
	bad, err := b.dir.Verify(ctx, m)
	if err != nil {
		return nil, err
	}
	if len(bad) > 0 {
		b.mu.Lock()
		b.moved = true // the next one copies them again
		b.mu.Unlock()
	}
	return BackupCheck{Backup: rowOf(m), Damaged: append([]cluster.Ref{}, bad...)}, nil
}

// restoreBackup puts the table back to a backup's. Files come from the folder, as
// they are asked for and by and by.
func (a *api) restoreBackup(ctx context.Context, b *backups, r *http.Request) (any, error) {
	m, err := b.dir.Find(r.URL.Query().Get("name"))
	if err != nil {
		return nil, err
	}
	f, err := b.dir.OpenTable(m)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	confirmed := r.URL.Query().Get("confirm") == "true"
	text, err := a.restoreFrom(ctx, f, confirmed)
	if err != nil {
		return nil, err
	}
	if n := len(m.Missing); n > 0 {
		text += fmt.Sprintf(" %d files are not in that backup.", n)
	}
	if confirmed {
		err = b.dir.Prepare(string(b.core.raft.Lineage().Cluster)) // this workshop goes on with that one's backups
	}
	return struct {
		Text string `json:"text"`
	}{fmt.Sprintf("Backup %s: %s", m.Name, text)}, err
}
