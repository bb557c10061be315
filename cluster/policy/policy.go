// Package policy decides which waiting job goes to which idle worker. It is
// pure: the same view gives the same decisions, on any machine, at any time. It
// promises that no job and no worker is given out twice and that no idle worker
// is kept from a job that it could run. It refuses to know the log, leases and
// the clock: replicas agree on results, never on policy, so it may change freely.
package policy

import (
	"slices"
	"strings"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
)

// Mode is the rule by which waiting jobs are ordered.
type Mode string

// The modes.
const (
	FIFO       Mode = "fifo"        // by place in the queue
	RoundRobin Mode = "round-robin" // the user who had the least goes first
	Priority   Mode = "priority"    // instructor, high, normal, low
	Fair       Mode = "fair"        // shares of GPU time
)

// Modes lists every mode that has a name.
func Modes() []Mode { return []Mode{FIFO, RoundRobin, Priority, Fair} }

// ParseMode reads a mode's name. Those that cannot be chosen are Invalid.
func ParseMode(s string) (Mode, error) {
	m := Mode(strings.ToLower(strings.TrimSpace(s)))
	switch {
	case m == FIFO:
		return m, nil
	case slices.Contains(Modes(), m):
		return "", cluster.Errorf(cluster.Invalid, "queue mode %q is not built yet; use %s", m, FIFO)
	}
	return "", cluster.Errorf(cluster.Invalid, "unknown queue mode %q; use %s", s, FIFO)
}

// Jobs is what Pick reads of the job table: every job that is not on a GPU yet,
// in queue order. jobs.Table is one.
type Jobs interface {
	Waiting(f func(*jobs.Job) bool)
}

// View is all that a decision depends on.
type View struct {
	Jobs Jobs
	// Idle are the workers that ask for work, in the order in which they shall be
	// considered: the one that has waited longest first. A worker that stands
	// twice counts once.
	Idle []jobs.Claim
	// Busy are the other workers that are there. A job that already failed on an
	// idle worker waits for one of these if it has not been tried there.
	Busy []jobs.Claim
	// NotBefore holds back jobs until a time in milliseconds. Nil holds back none.
	NotBefore map[jobs.ID]int64
	Now       int64 // ms, by the same clock as NotBefore
	Mode      Mode  // "" means FIFO
}

// Pick returns the assignments to propose, in the order of the queue.
func Pick(v View) []jobs.Assign {
	idle := make([]jobs.Claim, 0, len(v.Idle))
	for _, c := range v.Idle {
		if !slices.ContainsFunc(idle, func(d jobs.Claim) bool { return d.Worker == c.Worker }) {
			idle = append(idle, c)
		}
	}
	if len(idle) == 0 {
		return nil
	}
	var out []jobs.Assign
	v.Jobs.Waiting(func(j *jobs.Job) bool {
		if j.State != jobs.Pending || v.NotBefore[j.ID] > v.Now {
			return true
		}
		if at := choose(j, idle, v.Busy); at >= 0 {
			out = append(out, jobs.Assign{Lease: jobs.Lease{Job: j.ID, Worker: idle[at].Worker, Epoch: j.Epoch + 1}})
			idle = slices.Delete(idle, at, at+1)
		}
		return len(idle) > 0
	})
	return out
}

// choose returns the index of the claim that gets j, or -1.
func choose(j *jobs.Job, idle, busy []jobs.Claim) int {
	again := -1 // the first that could but has had it before
	for i, c := range idle {
		switch {
		case !c.Can(j):
		case !tried(j, c):
			return i
		case again < 0:
			again = i
		}
	}
	if again >= 0 && slices.ContainsFunc(busy, func(c jobs.Claim) bool { return c.Can(j) && !tried(j, c) }) {
		return -1
	}
	return again
}

func tried(j *jobs.Job, c jobs.Claim) bool { return slices.Contains(j.Tried, string(c.Worker)) }
