package state

import (
	"context"
	"slices"
	"sync"
)

// waits are those who wait for an entry to be applied.
type waits struct {
	mu   sync.Mutex
	list []wait // by index
}

type wait struct {
	index uint64
	done  chan struct{} // closed when it is applied
}

// Await returns when this replica has applied an entry, or ctx ends.
func (m *Machine) Await(ctx context.Context, index uint64) error {
	if applied, _ := m.Applied(); applied >= index {
		return nil
	}
	w := wait{index, make(chan struct{})}
	m.waits.add(w)
	defer m.waits.drop(w)
	// It may have come between the look and the entry into the list.
	if applied, _ := m.Applied(); applied >= index {
		return nil
	}
	select {
	case <-w.done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (ws *waits) add(w wait) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	at, _ := slices.BinarySearchFunc(ws.list, w.index, func(w wait, index uint64) int {
		if w.index <= index {
			return -1
		}
		return 1
	})
	ws.list = slices.Insert(ws.list, at, w)
}

func (ws *waits) drop(w wait) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.list = slices.DeleteFunc(ws.list, func(o wait) bool { return o.done == w.done })
}

// reached lets those go who waited for index or less.
func (ws *waits) reached(index uint64) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	n := 0
	for n < len(ws.list) && ws.list[n].index <= index {
		close(ws.list[n].done)
		n++
	}
	ws.list = slices.Delete(ws.list, 0, n)
}
