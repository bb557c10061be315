package peer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/blob"
)

// SweepConfig of a Sweep.
type SweepConfig struct {
	Local  *blob.Dir
	Mirror *Mirror
	// Named returns what the table names at an index that the leader confirmed after
	// the call began. Without a quorum it fails.
	Named func(ctx context.Context) (map[cluster.Ref]bool, error)
	// Against is why nothing may be deleted now, "" = it may.
	Against func() (string, error)
	Trash   time.Duration // how long a discarded file can be brought back; 0 = a day
	Damaged time.Duration // how long a damaged one is kept that is here whole again; 0 = 30 days
	Now     func() time.Time
	Logger  *slog.Logger
}

// Sweep deletes what no row of the table names any more: in two steps, each after
// the leader confirmed that this node knows all, with a day between them in which
// the file lies in the trash. It never deletes what a row names; one that appears
// while it looks brings the file back.
type Sweep struct {
	cfg SweepConfig
	log *slog.Logger
}

// NewSweep returns one.
func NewSweep(cfg SweepConfig) *Sweep {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Trash == 0 {
		cfg.Trash = 24 * time.Hour
	}
	if cfg.Damaged == 0 {
		cfg.Damaged = 30 * 24 * time.Hour
	}
	return &Sweep{cfg: cfg, log: cfg.Logger.With("component", "sweep")}
}

// What a sweep keeps to.
const (
	unchangedFor = 24 * time.Hour // a file that was stored a short while ago may yet be named
	sweepEvery   = time.Hour
)

// Run looks now and then until ctx ends.
func (s *Sweep) Run(ctx context.Context) error {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := s.Look(ctx); err != nil && ctx.Err() == nil {
				s.log.Info("nothing was swept", "why", err)
			}
		}
	}
}

// Look sweeps once.
func (s *Sweep) Look(ctx context.Context) error {
	now := s.cfg.Now()
	if why, err := s.cfg.Against(); err != nil || why != "" {
		if err != nil {
			return err
		}
		return cluster.Errorf(cluster.Conflict, "%s", why)
	}
	all, err := s.cfg.Local.List()
	if err != nil {
		return fmt.Errorf("list the files: %w", err)
	}
	named, err := s.cfg.Named(ctx)
	if err != nil {
		return err
	}
	if len(named) == 0 {
		return nil // a table that names nothing at all is a new one, or not read yet
	}
	if err := s.bringBack(named); err != nil {
		return err
	}
	var gone []cluster.Ref
	for _, k := range all {
		if named[k.Ref] || !k.Changed.Before(now.Add(-unchangedFor)) {
			continue
		}
		discarded, derr := s.cfg.Local.Discard(k.Ref, now.Add(-unchangedFor), now)
		if derr != nil {
			err = derr
			break
		}
		if discarded {
			gone = append(gone, k.Ref)
		}
	}
	s.cfg.Mirror.Named(named, gone...)
	again, cerr := s.cfg.Named(ctx)
	if cerr != nil { // who knows what the table names by now
		for _, ref := range gone {
			s.cfg.Local.BringBack(ref)
		}
		return cerr
	}
	if berr := s.bringBack(again); berr != nil || err != nil {
		return fmt.Errorf("discard files: %w", errors.Join(err, berr))
	}
	return s.purge(ctx, now, again, len(gone))
}

// bringBack takes out of the trash what a row names.
func (s *Sweep) bringBack(named map[cluster.Ref]bool) error {
	all, err := s.cfg.Local.Trash()
	for _, k := range all {
		if named[k.Ref] && s.cfg.Local.BringBack(k.Ref) {
			s.log.Info("a file that is named again was taken out of the trash", "ref", k.Ref.Short())
		}
	}
	return err
}

func (s *Sweep) purge(ctx context.Context, now time.Time, named map[cluster.Ref]bool, discarded int) error {
	purged, err := s.cfg.Local.Purge(now.Add(-s.cfg.Trash), func(ref cluster.Ref) bool { return named[ref] })
	if err != nil {
		return fmt.Errorf("empty the trash: %w", err)
	}
	old, err := s.cfg.Local.PurgeDamaged(ctx, now.Add(-s.cfg.Damaged))
	if err != nil {
		return fmt.Errorf("remove damaged files: %w", err)
	}
	if discarded+purged+old > 0 {
		s.log.Info("swept", "into_trash", discarded, "out_of_trash", purged, "damaged_removed", old)
	}
	return nil
}
