package signin

import (
	"context"
	"slices"
	"sync"

	"github.com/ahelme/comfyume/cluster"
)

// turns lets few hash at once, each on a core of its own, and chooses who is
// next. Whoever signed in from there before goes first, then the name at an
// address that had the fewest turns, then the address that had the fewest: one
// that asks for the first time waits for the hash that is being made and not
// behind a flood.
type turns struct {
	mu      sync.Mutex
	free    int
	waiting []*turn
	had     map[string]int // turns of addresses and of names at them since somebody last waited
}

// turn is one who waits.
type turn struct {
	known    bool          // signed in from there before
	from, as string        // the address; the name at the address
	now      chan struct{} // closed when it has come
}

// Bounds of the waiting: more than a class, less than a flood.
const (
	maxWaiting     = 2000
	maxWaitingFrom = 100 // one address, which may be a whole classroom's
)

func newTurns(n int) *turns { return &turns{free: n, had: map[string]int{}} }

// take waits for a turn; give must be called after it. It returns Unavailable
// when ctx ends or too many wait already.
func (q *turns) take(ctx context.Context, t turn) error {
	t.now = make(chan struct{})
	q.mu.Lock()
	if q.free > 0 {
		q.free--
		q.count(&t)
		q.mu.Unlock()
		return nil
	}
	beside := 0
	for _, w := range q.waiting {
		if w.from == t.from {
			beside++
		}
	}
	if !t.known && beside >= maxWaitingFrom || len(q.waiting) >= maxWaiting {
		q.mu.Unlock()
		return errBusy
	}
	q.waiting = append(q.waiting, &t)
	q.mu.Unlock()
	select {
	case <-t.now:
		return nil
	case <-ctx.Done():
	}
	q.mu.Lock()
	i := slices.Index(q.waiting, &t)
	if i >= 0 {
		q.waiting = slices.Delete(q.waiting, i, i+1)
	}
	q.mu.Unlock()
	if i < 0 { // it came at the same moment
		q.give()
	}
	return errBusy
}

var errBusy = cluster.Errorf(cluster.Unavailable, "The sign-in took too long: many people try at once. Try again.")

// give ends a turn and lets the next one go.
func (q *turns) give() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting) == 0 {
		q.free++
		clear(q.had)
		return
	}
	best := 0
	for i, w := range q.waiting {
		if q.before(w, q.waiting[best]) {
			best = i
		}
	}
	next := q.waiting[best]
	q.waiting = slices.Delete(q.waiting, best, best+1)
	q.count(next)
	close(next.now)
}

// before is strict: of equals the one that came first goes.
func (q *turns) before(a, b *turn) bool {
	if a.known != b.known {
		return a.known
	}
	if x, y := q.had[a.as], q.had[b.as]; x != y {
		return x < y
	}
	return q.had[a.from] < q.had[b.from]
}

func (q *turns) count(t *turn) {
	q.had[t.from]++
	q.had[t.as]++
}
