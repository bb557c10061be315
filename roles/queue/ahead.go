package queue

import (
	"context"
	"maps"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/cluster/policy"
)

// reclaims is how long a worker that lost the job it was to do next may take to
// ask again.
const reclaims = time.Second

// unstage takes back what was given ahead and shall not begin any more.
func (s *Steward) unstage(ctx context.Context) {
	rules := s.rules()
	now := time.Now()
	var back []jobs.Requeue
	s.mu.Lock()
	s.jobs.Jobs(func(t *jobs.Table) {
		staged := s.staged(holding(t))
		if len(staged) == 0 {
			return
		}
		v, _ := s.view(t, rules)
		back = policy.Unstage(v, staged, now.Sub(s.unstaged) >= reclaims)
	})
	if len(back) > 0 {
		s.unstaged = now
	}
	s.mu.Unlock()
	for _, r := range back {
		s.recall(ctx, r.Lease, r.Reason)
	}
}

// recall takes back a job that has not begun. Of an attempt that was given up the
// result may still count (see Renew), but nobody has begun this one: its worker
// is told to leave it.
func (s *Steward) recall(ctx context.Context, l jobs.Lease, reason string) {
	now := time.Now()
	s.mu.Lock()
	maps.DeleteFunc(s.recalled, func(_ jobs.Lease, at time.Time) bool { return now.Sub(at) > time.Minute })
	s.recalled[l] = now
	s.mu.Unlock()
	s.takeBack(ctx, recall{lease: l, reason: reason})
}

// stagedAt are the leases of jobs that a worker was given ahead.
func (s *Steward) stagedAt(w cluster.WorkerID) (out []jobs.Lease) {
	s.jobs.Jobs(func(t *jobs.Table) {
		for _, j := range holding(t)[w] {
			if j.state == jobs.Assigned {
				out = append(out, j.lease)
			}
		}
	})
	return out
}

func (s *Steward) wasRecalled(l jobs.Lease) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.recalled[l]
	return ok
}
