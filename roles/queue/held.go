package queue

import (
	"slices"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/cluster/policy"
)

// holders are the workers that hold jobs, with these, oldest first: one that runs
// or is stored, others that are stored still, and one that was given ahead.
type holders map[cluster.WorkerID][]heldJob

// heldJob is what counts here of a job that a worker holds. row is good only
// inside the view of the table in which it was read.
type heldJob struct {
	lease jobs.Lease
	state jobs.State
	onGPU bool // started, and the GPU is not free of it
	row   *jobs.Job
}

func holding(t *jobs.Table) holders {
	out := holders{}
	t.Held(func(j *jobs.Job) bool {
		l := jobs.Lease{Job: j.ID, Worker: j.Worker, Epoch: j.Epoch}
		out[j.Worker] = append(out[j.Worker], heldJob{lease: l, state: j.State, onGPU: j.Started != 0 && j.GpuDone == 0, row: j})
		return true
	})
	return out
}

func (h holders) has(w cluster.WorkerID) bool { return len(h[w]) > 0 }

// What a worker that asks could do.
type standing int

const (
	taken  standing = iota // nothing now
	free                   // begin at once
	nearly                 // begin when it is done with what it runs
)

// stands says what the worker of a claim could do.
func (h holders) stands(c *claim, near func(*jobs.Job) bool) standing {
	out := free
	for _, j := range h[c.Worker] {
		switch {
		case !slices.Contains(c.Holds, j.lease):
			return taken
		case j.row.GpuDone != 0: // only stored still
		case out == nearly || !near(j.row): // it has its next one, or it is too early for that
			return taken
		default:
			out = nearly
		}
	}
	return out
}

// ahead are the jobs that were given to workers which still run another.
func (h holders) ahead() (out []jobs.Lease) {
	for _, all := range h {
		if !slices.ContainsFunc(all, func(j heldJob) bool { return j.onGPU }) {
			continue
		}
		for _, j := range all {
			if j.state == jobs.Assigned {
				out = append(out, j.lease)
			}
		}
	}
	return out
}

// staged are those whose workers are known.
func (s *Steward) staged(h holders) (out []policy.Staged) {
	for _, l := range h.ahead() {
		if w := s.workers[l.Worker]; w != nil {
			out = append(out, policy.Staged{Lease: l, Claim: w.claim})
		}
	}
	return out
}

// shown is the job of which people are told that a worker has it: what runs, else
// the oldest.
func (h holders) shown(w cluster.WorkerID) (jobs.ID, bool) {
	all := h[w]
	if len(all) == 0 {
		return jobs.ID{}, false
	}
	at := max(0, slices.IndexFunc(all, func(j heldJob) bool { return j.onGPU }))
	return all[at].lease.Job, true
}
