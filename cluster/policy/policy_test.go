package policy_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/cluster/policy"
)

// queue is a table that holds these rows.
func queue(rows ...jobs.Job) *jobs.Table { return jobs.Restore(jobs.Snapshot{Rows: rows}) }

func waiting(n int, classes ...string) jobs.Job { return waitingOf("user001", n, classes...) }

func waitingOf(u cluster.User, n int, classes ...string) jobs.Job {
	return jobs.Job{ID: jobs.ID{User: u, Prompt: fmt.Sprintf("p%d", n)}, Seq: uint64(n), Order: int64(n), State: jobs.Pending, Priority: jobs.Normal, Classes: classes}
}

// with changes a job before it is queued.
func with(j jobs.Job, change func(*jobs.Job)) jobs.Job {
	change(&j)
	return j
}

func front(j *jobs.Job) { j.Order = -1 }

func priority(p jobs.Priority) func(*jobs.Job) { return func(j *jobs.Job) { j.Priority = p } }

func worker(name string, classes ...string) jobs.Claim {
	c := jobs.Claim{Worker: cluster.WorkerID(name)}
	if classes != nil {
		c.Classes = map[string]bool{}
		for _, class := range classes {
			c.Classes[class] = true
		}
	}
	return c
}

// told writes decisions as "p1>a p2>b".
func told(picks []jobs.Assign) string {
	var out []string
	for _, p := range picks {
		out = append(out, fmt.Sprintf("%s>%s", p.Lease.Job.Prompt, p.Lease.Worker))
	}
	return strings.Join(out, " ")
}

func TestPick(t *testing.T) {
	onA := with(waiting(1, "X"), func(j *jobs.Job) { j.Tried, j.Strikes, j.Epoch = []string{"a"}, 1, 4 })
	assigned := with(waiting(1), func(j *jobs.Job) { j.State = jobs.Assigned })
	late := with(waiting(1), func(j *jobs.Job) { j.NotBefore = 100 })
	one := []jobs.Claim{worker("a")}
	tests := []struct {
		name string
		view policy.View
		want string
	}{
		{"nobody asks", policy.View{Jobs: queue(waiting(1))}, ""},
		{"nothing waits", policy.View{Jobs: queue(), Idle: one}, ""},
		{"by place", policy.View{Jobs: queue(waiting(1), waiting(2), waiting(3)), Idle: []jobs.Claim{worker("b"), worker("a")}}, "p1>b p2>a"},
		{"an assigned job is not given out", policy.View{Jobs: queue(assigned, waiting(2)), Idle: one}, "p2>a"},
		{"a worker that lacks a class is passed over", policy.View{Jobs: queue(waiting(1, "X"), waiting(2)), Idle: []jobs.Claim{worker("a", "Y"), worker("b")}}, "p1>b p2>a"},
		{"a job nobody can run does not block", policy.View{Jobs: queue(waiting(1, "X"), waiting(2, "Y")), Idle: []jobs.Claim{worker("a", "Y")}}, "p2>a"},
		{"a worker named twice counts once", policy.View{Jobs: queue(waiting(1), waiting(2)), Idle: []jobs.Claim{worker("a"), worker("a")}}, "p1>a"},
		{"not where it failed", policy.View{Jobs: queue(onA), Idle: []jobs.Claim{worker("a"), worker("b")}}, "p1>b"},
		{"it waits for one that is busy", policy.View{Jobs: queue(onA, waiting(2)), Idle: one, Busy: []jobs.Claim{worker("b")}}, "p2>a"},
		{"it waits for one that is busy from now on", policy.View{Jobs: queue(with(waiting(0, "Y"), front), onA), Idle: []jobs.Claim{worker("a", "X"), worker("b")}}, "p0>b"},
		{"where it failed when there is no other", policy.View{Jobs: queue(onA), Idle: one, Busy: []jobs.Claim{worker("b", "Y")}}, "p1>a"},
		{"nor one that takes nothing", policy.View{Jobs: queue(onA), Idle: one, Busy: []jobs.Claim{worker("b")}, Paused: policy.Pause{Workers: map[cluster.WorkerID]bool{"b": true}}}, "p1>a"},
		{"held back", policy.View{Jobs: queue(late, waiting(2)), Idle: one, Now: 99}, "p2>a"},
		{"not held back any more", policy.View{Jobs: queue(late, waiting(2)), Idle: one, Now: 100}, "p1>a"},
		{"no clock", policy.View{Jobs: queue(late, waiting(2)), Idle: one}, "p1>a"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := told(policy.Pick(tt.view)); got != tt.want {
				t.Errorf("Pick = %q, want %q", got, tt.want)
			}
		})
	}
	if got := policy.Pick(policy.View{Jobs: queue(onA), Idle: []jobs.Claim{worker("b")}})[0].Lease.Epoch; got != 5 {
		t.Errorf("epoch = %d, want one above the row's", got)
	}
}

func TestPauseAndDrain(t *testing.T) {
	far := worker("c")
	far.Node = "n2"
	view := func(p policy.Pause, draining ...cluster.NodeID) policy.View {
		v := policy.View{
			Jobs: queue(waitingOf("ann", 1), waitingOf("bob", 2), with(waitingOf("ann", 3), front)), Idle: []jobs.Claim{worker("a"), far},
			Paused: p, Draining: map[cluster.NodeID]bool{},
		}
		for _, n := range draining {
			v.Draining[n] = true
		}
		return v
	}
	for _, tt := range []struct {
		name string
		view policy.View
		want string
	}{
		{"nothing", view(policy.Pause{}), "p3>a p1>c"},
		{"everything", view(policy.Pause{All: true}), ""},
		{"a user, fronted or not", view(policy.Pause{Users: map[cluster.User]bool{"ann": true}}), "p2>a"},
		{"a worker", view(policy.Pause{Workers: map[cluster.WorkerID]bool{"a": true}}), "p3>c"},
		{"a node", view(policy.Pause{}, "n2"), "p3>a"},
		{"the last worker", view(policy.Pause{Workers: map[cluster.WorkerID]bool{"a": true}}, "n2"), ""},
	} {
		for _, mode := range policy.Modes() {
			tt.view.Mode = mode
			want := tt.want
			if (mode == policy.RoundRobin || mode == policy.Fair) && tt.name == "nothing" {
				want = "p3>a p2>c" // ann has one by then
			}
			if got := told(policy.Pick(tt.view)); got != want {
				t.Errorf("%s, %s: %q, want %q", tt.name, mode, got, want)
			}
		}
	}
}

func TestModes(t *testing.T) {
	rows := []jobs.Job{
		waitingOf("ann", 1), waitingOf("ann", 2), with(waitingOf("ann", 3), priority(jobs.High)), with(waitingOf("bob", 4), priority(jobs.Low)),
		waitingOf("bob", 5), with(waitingOf("cec", 6), priority(jobs.Instructor)), with(waitingOf("dan", 7), priority(jobs.High)), with(waitingOf("eva", 8), front),
	}
	busy := jobs.Job{ID: jobs.ID{User: "cec", Prompt: "r"}, Seq: 100, Order: 100, State: jobs.Running}
	served := jobs.Account{User: "dan", Served: []jobs.Minute{{At: 10, N: 1}, {At: 60, N: 2}}, Used: 70_000_000, UsedAt: 70}
	used := jobs.Account{User: "bob", Used: 20_000_000, UsedAt: 70}
	for i := range rows {
		rows[i].Created = 69 * 60_000
	}
	workers := []jobs.Claim{worker("a"), worker("b"), worker("c"), worker("d"), worker("e"), worker("f"), worker("g"), worker("h")}
	for mode, want := range map[policy.Mode]string{
		policy.FIFO:     "p8>a p1>b p2>c p3>d p4>e p5>f p6>g p7>h",
		policy.Priority: "p8>a p6>b p3>c p7>d p1>e p2>f p5>g p4>h",
		// ann and bob have had nothing, cec has one, dan had two in this hour.
		policy.RoundRobin: "p8>a p3>b p5>c p6>d p1>e p4>f p7>g p2>h",
		// cec's runs and counts as half a minute, as does each that is given out; bob
		// has had 20 s and dan 70 s.
		policy.Fair: "p8>a p3>b p5>c p6>d p1>e p4>f p2>g p7>h",
	} {
		v := policy.View{Jobs: jobs.Restore(jobs.Snapshot{Rows: append(slices.Clone(rows), busy), Accounts: []jobs.Account{served, used}}), Idle: workers, Mode: mode, Now: 70 * 60_000}
		if got := told(policy.Pick(v)); got != want {
			t.Errorf("%s: %q, want %q", mode, got, want)
		}
	}
}

func TestAdmit(t *testing.T) {
	late := with(waiting(1, "X"), func(j *jobs.Job) { j.NotBefore = 100 })
	for _, tt := range []struct {
		name string
		view policy.View
		want string
	}{
		{"an idle worker", policy.View{Jobs: queue(), Idle: []jobs.Claim{worker("a")}}, "p9>a"},
		{"one that is wanted", policy.View{Jobs: queue(waiting(1)), Idle: []jobs.Claim{worker("a")}}, ""},
		{"one that is left", policy.View{Jobs: queue(waiting(1)), Idle: []jobs.Claim{worker("a"), worker("b")}}, "p9>b"},
		{"one that nobody can use yet", policy.View{Jobs: queue(late), Idle: []jobs.Claim{worker("a")}, Now: 99}, "p9>a"},
		{"one that cannot", policy.View{Jobs: queue(), Idle: []jobs.Claim{worker("a", "Z")}}, ""},
		{"paused", policy.View{Jobs: queue(), Idle: []jobs.Claim{worker("a")}, Paused: policy.Pause{All: true}}, ""},
		{"a paused user", policy.View{Jobs: queue(), Idle: []jobs.Claim{worker("a")}, Paused: policy.Pause{Users: map[cluster.User]bool{"user001": true}}}, ""},
	} {
		a, ok := policy.Admit(tt.view, jobs.Job{ID: waiting(9).ID, Classes: []string{"Y"}})
		got := ""
		if ok {
			got = told([]jobs.Assign{a})
		}
		if got != tt.want || ok && a.Lease.Epoch != 1 {
			t.Errorf("%s: %q, want %q (%+v)", tt.name, got, tt.want, a)
		}
	}
}

func TestParseMode(t *testing.T) {
	for s, want := range map[string]policy.Mode{" FIFO ": policy.FIFO, "round_robin": policy.RoundRobin, "round-robin": policy.RoundRobin, "Priority": policy.Priority, "fair": policy.Fair} {
		if m, err := policy.ParseMode(s); m != want || err != nil {
			t.Errorf("ParseMode(%q) = %q, %v", s, m, err)
		}
	}
	for s, want := range map[string]string{
		"random": `There is no queue mode "random". Use fair, fifo, round-robin or priority.`,
	} {
		if _, err := policy.ParseMode(s); cluster.CodeOf(err) != cluster.Invalid || err.Error() != want {
			t.Errorf("ParseMode(%q) = %v, want %q", s, err, want)
		}
	}
}
