package jobs_test

import (
	"fmt"
	"testing"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
)

func submit(tb testing.TB, t *jobs.Table, user, prompt string, now int64) jobs.ID {
	tb.Helper()
	id := jobs.ID{User: cluster.User(user), Prompt: prompt}
	do(tb, t, &jobs.Submit{ID: id, BodyHash: "h", Body: []byte("b"), Priority: jobs.Normal}, now)
	return id
}

func TestServedLooksBackOneHour(t *testing.T) {
	const minute = 60_000
	tab := jobs.New()
	for n := range 200 {
		id := submit(t, tab, "ann", fmt.Sprint("p", n), int64(n)*minute)
		life(t, tab, id, int64(n)*minute)
	}
	id := submit(t, tab, "ann", "waits", 200*minute)
	do(t, tab, &jobs.Cancel{IDs: []jobs.ID{id}}, 200*minute)
	for at, want := range map[int64]int{199 * minute: 60, 200*minute - 1: 60, 200 * minute: 59, 258 * minute: 1, 259 * minute: 0} {
		if got := tab.Served("ann", at); got != want {
			t.Errorf("at minute %d: %d served, want %d", at/minute, got, want)
		}
	}
	if n := len(tab.Snapshot().Accounts[0].Served); n > 60 {
		t.Errorf("%d minutes are kept", n)
	}
	if tab.Served("bob", 0) != 0 || tab.RunningOf("bob") != 0 {
		t.Error("somebody unknown was served")
	}
}

func TestLeaseOfALongPastAttemptIsNobodys(t *testing.T) {
	tab := jobs.New()
	id := submit(t, tab, "ann", "p1", 1)
	for epoch := range uint64(10) {
		do(t, tab, &jobs.Assign{Lease: jobs.Lease{Job: id, Worker: "w", Epoch: epoch + 1}}, 1)
	}
	for epoch, want := range map[uint64]cluster.Code{0: cluster.Stale, 1: cluster.Stale, 2: "", 9: "", 10: "", 11: cluster.Stale} {
		err := tab.CheckLease(jobs.Lease{Job: id, Worker: "w", Epoch: epoch})
		if got := cluster.CodeOf(err); got != want {
			t.Errorf("epoch %d: %q, want %q", epoch, got, want)
		}
	}
}

func TestOrphansAreBounded(t *testing.T) {
	tab := jobs.New()
	for n := range jobs.MaxOrphans + 10 {
		id := submit(t, tab, "ann", fmt.Sprint("p", n), 1)
		do(t, tab, &jobs.Assign{Lease: jobs.Lease{Job: id, Worker: "w1", Epoch: 1}}, 1)
		do(t, tab, &jobs.Assign{Lease: jobs.Lease{Job: id, Worker: "w2", Epoch: 2}}, 1)
		do(t, tab, &jobs.Started{Lease: jobs.Lease{Job: id, Worker: "w2", Epoch: 2}}, 1)
		answer := do(t, tab, &jobs.Finish{Lease: jobs.Lease{Job: id, Worker: "w1", Epoch: 1}, State: jobs.Done, History: ref("a")}, 1)
		if answer != (jobs.Finished{Orphan: true}) {
			t.Fatalf("answer %+v", answer)
		}
	}
	if n := len(tab.Snapshot().Orphans); n != jobs.MaxOrphans {
		t.Errorf("%d orphans are kept, want %d", n, jobs.MaxOrphans)
	}
	if len(tab.Orphans(jobs.ID{User: "ann", Prompt: "p0"})) != 0 || len(tab.Orphans(jobs.ID{User: "ann", Prompt: "p1009"})) != 1 {
		t.Error("not the newest are kept")
	}
}

// A snapshot from before Finished must not turn a repeated report into an orphan.
func TestReportIsRecognizedInAnOldSnapshot(t *testing.T) {
	tab := jobs.New()
	id := submit(t, tab, "ann", "p1", 1)
	life(t, tab, id, 2)
	s := tab.Snapshot()
	s.Rows[0].Finished = 0
	answer := do(t, jobs.Restore(s), &jobs.Finish{Lease: jobs.Lease{Job: id, Worker: "w", Epoch: 1}, State: jobs.Done, History: ref("a")}, 3)
	if answer != (jobs.Finished{}) {
		t.Errorf("answer %+v", answer)
	}
}

func TestForgottenRowsAreNotCounted(t *testing.T) {
	tab := jobs.New()
	for n := range jobs.HistoryPerUser + 5 {
		life(t, tab, submit(t, tab, "ann", fmt.Sprint("p", n), 1), 1)
	}
	rows := 0
	tab.Rows(func(*jobs.Job) bool { rows++; return true })
	if got := tab.Count().Done; got != jobs.HistoryPerUser || rows != got {
		t.Errorf("%d done in %d rows, want %d", got, rows, jobs.HistoryPerUser)
	}
}
