package policy_test

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/cluster/policy"
)

// ran is a job of a form that a worker has had, warm if it ran another before.
func ran(n int, w, form, model string, at, took int64) jobs.Job {
	return jobs.Job{
		ID: jobs.ID{User: "zoe", Prompt: fmt.Sprint("r", n)}, Seq: uint64(1000 + n), Order: int64(1000 + n), State: jobs.Done, EndNumber: int64(n),
		Worker: cluster.WorkerID(w), Form: form, Models: []string{model}, Started: at, GpuDone: at + took, Ended: at + took,
	}
}

func formed(form, model string) func(*jobs.Job) {
	return func(j *jobs.Job) { j.Form, j.Models, j.Created = form, []string{model}, now-1000 }
}

func TestForecastSaysWhenWhereAndWhy(t *testing.T) {
	past := []jobs.Job{
		ran(1, "a", "F", "flux", 1, 35_000), ran(2, "a", "F", "flux", 100_000, 10_000), ran(3, "a", "L", "ltx", 200_000, 65_000),
		ran(4, "a", "L", "ltx", 300_000, 40_000), ran(5, "a", "F", "flux", 400_000, 35_000),
	}
	runs := jobs.Job{ID: jobs.ID{User: "bob", Prompt: "now"}, Seq: 5, Order: 5, State: jobs.Running, Worker: "a", Epoch: 1, Form: "F", Models: []string{"flux"}, Created: now - 9000, Started: now - 4000}
	rows := append(past, runs, with(waitingOf("ann", 6), formed("F", "flux")), with(waitingOf("ann", 7), formed("L", "ltx")), with(waitingOf("ann", 8, "Missing"), formed("F", "flux")))
	tab := queue(rows...)
	f := policy.Look(policy.View{Jobs: tab, Mode: policy.FIFO, Now: now, Busy: []jobs.Claim{worker("a", "KSampler")}})
	var got []string
	for _, w := range f.Told {
		got = append(got, fmt.Sprintf("%s #%d in %d load %d run %d: %s", w.Job.Prompt, w.Position, (w.Start-now)/1000, w.Load/1000, w.Run/1000, w.Reason))
	}
	want := []string{
		"p6 #1 in 6 load 0 run 10: next: a is free in about 6 s",
		"p7 #2 in 16 load 25 run 40: one job goes before it; a is free in about 16 s and loads ltx then, about 25 s",
		fmt.Sprintf("p8 #3 in %d load 0 run 30: waiting for a GPU node that has Missing", -now/1000),
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("forecast:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestWhatHoldsAJobUpIsSaid(t *testing.T) {
	all := []jobs.Claim{worker("a")}
	for _, tt := range []struct {
		view policy.View
		want string
	}{
		{policy.View{Idle: all, Paused: policy.Pause{All: true}}, "the queue is paused"},
		{policy.View{Idle: all, Paused: policy.Pause{Users: map[cluster.User]bool{"user001": true}}}, "this user's jobs are paused"},
		{policy.View{Idle: all, Paused: policy.Pause{Workers: map[cluster.WorkerID]bool{"a": true}}}, "every GPU is paused or drained"},
		{policy.View{}, "No GPU is connected: it waits until one joins."},
	} {
		tt.view.Jobs, tt.view.Now = queue(waiting(1)), now
		f := policy.Look(tt.view)
		if len(f.Told) != 1 || f.Told[0].Reason != tt.want || f.Told[0].Start != 0 {
			t.Errorf("%+v, want %q", f.Told, tt.want)
		}
	}
}

// TestWhatPassesAPauseIsToldOnce: a job has to pause, and the one behind it is
// given out now.
func TestWhatPassesAPauseIsToldOnce(t *testing.T) {
	rows := []jobs.Job{waiting(1), waiting(2), waiting(3)}
	rows[0].NotBefore = now + 5000
	f := policy.Look(policy.View{Jobs: queue(rows...), Now: now, Mode: policy.Fair, Idle: []jobs.Claim{{Worker: "a", Node: "n"}}})
	if len(f.Told) != len(rows) || len(f.Turns()) != len(rows) {
		t.Errorf("%d jobs were told of %d times: %+v", len(f.Turns()), len(f.Told), f.Told)
	}
}

// TestForecastFollowsPick: whatever waits is told of once, never with less than a
// second to wait, and what Pick would give out now begins now.
func TestForecastFollowsPick(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v, rows := drawView(t)
		f := policy.Look(v)
		told := f.Turns()
		waits := 0
		for _, j := range rows {
			if j.State != jobs.Pending && j.State != jobs.Assigned {
				continue
			}
			waits++
			turn, ok := told[j.ID]
			if !ok || turn.Position < 1 || turn.Reason == "" || turn.Start != 0 && (turn.Start < v.Now+1000 || turn.Wait(v.Now) < 1000) {
				t.Fatalf("%s: %+v", j.ID, turn)
			}
		}
		if waits != len(f.Told) || len(told) != waits {
			t.Fatalf("%d jobs wait and %d were told of", waits, len(f.Told))
		}
		for _, a := range policy.Pick(v) {
			if turn := told[a.Lease.Job]; turn.Start > v.Now+1000 && len(rows) < 3 {
				t.Fatalf("%s is given out now and told %+v", a.Lease.Job, turn)
			}
		}
	})
}
