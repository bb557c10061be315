package state

import (
	"context"
	"maps"
	"sync"

	"github.com/ahelme/comfyume/cluster"
)

// Watcher collects what changed until its owner asks. Apply never waits for it.
type Watcher struct {
	m    *Machine
	mu   sync.Mutex
	next cluster.Change
	some bool
	wake chan struct{} // one token; never closed
}

// Watch begins collecting changes. The owner must Close it.
func (m *Machine) Watch() *Watcher {
	w := &Watcher{m: m, next: newChange(0), wake: make(chan struct{}, 1)}
	m.watchMu.Lock()
	m.watchers[w] = struct{}{}
	m.watchMu.Unlock()
	return w
}

// Next waits until something changed and returns all of it since the last call.
// After a restored snapshot Tables["all"] is set: read everything again.
func (w *Watcher) Next(ctx context.Context) (cluster.Change, error) {
	for {
		w.mu.Lock()
		if w.some {
			c := w.next
			w.next, w.some = newChange(0), false
			w.mu.Unlock()
			return c, nil
		}
		w.mu.Unlock()
		select {
		case <-w.wake:
		case <-ctx.Done():
			return cluster.Change{}, context.Cause(ctx)
		}
	}
}

// Close stops collecting.
func (w *Watcher) Close() {
	w.m.watchMu.Lock()
	delete(w.m.watchers, w)
	w.m.watchMu.Unlock()
}

func newChange(index uint64) cluster.Change {
	return cluster.Change{Index: index, Jobs: map[cluster.JobKey]bool{}, Users: map[cluster.User]bool{}, Tables: map[string]uint64{}}
}

func (m *Machine) notify(c cluster.Change) {
	if len(c.Jobs)+len(c.Users)+len(c.Tables) == 0 {
		return
	}
	m.watchMu.Lock()
	defer m.watchMu.Unlock()
	for w := range m.watchers {
		w.add(c)
	}
}

func (m *Machine) notifyAll(index uint64) {
	c := newChange(index)
	c.Tables["all"] = index
	m.notify(c)
}

func (w *Watcher) add(c cluster.Change) {
	w.mu.Lock()
	w.next.Index, w.some = c.Index, true
	maps.Copy(w.next.Jobs, c.Jobs)
	maps.Copy(w.next.Users, c.Users)
	maps.Copy(w.next.Tables, c.Tables)
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}
