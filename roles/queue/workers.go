package queue

import (
	"cmp"
	"slices"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
)

// worker is what the steward remembers of one.
type worker struct {
	claim   jobs.Claim
	claimed bool // claim is what it asked for last; else it was only seen reporting
	seen    time.Time
}

// forgetAfter is how long a worker without a job is remembered.
const forgetAfter = time.Hour

// met notes a worker that asks for work. The lock is held.
func (s *Steward) met(c jobs.Claim, now time.Time) {
	s.workers[c.Worker] = &worker{claim: c, claimed: true, seen: now}
	delete(s.emptied, c.Worker) // it has stopped what it was to stop
}

// saw notes a sign of life. The lock is held.
func (s *Steward) saw(id cluster.WorkerID, now time.Time) {
	w := s.workers[id]
	if w == nil {
		w = &worker{claim: jobs.Claim{Worker: id}}
		s.workers[id] = w
	}
	w.seen = now
}

// listed reports whether any worker that is remembered has a model file. The lock
// is held.
func (s *Steward) listed(model string) bool {
	for _, w := range s.workers {
		if w.claim.Models[model] {
			return true
		}
	}
	return false
}

// prune forgets workers that are long gone. The lock is held.
func (s *Steward) prune(held map[cluster.WorkerID]bool, now time.Time) {
	for id, w := range s.workers {
		if now.Sub(w.seen) >= forgetAfter && !held[id] && !s.waits(id) {
			delete(s.workers, id)
		}
	}
}

func (s *Steward) waits(id cluster.WorkerID) bool {
	return slices.ContainsFunc(s.claims, func(c *claim) bool { return c.Worker == id })
}

// roomier reports whether a worker is there that could run a job which ran out
// of memory on m. One that is drained or paused does not count: nobody knows for
// how long.
func (s *Steward) roomier(id jobs.ID, m jobs.Memory) bool {
	rules := s.rules()
	s.mu.Lock()
	defer s.mu.Unlock()
	var j jobs.Job
	var found bool
	var held holders
	s.jobs.Jobs(func(t *jobs.Table) { j, found = t.Job(id); held = holding(t) })
	if !found || j.Strikes+1 >= jobs.MaxStrikes {
		return false
	}
	j.NoRoom = append(slices.Clone(j.NoRoom), m)
	now := time.Now()
	for id, w := range s.workers {
		there := s.waits(id) || held.has(id) || now.Sub(w.seen) < between
		if w.claimed && there && w.claim.Can(&j) && !rules.Draining[w.claim.Node] && !rules.Paused.Workers[id] {
			return true
		}
	}
	return false
}

// WorkerView is a worker as a page shows it.
type WorkerView struct {
	ID       cluster.WorkerID
	Node     cluster.NodeID // "" until it has asked for work here
	Idle     bool           // it waits for work now
	Job      *jobs.ID       // what it holds
	LastSeen time.Time      // its last sign of life; now while it waits
}

// Workers lists the workers that were heard of in the last hour, by id.
func (s *Steward) Workers() []WorkerView {
	s.mu.Lock()
	defer s.mu.Unlock()
	var held holders
	s.jobs.Jobs(func(t *jobs.Table) { held = holding(t) })
	now := time.Now()
	out := make([]WorkerView, 0, len(s.workers))
	for id, w := range s.workers {
		v := WorkerView{ID: id, Node: w.claim.Node, LastSeen: w.seen}
		if j, ok := held.shown(id); ok {
			v.Job = &j
		}
		if s.waits(id) {
			v.Idle, v.LastSeen = v.Job == nil, now
		}
		out = append(out, v)
	}
	slices.SortFunc(out, func(a, b WorkerView) int { return cmp.Compare(a.ID, b.ID) })
	return out
}
