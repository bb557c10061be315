package jobs

import (
	"cmp"
	"slices"

	"github.com/ahelme/comfyume/cluster"
)

// past is what the rows tell of workers and run times. It decides nothing in
// the table, is in no snapshot, and is worked out again from the rows.
type past struct {
	loaded map[cluster.WorkerID]string // what the last job with models loaded
	cold   map[ID]bool                 // running jobs that had to load
	runs   map[string][]Run            // by form, oldest first
	swaps  map[cluster.WorkerID][]swap // oldest first
}

// swap is a start for which models had to be loaded.
type swap struct {
	job  ID
	at   int64
	lost int64 // milliseconds that it took above what its form takes otherwise; 0 = not known
}

// Run is one job that went well.
type Run struct {
	Worker cluster.WorkerID
	Load   string // see Job.LoadKey
	Cold   bool   // the worker had other models before
	Millis int64  // from Started to GpuDone
}

// Bounds of past.
const (
	runsPerForm = 24
	maxForms    = 2000
	maxSwaps    = 200 // of one worker
)

func newPast() past {
	return past{loaded: map[cluster.WorkerID]string{}, cold: map[ID]bool{}, runs: map[string][]Run{}, swaps: map[cluster.WorkerID][]swap{}}
}

// Loaded is the models that a worker has in memory, as far as the jobs tell
// that it ran: the LoadKey of the last one that had any.
func (t *Table) Loaded(w cluster.WorkerID) string { return t.past.loaded[w] }

// Runs are the newest runs of a form, oldest first. They must not be changed.
func (t *Table) Runs(form string) []Run { return t.past.runs[form] }

// Cold reports whether the running job had to load its models.
func (t *Table) Cold(id ID) bool { return t.past.cold[id] }

// began notes a start.
func (t *Table) began(j *Job) {
	a := t.account(j.ID.User)
	a.began = max(a.began, j.Started)
	delete(t.past.cold, j.ID)
	if load := j.LoadKey(); load != "" && t.past.loaded[j.Worker] != load {
		t.past.loaded[j.Worker] = load
		t.past.cold[j.ID] = true
		all := append(t.past.swaps[j.Worker], swap{job: j.ID, at: j.Started})
		t.past.swaps[j.Worker] = all[max(0, len(all)-maxSwaps):]
	}
}

// Swaps counts the starts on a worker since a moment for which models had to be
// loaded, and what that took in milliseconds as far as it is known: how much
// longer those jobs ran than others of their form on the same worker.
func (t *Table) Swaps(w cluster.WorkerID, since int64) (n int, lost int64) {
	for _, s := range t.past.swaps[w] {
		if s.at >= since {
			n, lost = n+1, lost+s.lost
		}
	}
	return n, lost
}

// lost notes what the loading of a job's models took, once others of its form
// have shown how long it runs without.
func (t *Table) lost(j *Job, runs []Run) {
	var warm []int64
	for _, r := range runs {
		if r.Worker == j.Worker && !r.Cold {
			warm = append(warm, r.Millis)
		}
	}
	if len(warm) == 0 {
		return
	}
	slices.Sort(warm)
	for i := range t.past.swaps[j.Worker] {
		if s := &t.past.swaps[j.Worker][i]; s.job == j.ID {
			s.lost = max(0, j.GpuDone-j.Started-warm[len(warm)/2])
		}
	}
}

// ran notes how long a job took when it has ended.
func (t *Table) ran(j *Job) {
	cold := t.past.cold[j.ID]
	delete(t.past.cold, j.ID)
	if j.State != Done || j.Form == "" || j.Started == 0 || j.GpuDone < j.Started {
		return
	}
	runs, known := t.past.runs[j.Form]
	if !known && len(t.past.runs) >= maxForms {
		clear(t.past.runs) // they are learned again within a few jobs
	}
	if cold {
		t.lost(j, runs)
	}
	if len(runs) >= runsPerForm {
		runs = runs[1:]
	}
	t.past.runs[j.Form] = append(runs, Run{Worker: j.Worker, Load: j.LoadKey(), Cold: cold, Millis: j.GpuDone - j.Started})
}

// recall works out past from the rows.
func (t *Table) recall() {
	var rows []*Job
	for _, j := range t.rows {
		if j.Started > 0 && j.Worker != "" {
			rows = append(rows, j)
		}
	}
	slices.SortFunc(rows, func(a, b *Job) int { return cmp.Or(cmp.Compare(a.Started, b.Started), cmp.Compare(a.Seq, b.Seq)) })
	for _, j := range rows {
		t.began(j)
		if j.State.Ended() {
			t.ran(j)
		}
	}
}
