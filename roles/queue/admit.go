package queue

import (
	"context"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/cluster/policy"
)

// admitter is the Proposer that Admit returns.
type admitter struct{ s *Steward }

// Admit wraps the steward's Proposer for the gateway: a prompt that an idle
// worker can take at once is committed together with its assignment, in one
// entry instead of two. Everything else passes through unchanged.
func (s *Steward) Admit() cluster.Proposer { return admitter{s: s} }

// Propose commits commands.
func (a admitter) Propose(ctx context.Context, cmds ...cluster.Command) (cluster.Outcome, error) {
	if len(cmds) != 1 {
		return a.s.propose.Propose(ctx, cmds...)
	}
	var sub *jobs.Submit
	switch c := cmds[0].(type) {
	case *jobs.Submit:
		sub = c
	case jobs.Submit:
		sub = &c
	default:
		return a.s.propose.Propose(ctx, cmds...)
	}
	g, ok := a.s.reserve(sub)
	if !ok {
		return a.s.propose.Propose(ctx, sub)
	}
	return a.s.admit(ctx, sub, g)
}

// reserve sets aside the claim that shall get the job. It finds none unless
// this node leads, the job is new, and no job that waits could go to that claim.
func (s *Steward) reserve(c *jobs.Submit) (grant, bool) {
	if !s.leads() || !s.waited() {
		return grant{}, false
	}
	rules := s.rules()
	s.mu.Lock()
	defer s.mu.Unlock()
	var g grant
	s.jobs.Jobs(func(t *jobs.Table) {
		if _, known := t.Job(c.ID); known {
			return
		}
		view, byWorker := s.view(t, rules)
		if a, ok := policy.Admit(view, jobs.Job{ID: c.ID, Classes: c.Classes, Models: c.Models, Form: c.Form, Priority: c.Priority}); ok {
			g = byWorker[a.Lease.Worker].grant(a.Lease)
		}
	})
	return g, g.claim != nil
}

// waited reports whether any worker waits for work.
func (s *Steward) waited() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.claims) > 0
}

// admit commits the job with its assignment. The answer is the Submit's own:
// when anything was refused, and it cannot be told which, the Submit is
// proposed once more, which is harmless and gets its own answer or refusal.
func (s *Steward) admit(ctx context.Context, c *jobs.Submit, g grant) (cluster.Outcome, error) {
	// The loop passed over the claim while it was set aside.
	defer s.wake()
	out, err := s.propose.Propose(ctx, c, &jobs.Assign{Lease: g.lease})
	if err == nil {
		if acc, ok := s.accepted(c); ok {
			s.settle(g)
			out.Body, err = cluster.Marshal(acc)
			return out, err
		}
	}
	out, err = s.propose.Propose(ctx, c)
	s.settle(g)
	return out, err
}

// accepted is what the Submit was answered, read from its row. A row of another
// body is not this Submit's: the id was taken by a rival at the same moment.
func (s *Steward) accepted(c *jobs.Submit) (jobs.Accepted, bool) {
	var row jobs.Job
	var found bool
	s.jobs.Jobs(func(t *jobs.Table) { row, found = t.Job(c.ID) })
	if !found || row.BodyHash != c.BodyHash {
		return jobs.Accepted{}, false
	}
	return jobs.Accepted{Number: row.Number, Seq: row.Seq}, true
}
