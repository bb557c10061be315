package policy

import (
	"cmp"
	"slices"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
)

// round is one decision on its way.
type round struct {
	view     *View
	bounds   Bounds
	idle     []jobs.Claim // left
	busy     []jobs.Claim // at work, those that were given a job in this round among them
	people   map[cluster.User]*person
	heads    []*head
	loaded   map[cluster.WorkerID]string // what this round changes of Table.Loaded
	freeAt   map[cluster.WorkerID]int64  // fair: when those at work are expected to be free
	given    map[jobs.ID]bool
	out      []jobs.Assign
	passed   []jobs.ID
	expected func(*head, jobs.Claim) // hears of what is given, for a forecast
	// charged: the people's use has what runs in it
	charged bool
}

// person is what counts of a user when turns are compared.
type person struct {
	name     cluster.User
	sprinted int // jobs that began since the sprint did
	limits   Limits
	spent    bool  // no GPU time is left of the limit
	had      int   // round-robin: jobs running and served in the last hour
	running  int   // jobs that a worker holds
	used     int64 // fair: GPU time had, and expected of what runs, in microseconds
	began    int64 // when something of theirs began last
}

// head is the next job of a lane that somebody could have.
type head struct {
	*person
	load string // its LoadKey
	next func() *jobs.Job
	job  *jobs.Job // nil: there is none in the lane
	rank int       // worked out anew when heads are compared
}

func newRound(v *View) *round {
	r := &round{view: v, bounds: v.Bounds.filled(), people: map[cluster.User]*person{}, loaded: map[cluster.WorkerID]string{}, freeAt: map[cluster.WorkerID]int64{}, given: map[jobs.ID]bool{}}
	r.ask(v.Idle)
	for _, list := range [][]jobs.Claim{v.Busy, v.Soon} {
		for _, c := range list {
			if v.takes(c) {
				r.busy = append(r.busy, c)
			}
		}
	}
	for _, a := range v.Coming {
		r.come(a.Lease)
	}
	return r
}

// come counts an assignment that is on its way.
func (r *round) come(l jobs.Lease) {
	j, known := r.view.Jobs.Job(l.Job)
	if known && (j.State != jobs.Pending || j.Epoch >= l.Epoch) {
		return // the table has it, or something that makes it void
	}
	if !known { // it comes together with its job
		j = jobs.Job{ID: l.Job}
	}
	r.given[l.Job] = true
	r.count(r.person(l.Job.User), &j, l.Worker, j.LoadKey())
}

// ask takes in who shall get a job.
func (r *round) ask(list []jobs.Claim) {
	for _, c := range list {
		if r.view.takes(c) && !slices.ContainsFunc(r.idle, func(d jobs.Claim) bool { return d.Worker == c.Worker }) {
			r.idle = append(r.idle, c)
		}
	}
}

// goOn gives what is left to others.
func (r *round) goOn(list []jobs.Claim) {
	if len(list) == 0 {
		return
	}
	r.idle, r.heads = nil, nil
	r.ask(list)
	r.busy = slices.DeleteFunc(r.busy, func(c jobs.Claim) bool {
		return slices.ContainsFunc(r.idle, func(d jobs.Claim) bool { return d.Worker == c.Worker })
	})
	r.run()
}

// person is what is known of a user, worked out once in a round.
func (r *round) person(u cluster.User) *person {
	p := r.people[u]
	if p != nil {
		return p
	}
	t := r.view.Jobs
	p = &person{name: u, running: t.RunningOf(u)}
	r.bound(p)
	r.people[u] = p
	switch r.view.Mode {
	case RoundRobin:
		p.had = p.running + t.Served(u, r.view.Now)
	case Fair:
		p.used, p.began = t.Used(u, r.view.Now), t.Began(u)
	}
	return p
}

// enter collects the lanes and what is at work.
func (r *round) enter() {
	r.view.Jobs.Lanes(func(l *jobs.Lane) {
		p := r.person(l.User)
		if !slices.ContainsFunc(r.idle, func(c jobs.Claim) bool { return r.view.can(c, &jobs.Job{Classes: l.Classes, Models: l.Models}) }) {
			return
		}
		h := &head{person: p, load: l.LoadKey(), next: l.Walk()}
		if h.advance(r); h.job != nil {
			r.heads = append(r.heads, h)
		}
	})
	if r.view.Mode == Fair && !r.charged {
		r.charged = true
		r.chargeRunning()
	}
}

// advance goes on to the lane's next job that somebody could have.
func (h *head) advance(r *round) {
	for h.job = h.next(); h.job != nil && !r.feasible(h); {
		if r.blocks(h.person) != "" || r.view.Class.Mode == HandsOff && !h.job.Urgent {
			h.job = nil // nor may those behind it
			return
		}
		h.job = h.next()
	}
}

// run gives out jobs, the one whose turn it is first, until no worker or no job
// is left. What no idle worker can have now, none can later in the round.
func (r *round) run() {
	if len(r.idle) == 0 {
		return
	}
	r.enter()
	for len(r.idle) > 0 {
		h := r.first(func(*head) bool { return true })
		if h == nil {
			return
		}
		if !r.feasible(h) {
			h.advance(r) // the worker that it could have had is taken
			continue
		}
		at := r.choose(h)
		if r.view.Mode == Fair {
			h, at = r.warmer(h, at)
		}
		r.give(h, at)
		if len(r.idle) > 0 { // else there is nobody whom a next job could suit, however long the lane
			h.advance(r)
		}
	}
}

// first is the head whose turn it is among those that pass, nil if none does.
func (r *round) first(pass func(*head) bool) (best *head) {
	for _, h := range r.heads {
		if h.job == nil {
			continue
		}
		h.rank = r.rank(h)
		if (best == nil || r.before(h, best)) && pass(h) {
			best = h
		}
	}
	return best
}

// give makes the assignment.
func (r *round) give(h *head, at int) {
	c, j := r.idle[at], h.job
	if r.expected != nil {
		r.expected(h, c)
	}
	r.out = append(r.out, jobs.Assign{Lease: jobs.Lease{Job: j.ID, Worker: c.Worker, Epoch: j.Epoch + 1}})
	r.idle, r.busy = slices.Delete(r.idle, at, at+1), append(r.busy, c)
	r.given[j.ID] = true
	r.count(h.person, j, c.Worker, h.load)
}

// count is what a job that a worker is given changes for those that follow.
func (r *round) count(p *person, j *jobs.Job, w cluster.WorkerID, load string) {
	p.had++
	p.running++
	p.sprinted++
	run, loading := r.view.expect(j, w, r.coldOn(w, load))
	p.used, p.began = p.used+(run+loading)*1000, r.view.Now
	r.freeAt[w] = max(r.view.Now, r.freeAt[w]) + run + loading
	if load != "" {
		r.loaded[w] = load
	}
}

// cold reports whether the worker would have to load models for a job.
func (r *round) cold(c jobs.Claim, load string) bool { return r.coldOn(c.Worker, load) }

func (r *round) coldOn(w cluster.WorkerID, load string) bool {
	return load != "" && r.warmth(w) != load
}

// warmth is what the worker has loaded.
func (r *round) warmth(w cluster.WorkerID) string {
	if load, ok := r.loaded[w]; ok {
		return load
	}
	return r.view.Jobs.Loaded(w)
}

// feasible reports whether an idle worker may have h's job now.
func (r *round) feasible(h *head) bool {
	j := h.job
	if j.State != jobs.Pending || r.blocks(h.person) != "" || r.given[j.ID] || r.view.Now != 0 && j.NotBefore > r.view.Now {
		return false
	}
	return slices.ContainsFunc(r.idle, func(c jobs.Claim) bool { return r.may(c, j) })
}

// may reports whether the idle worker may have the job. One that has failed with
// it gets it only when no other, idle or at work, could.
func (r *round) may(c jobs.Claim, j *jobs.Job) bool {
	if !r.view.can(c, j) || r.holds(j, c.Worker) != "" {
		return false
	}
	if !tried(j, c) {
		return true
	}
	fresh := func(d jobs.Claim) bool { return r.view.can(d, j) && !tried(j, d) }
	return !slices.ContainsFunc(r.idle, fresh) && !slices.ContainsFunc(r.busy, fresh)
}

// choose is the index of the idle worker that shall have h's job: one whose
// models are loaded, else one with none, else one whose models are wanted least,
// else the one that has waited longest.
func (r *round) choose(h *head) int {
	best, cost := -1, 0
	for i, c := range r.idle {
		if !r.may(c, h.job) {
			continue
		}
		n := 0
		if r.cold(c, h.load) {
			n = 1 + r.wanted(c)
		}
		if best < 0 || n < cost {
			best, cost = i, n
		}
	}
	return best
}

// wanted counts the lanes that want what the worker has loaded.
func (r *round) wanted(c jobs.Claim) (n int) {
	load := r.warmth(c.Worker)
	if load == "" {
		return 0
	}
	for _, h := range r.heads {
		if h.job != nil && h.load == load {
			n++
		}
	}
	return n
}

// before reports whether a's job has its turn before b's.
func (r *round) before(a, b *head) bool {
	x, y := a.job, b.job
	ra, rb := a.rank, b.rank
	if ra == rb && ra != fronted {
		c := 0
		switch r.view.Mode {
		case RoundRobin:
			c = cmp.Or(cmp.Compare(a.had, b.had), cmp.Compare(x.Priority, y.Priority))
		case Priority:
			c = cmp.Compare(x.Priority, y.Priority)
		case Fair:
			c = r.fairer(a, b, ra)
		}
		if c != 0 {
			return c < 0
		}
	}
	return cmp.Or(cmp.Compare(ra, rb), cmp.Compare(x.Order, y.Order), cmp.Compare(x.Seq, y.Seq)) < 0
}

// The ranks: those of a lower one go first in every mode.
const (
	fronted = iota // the instructor put it to the very front
	shown          // the instructor's own, in a demo
	boosted        // its user goes first for a while
	starved        // fair: its user has waited for longer than the guard allows
	usual
)

func (r *round) rank(h *head) int {
	switch {
	case h.job.Fronted():
		return fronted
	case r.view.Class.Mode == Demo && h.job.Priority == jobs.Instructor:
		return shown
	case r.view.Boosted[h.name]:
		return boosted
	case r.view.Mode == Fair && r.starves(h):
		return starved
	}
	return usual
}
