package policy_test

import (
	"strings"
	"testing"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/cluster/policy"
)

// TestClassModes: who may begin, in every queue mode.
func TestClassModes(t *testing.T) {
	rows := []jobs.Job{
		with(waitingOf("ann", 1), created), with(waitingOf("ann", 2), created), with(waitingOf("bob", 3), created),
		with(with(waitingOf("user001", 4), priority(jobs.Instructor)), created),
		{ID: jobs.ID{User: "bob", Prompt: "was"}, Seq: 50, Order: 50, State: jobs.Done, EndNumber: 1, Worker: "z", Started: now - 9000, GpuDone: now - 1000, Ended: now - 1000},
	}
	workers := []jobs.Claim{worker("a"), worker("b"), worker("c"), worker("d")}
	for name, tt := range map[string]struct {
		view policy.View
		want string
	}{
		"free":                  {policy.View{}, "p1 p2 p3 p4"},
		"hands off":             {policy.View{Class: policy.Class{Mode: policy.HandsOff}}, "p4"},
		"sprint of one":         {policy.View{Class: policy.Class{Mode: policy.Sprint, N: 1, Since: now - 10_000}}, "p1 p4"},
		"sprint since then":     {policy.View{Class: policy.Class{Mode: policy.Sprint, N: 1, Since: now - 5_000}}, "p1 p3 p4"},
		"winding down, in time": {policy.View{Class: policy.Class{Mode: policy.WindDown, Until: now + 30_000}}, "p1 p2 p3 p4"},
		"winding down":          {policy.View{Class: policy.Class{Mode: policy.WindDown, Until: now + 29_999}}, ""},
		"one at a time":         {policy.View{Limits: func(cluster.User) policy.Limits { return policy.Limits{Running: 1} }}, "p1 p3 p4"},
		"minutes":               {policy.View{Limits: func(cluster.User) policy.Limits { return policy.Limits{Minutes: 1} }}, "p1 p2 p3 p4"},
	} {
		for _, mode := range policy.Modes() {
			tt.view.Jobs, tt.view.Idle, tt.view.Now, tt.view.Mode = queue(rows...), workers, now, mode
			var got []string
			for _, a := range policy.Pick(tt.view) {
				got = append(got, a.Lease.Job.Prompt)
			}
			for _, p := range strings.Fields(tt.want) {
				if !strings.Contains(strings.Join(got, " "), p) {
					t.Errorf("%s, %s: %v, want %s", name, mode, got, tt.want)
				}
			}
			if len(got) != len(strings.Fields(tt.want)) {
				t.Errorf("%s, %s: %v, want %s", name, mode, got, tt.want)
			}
			for _, w := range policy.Look(tt.view).Told {
				if waits := !strings.Contains(tt.want, w.Job.Prompt); waits && (w.Start != 0 || w.Reason == "") {
					t.Errorf("%s, %s: %s is told %+v", name, mode, w.Job, w.Turn)
				}
			}
		}
	}
}

func created(j *jobs.Job) { j.Created = now - 1000 }

func TestDemoAndBoostGoFirst(t *testing.T) {
	rows := []jobs.Job{
		with(waitingOf("ann", 1), created), with(waitingOf("bob", 2), created), with(with(waitingOf("user001", 3), priority(jobs.Instructor)), created),
		with(with(waitingOf("cec", 4), front), created),
	}
	for _, mode := range policy.Modes() {
		v := policy.View{Jobs: queue(rows...), Idle: []jobs.Claim{worker("a"), worker("b"), worker("c"), worker("d")}, Now: now, Mode: mode}
		v.Class.Mode, v.Boosted = policy.Demo, map[cluster.User]bool{"bob": true}
		if got := told(policy.Pick(v)); got != "p4>a p3>b p2>c p1>d" {
			t.Errorf("%s: %q", mode, got)
		}
	}
}

// TestWhoIsStoppedForAnUrgentJob: who loses least, never a second time, never
// somebody urgent, never what has cost money.
func TestWhoIsStoppedForAnUrgentJob(t *testing.T) {
	runs := func(n int, w string, since int64, change func(*jobs.Job)) jobs.Job {
		j := waitingOf("ann", n)
		j.State, j.Worker, j.Epoch, j.Started = jobs.Running, cluster.WorkerID(w), 1, now-since
		change(&j)
		return j
	}
	same := func(*jobs.Job) {}
	rows := []jobs.Job{
		runs(1, "a", 50_000, same), runs(2, "b", 9_000, same), runs(3, "c", 1_000, func(j *jobs.Job) { j.Preempted = true }),
		runs(4, "d", 2_000, func(j *jobs.Job) { j.APINodes = true }), runs(5, "e", 3_000, func(j *jobs.Job) { j.Urgent = true }),
		with(with(waitingOf("user001", 9), front), func(j *jobs.Job) { j.Urgent = true }),
	}
	v := policy.View{Jobs: queue(rows...), Now: now, Busy: []jobs.Claim{worker("a"), worker("b"), worker("c"), worker("d"), worker("e")}}
	names := func(all []jobs.Job) (out string) {
		for _, j := range all {
			out += j.ID.Prompt
		}
		return out
	}
	if got := names(policy.Victims(v, 0, nil)); got != "p2" {
		t.Errorf("stopped %q, want p2", got)
	}
	if got := names(policy.Victims(v, 0, map[cluster.WorkerID]bool{"b": true})); got != "p1" {
		t.Errorf("after b did not stop: %q, want p1", got)
	}
	if got := names(policy.Victims(v, 1, map[cluster.WorkerID]bool{"b": true})); got != "" {
		t.Errorf("while b is stopping: %q", got)
	}
	v.Class = policy.Class{Mode: policy.WindDown, Until: now + 20_000}
	if got := names(policy.Ending(v)); got != "p2p3" {
		t.Errorf("winding down: %q, want p2p3 (30 s each)", got)
	}
	v.Class.Until = now
	if got := names(policy.Ending(v)); got != "p1p2p3" {
		t.Errorf("at the end: %q", got)
	}
}
