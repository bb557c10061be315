package policy

import (
	"cmp"
	"slices"
	"time"

	"github.com/ahelme/comfyume/cluster/jobs"
)

// StageAhead is how long before its job is expected to end a worker is given the
// next one, so that inputs are there when the GPU is free. What is given cannot
// be weighed against what comes later: with a minute, models were swapped half
// as often again in the worst of 30 seeds (S2: 50 times, 35 is the bound).
const StageAhead = 2 * time.Second

// NearlyDone reports whether the worker of a job is to be given its next one.
func (v *View) NearlyDone(j *jobs.Job) bool {
	run, load := v.expect(j, j.Worker, v.Jobs.Cold(j.ID))
	return max(j.Started, j.Assigned)+load+run-v.Now <= StageAhead.Milliseconds()
}

// Staged is a job that was given to a worker which still runs another.
type Staged struct {
	jobs.Lease
	Claim jobs.Claim // what the worker said of itself
}

// Unstage says which staged jobs are to go back to their places, and why. What
// has not begun begins no more under a pause. A worker that is idle and finds
// nothing else gets one: no GPU stands still while a job waits for another. With
// front, one goes back for each job that the instructor put to the front and
// that no worker which asks can have.
func Unstage(v View, staged []Staged, front bool) (out []jobs.Requeue) {
	if len(staged) == 0 {
		return nil
	}
	r := newRound(&v)
	var kept []Staged
	for _, s := range staged {
		j, ok := v.Jobs.Job(s.Job)
		if !ok || j.State != jobs.Assigned {
			continue
		}
		p := *r.person(s.Job.User)
		p.running-- // it counts itself
		p.sprinted--
		why := cmp.Or(r.blocks(&p), r.holds(&j, s.Worker))
		if why == "" && !v.takes(s.Claim) {
			why = "its worker is paused or drained"
		}
		switch {
		case why != "":
			out = append(out, jobs.Requeue{Lease: s.Lease, Reason: why})
		case !j.Fronted():
			kept = append(kept, s)
		}
	}
	back := func(i int, why string) {
		out = append(out, jobs.Requeue{Lease: kept[i].Lease, Reason: why})
		kept = slices.Delete(kept, i, i+1)
	}
	for _, c := range v.leftIdle(len(kept)) {
		i := slices.IndexFunc(kept, func(s Staged) bool {
			j, _ := v.Jobs.Job(s.Job)
			r.idle = []jobs.Claim{c}
			return r.may(c, &j)
		})
		if i >= 0 {
			back(i, "another GPU is free for it")
		}
	}
	if !front {
		return out
	}
	asking := slices.Concat(v.Idle, v.Soon)
	v.Jobs.Waiting(func(j *jobs.Job) bool {
		can := func(c jobs.Claim) bool {
			r.idle = []jobs.Claim{c}
			return v.takes(c) && r.feasible(&head{person: r.person(j.ID.User), job: j})
		}
		if !j.Fronted() || j.State != jobs.Pending || slices.ContainsFunc(asking, can) {
			return j.Fronted()
		}
		if i := slices.IndexFunc(kept, func(s Staged) bool { return can(s.Claim) }); i >= 0 {
			back(i, "another was put before it")
		}
		return true
	})
	return out
}

// leftIdle are the idle workers for which nothing else waits; none if nothing is staged.
func (v *View) leftIdle(staged int) []jobs.Claim {
	if staged == 0 || len(v.Idle) == 0 {
		return nil
	}
	alone := *v
	alone.Soon = nil
	given := Pick(alone)
	return slices.DeleteFunc(slices.Clone(v.Idle), func(c jobs.Claim) bool {
		return !v.takes(c) || slices.ContainsFunc(given, func(a jobs.Assign) bool { return a.Lease.Worker == c.Worker })
	})
}
