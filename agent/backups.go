package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path"
	"slices"
	"sync"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/blob"
	"github.com/ahelme/comfyume/cluster/files"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/cluster/people"
	"github.com/ahelme/comfyume/roles/backup"
	"github.com/ahelme/comfyume/ui"
)

// backups makes backups when something has moved, proves them, and says how the
// last of each place went.
type backups struct {
	cfg    *Config
	core   *core
	node   string
	log    *slog.Logger
	places []*backupPlace

	drilling sync.Mutex // one drill at a time: they share a folder

	mu      sync.Mutex
	changed time.Time // when the workshop last did
}

// backupPlace is one place of --keep.
type backupPlace struct {
	vault *backup.Vault

	mu      sync.Mutex
	behind  time.Time    // since when something is in no backup here; zero = nothing
	last    *backup.Head // made by any machine, as far as it is known here
	err     error        // of the last try
	damaged int          // files found damaged by the last reading
	drill   *backup.Drill
}

// lockFile is where this machine remembers the lock of its backups: one that
// somebody puts into a bucket later does not count.
const lockFile = "backup-lock"

// startBackups begins to keep backups if this node shall.
func (a *Agent) startBackups() error {
	if len(a.cfg.Keep) == 0 {
		return nil
	}
	b := &backups{cfg: &a.cfg, core: a.swarm.core, node: a.self.Name, log: a.log}
	lock, err := readOwn(a.cfg.StateDir, lockFile)
	if err != nil {
		return err
	}
	for _, t := range a.cfg.Keep {
		v, err := backup.New(backup.Config{Target: t, Lock: lock, Owner: string(a.self.ID), Logger: a.cfg.Logger})
		if err != nil {
			return err
		}
		b.places = append(b.places, &backupPlace{vault: v})
	}
	b.change() // what there is at a start may be in no backup
	a.backups.Store(b)
	a.stack.run("backups", b.run)
	return nil
}

// kept is a file of the backups, for a machine that lost its own. NotFound when
// this node keeps none, or it is in none of them.
func (a *Agent) kept(ctx context.Context, ref cluster.Ref) (io.ReadCloser, int64, error) {
	err := error(cluster.Errorf(cluster.NotFound, "file %s is not here", ref.Short()))
	b := a.backups.Load()
	if b == nil {
		return nil, 0, err
	}
	for _, p := range b.places {
		r, n, perr := p.vault.OpenBlob(ctx, ref)
		if perr == nil {
			return r, n, nil
		}
		if cluster.CodeOf(perr) != cluster.NotFound {
			err = perr
		}
	}
	return nil, 0, err
}

func (b *backups) run(ctx context.Context) error {
	var aside sync.WaitGroup
	defer aside.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w := b.core.machine.Watch()
	defer w.Close()
	aside.Go(func() {
		for {
			ch, err := w.Next(ctx)
			if err != nil {
				return
			}
			if len(ch.Jobs)+len(ch.Users)+len(ch.Tables) > 0 {
				b.change()
			}
		}
	})
	aside.Go(func() { b.drills(ctx) })
	b.goOn(ctx)
	for _, p := range b.places {
		p.look(ctx)
	}
	next := time.NewTimer(min(b.cfg.KeepEvery, time.Minute))
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-next.C:
		}
		b.turn(ctx)
		next.Reset(b.cfg.KeepEvery)
	}
}

// turn makes a backup in each place if one is due, and reads some of it again.
func (b *backups) turn(ctx context.Context) {
	b.goOn(ctx)
	for _, p := range b.places {
		p.mu.Lock()
		due := !p.behind.IsZero() || p.err != nil || p.damaged > 0
		p.mu.Unlock()
		if due {
			if _, err := b.make(ctx, p); err != nil && ctx.Err() == nil {
				b.log.Error("no whole backup was made", "place", p.vault.Place(), "err", err)
			}
		}
		p.reread(ctx, b.log)
	}
}

// look reads what the place has, so that the last backup and the last drill are
// shown after a restart as well.
func (p *backupPlace) look(ctx context.Context) {
	all, err := p.vault.List(ctx)
	drill, derr := p.vault.LastDrill(ctx)
	p.mu.Lock()
	defer p.mu.Unlock()
	if derr == nil {
		p.drill = drill
	}
	if len(all) > 0 {
		p.last = &all[0]
	}
	p.err = err
}

// change notes that something is in no backup yet.
func (b *backups) change() {
	now := time.Now()
	b.mu.Lock()
	b.changed = now
	b.mu.Unlock()
	for _, p := range b.places {
		p.mu.Lock()
		if p.behind.IsZero() {
			p.behind = now
		}
		p.mu.Unlock()
	}
}

// covered notes that a backup of the place has all that was so at a time.
func (b *backups) covered(p *backupPlace, at time.Time) {
	b.mu.Lock()
	changed := b.changed
	b.mu.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.behind = time.Time{}
	if !changed.Before(at) {
		p.behind = changed
	}
}

// make makes a backup now. Another machine that makes one in the same place is no
// failure, and its backup counts, for what it has.
func (b *backups) make(ctx context.Context, p *backupPlace) (*backup.Manifest, error) {
	begin := time.Now()
	m, err := p.vault.Run(ctx, b)
	if cluster.CodeOf(err) == cluster.Conflict {
		if all, lerr := p.vault.List(ctx); lerr == nil && len(all) > 0 && time.Since(all[0].Made) < 2*b.cfg.KeepEvery {
			p.mu.Lock()
			p.last, p.err = &all[0], nil
			p.mu.Unlock()
			b.covered(p, all[0].Made)
			return nil, err
		}
	}
	p.mu.Lock()
	p.err = err
	if m != nil {
		h := m.Head()
		p.last = &h
	}
	if err == nil {
		p.damaged = 0
	}
	p.mu.Unlock()
	if err != nil {
		return m, err
	}
	b.covered(p, begin)
	b.log.Info("backup made", "place", p.vault.Place(), "name", m.Name, "files", len(m.Blobs), "bytes", m.Bytes(), "took", time.Since(begin).Round(time.Millisecond))
	if err := p.vault.Thin(ctx, time.Now()); err != nil {
		b.log.Warn("old backups were not thinned out", "place", p.vault.Place(), "err", err)
	}
	return m, nil
}

// rereadBytes is how much of a place is read again with each turn: all of a small
// workshop's, some of a large one's.
const rereadBytes = 512 << 20

func (p *backupPlace) reread(ctx context.Context, log *slog.Logger) {
	m, err := p.vault.Find(ctx, "")
	if err != nil {
		return // the run has said why
	}
	bad, err := p.vault.Reread(ctx, m, rereadBytes)
	if err != nil && ctx.Err() == nil {
		log.Warn("a backup was not read again", "place", p.vault.Place(), "err", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.damaged += len(bad)
}

// Write writes the table down. What it names is what it named before or after
// that: a file that was deleted meanwhile is copied as well.
func (b *backups) Write(ctx context.Context, w io.Writer) (backup.Image, error) {
	// A machine that others have left behind has an old table, and a backup of it would
	// pass for the newest.
	if err := b.core.caughtUp(ctx); err != nil {
		return backup.Image{}, fmt.Errorf("find out whether this machine's table is the newest: %w", err)
	}
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
	out := backup.Image{Workshop: string(im.Lineage.Cluster), Node: b.node, Index: im.Index, Made: time.UnixMilli(im.Made), Refs: refs, Files: names, Docs: docs}
	b.core.machine.Jobs(func(t *jobs.Table) {
		c := t.Count()
		out.Jobs = c.Waiting + c.Running + c.Done + c.Failed + c.Cancelled
	})
	return out, nil
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

// Secrets are this machine's own files.
func (b *backups) Secrets() (map[string][]byte, error) { return ownFiles(b.cfg) }

// problem is why a place is not in order, nil when it is.
func (p *backupPlace) problem(every time.Duration) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch late := time.Since(p.behind); {
	case p.err != nil:
		return p.err
	case p.damaged > 0:
		return cluster.Errorf(cluster.Internal, "%d files of the backups in %s are damaged; they are copied again with the next one", p.damaged, p.vault.Place())
	case p.last != nil && p.last.Missing > 0:
		return cluster.Errorf(cluster.Internal, "%d files are not in the last backup in %s", p.last.Missing, p.vault.Place())
	case !p.behind.IsZero() && late > 3*every+time.Minute:
		return cluster.Errorf(cluster.Unavailable, "no backup has been made in %s for %s although the workshop has changed", p.vault.Place(), late.Round(time.Second))
	case p.drill != nil && !p.drill.Proven():
		return cluster.Errorf(cluster.Internal, "the last drill did not bring everything back from %s: %s", p.vault.Place(), p.drill)
	}
	return nil
}

// checkBackups tells when the last backup is too old, damaged, or not whole.
func checkBackups(b *backups) check {
	return check{
		name: "backup", every: 5 * time.Second, fresh: time.Minute, grave: true,
		cure: "see what is said; then try again: comfyume-agent backup run",
		do: func(context.Context) (string, error) {
			var all []error
			for _, p := range b.places {
				all = append(all, p.problem(b.cfg.KeepEvery))
			}
			if err := errors.Join(all...); err != nil {
				return "", cluster.Errorf(cluster.Unavailable, "%s", messages(all))
			}
			return b.words(), nil
		},
	}
}

func messages(all []error) (out string) {
	for _, err := range all {
		if err == nil {
			continue
		}
		if out != "" {
			out += "; "
		}
		out += sentence(err)
	}
	return out
}

// words say in one line how the backups are.
func (b *backups) words() (out string) {
	for _, s := range b.states() {
		if out != "" {
			out += "; "
		}
		switch {
		case s.Made == 0:
			out += s.Place + ": the first one is to come"
		default:
			out += fmt.Sprintf("%s: %s, %d files", s.Place, humanize.Time(time.UnixMilli(s.Made)), s.Files)
		}
		if s.Proven == 0 {
			out += ", no restore proven yet"
		} else {
			out += ", last proven restore " + time.UnixMilli(s.Proven).Format(time.DateTime)
		}
	}
	return out
}

// states are the places, for pages.
func (b *backups) states() (out []ui.Backup) {
	for _, p := range b.places {
		s := ui.Backup{Place: p.vault.Place()}
		if err := p.problem(b.cfg.KeepEvery); err != nil {
			s.Problem = sentence(err)
		}
		p.mu.Lock()
		if p.last != nil {
			s.Name, s.Made, s.Files, s.Bytes, s.Missing = p.last.Name, p.last.Made.UnixMilli(), p.last.Files, p.last.Bytes, p.last.Missing
		}
		if p.drill != nil && p.drill.Proven() {
			s.Proven = p.drill.Made.UnixMilli()
		}
		p.mu.Unlock()
		out = append(out, s)
	}
	return out
}
