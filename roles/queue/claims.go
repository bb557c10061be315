package queue

import (
	"context"
	"slices"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/cluster/policy"
)

// claim is a worker that waits for work. The steward's lock guards it.
type claim struct {
	jobs.Claim
	since    time.Time
	inFlight bool        // an Assign for it is being committed
	lease    jobs.Lease  // which one
	gone     bool        // its caller waits no more
	answer   chan answer // room for the one answer
}

// answer is what a waiting claim gets.
type answer struct {
	row jobs.Assignment
	err error
}

func (c *claim) refuse(err error) {
	if !c.gone {
		c.gone = true
		c.answer <- answer{err: err}
	}
}

// grant is a job on its way to a claim.
type grant struct {
	claim *claim
	lease jobs.Lease
}

// grant sets the claim aside for a job. The lock is held.
func (c *claim) grant(l jobs.Lease) grant {
	c.inFlight, c.lease = true, l
	return grant{claim: c, lease: l}
}

// Claim waits until there is a job for the worker. It returns the job, ctx's
// error, or NoLeader when this node does not lead. A worker has one claim: a
// newer one takes the place of the older. Whoever claims says that it holds no
// job, so a job that the table says it holds is taken back first.
func (s *Steward) Claim(ctx context.Context, want jobs.Claim) (jobs.Assignment, error) {
	if want.Worker == "" {
		return jobs.Assignment{}, cluster.Errorf(cluster.Invalid, "a worker needs a name to claim work")
	}
	c := &claim{Claim: want, since: time.Now(), answer: make(chan answer, 1)}
	s.mu.Lock()
	if s.stopped {
		s.mu.Unlock()
		return jobs.Assignment{}, errStopping
	}
	s.claims = slices.DeleteFunc(s.claims, func(old *claim) bool {
		if old.Worker != c.Worker {
			return false
		}
		old.refuse(cluster.Errorf(cluster.Stale, "worker %s asked again", c.Worker))
		return true
	})
	s.claims = append(s.claims, c)
	s.met(want, c.since)
	s.mu.Unlock()
	s.wake()
	select {
	case a := <-c.answer:
		return a.row, a.err
	case <-ctx.Done():
		return s.withdraw(ctx, c)
	}
}

// withdraw ends a claim whose caller stopped waiting. An answer that came at
// the same moment is still given: the job is the worker's by then.
func (s *Steward) withdraw(ctx context.Context, c *claim) (jobs.Assignment, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case a := <-c.answer:
		return a.row, a.err
	default:
	}
	c.gone = true
	s.drop(c)
	s.saw(c.Worker, time.Now())
	return jobs.Assignment{}, context.Cause(ctx)
}

// drop takes a claim out of the line. The lock is held.
func (s *Steward) drop(c *claim) {
	if i := slices.Index(s.claims, c); i >= 0 {
		s.claims = slices.Delete(s.claims, i, i+1)
	}
}

// asking returns the claims that may be given a job, longest wait first: those
// whose workers could begin at once, and those that ask ahead of the end of what
// they run. One whose worker holds a job that it does not know of is in neither:
// that job is taken back first. The lock is held.
func (s *Steward) asking(held holders, near func(*jobs.Job) bool) (idle, soon []*claim) {
	for _, c := range s.claims {
		if c.inFlight {
			continue
		}
		switch held.stands(c, near) {
		case free:
			idle = append(idle, c)
		case nearly:
			soon = append(soon, c)
		}
	}
	return idle, soon
}

// dispatch gives waiting jobs to waiting workers: one entry for all of them. It
// does not wait for it: a worker that asks meanwhile gets into the next entry.
func (s *Steward) dispatch(ctx context.Context) {
	if grants := s.decide(); len(grants) > 0 {
		s.committing.Add(1)
		s.commits.Go(func() { s.commit(ctx, grants) })
	}
}

// commit proposes grants and answers their claims.
func (s *Steward) commit(ctx context.Context, grants []grant) {
	cmds := make([]cluster.Command, len(grants))
	for i, g := range grants {
		cmds[i] = &jobs.Assign{Lease: g.lease}
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if _, err := s.propose.Propose(ctx, cmds...); err != nil {
		s.log.Warn("an assignment was not accepted", "jobs", len(grants), "code", cluster.CodeOf(err), "err", err)
	}
	s.committing.Add(-1)
	// The error speaks of the last command only; the table speaks of each.
	for _, g := range grants {
		s.settle(g)
	}
}

// decide asks the policy and sets aside the claims that it used.
func (s *Steward) decide() []grant {
	rules := s.rules()
	s.mu.Lock()
	defer s.mu.Unlock()
	var grants []grant
	s.jobs.Jobs(func(t *jobs.Table) {
		view, byWorker := s.view(t, rules)
		if len(byWorker) == 0 {
			return
		}
		d := policy.Decide(view)
		s.memory.Note(t, d, view.Now)
		for _, a := range d.Assign {
			grants = append(grants, byWorker[a.Lease.Worker].grant(a.Lease))
		}
	})
	return grants
}

// view is what the policy decides on, with the claims behind its idle workers.
// The lock is held.
func (s *Steward) view(t *jobs.Table, rules Rules) (policy.View, map[cluster.WorkerID]*claim) {
	held := holding(t)
	v := policy.View{Jobs: t, Now: time.Now().UnixMilli(), Mode: rules.Mode, Paused: rules.Paused, Draining: rules.Draining, Passed: s.memory.Passed(), Kinds: rules.Kinds, Class: rules.Class, Boosted: rules.Boosted, Limits: rules.Limits, Listed: s.listed}
	for _, c := range s.claims {
		if c.inFlight {
			v.Coming = append(v.Coming, jobs.Assign{Lease: c.lease})
		}
	}
	byWorker := map[cluster.WorkerID]*claim{}
	idle, soon := s.asking(held, v.NearlyDone)
	for _, c := range idle {
		v.Idle = append(v.Idle, c.Claim)
		byWorker[c.Worker] = c
	}
	for _, c := range soon {
		v.Soon = append(v.Soon, c.Claim)
		byWorker[c.Worker] = c
	}
	if len(byWorker) > 0 {
		v.Busy = s.busy(held)
	}
	return v, byWorker
}

// between is how long a worker that was just heard of is expected to ask for
// its next job: after a Finish it holds nothing and has not asked yet.
const between = 2 * beat

// busy returns the workers that are there but at work, or between two jobs: a
// job that failed elsewhere can wait for one of them. Each is under a lease or
// was heard of just now, so none is waited for that is gone. The lock is held.
func (s *Steward) busy(held holders) []jobs.Claim {
	now := time.Now()
	var out []jobs.Claim
	for id, w := range s.workers {
		if w.claimed && (held.has(id) || now.Sub(w.seen) < between) {
			out = append(out, w.claim)
		}
	}
	return out
}

// settle looks in the table whether a grant was committed. Then its claim is
// answered, else the claim goes on waiting in its old place. It reports which.
func (s *Steward) settle(g grant) bool {
	var row jobs.Job
	var found bool
	s.mu.Lock()
	defer s.mu.Unlock()
	s.jobs.Jobs(func(t *jobs.Table) { row, found = t.Job(g.lease.Job) })
	g.claim.inFlight = false
	if !found || !held(&row, g.lease) || row.State != jobs.Assigned {
		// A job that was cancelled meanwhile is the worker's by the table, but the
		// worker does not know of it: the next pass takes it back. No wake: a refusal
		// that lasts would turn the loop into a spin.
		return false
	}
	s.clocks[g.lease.Job] = clock{lease: g.lease, until: time.Now().Add(s.ttl)}
	s.drop(g.claim)
	if g.claim.gone {
		s.lost[g.lease] = "its worker went away before it began"
		s.wake()
		return true
	}
	g.claim.gone = true
	g.claim.answer <- answer{row: jobs.Assignment{Lease: g.lease, Row: row}}
	s.log.Debug("job assigned", "job", g.lease.Job, "worker", g.lease.Worker, "epoch", g.lease.Epoch)
	return true
}

// held reports whether the lease is the row's and the job still goes on.
func held(j *jobs.Job, l jobs.Lease) bool {
	return j.Epoch == l.Epoch && j.Worker == l.Worker && j.State.Active()
}
