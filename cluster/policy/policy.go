// Package policy decides which waiting job goes to which idle worker, and tells
// people when theirs will. It is pure: the same view gives the same decisions,
// on any machine, at any time. It promises that no job and no worker is given
// out twice, that nothing paused or draining is given anything, and that no
// other idle worker is kept from a job that it could run. It refuses to know the
// log, leases and the clock: replicas agree on results, never on policy, so it
// may change freely.
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
	// Soon are workers at work that will soon be free and have no next job yet:
	// they get one ahead, of what the idle ones leave.
	Soon []jobs.Claim
	// Busy are the other workers that are there. A job that already failed on an
	// idle worker waits for one of these if it has not been tried there.
	Busy []jobs.Claim
	// Coming are assignments that are decided and not in the table yet: they count
	// as if they were. One that is there by now counts once.
	Coming []jobs.Assign
	// Now is the leader's clock in milliseconds since 1970, the one that stamps
	// entries: never less than the table's time. A job whose NotBefore is later
	// waits. 0 holds back none.
	Now      int64
	Mode     Mode // "" means FIFO
	Paused   Pause
	Draining map[cluster.NodeID]bool // nodes that get nothing new
	// Passed says since when a job was passed over for others whose models were
	// loaded (see Decision.Passed). Nil means that none was.
	Passed  map[jobs.ID]int64
	Bounds  Bounds // of fair; zero fields have the standard values
	Class   Class
	Boosted map[cluster.User]bool     // their jobs go before others'
	Limits  func(cluster.User) Limits // nil: nobody is bounded
	// Listed reports whether any worker is known to have a model file, here or away.
	// What nobody lists keeps a job from no worker: it may be no file of theirs.
	// Nil: no model keeps any job from any worker.
	Listed func(model string) bool
	// Kinds are what GPU the workers have, for estimates; nil means all the same.
	Kinds map[cluster.WorkerID]string
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

// can reports whether the worker has all that the job needs.
func (v *View) can(c jobs.Claim, j *jobs.Job) bool { return c.Can(j) && v.unlisted(c, j.Models) == "" }

// unlisted is the first of some models that the worker lacks, "" if it has all.
func (v *View) unlisted(c jobs.Claim, models []string) string {
	if c.Models == nil || v.Listed == nil {
		return "" // nothing is known of it, or of anybody
	}
	for _, m := range models {
		if !c.Models[m] && v.Listed(m) {
			return m
		}
	}
	return ""
}

// Decision is what Decide says.
type Decision struct {
	// Assign are the assignments to propose, in the order in which the jobs have
	// their turn.
	Assign []jobs.Assign
	// Passed are jobs whose turn it was and which wait for others whose models
	// are loaded. Whoever decides next says in View.Passed since when.
	Passed []jobs.ID
}

// Decide gives the idle workers their jobs.
func Decide(v View) Decision {
	r := newRound(&v)
	r.run()
	r.goOn(v.Soon)
	return Decision{Assign: r.out, Passed: r.passed}
}

// Pick returns the assignments that Decide makes.
func Pick(v View) []jobs.Assign { return Decide(v).Assign }

// Admit decides on a job that is about to be submitted: it gets a worker that is
// left when all that waits has been considered, so that it can be committed
// together with its assignment. It reports false if there is none.
func Admit(v View, j jobs.Job) (jobs.Assign, bool) {
	j.State = jobs.Pending
	r := newRound(&v)
	r.run()
	h := &head{person: r.person(j.ID.User), job: &j, load: j.LoadKey(), next: func() *jobs.Job { return nil }}
	if len(r.idle) == 0 || r.blocks(h.person) != "" || !r.feasible(h) {
		return jobs.Assign{}, false
	}
	r.give(h, r.choose(h))
	return r.out[len(r.out)-1], true
}

func tried(j *jobs.Job, c jobs.Claim) bool { return slices.Contains(j.Tried, string(c.Worker)) }
