package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/blob"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/cluster/state"
	"github.com/ahelme/comfyume/roles/backup"
)

// drillRetry is how long a drill that could not be begun waits.
const drillRetry = 15 * time.Minute

// drills proves a restore of each place now and then, if this machine was given the
// key.
func (b *backups) drills(ctx context.Context) {
	key, err := backup.ParseKey(string(b.cfg.RecoveryKey))
	if err != nil || b.cfg.DrillEvery == 0 {
		return
	}
	tick := time.NewTimer(min(b.cfg.DrillEvery, time.Minute))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		next := b.cfg.DrillEvery
		for _, p := range b.places {
			p.mu.Lock()
			some := p.last != nil
			due := some && (p.drill == nil || time.Since(p.drill.Made) >= b.cfg.DrillEvery)
			p.mu.Unlock()
			if !some {
				next = min(next, time.Minute)
			}
			if !due {
				continue
			}
			if _, err := b.drill(ctx, p, key); err != nil && ctx.Err() == nil {
				b.log.Error("a drill could not be done", "place", p.vault.Place(), "err", err)
				next = min(next, drillRetry)
			}
		}
		tick.Reset(next)
	}
}

// drill restores the newest backup of a place into a folder that is empty before and
// removed afterwards, with the key alone, and keeps how that went.
func (b *backups) drill(ctx context.Context, p *backupPlace, key backup.Key) (*backup.Drill, error) {
	b.drilling.Lock()
	defer b.drilling.Unlock()
	scratch := filepath.Join(b.cfg.StateDir, "drill")
	d, err := drillPlace(ctx, p.vault.Target(), logger(b.cfg), key, scratch)
	if err != nil {
		return nil, err
	}
	own, err := ownFiles(b.cfg)
	if err != nil {
		return nil, err
	}
	if d.backup.Node == b.node {
		d.compare(own)
	} else if d.Identity == backup.SameIdentity {
		d.Identity = backup.OtherIdentity + d.backup.Node // there is nothing to compare it with here
	}
	d.Node = b.node
	if err := p.vault.Record(ctx, &d.Drill); err != nil {
		b.log.Warn("the record of a drill was not kept", "place", p.vault.Place(), "err", err)
	}
	p.mu.Lock()
	p.drill = &d.Drill
	p.mu.Unlock()
	b.log.Info("drill", "place", p.vault.Place(), "result", d.String())
	return &d.Drill, nil
}

// drilled is a drill with what it found.
type drilled struct {
	backup.Drill
	backup *backup.Manifest
	own    map[string][]byte
}

// drillPlace restores the newest backup with the key and an empty folder only: every
// byte of every file under its own name, the table into a machine of its own, what
// the old machine needs to be itself.
func drillPlace(ctx context.Context, t backup.Target, log *slog.Logger, key backup.Key, scratch string) (_ *drilled, err error) {
	begin := time.Now()
	v, err := backup.New(backup.Config{Target: t, Logger: log})
	if err != nil {
		return nil, err
	}
	m, err := v.Find(ctx, "")
	if err != nil {
		return nil, err
	}
	if err := drillFits(filepath.Dir(scratch), m); err != nil {
		return nil, err
	}
	if err := errors.Join(os.RemoveAll(scratch), os.MkdirAll(scratch, 0o700)); err != nil {
		return nil, cluster.Errorf(cluster.Unavailable, "the folder %s for the drill cannot be made: %v", scratch, err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(scratch)) }()
	tally, err := v.Plain(ctx, m, everything(m), scratch)
	if err != nil {
		return nil, err
	}
	d := &drilled{backup: m, Drill: backup.Drill{
		Schema: 1, Made: time.Now().UTC(), Backup: m.Name, Files: tally.Files, Bytes: tally.Bytes, Restored: tally.Restored,
		Mismatched: len(tally.Mismatched) + len(m.Missing), Identity: backup.SameIdentity,
	}}
	table, err := v.OpenTable(ctx, m, key)
	if err == nil {
		err = d.table(m, table)
	}
	if err != nil {
		d.Mismatched++
		d.Identity = "the table: " + sentence(err)
	}
	if d.own, err = v.OpenSecrets(ctx, m, key); err != nil {
		d.Identity = sentence(err)
	}
	d.Seconds = time.Since(begin).Seconds()
	return d, nil
}

// drillFits refuses a drill that would fill the disk up to where it takes nothing new.
func drillFits(dir string, m *backup.Manifest) error {
	free, total, err := blob.Space(dir)
	if err != nil {
		return fmt.Errorf("ask for the free space of %s: %w", dir, err)
	}
	if keep := total / 100 * (100 - blob.NewUntil); free-m.Bytes() < keep {
		return cluster.Errorf(cluster.NoSpace, "a drill writes %s for a while, and the disk of %s has room for %s: free some, or prove a restore on another machine with backup restore --plain", humanize.Bytes(uint64(m.Bytes())), dir, humanize.Bytes(uint64(max(0, free-keep)))) //nolint:gosec // not negative
	}
	return nil
}

// everything are all files of a backup: those that people have names for, and what
// only the table names, under its digest.
func everything(m *backup.Manifest) []backup.File {
	named := map[cluster.Ref]bool{}
	for _, f := range m.Files {
		named[f.Ref] = true
	}
	out := slices.Clone(m.Files)
	for _, b := range m.Blobs {
		if !named[b.Ref] {
			out = append(out, backup.File{Path: "by-digest/" + string(b.Ref), Ref: b.Ref})
		}
	}
	return out
}

// table reads the restored table into an empty one, and compares what it names with
// what the backup has.
func (d *drilled) table(m *backup.Manifest, raw []byte) error {
	r := bytes.NewReader(raw)
	if _, err := readImage(r); err != nil {
		return err
	}
	fresh := state.New(slog.New(slog.DiscardHandler))
	if err := fresh.Restore(r); err != nil {
		return err
	}
	fresh.Jobs(func(t *jobs.Table) {
		c := t.Count()
		d.Jobs = c.Waiting + c.Running + c.Done + c.Failed + c.Cancelled
	})
	have := map[cluster.Ref]bool{}
	for _, b := range m.Blobs {
		have[b.Ref] = true
	}
	for _, ref := range fresh.Refs(cluster.Change{Tables: map[string]uint64{"all": 1}}) {
		if ref.Valid() && !have[ref] {
			d.Mismatched++
		}
	}
	return nil
}

// compare says whether the backup would make this machine again.
func (d *drilled) compare(now map[string][]byte) {
	if d.Identity != backup.SameIdentity {
		return
	}
	var differ []string
	for name, raw := range now {
		if name == "meter.json" || name == "settings.env" || strings.HasPrefix(name, tailnetFolder+"/") && !strings.HasSuffix(name, ".state") {
			continue // these move while the machine runs
		}
		if !bytes.Equal(raw, d.own[name]) {
			differ = append(differ, name)
		}
	}
	if len(differ) > 0 {
		slices.Sort(differ)
		d.Identity = "differs: " + strings.Join(differ, ",")
	}
}
