package gpu

import (
	"context"
	"slices"

	"github.com/ahelme/comfyume/cluster/jobs"
)

// take takes the turn if nobody has it.
func (w *Worker) take() bool {
	select {
	case w.turn <- struct{}{}:
		return true
	default:
		return false
	}
}

// pass gives the turn up.
func (w *Worker) pass() { <-w.turn }

// queueUp waits for the turn. A job that waits for it while another runs is given
// back when the worker is to take no more.
func (a *attempt) queueUp(ctx context.Context) error {
	if a.w.take() {
		return nil
	}
	for {
		why, changed := a.w.aside.reason()
		if why != "" {
			return &givenUp{reason: "its worker takes no more jobs: " + why}
		}
		select {
		case a.w.turn <- struct{}{}:
			return nil
		case <-changed:
		case <-a.stopped:
			return errStopped
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// handOver passes the turn on, once: when ComfyUI is seen to be done with the
// job, or when the attempt ends. It may be called from the socket's reader.
func (a *attempt) handOver() {
	if a.holds.CompareAndSwap(true, false) {
		a.w.pass()
	}
}

// connection is the link to ComfyUI; it may be dead, and is never nil.
func (w *Worker) connection() *link {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.link == nil {
		return noLink
	}
	return w.link
}

// noLink is a connection that is not there.
var noLink = func() *link {
	l := &link{lost: make(chan struct{})}
	close(l.lost)
	return l
}()

// enlist adds an attempt to what is held.
func (w *Worker) enlist(a *attempt) {
	w.mu.Lock()
	w.attempts = append(w.attempts, a)
	alone := w.shown == nil
	w.mu.Unlock()
	if alone {
		a.show(Staging)
	}
}

// delist takes an attempt off the list and shows the worker idle if nothing
// else is under way.
func (w *Worker) delist(a *attempt) {
	w.mu.Lock()
	w.attempts = slices.DeleteFunc(w.attempts, func(b *attempt) bool { return a == b })
	last := w.shown == a
	if last {
		w.shown = nil
	}
	w.mu.Unlock()
	if last {
		w.note(func(s *Status) {
			s.Job, s.NodeID, s.Value, s.Max = nil, "", 0, 0
			if s.Phase = Idle; w.Aside() != "" {
				s.Phase, s.Problem = Aside, w.Aside()
			}
		})
	}
}

// holds are the leases of what is held: the queue gives what runs no second time
// and takes nothing of it back.
func (w *Worker) holds() (out []jobs.Lease) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, a := range w.attempts {
		out = append(out, a.lease)
	}
	return out
}

// note changes the status as far as it tells of this attempt.
func (a *attempt) note(change func(*Status)) {
	a.w.mu.Lock()
	shown := a.w.shown == a
	a.w.mu.Unlock()
	if shown {
		a.w.note(change)
	}
}

// show makes the status tell of this attempt.
func (a *attempt) show(p Phase) {
	a.w.mu.Lock()
	a.w.shown = a
	a.w.mu.Unlock()
	a.w.note(func(s *Status) {
		s.Phase, s.Job, s.NodeID, s.Value, s.Max, s.Problem = p, &a.row.ID, "", 0, 0, ""
	})
}

// withdrawable lets recheck end a claim that waits; the result takes that back.
func (w *Worker) withdrawable(cancel context.CancelCauseFunc) func() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reclaim = cancel
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.reclaim = nil
	}
}

// recheck has ComfyUI looked at anew before more is asked for.
func (w *Worker) recheck() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.reclaim != nil {
		w.reclaim(errAgain)
	}
}

// earlier are the attempts that came before this one and are not over.
func (a *attempt) earlier(counts func(*attempt) bool) (out []*attempt) {
	a.w.mu.Lock()
	defer a.w.mu.Unlock()
	for _, b := range a.w.attempts {
		if b == a {
			break
		}
		if counts(b) {
			out = append(out, b)
		}
	}
	return out
}

// idle waits for a while, no longer than the newest job takes.
func (w *Worker) idle(ctx context.Context, p *pause) {
	w.mu.Lock()
	var left <-chan struct{}
	if n := len(w.attempts); n > 0 {
		left = w.attempts[n-1].left
	}
	w.mu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if left != nil {
		go func() {
			defer cancel()
			_ = until(ctx, left)
		}()
	}
	p.wait(ctx)
}

// until waits for something of an earlier attempt.
func until(ctx context.Context, c <-chan struct{}) error {
	select {
	case <-c:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
