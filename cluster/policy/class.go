package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
)

// ClassMode is what the class does now. It says who may begin at all; in which
// order is the Mode's.
type ClassMode string

// The class modes.
const (
	FreeRun  ClassMode = "free"      // everybody as the mode says; "" is the same
	Demo     ClassMode = "demo"      // the instructor's jobs go first, the others' after them
	HandsOff ClassMode = "hands-off" // only the instructor's jobs begin
	Sprint   ClassMode = "sprint"    // everybody gets N jobs, then waits
	WindDown ClassMode = "wind-down" // nothing begins that would not be over at Until
)

// ClassModes lists them.
func ClassModes() []ClassMode { return []ClassMode{FreeRun, Demo, HandsOff, Sprint, WindDown} }

// ParseClassMode reads a class mode's name.
func ParseClassMode(s string) (ClassMode, error) {
	m := ClassMode(strings.ToLower(strings.TrimSpace(s)))
	if slices.Contains(ClassModes(), m) {
		return m, nil
	}
	return "", cluster.Errorf(cluster.Invalid, "There is no class mode %q. Use free, demo, hands-off, sprint or wind-down.", s)
}

// Class is a class mode with its numbers.
type Class struct {
	Mode  ClassMode
	N     int   // Sprint
	Since int64 // milliseconds since 1970
	Until int64 // WindDown
}

// Limits bound a user; 0 = no bound.
type Limits struct {
	Running int
	Minutes int // of GPU time in 24 hours
}

const day = 24 * 60 * 60 * 1000

// blocks is why nothing of a user's may begin now, "" if it may.
func (r *round) blocks(p *person) string {
	v := r.view
	if v.Paused.Users[p.name] {
		return "this user's jobs are paused"
	}
	if v.Class.Mode == Sprint && p.sprinted >= v.Class.N {
		return fmt.Sprintf("sprint: this user has had their %d jobs; the rest begins when the sprint is over", v.Class.N)
	}
	switch l := p.limits; {
	case l.Running > 0 && p.running >= l.Running:
		return fmt.Sprintf("this user may have %d jobs at work at a time", l.Running)
	case p.spent:
		return fmt.Sprintf("this user has had their %d minutes of GPU time for 24 hours", l.Minutes)
	}
	return ""
}

// bound notes what bounds a user.
func (r *round) bound(p *person) {
	v := r.view
	if v.Limits != nil {
		p.limits = v.Limits(p.name)
		p.spent = p.limits.Minutes > 0 && v.Jobs.HadSince(p.name, v.Now-day, v.Now) >= int64(p.limits.Minutes)*60_000
	}
	if v.Class.Mode != Sprint {
		return
	}
	p.sprinted = v.Jobs.BegunSince(p.name, v.Class.Since)
	for _, j := range v.Jobs.Active() {
		if j.ID.User == p.name && j.State == jobs.Assigned {
			p.sprinted++
		}
	}
}

// holds is why this job may not begin in the class as it is, "" if it may.
func (r *round) holds(j *jobs.Job, w cluster.WorkerID) string {
	v := r.view
	switch v.Class.Mode {
	case HandsOff:
		if j.Priority != jobs.Instructor && !j.Urgent {
			return "hands off: only the instructor's jobs begin now"
		}
	case WindDown:
		run, load := v.expect(j, w, r.coldOn(w, j.LoadKey()))
		if v.Now+run+load > v.Class.Until {
			return "winding down: it would not be over before " + clock(v.Class.Until)
		}
	}
	return ""
}

func clock(ms int64) string { return time.UnixMilli(ms).Format("15:04") }

// stopBefore is how long before the end of a wind-down jobs are stopped that
// will not be over in time, in milliseconds.
const stopBefore = 10 * 60 * 1000

// Ending are the running jobs that a wind-down stops now.
func Ending(v View) (out []jobs.Job) {
	if v.Class.Mode != WindDown || v.Now < v.Class.Until-stopBefore {
		return nil
	}
	for _, j := range v.Jobs.Active() {
		if !j.Preemptible(true) {
			continue
		}
		run, load := v.expect(&j, j.Worker, v.Jobs.Cold(j.ID))
		if v.Now >= v.Class.Until || max(j.Started, j.Assigned)+run+load > v.Class.Until {
			out = append(out, j)
		}
	}
	return out
}

// Urgent are the urgent jobs that wait. Looking for them costs next to nothing.
func Urgent(t *jobs.Table) (out []jobs.Job) {
	t.Waiting(func(j *jobs.Job) bool {
		if j.Urgent && j.State == jobs.Pending {
			out = append(out, *j)
		}
		return j.Fronted()
	})
	return out
}

// ahead reports whether a job was given to a worker that still runs another.
func ahead(t *jobs.Table, j *jobs.Job) (yes bool) {
	if j.State != jobs.Assigned {
		return false
	}
	t.Held(func(o *jobs.Job) bool {
		yes = o.Worker == j.Worker && o.Started != 0 && o.GpuDone == 0
		return !yes
	})
	return yes
}

// Victims are running jobs to stop so that the urgent ones that wait can begin:
// for each of those one whose worker can run it and that loses least, not on a
// worker that skip names. A worker that is idle or is being emptied (coming)
// makes one fewer necessary.
func Victims(v View, coming int, skip map[cluster.WorkerID]bool) (out []jobs.Job) {
	urgent := Urgent(v.Jobs)
	if len(urgent) == 0 || v.Paused.All {
		return nil
	}
	active := v.Jobs.Active()
	active = slices.DeleteFunc(active, func(j jobs.Job) bool { return ahead(v.Jobs, &j) })
	slices.SortStableFunc(active, func(a, b jobs.Job) int { return int(max(b.Started, b.Assigned) - max(a.Started, a.Assigned)) })
	coming += len(v.Idle)
	for _, u := range urgent {
		if slices.ContainsFunc(v.Coming, func(a jobs.Assign) bool { return a.Lease.Job == u.ID }) {
			continue // its worker is found
		}
		if coming > 0 {
			coming--
			continue
		}
		i := slices.IndexFunc(active, func(j jobs.Job) bool {
			if !j.Preemptible(false) || skip[j.Worker] || j.Priority == jobs.Instructor {
				return false
			}
			return slices.ContainsFunc(v.Busy, func(c jobs.Claim) bool { return c.Worker == j.Worker && v.takes(c) && v.can(c, &u) })
		})
		if i < 0 {
			return out
		}
		out = append(out, active[i])
		active = slices.Delete(active, i, i+1)
	}
	return out
}
