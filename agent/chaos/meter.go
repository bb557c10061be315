package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// meter measures how long this machine itself stands still: what a run finds of
// times is worth no more than that.
type meter struct {
	mu    sync.Mutex
	late  time.Duration // a process had to wait for its turn
	flush time.Duration // a small write had to wait for the disk
}

const meterEvery = 50 * time.Millisecond

func startMeter(ctx context.Context, dir string) *meter {
	m := &meter{}
	f, err := os.Create(filepath.Join(dir, "meter"))
	if err != nil {
		return m
	}
	go func() {
		defer f.Close()
		page := make([]byte, 4096)
		for ctx.Err() == nil {
			begin := time.Now()
			wait(ctx, meterEvery)
			late := time.Since(begin) - meterEvery
			begin = time.Now()
			_, err := f.WriteAt(page, 0)
			if err == nil {
				err = f.Sync()
			}
			if err != nil {
				return
			}
			m.mu.Lock()
			m.late, m.flush = max(m.late, late), max(m.flush, time.Since(begin))
			m.mu.Unlock()
		}
	}()
	return m
}

func (m *meter) String() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return fmt.Sprintf("this machine itself stood still for up to %.1f s (a process waiting for its turn) and %.1f s (a flush of the disk)", m.late.Seconds(), m.flush.Seconds())
}
