package jobs_test

import (
	"fmt"
	"testing"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
)

// The size of the table that is measured.
const (
	benchJobs  = 100_000
	benchUsers = 200
)

func do(tb testing.TB, t *jobs.Table, c cluster.Command, now int64) any {
	tb.Helper()
	mutate, _, err := t.Plan(c, now)
	if err != nil {
		tb.Fatal(err)
	}
	return mutate()
}

func benchID(n int) jobs.ID {
	return jobs.ID{User: cluster.User(fmt.Sprintf("user%03d", n%benchUsers)), Prompt: fmt.Sprintf("p%d", n)}
}

func submitN(tb testing.TB, t *jobs.Table, n int) jobs.ID {
	id := benchID(n)
	do(tb, t, &jobs.Submit{ID: id, BodyHash: "h", Body: []byte("b"), Priority: jobs.Normal}, int64(n))
	return id
}

// full is a table with 100,000 waiting jobs of 200 users.
func full(tb testing.TB) *jobs.Table {
	t := jobs.New()
	for n := range benchJobs {
		submitN(tb, t, n)
	}
	return t
}

// life takes a waiting job to its end.
func life(tb testing.TB, t *jobs.Table, id jobs.ID, now int64) {
	l := jobs.Lease{Job: id, Worker: "w", Epoch: 1}
	do(tb, t, &jobs.Assign{Lease: l}, now)
	do(tb, t, &jobs.Started{Lease: l}, now)
	do(tb, t, &jobs.GpuDone{Lease: l}, now)
	do(tb, t, &jobs.Finish{Lease: l, State: jobs.Done, History: ref("a")}, now)
}

// BenchmarkTable measures one command or one reading at 100,000 waiting jobs.
func BenchmarkTable(b *testing.B) {
	b.Run("submit", func(b *testing.B) {
		t, n := full(b), benchJobs
		for b.Loop() {
			submitN(b, t, n)
			n++
		}
	})
	b.Run("submit_assign_to_finish_first", func(b *testing.B) {
		t, n := full(b), benchJobs
		for b.Loop() {
			submitN(b, t, n)
			life(b, t, benchID(n-benchJobs), int64(n))
			n++
		}
	})
	b.Run("submit_assign_to_finish_middle", func(b *testing.B) {
		t, n := full(b), benchJobs
		for b.Loop() {
			submitN(b, t, n)
			life(b, t, benchID(n-benchJobs/2), int64(n))
			n++
		}
	})
	b.Run("waiting", func(b *testing.B) {
		t := full(b)
		for b.Loop() {
			got := 0
			t.Waiting(func(j *jobs.Job) bool { got += int(j.Epoch); return true })
		}
	})
	b.Run("count", func(b *testing.B) {
		t := full(b)
		for b.Loop() {
			t.Count()
		}
	})
	b.Run("submit_front", func(b *testing.B) {
		t, n := full(b), benchJobs
		for b.Loop() {
			do(b, t, &jobs.Submit{ID: benchID(n), BodyHash: "h", Body: []byte("b"), Priority: jobs.Normal, Front: true}, int64(n))
			n++
		}
	})
	b.Run("cancel_2000", func(b *testing.B) {
		t, n := full(b), 0
		for b.Loop() {
			var ids []jobs.ID
			for range 2000 {
				ids = append(ids, submitN(b, t, benchJobs+n))
				n++
			}
			do(b, t, &jobs.Cancel{IDs: ids}, 1)
		}
	})
	b.Run("front_2000_of_all", func(b *testing.B) { benchFront(b, "", func(n int) jobs.ID { return benchID(n * 37) }) })
	b.Run("front_400_of_a_user", func(b *testing.B) {
		benchFront(b, "user007", func(n int) jobs.ID { return benchID(7 + benchUsers*(n%400)) })
	})
	b.Run("digest", func(b *testing.B) {
		t := full(b)
		for b.Loop() {
			var d cluster.Digest
			t.Digest(&d)
		}
	})
	b.Run("snapshot", func(b *testing.B) {
		t := full(b)
		for b.Loop() {
			t.Snapshot()
		}
	})
	b.Run("restore", func(b *testing.B) {
		s := full(b).Snapshot()
		for b.Loop() {
			jobs.Restore(s)
		}
	})
}

func benchFront(b *testing.B, u cluster.User, id func(n int) jobs.ID) {
	t := full(b)
	c := &jobs.Front{User: u}
	for n := range 2000 {
		c.IDs = append(c.IDs, id(n))
	}
	for b.Loop() {
		do(b, t, c, 1)
	}
}
