package agent

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/consensus"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/cluster/models"
	"github.com/ahelme/comfyume/cluster/peer"
	"github.com/ahelme/comfyume/cluster/people"
	"github.com/ahelme/comfyume/cluster/state"
	"github.com/ahelme/comfyume/roles/gateway"
	"github.com/ahelme/comfyume/ui"
)

// view is what the dashboard shows: the tables, and beside them what only this
// node knows now (open pages, workers, progress, health).
type view struct {
	self     cluster.Member
	machine  *state.Machine
	log      func() consensus.Status
	propose  peer.Proposals
	health   *health
	disk     func() int // per cent used, -1 = unknown
	sockets  func() map[cluster.User]int
	workers  func() []ui.Worker
	gpus     func() (up, all int, why string)
	troubles func() map[cluster.User]gateway.Problem // newest refused request of each
	lacks    func() []lack
	now      func() time.Time
}

// lack is a template that names what no worker has.
type lack struct {
	template string
	what     string // the models and classes, in words
}

var _ ui.Source = (*view)(nil)

// View reads everything once. It waits for nothing but the tables' lock.
func (v *view) View() ui.View {
	out := ui.View{Schema: ui.SchemaVersion, Now: v.now().UnixMilli()}
	status := v.log()
	out.Head = v.head(status)
	out.Nodes = []ui.Node{{
		ID: v.self.ID, Name: v.self.Name, Roles: v.self.Roles, State: "alive", Version: v.self.Version,
		Leader: status.Leader == v.self.ID, Voter: slices.ContainsFunc(status.Peers, func(p consensus.Peer) bool { return p.Node == v.self.ID && p.Voter }), Disk: v.disk(),
	}}
	out.Workers = v.knownWorkers()
	up, _, _ := v.gpus()
	online := v.sockets()
	var known []people.Person
	v.machine.People(func(t *people.Table) { known = t.People() })
	var last map[cluster.User]ui.Job
	var load map[cluster.User]*ui.Person
	v.machine.Jobs(func(t *jobs.Table) {
		c := t.Count()
		out.Counts = ui.Counts{Waiting: c.Waiting, Running: c.Running, Done: c.Done, Failed: c.Failed, Cancelled: c.Cancelled}
		out.Queue, out.More, load = queued(t, known, out.Workers, up > 0)
		for _, j := range t.Recent(ui.MaxRecent, nil) {
			out.Recent = append(out.Recent, row(&j))
		}
		last = lastEnded(t)
	})
	out.People = grid(known, online, load, last)
	out.Counts.People = len(out.People)
	for _, p := range out.People {
		if p.Online > 0 {
			out.Counts.Online++
		}
	}
	out.Attention = v.attention(status, out.People, last)
	for _, a := range v.machine.Audits(ui.MaxAudit) {
		out.Audit = append(out.Audit, ui.Act{At: a.At, Actor: a.Actor, What: a.What})
	}
	return out
}

func (v *view) head(s consensus.Status) ui.Head {
	r := v.health.report()
	h := ui.Head{Node: v.self.Name, Version: v.self.Version, Term: s.Term, Ready: r.Ready, Degraded: r.Degraded}
	if s.Leader == v.self.ID {
		h.Leader = v.self.Name
	} else {
		h.Leader = string(s.Leader)
	}
	for _, p := range s.Peers {
		if p.Voter {
			h.Voters++
		}
	}
	if h.Voters == 1 {
		h.Survives = "One machine holds the table: it survives any kill or power cut as long as that machine's disk lives, and not the loss of the machine."
	}
	return h
}

// workerGone is the state of a worker that only the catalogue knows.
const workerGone = "not here"

// knownWorkers joins what workers of this node say now with the catalogue.
func (v *view) knownWorkers() []ui.Worker {
	live := v.workers()
	v.machine.Models(func(t *models.Table) {
		for _, w := range t.Workers() {
			i := slices.IndexFunc(live, func(l ui.Worker) bool { return l.ID == w.ID })
			if i < 0 {
				live = append(live, ui.Worker{ID: w.ID, Node: string(w.Node), State: workerGone, Since: w.Changed, Percent: -1, Detail: "known from before"})
				i = len(live) - 1
			}
			live[i].ComfyUI, live[i].Device, live[i].VRAM = cmp.Or(live[i].ComfyUI, w.Version), cmp.Or(live[i].Device, w.Device), cmp.Or(live[i].VRAM, w.VRAM)
		}
	})
	slices.SortFunc(live, func(a, b ui.Worker) int { return cmp.Compare(a.ID, b.ID) })
	return live
}

// far is how far a job is, as the worker that runs it says.
func far(workers []ui.Worker, id jobs.ID) (percent int, node string) {
	for _, w := range workers {
		if w.Job != nil && *w.Job == id {
			return w.Percent, w.At
		}
	}
	return -1, ""
}

// queued lists the open jobs and counts them per person.
func queued(t *jobs.Table, known []people.Person, workers []ui.Worker, up bool) (rows []ui.Job, more int, load map[cluster.User]*ui.Person) {
	load = map[cluster.User]*ui.Person{}
	person := func(u cluster.User) *ui.Person {
		if load[u] == nil {
			load[u] = &ui.Person{}
		}
		return load[u]
	}
	add := func(j ui.Job) {
		if len(rows) < ui.MaxQueue {
			rows = append(rows, j)
		} else {
			more++
		}
	}
	for _, j := range t.Active() {
		if j.State == jobs.Assigned {
			continue // it still waits, below
		}
		person(j.ID.User).Running++
		r := row(&j)
		r.Percent, r.At = far(workers, j.ID)
		add(r)
	}
	position := 0
	t.Waiting(func(j *jobs.Job) bool {
		person(j.ID.User).Waiting++
		position++
		r := row(j)
		r.Position = position
		if !up {
			r.Reason = "No GPU is connected: it waits until one joins."
		}
		add(r)
		return true
	})
	for _, k := range known {
		if p := person(k.Name); t.Remaining(k.Name) > p.Running+p.Waiting {
			p.Waiting += held(t, k.Name, add)
		}
	}
	return rows, more, load
}

// held adds a user's held jobs, which stand in no index of the queue.
func held(t *jobs.Table, u cluster.User, add func(ui.Job)) (n int) {
	for _, j := range t.Open(u) {
		if j.State == jobs.Held {
			add(row(&j))
			n++
		}
	}
	return n
}

// row is a job as the page shows it.
func row(j *jobs.Job) ui.Job {
	r := ui.Job{
		User: j.ID.User, Prompt: j.ID.Prompt, Number: j.Number, Title: j.Title, State: j.State, Created: j.Created, Started: j.Started,
		Ended: j.Ended, Worker: string(j.Worker), Percent: -1, Reason: j.Reason, Outputs: j.Outputs, Strikes: j.Strikes,
	}
	if f := j.Failure; f != nil {
		r.Reason = f.Message
		if f.NodeType != "" {
			r.Reason = fmt.Sprintf("%s (node %s, %s)", f.Message, f.NodeID, f.NodeType)
		}
	}
	return r
}

// lastEnded is everybody's newest ended job.
func lastEnded(t *jobs.Table) map[cluster.User]ui.Job {
	last := map[cluster.User]ui.Job{}
	t.Recent(1, func(j *jobs.Job) bool {
		last[j.ID.User] = row(j)
		return false
	})
	return last
}

func grid(known []people.Person, online map[cluster.User]int, load map[cluster.User]*ui.Person, last map[cluster.User]ui.Job) []ui.Person {
	var out []ui.Person
	for _, p := range known {
		row := ui.Person{Name: p.Name, Online: online[p.Name], Disabled: p.Disabled, Visited: p.Visited}
		if l := load[p.Name]; l != nil {
			row.Waiting, row.Running = l.Waiting, l.Running
		}
		if j := last[p.Name]; j.State == jobs.Failed {
			row.Error = j.Reason
		}
		out = append(out, row)
	}
	return out
}

// maxFailed bounds the people named in Attention.
const maxFailed = 10

func (v *view) attention(s consensus.Status, grid []ui.Person, last map[cluster.User]ui.Job) []ui.Problem {
	var out []ui.Problem
	if err := v.machine.Halted(); err != nil {
		out = append(out, ui.Problem{Level: ui.Fail, What: err.Error(), Cure: "install the version of the other nodes here"})
	}
	if s.Leader == "" {
		out = append(out, ui.Problem{Level: ui.Fail, What: "There is no leader: nothing can be queued or changed.", Cure: "it comes back by itself within seconds, or see the log"})
	}
	out = append(out, v.health.problems()...)
	out = append(out, v.refused()...)
	failed := 0
	for _, p := range grid {
		if p.Error == "" {
			continue
		}
		if failed++; failed <= maxFailed {
			out = append(out, ui.Problem{Level: ui.Warn, User: p.Name, What: "last job failed: " + p.Error, Since: last[p.Name].Ended})
		}
	}
	if failed > maxFailed {
		out = append(out, ui.Problem{Level: ui.Warn, What: fmt.Sprintf("%d more people's last job failed", failed-maxFailed), Cure: "see People"})
	}
	for _, l := range v.lacks() {
		out = append(out, ui.Problem{Level: ui.Warn, What: fmt.Sprintf("template %s lacks %s", l.template, l.what), Cure: "put them where ComfyUI finds them; the list is read again every few minutes"})
	}
	return out
}

// recent is how long a refused request stays in Attention.
const recent = 10 * time.Minute

// refused lists people whose last request did not go well a short while ago.
func (v *view) refused() []ui.Problem {
	troubles := v.troubles()
	var out []ui.Problem
	for _, u := range sortedUsers(troubles) {
		t := troubles[u]
		if v.now().Sub(t.At) < recent {
			out = append(out, ui.Problem{Level: ui.Warn, User: u, What: fmt.Sprintf("%s %s was answered %d: %s", t.Method, t.Path, t.Status, t.Text), Since: t.At.UnixMilli()})
		}
	}
	return out
}

// Do commits what a button asks for, audited under actor.
func (v *view) Do(ctx context.Context, actor string, a ui.Action) error {
	p := v.propose.As(actor)
	switch a.Verb {
	case ui.CancelJob:
		return v.cancel(ctx, p, jobs.ID{User: a.User, Prompt: a.Prompt}, actor)
	case ui.DisablePerson, ui.EnablePerson:
		_, err := p.Propose(ctx, &people.Disable{Name: a.User, Undo: a.Verb == ui.EnablePerson})
		return err
	}
	return cluster.Errorf(cluster.Invalid, "there is no action %q", a.Verb)
}

func (v *view) cancel(ctx context.Context, p cluster.Proposer, id jobs.ID, actor string) error {
	var j jobs.Job
	var ok bool
	v.machine.Jobs(func(t *jobs.Table) { j, ok = t.Job(id) })
	switch {
	case !ok:
		return cluster.Errorf(cluster.NotFound, "there is no job %s", id)
	case j.State.Ended():
		return cluster.Errorf(cluster.Conflict, "job %s has ended already: it is %s", id, j.State)
	}
	_, err := p.Propose(ctx, &jobs.Cancel{IDs: []jobs.ID{id}, Reason: "cancelled by " + actor})
	return err
}
