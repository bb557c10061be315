package agent

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/blob"
	"github.com/ahelme/comfyume/ui"
)

// Disk use in per cent of the state folder's disk. From diskNew on nothing new is
// taken, so that what runs has room until diskRed.
const (
	diskWarn = 70
	diskNew  = blob.NewUntil
	diskRed  = blob.RefuseAt
)

// gauge measures the disk of a folder, and tells from how it grew in the last hours
// when it will be full.
type gauge struct {
	measure func(dir string) (free, total int64, err error)
	dir     string
	now     func() time.Time

	mu   sync.Mutex
	last ui.Space
	ring []sample // the oldest first

	usage   blob.Usage
	counted time.Time // when usage was
}

// sample is how much was used at a time.
type sample struct {
	at   time.Time
	used int64
}

// What is remembered of the growth: six hours. Less than leastSpan tells nothing.
const (
	sampleEvery = 5 * time.Minute
	samples     = 72
	leastSpan   = 10 * time.Minute
)

func newGauge(dir string, now func() time.Time) *gauge {
	return &gauge{measure: blob.Space, dir: dir, now: now, last: ui.Space{Used: -1, Full: ui.FullUnknown}}
}

// look measures now.
func (g *gauge) look() (ui.Space, error) {
	free, total, err := g.measure(g.dir)
	if err != nil {
		return ui.Space{}, fmt.Errorf("measure the disk: %w", err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	now := sample{g.now(), total - free}
	if n := len(g.ring); n == 0 || now.at.Sub(g.ring[n-1].at) >= sampleEvery {
		g.ring = append(g.ring, now)
		g.ring = g.ring[max(0, len(g.ring)-samples):]
	}
	g.last = ui.Space{Used: blob.Percent(free, total), Free: free, Total: total, Full: g.forecast(now, total/100*diskRed)}
	return g.last, nil
}

// forecast is in how many seconds the disk is full. What was freed says nothing of
// what is being written: growth is counted from the emptiest moment on.
func (g *gauge) forecast(now sample, limit int64) int64 {
	if now.used >= limit {
		return 0
	}
	low := now
	for i := len(g.ring) - 1; i >= 0; i-- {
		if s := g.ring[i]; s.used < low.used || s.used == low.used && low.at.Equal(now.at) {
			low = s
		}
	}
	span, grown := now.at.Sub(low.at), now.used-low.used
	switch {
	case now.at.Sub(g.ring[0].at) < leastSpan:
		return ui.FullUnknown
	case grown <= 0 || span < leastSpan:
		return ui.FullNever
	}
	return int64(float64(limit-now.used) / float64(grown) * span.Seconds())
}

// seen is the newest measure; Used is -1 before there is one.
func (g *gauge) seen() ui.Space { g.mu.Lock(); defer g.mu.Unlock(); return g.last }

// countEvery is how often what is kept is counted: folders are read for it.
const countEvery = 5 * time.Second

// kept is what a store holds, as it was a moment ago.
func (g *gauge) kept(store *blob.Dir) blob.Usage {
	g.mu.Lock()
	defer g.mu.Unlock()
	if now := g.now(); g.counted.IsZero() || now.Sub(g.counted) >= countEvery {
		if u, err := store.Usage(); err == nil {
			g.usage, g.counted = u, now
		}
	}
	return g.usage
}

func checkDisk(look func() (ui.Space, error)) check {
	return check{
		name: "disk", every: 5 * time.Second, fresh: 30 * time.Second,
		cure: "free space on the disk of the state folder, or move it to a larger one; see comfyume-agent disk",
		do: func(context.Context) (string, error) {
			s, err := look()
			if err != nil {
				return "", err
			}
			detail := fmt.Sprintf("%d %% used, %s free, %d %% %s", s.Used, humanize.Bytes(uint64(s.Free)), diskRed, ui.FullWords(s.Full))
			switch {
			case s.Used >= diskRed:
				return detail + ": results are refused too", cluster.Errorf(cluster.NoSpace, "the disk is full")
			case s.Used >= diskNew:
				return detail + ": no new jobs and uploads, what runs is finished", cluster.Errorf(cluster.NoSpace, "the disk is nearly full")
			case s.Used >= diskWarn:
				return detail, cluster.Errorf(cluster.NoSpace, "the disk fills up")
			}
			return detail, nil
		},
	}
}

// space is what this node says of its disk and of what it keeps there.
func (a *Agent) space() *ui.Space {
	s := a.disk.seen()
	u := a.disk.kept(a.swarm.blobs)
	s.Blobs, s.Bytes, s.Partial, s.Damaged, s.Trash = u.Blobs, u.Bytes, u.Partial, u.Damaged, u.Trash
	if c := a.swarm.core; c != nil && c.mirror != nil {
		s.Keeper, s.Here, s.Missing = true, c.mirror.Here(), c.mirror.Missing()
		if c.scrub != nil {
			at := c.scrub.Status()
			s.Scrubbed, s.Found = at.Finished, at.Damaged
		}
	}
	return &s
}

// spaceShown is a measure for a page: numbers that move all the while would be sent
// all the while.
func spaceShown(s ui.Space) *ui.Space {
	step := max(1, s.Total/1000)
	s.Free = s.Free / step * step
	switch hour := int64(3600); {
	case s.Full > 48*hour:
		s.Full -= s.Full % (24 * hour)
	case s.Full > 2*hour:
		s.Full -= s.Full % hour
	case s.Full > 600:
		s.Full -= s.Full % 600
	}
	return &s
}

// MeasureDisk measures the disk of a folder, for who asks while no agent runs. Nothing
// is known of its growth then.
func MeasureDisk(dir string) (ui.Space, error) {
	whole, err := filepath.Abs(dir)
	if err != nil {
		return ui.Space{}, err
	}
	return newGauge(whole, time.Now).look()
}
