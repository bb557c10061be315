package policy

import (
	"fmt"
	"slices"
	"time"

	"github.com/ahelme/comfyume/cluster/jobs"
)

// MaxForecast is for how many jobs turns are worked out one by one.
const MaxForecast = 500

// Forecast is what is expected of everything that waits, as of Now.
type Forecast struct {
	Now  int64     `json:"now"`
	Told []Told    `json:"told"` // in the order of turns, at most MaxForecast
	Last jobs.Turn `json:"last"` // of those that will begin
	Pace int64     `json:"pace"` // milliseconds between two starts, for those behind
}

// Told is the turn of one job.
type Told struct {
	Job jobs.ID `json:"job"`
	jobs.Turn
}

// Turns of the jobs that wait, by id.
func (f *Forecast) Turns() map[jobs.ID]jobs.Turn {
	out := make(map[jobs.ID]jobs.Turn, len(f.Told))
	for _, t := range f.Told {
		out[t.Job] = t.Turn
	}
	return out
}

// Turn of a job that waits. Behind the first MaxForecast it goes by place, at the
// pace of those before.
func (f *Forecast) Turn(t *jobs.Table, id jobs.ID) (jobs.Turn, bool) {
	known := f.Turns()
	if turn, ok := known[id]; ok {
		return turn, true
	}
	j, ok := t.Job(id)
	if !ok || j.State != jobs.Pending || len(f.Told) < MaxForecast {
		return jobs.Turn{}, false
	}
	turn := jobs.Turn{Position: len(f.Told), Run: unknownRun, Reason: "many jobs go before it"}
	t.Waiting(func(o *jobs.Job) bool {
		if _, before := known[o.ID]; !before {
			turn.Position++
		}
		return o.ID != id
	})
	if f.Last.Start > 0 {
		turn.Start = f.Last.Start + int64(turn.Position-f.Last.Position)*f.Pace
	}
	return turn, true
}

// tell adds a turn. The lists that are walked hold a job once.
func (f *Forecast) tell(id jobs.ID, t jobs.Turn) { f.Told = append(f.Told, Told{id, t}) }

// Look works out what will happen if nobody queues anything more: it lets the
// workers take what the policy gives them, one after the other.
func Look(v View) *Forecast {
	f := &Forecast{Now: v.Now}
	passed := map[jobs.ID]int64{}
	for id, at := range v.Passed {
		passed[id] = at
	}
	v.Passed = passed
	r := newRound(&v)
	pool := append(slices.Clone(r.idle), r.busy...)
	r.begun(f)
	r.givenNow(f)
	r.collect()
	for len(f.Told) < MaxForecast && len(pool) > 0 {
		at := earliest(r, pool)
		c := pool[at]
		r.view.Now = max(f.Now, r.freeAt[c.Worker])
		r.idle, r.busy = []jobs.Claim{c}, others(pool, at)
		h := r.first(func(h *head) bool { return r.blocks(h.person) == "" && r.may(c, h.job) })
		if h == nil {
			pool = slices.Delete(pool, at, at+1)
			continue
		}
		if r.view.Mode == Fair {
			h = r.instead(h, passed)
		}
		r.foretell(f, h, c)
		r.give(h, 0)
		h.untold(r)
	}
	r.stuck(f)
	return f
}

func earliest(r *round, pool []jobs.Claim) int {
	best := 0
	for i, c := range pool {
		if r.freeAt[c.Worker] < r.freeAt[pool[best].Worker] {
			best = i
		}
	}
	return best
}

func others(pool []jobs.Claim, at int) []jobs.Claim {
	return slices.Delete(slices.Clone(pool), at, at+1)
}

// instead is who goes before h on the one idle worker, h if nobody does.
func (r *round) instead(h *head, passed map[jobs.ID]int64) *head {
	r.passed = r.passed[:0]
	h, _ = r.warmer(h, 0)
	for _, id := range r.passed {
		if _, known := passed[id]; !known {
			passed[id] = r.view.Now
		}
	}
	return h
}

// begun enters what workers hold already and when they will be free.
func (r *round) begun(f *Forecast) {
	r.charged = true
	r.chargeRunning()
	for _, j := range r.view.Jobs.Active() {
		if j.State == jobs.Assigned {
			run, load := r.view.expect(&j, j.Worker, r.coldOn(j.Worker, j.LoadKey()))
			f.tell(j.ID, jobs.Turn{Position: len(f.Told) + 1, Start: max(f.Now+second, r.freeAt[j.Worker]-load-run), Load: load, Run: run, Worker: j.Worker, Reason: fmt.Sprintf("next: %s has it and is about to begin", j.Worker)})
		}
		if load := j.LoadKey(); load != "" {
			r.loaded[j.Worker] = load
		}
	}
}

const second = 1000

// givenNow is what the idle workers get at once.
func (r *round) givenNow(f *Forecast) {
	r.expected = func(h *head, c jobs.Claim) { r.foretell(f, h, c) }
	r.run()
	r.expected, r.heads = nil, nil
}

// collect enters every lane, whoever can have its jobs.
func (r *round) collect() {
	r.view.Jobs.Lanes(func(l *jobs.Lane) {
		p := r.person(l.User)
		h := &head{person: p, load: l.LoadKey(), next: l.Walk()}
		if h.untold(r); h.job != nil {
			r.heads = append(r.heads, h)
		}
	})
}

// untold goes on to the lane's next job that has not been given: behind one that
// has to pause there can be others that have.
func (h *head) untold(r *round) {
	for h.job = h.next(); h.job != nil && r.given[h.job.ID]; {
		h.job = h.next()
	}
}

// foretell notes the turn of h's job on c.
func (r *round) foretell(f *Forecast, h *head, c jobs.Claim) {
	j, at := h.job, r.view.Now
	cold := r.cold(c, h.load)
	run, load := r.view.expect(j, c.Worker, cold)
	t := jobs.Turn{Position: len(f.Told) + 1, Start: max(at, j.NotBefore, f.Now+second), Load: load, Run: run, Worker: c.Worker}
	t.Reason = r.why(t, j, c, at-f.Now)
	f.tell(j.ID, t)
	f.Last, f.Pace = t, (t.Start-f.Now)/int64(t.Position)
}

// why is what a job waits for that has a turn.
func (r *round) why(t jobs.Turn, j *jobs.Job, c jobs.Claim, wait int64) string {
	free := fmt.Sprintf("%s is free in about %s", c.Worker, roughly(wait))
	if wait <= 0 {
		free = fmt.Sprintf("%s takes it now", c.Worker)
	}
	if t.Load > 0 {
		free += fmt.Sprintf(" and loads %s then, about %s", names(j.Models), roughly(t.Load))
	}
	switch n := t.Position - 1; {
	case j.NotBefore > r.view.Now:
		return "it is tried again after a pause: its last attempt was lost"
	case n == 0:
		return "next: " + free
	case n == 1:
		return "one job goes before it; " + free
	default:
		return fmt.Sprintf("%d jobs go before it; %s", n, free)
	}
}

// roughly is a time as one says it.
func roughly(ms int64) string {
	switch d := time.Duration(ms) * time.Millisecond; {
	case d < 90*time.Second:
		return fmt.Sprintf("%d s", max(1, int(d.Round(time.Second).Seconds())))
	case d < 90*time.Minute:
		return fmt.Sprintf("%d min", int(d.Round(time.Minute).Minutes()))
	default:
		return fmt.Sprintf("%.1f h", d.Hours())
	}
}

// stuck says of what has no turn why it has none.
func (r *round) stuck(f *Forecast) {
	known := f.Turns()
	all := slices.Concat(r.view.Idle, r.view.Busy, r.view.Soon)
	r.view.Jobs.Waiting(func(j *jobs.Job) bool {
		if _, told := known[j.ID]; !told && len(f.Told) < MaxForecast {
			f.tell(j.ID, jobs.Turn{Position: len(f.Told) + 1, Run: unknownRun, Reason: r.lacks(j, all)})
		}
		return len(f.Told) < MaxForecast
	})
}

// lacks is why nobody will take the job.
func (r *round) lacks(j *jobs.Job, all []jobs.Claim) string {
	switch {
	case r.view.Paused.All:
		return "the queue is paused"
	case r.blocks(r.person(j.ID.User)) != "":
		return r.blocks(r.person(j.ID.User))
	case len(all) == 0:
		return "No GPU is connected: it waits until one joins."
	case !slices.ContainsFunc(all, r.view.takes):
		return "every GPU is paused or drained"
	case r.holds(j, all[0].Worker) != "":
		return r.holds(j, all[0].Worker)
	case len(j.NoRoom) > 0 && !slices.ContainsFunc(all, func(c jobs.Claim) bool { return c.Can(&jobs.Job{NoRoom: j.NoRoom}) }):
		return "waiting for a GPU with more memory than " + j.NoRoom[len(j.NoRoom)-1].Device
	}
	if lack := missing(j.Classes, all); lack != "" {
		return "waiting for a GPU node that has " + lack
	}
	return r.lacksModel(j, all)
}

// lacksModel is said of a job that only workers which are away could run.
func (r *round) lacksModel(j *jobs.Job, all []jobs.Claim) string {
	for _, c := range all {
		if m := r.view.unlisted(c, j.Models); m != "" {
			return "waiting for a GPU node that has the model " + m + ": the one that has it is not here"
		}
	}
	return "waiting for a GPU node that has what it needs"
}

// missing names the classes that no worker has; if each has some of them, those
// that the best of them lacks.
func missing(classes []string, all []jobs.Claim) string {
	var least []string
	for i, c := range all {
		var out []string
		for _, class := range classes {
			if c.Classes != nil && !c.Classes[class] {
				out = append(out, class)
			}
		}
		if i == 0 || len(out) < len(least) {
			least = out
		}
	}
	return names(least)
}

// names is the first of a list and how many more there are.
func names(list []string) string {
	switch len(list) {
	case 0:
		return ""
	case 1:
		return list[0]
	}
	return fmt.Sprintf("%s and %d more", list[0], len(list)-1)
}
