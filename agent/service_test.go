package agent

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// manager is a service manager that remembers what it is told.
type manager struct {
	mu    sync.Mutex
	told  []string
	ready bool
	alive error
}

func (m *manager) service() *service {
	return &service{
		log: slog.New(slog.DiscardHandler), watch: 90 * time.Second,
		tell:  func(s string) error { m.mu.Lock(); defer m.mu.Unlock(); m.told = append(m.told, s); return nil },
		state: func() (bool, string) { m.mu.Lock(); defer m.mu.Unlock(); return m.ready, "a line" },
		alive: func(context.Context) error { m.mu.Lock(); defer m.mu.Unlock(); return m.alive },
	}
}

func (m *manager) set(ready bool, alive error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ready, m.alive = ready, alive
}

// heard counts what was told since the last time, by its first line's key.
func (m *manager) heard() map[string]int {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := map[string]int{}
	for _, s := range m.told {
		key, _, _ := strings.Cut(s, "=")
		out[key]++
	}
	m.told = nil
	return out
}

// TestManagerIsToldTheTruth: a node that opens for an hour is waited for, a node
// that hangs misses its beats, one that others keep from being ready does not.
func TestManagerIsToldTheTruth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &manager{}
		s := m.service()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.run(ctx) }()
		after := func(d time.Duration) map[string]int {
			time.Sleep(d)
			synctest.Wait()
			return m.heard()
		}

		if got := after(time.Hour); got["EXTEND_TIMEOUT_USEC"] < 60 || got["READY"]+got["WATCHDOG"] > 0 {
			t.Errorf("while it opens: %v", got)
		}
		m.set(false, errors.New("the site does not answer"))
		after(time.Minute)
		if got := after(time.Hour); len(got) > 0 {
			t.Errorf("hung before it was ready: %v", got)
		}
		m.set(true, nil)
		if got := after(30 * time.Second); got["READY"] != 1 || got["WATCHDOG"] == 0 {
			t.Errorf("ready: %v", got)
		}
		m.set(false, nil) // no leader any more
		if got := after(time.Hour); got["WATCHDOG"] < 120 || got["READY"] > 0 {
			t.Errorf("alive but not ready: %v", got)
		}
		m.set(true, errors.New("the site does not answer"))
		after(time.Minute)
		if got := after(s.watch); got["WATCHDOG"] > 0 {
			t.Errorf("hung, and it says that it is alive: %v", got)
		}
		m.set(true, nil)
		if got := after(time.Hour); got["WATCHDOG"] < 120 || got["READY"] > 0 {
			t.Errorf("alive again: %v", got)
		}
		s.stopping()
		if got := after(time.Hour); len(got) != 1 || got["STOPPING"] != 1 {
			t.Errorf("while it stops: %v", got)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestHungIsNotBusy: only a required check that never comes back means that this
// node hangs; one that fails, that others let wait, or that looks at a folder which
// is gone, does not.
func TestHungIsNotBusy(t *testing.T) {
	forever := make(chan struct{})
	deaf := func(context.Context) (string, error) { <-forever; return "", nil }
	for name, c := range map[string]struct {
		check check
		hangs bool
	}{
		"well":                  {check{required: true, do: func(context.Context) (string, error) { return "", nil }}, false},
		"fails":                 {check{required: true, do: func(context.Context) (string, error) { return "", errors.New("no leader") }}, false},
		"waits for others":      {check{required: true, do: func(ctx context.Context) (string, error) { <-ctx.Done(); return "", ctx.Err() }}, false},
		"slow":                  {check{required: true, do: func(context.Context) (string, error) { time.Sleep(40 * time.Second); return "", nil }}, false},
		"a lock is never freed": {check{required: true, do: deaf}, true},
		"a folder is gone":      {check{do: deaf}, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				forever = make(chan struct{})
				c.check.name, c.check.every, c.check.fresh = "commit", 3*time.Second, 10*time.Second
				h := newHealth("test", time.Now, c.check)
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error, 1)
				go func() { done <- h.run(ctx) }()
				var hung bool
				for range 10 * 60 {
					time.Sleep(time.Second)
					if err := h.stuck(); err != nil {
						hung = true
						if !strings.Contains(err.Error(), "commit") {
							t.Errorf("it does not say what hangs: %v", err)
						}
					}
				}
				if hung != c.hangs {
					t.Errorf("hung: %v, want %v", hung, c.hangs)
				}
				cancel()
				close(forever)
				if err := <-done; err != nil {
					t.Error(err)
				}
			})
		})
	}
}
