package peer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/blob"
)

// ScrubConfig of a Scrub.
type ScrubConfig struct {
	Local  *blob.Dir
	Mirror *Mirror
	// Named is what the table names, as far as this node knows.
	Named  func() map[cluster.Ref]bool
	State  string        // file in which it stands how far it is
	Rate   int64         // bytes a second; 0 = 20 MB
	Every  time.Duration // from the beginning of one round to that of the next; 0 = 6 days
	Logger *slog.Logger
}

// Scrub reads every file of this keeper again, slowly, round after round: disks
// forget, and say so only to who asks. A damaged file is set aside and had from
// another keeper.
type Scrub struct {
	cfg ScrubConfig
	log *slog.Logger

	mu sync.Mutex
	at Scrubbed
}

// Scrubbed is how far a scrub is. Times are milliseconds since 1970.
type Scrubbed struct {
	Began    int64       `json:"began"`    // this round; 0 = none has begun
	Cursor   cluster.Ref `json:"cursor"`   // the last file that was read
	Read     int64       `json:"read"`     // bytes of this round
	Damaged  int64       `json:"damaged"`  // files, since there is this store
	Finished int64       `json:"finished"` // when a round was whole last; 0 = never
	Done     bool        `json:"done"`     // this round is whole
}

// NewScrub returns one that goes on where it was when the agent ended.
func NewScrub(cfg ScrubConfig) *Scrub {
	if cfg.Rate == 0 {
		cfg.Rate = 20_000_000
	}
	if cfg.Every == 0 {
		cfg.Every = 6 * 24 * time.Hour
	}
	s := &Scrub{cfg: cfg, log: cfg.Logger.With("component", "scrub")}
	raw, err := os.ReadFile(cfg.State)
	if err == nil {
		err = json.Unmarshal(raw, &s.at)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.Warn("how far the last round was is not known: it begins anew", "err", err)
		s.at = Scrubbed{}
	}
	return s
}

// Status is how far it is.
func (s *Scrub) Status() Scrubbed { s.mu.Lock(); defer s.mu.Unlock(); return s.at }

func (s *Scrub) change(f func(*Scrubbed)) { s.mu.Lock(); defer s.mu.Unlock(); f(&s.at) }

// scrubAgain is how often it is looked whether a round is due.
const scrubAgain = 10 * time.Minute

// Run reads until ctx ends.
func (s *Scrub) Run(ctx context.Context) error {
	tick := time.NewTicker(scrubAgain)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if at := s.Status(); at.Done && time.Since(time.UnixMilli(at.Began)) < s.cfg.Every {
			continue
		}
		if err := s.round(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("files are not read again", "err", err)
		}
	}
}

// round begins one, or goes on with the one that was cut off.
func (s *Scrub) round(ctx context.Context) error {
	s.change(func(at *Scrubbed) {
		if at.Done || at.Began == 0 {
			at.Began, at.Cursor, at.Read, at.Done = time.Now().UnixMilli(), "", 0, false
		}
	})
	all, err := s.cfg.Local.List()
	if err != nil {
		return fmt.Errorf("list the files: %w", err)
	}
	saved := time.Now()
	for _, k := range all {
		if k.Ref <= s.Status().Cursor {
			continue
		}
		if err := s.one(ctx, k.Ref); err != nil {
			return errors.Join(err, s.save())
		}
		s.change(func(at *Scrubbed) { at.Cursor = k.Ref })
		if time.Since(saved) > time.Minute {
			if err := s.save(); err != nil {
				return err
			}
			saved = time.Now()
		}
	}
	s.change(func(at *Scrubbed) { at.Done, at.Finished = true, time.Now().UnixMilli() })
	at := s.Status()
	s.log.Info("every file was read again", "files", len(all), "bytes", at.Read, "damaged_ever", at.Damaged, "took", time.Since(time.UnixMilli(at.Began)).Round(time.Second))
	return s.save()
}

// one reads one file. Only the end of ctx is an error.
func (s *Scrub) one(ctx context.Context, ref cluster.Ref) error {
	err := s.cfg.Local.Scrub(ctx, ref, func(n int64) {
		s.change(func(at *Scrubbed) { at.Read += n })
		select {
		case <-time.After(time.Duration(float64(n) / float64(s.cfg.Rate) * float64(time.Second))):
		case <-ctx.Done():
		}
	})
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err == nil, cluster.CodeOf(err) == cluster.NotFound: // it went meanwhile
		return nil
	}
	s.change(func(at *Scrubbed) { at.Damaged++ })
	s.log.Error("a stored file is damaged", "ref", ref.Short(), "err", err)
	if s.cfg.Named()[ref] {
		s.cfg.Mirror.Lost(ref)
	}
	return nil
}

func (s *Scrub) save() error {
	raw, err := json.Marshal(s.Status())
	if err == nil {
		err = os.WriteFile(s.cfg.State+".new", raw, 0o600)
	}
	if err == nil {
		err = os.Rename(s.cfg.State+".new", s.cfg.State)
	}
	if err != nil {
		return fmt.Errorf("write down how far the scrub is: %w", err)
	}
	return nil
}
