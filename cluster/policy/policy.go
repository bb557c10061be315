// Package policy decides which waiting job goes to which idle worker. It is
// pure: the same view gives the same decisions, on any machine, at any time. It
// promises that no job and no worker is given out twice, that nothing paused or
// draining is given anything, and that no other idle worker is kept from a job
// that it could run. It refuses to know the log, leases and the clock: replicas
// agree on results, never on policy, so it may change freely.
package policy

import (
	"slices"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
)

// View is all that a decision depends on.
type View struct {
	Jobs *jobs.Table
	// Idle are the workers that ask for work, in the order in which they shall be
	// considered: the one that has waited longest first. A worker that stands
	// twice counts once.
	Idle []jobs.Claim
	// Busy are the other workers that are there. A job that already failed on an
	// idle worker waits for one of these if it has not been tried there.
	Busy []jobs.Claim
	// Now is the leader's clock in milliseconds since 1970, the one that stamps
	// entries: never less than the table's time. A job whose NotBefore is later
	// waits. 0 holds back none.
	Now      int64
	Mode     Mode // "" means FIFO
	Paused   Pause
	Draining map[cluster.NodeID]bool // nodes that get nothing new
}

// Pause is what a person has held up. What runs goes on to its end.
type Pause struct {
	All     bool
	Users   map[cluster.User]bool
	Workers map[cluster.WorkerID]bool
}

// takes reports whether the worker may be given jobs at all.
func (v *View) takes(c jobs.Claim) bool {
	return !v.Paused.All && !v.Paused.Workers[c.Worker] && !v.Draining[c.Node]
}

// ready reports whether the job may be given to somebody now.
func (v *View) ready(j *jobs.Job) bool {
	return j.State == jobs.Pending && !v.Paused.Users[j.ID.User] && (v.Now == 0 || j.NotBefore <= v.Now)
}

// Pick returns the assignments to propose, in the order in which the jobs have
// their turn.
func Pick(v View) []jobs.Assign {
	r := newRound(&v)
	r.run()
	return r.out
}

// Admit decides on a job that is about to be submitted: it gets a worker that is
// left when all that waits has been considered, so that it can be committed
// together with its assignment. It reports false if there is none.
func Admit(v View, j jobs.Job) (jobs.Assign, bool) {
	j.State = jobs.Pending
	r := newRound(&v)
	r.run()
	if len(r.idle) == 0 || !r.offer(&j) {
		return jobs.Assign{}, false
	}
	return r.out[len(r.out)-1], true
}

// round is one decision on its way.
type round struct {
	view *View
	idle []jobs.Claim // left
	busy []jobs.Claim // at work, those that were given a job in this round among them
	out  []jobs.Assign
	// never are lists of classes that no idle worker has: a thousand jobs that wait
	// for a missing node are looked at once.
	never [][]string
}

// maxNever bounds the lists that are compared for each job.
const maxNever = 8

func newRound(v *View) *round {
	r := &round{view: v}
	for _, c := range v.Idle {
		if v.takes(c) && !slices.ContainsFunc(r.idle, func(d jobs.Claim) bool { return d.Worker == c.Worker }) {
			r.idle = append(r.idle, c)
		}
	}
	for _, c := range v.Busy {
		if v.takes(c) {
			r.busy = append(r.busy, c)
		}
	}
	return r
}

// run offers the jobs in the mode's order until no worker is left.
func (r *round) run() {
	if len(r.idle) == 0 {
		return
	}
	switch r.view.Mode {
	case RoundRobin, Priority:
		r.byTurns()
	default:
		r.view.Jobs.Waiting(func(j *jobs.Job) bool {
			r.offer(j)
			return len(r.idle) > 0
		})
	}
}

// offer gives j to a worker if one can have it, and reports so.
func (r *round) offer(j *jobs.Job) bool {
	at := r.choose(j)
	if at < 0 {
		return false
	}
	c := r.idle[at]
	r.out = append(r.out, jobs.Assign{Lease: jobs.Lease{Job: j.ID, Worker: c.Worker, Epoch: j.Epoch + 1}})
	r.idle, r.busy = slices.Delete(r.idle, at, at+1), append(r.busy, c)
	return true
}

// choose returns the index of the idle worker that would get j, or -1, which it
// then is for the rest of the round. A worker that has not failed with the job
// is better, and worth waiting for.
func (r *round) choose(j *jobs.Job) int {
	if !r.view.ready(j) || slices.ContainsFunc(r.never, func(classes []string) bool { return slices.Equal(classes, j.Classes) }) {
		return -1
	}
	again := -1 // the first that could but has had it before
	for i, c := range r.idle {
		switch {
		case !c.Can(j):
		case !tried(j, c):
			return i
		case again < 0:
			again = i
		}
	}
	if again < 0 && len(j.NoRoom) == 0 && len(r.never) < maxNever {
		r.never = append(r.never, j.Classes)
	}
	if again >= 0 && slices.ContainsFunc(r.busy, func(c jobs.Claim) bool { return c.Can(j) && !tried(j, c) }) {
		return -1
	}
	return again
}

func tried(j *jobs.Job, c jobs.Claim) bool { return slices.Contains(j.Tried, string(c.Worker)) }
