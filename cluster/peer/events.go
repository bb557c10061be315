package peer

import (
	"sync"

	"github.com/ahelme/comfyume/cluster/jobs"
)

// Events carries pictures and progress from workers to the gateways of this
// node. A subscriber's function is called in order for each job and must not
// block; whoever wants a queue keeps one.
type Events struct {
	mu   sync.RWMutex
	subs map[int]func(jobs.Event)
	next int
}

// NewEvents returns an empty hub.
func NewEvents() *Events { return &Events{subs: map[int]func(jobs.Event){}} }

// Publish hands an event to every subscriber before it returns, so an event
// published before a commit is with the gateway when the commit is seen.
func (e *Events) Publish(ev jobs.Event) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	for _, f := range e.subs {
		f(ev)
	}
}

// Subscribe registers f until the returned function is called.
func (e *Events) Subscribe(f func(jobs.Event)) (cancel func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	id := e.next
	e.next++
	e.subs[id] = f
	return func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.subs, id)
	}
}
