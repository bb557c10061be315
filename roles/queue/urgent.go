package queue

import (
	"context"
	"fmt"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/cluster/policy"
)

// stopWithin is how long a worker whose job was taken for an urgent one may take
// to ask for work. Then it is named, and the next one is asked.
const stopWithin = 2 * time.Second

// forgetEmptied is how long one that did not is named.
const forgetEmptied = time.Minute

// urge makes room: for urgent jobs, and at the end of a class.
func (s *Steward) urge(ctx context.Context) {
	for _, p := range s.stops() {
		ctx, cancel := context.WithTimeout(ctx, patience)
		_, err := s.propose.Propose(ctx, p)
		cancel()
		if err != nil {
			s.log.Warn("a job was not stopped for another", "job", p.Lease.Job, "worker", p.Lease.Worker, "err", err)
			continue
		}
		s.log.Info("job stopped for another", "job", p.Lease.Job, "worker", p.Lease.Worker, "reason", p.Reason)
		s.mu.Lock()
		s.emptied[p.Lease.Worker] = time.Now()
		s.mu.Unlock()
		for _, l := range s.stagedAt(p.Lease.Worker) {
			s.recall(ctx, l, "another was put before it")
		}
	}
}

// stops decides what to stop now.
func (s *Steward) stops() (out []*jobs.Preempt) {
	rules, now := s.rules(), time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.jobs.Jobs(func(t *jobs.Table) {
		if rules.Class.Mode != policy.WindDown && len(policy.Urgent(t)) == 0 {
			return // as after nearly every change
		}
		v, _ := s.view(t, rules)
		v.Busy = s.busy(holding(t))
		coming, skip := s.emptying(now)
		for _, j := range policy.Victims(v, coming, skip) {
			out = append(out, stop(&j, "it was stopped for the instructor's demo and keeps its place", false))
		}
		for _, j := range policy.Ending(v) {
			out = append(out, stop(&j, "it was stopped because the class ends; it keeps its place", true))
		}
	})
	return out
}

func stop(j *jobs.Job, reason string, again bool) *jobs.Preempt {
	return &jobs.Preempt{Lease: jobs.Lease{Job: j.ID, Worker: j.Worker, Epoch: j.Epoch}, Reason: reason, Again: again}
}

// emptying counts the workers that are about to be free and names those that
// are not to be asked again. The lock is held.
func (s *Steward) emptying(now time.Time) (coming int, skip map[cluster.WorkerID]bool) {
	skip = map[cluster.WorkerID]bool{}
	for w, at := range s.emptied {
		switch {
		case now.Sub(at) > forgetEmptied:
			delete(s.emptied, w)
			continue
		case now.Sub(at) < stopWithin:
			coming++
		case !s.stubborn[w]:
			s.stubborn[w] = true
			s.log.Warn("a worker did not stop its job in time; the next one is asked", "worker", w, "within", stopWithin)
		}
		skip[w] = true
	}
	for w := range s.stubborn {
		if _, known := s.emptied[w]; !known {
			delete(s.stubborn, w)
		}
	}
	return coming, skip
}

// nameStubborn tells whoever waits urgently which workers do not stop. The lock
// is held.
func (s *Steward) nameStubborn(t *jobs.Table, f *policy.Forecast) {
	for w := range s.stubborn {
		for i := range f.Told {
			if j, ok := t.Job(f.Told[i].Job); ok && j.Urgent && j.State == jobs.Pending {
				f.Told[i].Reason += fmt.Sprintf("; %s did not stop its job within %s", w, stopWithin)
			}
		}
	}
}
