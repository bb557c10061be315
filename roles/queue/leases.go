package queue

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
)

// clock is when a lease ends unless its worker is heard of. It lives in the
// leader's memory and runs on the monotonic clock: no entry carries it.
type clock struct {
	lease jobs.Lease
	until time.Time
}

// recall is a job that is to be taken from its worker.
type recall struct {
	lease  jobs.Lease
	reason string
}

// overdue winds the clocks of new leases, forgets those of ended ones, and
// returns the jobs whose worker has lost them.
func (s *Steward) overdue() []recall {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	grace := s.ttl
	if !s.leading {
		s.leading, s.began = true, now
		grace += amnesty
		clear(s.clocks)
	}
	claiming := map[cluster.WorkerID]*claim{}
	for _, c := range s.claims {
		if !c.inFlight {
			claiming[c.Worker] = c
		}
	}
	next := make(map[jobs.ID]clock, len(s.clocks))
	lost := map[jobs.Lease]string{} // kept until it is done: the next pass tries again
	held := map[cluster.WorkerID]bool{}
	var out []recall
	for _, h := range s.held() {
		l := h.lease
		held[l.Worker] = true
		c, ok := s.clocks[l.Job]
		if !ok || c.lease != l {
			c = clock{lease: l, until: now.Add(grace)}
		}
		next[l.Job] = c
		reason, gone := s.lost[l]
		switch {
		case gone:
			lost[l] = reason
		case claiming[l.Worker] != nil && !slices.Contains(claiming[l.Worker].Holds, l):
			reason = "its worker was restarted"
		case !now.Before(c.until):
			reason = "its worker stopped answering"
		case s.vanished(l.Worker, now):
			reason = "its machine is gone"
		default:
			continue
		}
		out = append(out, recall{lease: l, reason: cmp.Or(h.reason, reason)})
	}
	s.clocks, s.lost = next, lost
	s.prune(held, now)
	return out
}

// held are the jobs that workers hold; a cancelled one has the cancel's own
// reason, because that is how it ends.
func (s *Steward) held() (out []recall) {
	s.jobs.Jobs(func(t *jobs.Table) {
		t.Held(func(j *jobs.Job) bool {
			h := recall{lease: jobs.Lease{Job: j.ID, Worker: j.Worker, Epoch: j.Epoch}}
			if j.State == jobs.Cancelling {
				h.reason = j.Reason
			}
			out = append(out, h)
			return true
		})
	})
	return out
}

// What makes a job be taken back before its lease has run out: its machine is
// believed to be gone and the worker, which renews every second, is silent.
const (
	silent  = 3500 * time.Millisecond
	settled = 10 * time.Second // under a new leader that has not heard of the worker
)

// vanished reports whether two independent signs say that a worker is gone. The
// lock is held.
func (s *Steward) vanished(id cluster.WorkerID, now time.Time) bool {
	w := s.workers[id]
	switch {
	case w == nil || w.claim.Node == "":
		return false
	case now.Sub(w.seen) < silent || w.seen.Before(s.began) && now.Sub(s.began) < settled:
		return false
	}
	return s.gone(w.claim.Node)
}

// takeBack proposes that a job goes back to its place. When that cannot be
// committed now, the next pass finds the job again.
func (s *Steward) takeBack(ctx context.Context, r recall) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_, err := s.propose.Propose(ctx, &jobs.Requeue{Lease: r.lease, Reason: r.reason})
	switch cluster.CodeOf(err) {
	case "":
		s.log.Info("job taken back", "job", r.lease.Job, "worker", r.lease.Worker, "epoch", r.lease.Epoch, "reason", r.reason)
	case cluster.Stale, cluster.NotFound: // it ended in the meantime
	default:
		s.log.Warn("a job could not be taken back", "job", r.lease.Job, "err", err)
	}
}

// renew winds a lease's clock: its worker was heard of.
func (s *Steward) renew(l jobs.Lease) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.saw(l.Worker, now)
	// A report under another lease must not keep this one alive; one that is
	// not in the table is forgotten by the next pass.
	if c, ok := s.clocks[l.Job]; !ok || c.lease == l {
		s.clocks[l.Job] = clock{lease: l, until: now.Add(s.ttl)}
	}
}
