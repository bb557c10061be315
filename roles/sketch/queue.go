package sketch

import (
	"context"
	"slices"
	"sync"

	"github.com/ahelme/comfyume/roles/comfy"
)

// job is one accepted prompt.
type job struct {
	item     comfy.QueueItem
	graph    *comfy.Graph
	clientID string
	created  int64 // ms
	seq      int   // order of arrival, breaks ties of Number
}

// queue holds what waits and the one job that runs. updated is called after each
// change with what remains.
type queue struct {
	updated func(remaining int)
	telling sync.Mutex // taken before mu by each change and held until it has been told

	mu      sync.Mutex
	pending []*job // in the order of execution
	running *job
	cancel  context.CancelCauseFunc // of the running job
	counter int                     // of numbers given out
	seq     int
	wake    chan struct{} // holds one token while something may wait
}

func newQueue(updated func(int)) *queue {
	return &queue{updated: updated, wake: make(chan struct{}, 1)}
}

// number is the place of a new prompt: the client's own, or the next.
func (q *queue) number(r *comfy.PromptRequest) float64 {
	if r.Number != nil {
		return *r.Number
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	n := float64(q.counter)
	q.counter++
	if r.Front {
		return -n
	}
	return n
}

func (q *queue) put(j *job) {
	q.change(func() bool {
		j.seq = q.seq
		q.seq++
		at, _ := slices.BinarySearchFunc(q.pending, j, func(a, b *job) int {
			if a.item.Number != b.item.Number {
				if a.item.Number < b.item.Number {
					return -1
				}
				return 1
			}
			return a.seq - b.seq
		})
		q.pending = slices.Insert(q.pending, at, j)
		return true
	})
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// next waits for a job and makes it the running one; its context ends on interrupt.
func (q *queue) next(ctx context.Context) (j *job, jobCtx context.Context, err error) {
	for {
		q.change(func() bool {
			if len(q.pending) == 0 {
				return false
			}
			j, q.pending = q.pending[0], q.pending[1:]
			q.running = j
			jobCtx, q.cancel = context.WithCancelCause(ctx)
			return true
		})
		if j != nil {
			return j, jobCtx, nil
		}
		select {
		case <-q.wake:
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
	}
}

// done ends the running job.
func (q *queue) done() {
	q.change(func() bool {
		q.running = nil
		q.cancel(nil)
		return true
	})
}

// interrupt stops the running job if it is id, or whatever runs for "".
func (q *queue) interrupt(id string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.running == nil || id != "" && q.running.item.PromptID != id {
		return false
	}
	q.cancel(errInterrupted)
	return true
}

// remove takes waiting jobs out; nil takes all.
func (q *queue) remove(ids []string) (removed int) {
	q.change(func() bool {
		before := len(q.pending)
		q.pending = slices.DeleteFunc(q.pending, func(j *job) bool {
			return ids == nil || slices.Contains(ids, j.item.PromptID)
		})
		removed = before - len(q.pending)
		return removed > 0
	})
	return removed
}

func (q *queue) remaining() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := len(q.pending)
	if q.running != nil {
		n++
	}
	return n
}

// runs reports whether the running job was submitted by clientID.
func (q *queue) runs(clientID string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.running != nil && q.running.clientID == clientID
}

// list copies what runs and what waits.
func (q *queue) list() (running, pending []*job) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.running != nil {
		running = []*job{q.running}
	}
	return running, slices.Clone(q.pending)
}

// change makes one change and tells it, if there was one, before the next can be
// made: clients must hear that a job waits before they hear that it runs.
func (q *queue) change(f func() bool) {
	q.telling.Lock()
	defer q.telling.Unlock()
	q.mu.Lock()
	changed := f()
	q.mu.Unlock()
	if changed {
		q.updated(q.remaining())
	}
}
