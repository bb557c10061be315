package policy

import (
	"slices"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
)

// What is expected of a job of which nothing is known, in milliseconds.
const (
	unknownRun  = 30_000
	unknownLoad = 25_000
)

// expect is how long a job will run on a worker and, if it is cold, how long the
// loading of its models will take before that, in milliseconds: the median of the
// newest runs of its form on that worker, else on that kind of GPU, else on any.
func (v *View) expect(j *jobs.Job, w cluster.WorkerID, cold bool) (run, load int64) {
	runs := v.Jobs.Runs(j.Form)
	warm, loaded := int64(-1), int64(-1)
	for _, pass := range []func(jobs.Run) bool{
		func(r jobs.Run) bool { return r.Worker == w },
		func(r jobs.Run) bool { return v.Kinds[r.Worker] == v.Kinds[w] },
		func(jobs.Run) bool { return true },
	} {
		if warm, loaded = median(runs, false, pass), median(runs, true, pass); warm >= 0 || loaded >= 0 {
			break
		}
	}
	switch {
	case warm < 0 && loaded < 0:
		run, load = unknownRun, unknownLoad
	case warm < 0:
		load = min(unknownLoad, loaded/2)
		run = loaded - load
	case loaded < 0:
		run, load = warm, unknownLoad
	default:
		run, load = warm, max(0, loaded-warm)
	}
	if !cold {
		load = 0
	}
	return run, load
}

// median of the runs that pass, -1 if none does.
func median(runs []jobs.Run, cold bool, pass func(jobs.Run) bool) int64 {
	var all [32]int64
	n := 0
	for _, r := range runs {
		if r.Cold == cold && n < len(all) && pass(r) {
			all[n] = r.Millis
			n++
		}
	}
	if n == 0 {
		return -1
	}
	slices.Sort(all[:n])
	return all[n/2]
}
