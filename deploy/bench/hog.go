//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

/*
A false election is one that nobody's death explains. hogs looks for them: our
three nodes run, a writer sends a job every hogWrites, one process for each core
burns CPU and one more writes and flushes without pause on the same disk. Nobody
is killed. Any campaign that a node's log tells of is one too many.
*/
const (
	hogWrites  = 100 * time.Millisecond
	hogSettled = 3 * time.Second // after the cluster has formed: its own election is none of ours
	campaign   = "entering candidate state"
)

// hogged is what one run under load gave.
type hogged struct {
	seconds   float64
	campaigns int           // elections that were begun
	acked     int           // jobs acknowledged
	failed    int           // jobs not acknowledged within ten seconds
	worst     time.Duration // longest wait for an acknowledgement
}

// hogs runs our nodes under load in both profiles.
func (b *bench) hogs(ctx context.Context) {
	if b.o.hog == 0 || b.o.ours == "" {
		return
	}
	for _, profile := range []string{"wan", "site"} {
		h, err := b.hog(ctx, profile, time.Duration(b.o.hog*float64(time.Second)))
		if err != nil {
			b.report.fail("system=ours hogs=%s %v", profile, err)
			continue
		}
		b.report.hogged(profile, h)
	}
}

func (b *bench) hog(ctx context.Context, profile string, d time.Duration) (h hogged, err error) {
	q, err := b.start(ctx, "ours", Setup{Clients: 1, Conns: 1, Profile: profile})
	if err != nil {
		return h, err
	}
	defer q.Close()
	time.Sleep(hogSettled)
	before, err := campaigns(q.Servers())
	if err != nil {
		return h, err
	}
	hogs, err := b.lab.hogs()
	defer stop(hogs)
	if err != nil {
		return h, err
	}
	c := newCell(q, b.dev, 1, 1024)
	begin := time.Now()
	for time.Since(begin) < d && ctx.Err() == nil {
		id, body := c.job(0)
		sent := time.Now()
		err := until(ctx, "enqueue", func(ctx context.Context) error {
			if time.Since(sent) > 10*time.Second {
				return nil
			}
			return q.Enqueue(ctx, 0, id, body)
		})
		took := time.Since(sent)
		if h.worst = max(h.worst, took); err != nil || took > 10*time.Second {
			h.failed++
		} else {
			h.acked++
		}
		time.Sleep(hogWrites)
	}
	h.seconds = time.Since(begin).Seconds()
	for _, k := range append(hogs, q.Servers()...) {
		if !k.alive() {
			return h, explain(errors.New("a process ended by itself"), []*child{k})
		}
	}
	after, err := campaigns(q.Servers())
	h.campaigns = after - before
	return h, err
}

// campaigns counts the elections that the nodes' logs tell of.
func campaigns(nodes []*child) (n int, err error) {
	for _, c := range nodes {
		raw, err := os.ReadFile(c.logPath())
		if err != nil {
			return 0, fmt.Errorf("read a node's log: %w", err)
		}
		n += strings.Count(string(raw), campaign)
	}
	if n == 0 {
		return 0, fmt.Errorf("the nodes' logs tell of no election at all (%q): it cannot be counted", campaign)
	}
	return n, nil
}

// hogs starts one process for each core that burns CPU, and one that flushes.
func (l *lab) hogs() (kids []*child, err error) {
	for i := range runtime.NumCPU() + 1 {
		role := "hog-cpu"
		if i == runtime.NumCPU() {
			role = "hog-fsync"
		}
		dir, err := l.folder(role)
		if err != nil {
			return kids, err
		}
		c, err := l.start(role, dir, l.self, role, dir)
		if err != nil {
			return kids, err
		}
		kids = append(kids, c)
	}
	return kids, nil
}

func hogCPU() error {
	for n := uint64(1); ; n = n*6364136223846793005 + 1442695040888963407 {
		if n == 0 {
			return errors.New("zero came up") // keeps the loop from being left out
		}
	}
}

// hogFsync writes a megabyte and flushes it, again and again, in a file of 64 MB.
func hogFsync(dir string) error {
	f, err := os.Create(filepath.Join(dir, "flushed"))
	if err != nil {
		return err
	}
	b := make([]byte, 1<<20)
	for i := 0; ; i++ {
		b[0] = byte(i)
		if _, err := f.WriteAt(b, int64(i%64)<<20); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
	}
}
