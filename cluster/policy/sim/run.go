package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/cluster/policy"
)

// Job is what became of one job. Times are milliseconds since the beginning,
// -1 = not yet.
type Job struct {
	User     cluster.User
	Work     Work
	Arrived  int64
	Assigned int64
	Started  int64 // the GPU is the job's: what it loads comes first
	Ended    int64
	GPU      int
	Swapped  bool
	Expected int64 // the end that was forecast when it came
}

// Config is one run.
type Config struct {
	Scenario Scenario
	Mode     policy.Mode
	Seed     uint64
	Bounds   policy.Bounds
	// Stage is how long before the end of a job the GPU's next one is assigned, in
	// milliseconds; 0 = not before its end. What was assigned so is decided anew
	// with each event until it starts.
	Stage int64
	// Forecast fills Job.Expected.
	Forecast bool
}

// epoch is the table's time at the beginning of a run.
const epoch = 1_800_000_000_000

// world is a run on its way.
type world struct {
	Config
	rand   *rand.Rand
	table  *jobs.Table
	memory policy.Memory
	now    int64
	gpus   []gpu
	people []coming
	jobs   []Job
	byID   map[jobs.ID]int
}

type gpu struct {
	id     cluster.WorkerID
	loaded string
	job    int // at work, -1 = idle
	lease  jobs.Lease
	until  int64
	free   int64 // since when it waits
	next   *jobs.Lease
}

// coming is a person's next batch.
type coming struct {
	at   int64 // -1: none comes
	open int   // of the last batch
}

// Run plays a scenario to its end.
func Run(c Config) []Job {
	w := &world{Config: c, rand: rand.New(rand.NewPCG(c.Seed, 1)), table: jobs.New(), byID: map[jobs.ID]int{}}
	for i := range c.Scenario.GPUs {
		w.gpus = append(w.gpus, gpu{id: cluster.WorkerID(fmt.Sprintf("gpu%d", i)), job: -1})
	}
	for _, p := range c.Scenario.People {
		w.people = append(w.people, coming{at: p.At})
	}
	for w.step() {
	}
	return w.jobs
}

// step goes on to the next moment at which something happens.
func (w *world) step() bool {
	next := int64(-1)
	consider := func(at int64) {
		if at >= w.now && (next < 0 || at < next) {
			next = at
		}
	}
	for _, p := range w.people {
		if p.at >= 0 {
			consider(p.at)
		}
	}
	for i := range w.gpus {
		if g := &w.gpus[i]; g.job >= 0 {
			consider(g.until)
			if w.Stage > 0 && g.next == nil && g.until-w.Stage > w.now {
				consider(g.until - w.Stage)
			}
		}
	}
	if next < 0 || next > w.Scenario.Length {
		return false
	}
	w.now = next
	w.ends()
	w.arrivals()
	w.decide()
	return true
}

func (w *world) arrivals() {
	for i, p := range w.Scenario.People {
		c := &w.people[i]
		if c.at != w.now {
			continue
		}
		c.at, c.open = -1, p.Batch
		for range p.Batch {
			work := p.Work[w.rand.IntN(len(p.Work))]
			n := len(w.jobs)
			id := jobs.ID{User: p.Name, Prompt: fmt.Sprintf("j%d", n)}
			w.jobs = append(w.jobs, Job{User: p.Name, Work: work, Arrived: w.now, Assigned: -1, Started: -1, Ended: -1, GPU: -1})
			w.byID[id] = n
			w.do(&jobs.Submit{ID: id, BodyHash: "h", Body: []byte("b"), Priority: jobs.Normal, Models: []string{work.Model}, Form: work.Model})
		}
	}
}

var history = cluster.Ref(strings.Repeat("ab", 32))

func (w *world) ends() {
	for i := range w.gpus {
		g := &w.gpus[i]
		if g.job < 0 || g.until != w.now {
			continue
		}
		w.do(&jobs.GpuDone{Lease: g.lease})
		w.do(&jobs.Finish{Lease: g.lease, State: jobs.Done, History: history})
		j := &w.jobs[g.job]
		j.Ended = w.now
		g.job, g.free = -1, w.now
		for n, p := range w.Scenario.People {
			if c := &w.people[n]; p.Name == j.User {
				if c.open--; c.open == 0 && p.Loop {
					c.at = w.now + think(w.rand)
				}
			}
		}
	}
}

// decide asks the policy, as the agent's steward does.
func (w *world) decide() {
	v, staged := w.view()
	if back := policy.Unstage(v, staged, true); len(back) > 0 {
		for _, r := range back {
			w.do(&r)
			i := slices.IndexFunc(w.gpus, func(g gpu) bool { return g.id == r.Lease.Worker })
			w.gpus[i].next = nil
			j := &w.jobs[w.byID[r.Lease.Job]]
			j.Assigned, j.GPU = -1, -1
		}
		v, _ = w.view()
	}
	d := policy.Decide(v)
	for _, a := range d.Assign {
		w.do(&a)
	}
	w.memory.Note(w.table, d, v.Now)
	for _, a := range d.Assign {
		i := slices.IndexFunc(w.gpus, func(g gpu) bool { return g.id == a.Lease.Worker })
		w.gpus[i].next = &a.Lease
		j := &w.jobs[w.byID[a.Lease.Job]]
		if j.Assigned < 0 || j.GPU != i {
			j.Assigned, j.GPU = w.now, i
		}
	}
	for i := range w.gpus {
		w.begin(i)
	}
	w.forecast(v)
}

// view is what the policy decides on, and what is staged.
func (w *world) view() (v policy.View, staged []policy.Staged) {
	v = policy.View{Jobs: w.table, Now: epoch + w.now, Mode: w.Mode, Passed: w.memory.Passed(), Bounds: w.Bounds}
	var ask []int
	for i := range w.gpus {
		g := &w.gpus[i]
		c := jobs.Claim{Worker: g.id, Node: "n"}
		switch {
		case g.next != nil:
			staged = append(staged, policy.Staged{Lease: *g.next, Claim: c})
			v.Busy = append(v.Busy, c)
		case g.job < 0 || g.until-w.now <= w.Stage:
			ask = append(ask, i)
		default:
			v.Busy = append(v.Busy, c)
		}
	}
	slices.SortStableFunc(ask, func(a, b int) int { return int(w.ready(a) - w.ready(b)) })
	for _, i := range ask {
		list := &v.Idle
		if w.gpus[i].job >= 0 {
			list = &v.Soon
		}
		*list = append(*list, jobs.Claim{Worker: w.gpus[i].id, Node: "n"})
	}
	return v, staged
}

// forecast notes what jobs that came just now are told.
func (w *world) forecast(v policy.View) {
	first := len(w.jobs)
	for first > 0 && w.jobs[first-1].Arrived == w.now {
		first--
	}
	if !w.Forecast || first == len(w.jobs) {
		return
	}
	v.Busy, v.Idle, v.Soon = slices.Concat(v.Busy, v.Idle, v.Soon), nil, nil
	v.Passed = w.memory.Passed()
	f := policy.Look(v)
	for id, n := range w.byID {
		if n < first {
			continue
		}
		j := &w.jobs[n]
		if j.Started >= 0 {
			j.Expected = w.gpus[j.GPU].until
		} else if t, ok := f.Turn(w.table, id); ok && t.Start > 0 {
			j.Expected = t.Start + t.Load + t.Run - epoch
		}
	}
}

// ready is when a GPU is or was free.
func (w *world) ready(i int) int64 {
	if g := &w.gpus[i]; g.job >= 0 {
		return g.until
	}
	return w.gpus[i].free
}

func (w *world) begin(i int) {
	g := &w.gpus[i]
	if g.job >= 0 || g.next == nil {
		return
	}
	g.lease, g.next = *g.next, nil
	g.job = w.byID[g.lease.Job]
	j := &w.jobs[g.job]
	j.Started, j.GPU, j.Swapped = w.now, i, g.loaded != j.Work.Model
	g.until = w.now + j.Work.Run
	if j.Swapped {
		g.until += w.Scenario.Swap
	}
	g.loaded = j.Work.Model
	w.do(&jobs.Started{Lease: g.lease})
}

// do applies a command. A refusal is a defect of this package.
func (w *world) do(c cluster.Command) {
	mutate, _, err := w.table.Plan(c, epoch+w.now)
	if err != nil {
		panic(fmt.Sprintf("sim: %T at %d: %v", c, w.now, err))
	}
	mutate()
}
