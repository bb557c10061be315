package policy_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/cluster/policy"
)

// queue is a job table's waiting list, already in order.
type queue []*jobs.Job

func (q queue) Waiting(f func(*jobs.Job) bool) {
	for _, j := range q {
		if !f(j) {
			return
		}
	}
}

func waiting(n int, classes ...string) *jobs.Job {
	return &jobs.Job{ID: jobs.ID{User: "user001", Prompt: fmt.Sprintf("p%d", n)}, Seq: uint64(n), Order: int64(n), State: jobs.Pending, Classes: classes}
}

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
	onA := waiting(1)
	onA.Tried, onA.Strikes, onA.Epoch = []string{"a"}, 1, 4
	assigned := waiting(1)
	assigned.State = jobs.Assigned
	tests := []struct {
		name string
		view policy.View
		want string
	}{
		{"nobody asks", policy.View{Jobs: queue{waiting(1)}}, ""},
		{"nothing waits", policy.View{Jobs: queue{}, Idle: []jobs.Claim{worker("a")}}, ""},
		{"by place", policy.View{Jobs: queue{waiting(1), waiting(2), waiting(3)}, Idle: []jobs.Claim{worker("b"), worker("a")}}, "p1>b p2>a"},
		{"an assigned job is not given out", policy.View{Jobs: queue{assigned, waiting(2)}, Idle: []jobs.Claim{worker("a")}}, "p2>a"},
		{"a worker that lacks a class is passed over", policy.View{Jobs: queue{waiting(1, "X"), waiting(2)}, Idle: []jobs.Claim{worker("a", "Y"), worker("b")}}, "p1>b p2>a"},
		{"a job nobody can run does not block", policy.View{Jobs: queue{waiting(1, "X"), waiting(2, "Y")}, Idle: []jobs.Claim{worker("a", "Y")}}, "p2>a"},
		{"a worker named twice counts once", policy.View{Jobs: queue{waiting(1), waiting(2)}, Idle: []jobs.Claim{worker("a"), worker("a")}}, "p1>a"},
		{"not where it failed", policy.View{Jobs: queue{onA}, Idle: []jobs.Claim{worker("a"), worker("b")}}, "p1>b"},
		{"it waits for one that is busy", policy.View{Jobs: queue{onA, waiting(2)}, Idle: []jobs.Claim{worker("a")}, Busy: []jobs.Claim{worker("b")}}, "p2>a"},
		{"where it failed when there is no other", policy.View{Jobs: queue{onA}, Idle: []jobs.Claim{worker("a")}, Busy: []jobs.Claim{worker("b", "Y")}}, "p1>a"},
		{"held back", policy.View{Jobs: queue{waiting(1), waiting(2)}, Idle: []jobs.Claim{worker("a")}, Now: 99, NotBefore: map[jobs.ID]int64{waiting(1).ID: 100}}, "p2>a"},
		{"not held back any more", policy.View{Jobs: queue{waiting(1), waiting(2)}, Idle: []jobs.Claim{worker("a")}, Now: 100, NotBefore: map[jobs.ID]int64{waiting(1).ID: 100}}, "p1>a"},
	}
	onA.Classes = []string{"X"}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := told(policy.Pick(tt.view)); got != tt.want {
				t.Errorf("Pick = %q, want %q", got, tt.want)
			}
		})
	}
	if got := policy.Pick(policy.View{Jobs: queue{onA}, Idle: []jobs.Claim{worker("b")}})[0].Lease.Epoch; got != 5 {
		t.Errorf("epoch = %d, want one above the row's", got)
	}
}

func TestParseMode(t *testing.T) {
	if m, err := policy.ParseMode(" FIFO "); m != policy.FIFO || err != nil {
		t.Errorf("ParseMode(fifo) = %q, %v", m, err)
	}
	for _, m := range policy.Modes()[1:] {
		_, err := policy.ParseMode(string(m))
		if cluster.CodeOf(err) != cluster.Invalid || !strings.Contains(err.Error(), "not built yet") {
			t.Errorf("ParseMode(%s) = %v, want a sentence that it is not built yet", m, err)
		}
	}
	if _, err := policy.ParseMode("random"); cluster.CodeOf(err) != cluster.Invalid {
		t.Errorf("ParseMode(random) = %v, want Invalid", err)
	}
}

func drawClaims(t *rapid.T, label string, names []string) []jobs.Claim {
	var out []jobs.Claim
	for _, n := range rapid.SliceOfN(rapid.SampledFrom(names), 0, 5).Draw(t, label) {
		c := jobs.Claim{Worker: cluster.WorkerID(n)}
		if rapid.Bool().Draw(t, label+" knows its classes") {
			c.Classes = map[string]bool{}
			for _, class := range rapid.SliceOfDistinct(rapid.SampledFrom([]string{"A", "B", "C"}), rapid.ID[string]).Draw(t, label+" classes") {
				c.Classes[class] = true
			}
		}
		out = append(out, c)
	}
	return out
}

func drawView(t *rapid.T) policy.View {
	v := policy.View{Now: 1000, NotBefore: map[jobs.ID]int64{}}
	var q queue
	for i := range rapid.IntRange(0, 12).Draw(t, "jobs") {
		j := waiting(i + 1)
		j.State = rapid.SampledFrom([]jobs.State{jobs.Pending, jobs.Pending, jobs.Pending, jobs.Assigned}).Draw(t, "state")
		j.Epoch = rapid.Uint64Range(0, 5).Draw(t, "epoch")
		j.Classes = rapid.SliceOfDistinct(rapid.SampledFrom([]string{"A", "B", "C"}), rapid.ID[string]).Draw(t, "classes")
		j.Tried = rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"w1", "w2", "w3", "v1"}), 0, 2, rapid.ID[string]).Draw(t, "tried")
		if rapid.IntRange(0, 4).Draw(t, "held back") == 0 {
			v.NotBefore[j.ID] = rapid.Int64Range(999, 1002).Draw(t, "not before")
		}
		q = append(q, j)
	}
	v.Jobs = q
	v.Idle = drawClaims(t, "idle", []string{"w1", "w2", "w3", "w4"})
	v.Busy = drawClaims(t, "busy", []string{"v1", "v2"})
	return v
}

// TestPickProperties draws queues and workers and checks what Pick promises.
func TestPickProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := drawView(t)
		picks := policy.Pick(v)
		if diff := cmp.Diff(picks, policy.Pick(v)); diff != "" {
			t.Fatalf("not deterministic: %s", diff)
		}
		claims := map[cluster.WorkerID]jobs.Claim{}
		for _, c := range slices.Backward(v.Idle) {
			claims[c.Worker] = c // the first of a name counts
		}
		rows := map[jobs.ID]*jobs.Job{}
		v.Jobs.Waiting(func(j *jobs.Job) bool { rows[j.ID] = j; return true })
		given := map[jobs.ID]bool{}
		last := uint64(0)
		for _, p := range picks {
			j, known := rows[p.Lease.Job]
			c, asked := claims[p.Lease.Worker]
			switch {
			case !known || !asked:
				t.Fatalf("%s gives what is not there, or twice the same worker", told(picks))
			case given[j.ID]:
				t.Fatalf("%s gives %s twice", told(picks), j.ID)
			case j.State != jobs.Pending || p.Lease.Epoch != j.Epoch+1 || v.NotBefore[j.ID] > v.Now:
				t.Fatalf("%s gives out %+v", told(picks), j)
			case !c.Can(j):
				t.Fatalf("%s: the worker lacks a class", told(picks))
			case j.Seq < last:
				t.Fatalf("%s is not in the order of the queue", told(picks))
			}
			last, given[j.ID] = j.Seq, true
			delete(claims, p.Lease.Worker)
		}
		checkConserved(t, v, picks, rows, given, claims)
	})
}

// checkConserved sees to it that whoever is left over is so for a reason, and
// that nobody was overtaken by a later job on a worker it could have had.
func checkConserved(t *rapid.T, v policy.View, picks []jobs.Assign, rows map[jobs.ID]*jobs.Job, given map[jobs.ID]bool, left map[cluster.WorkerID]jobs.Claim) {
	first := map[cluster.WorkerID]jobs.Claim{}
	for _, c := range slices.Backward(v.Idle) {
		first[c.Worker] = c
	}
	had := func(j *jobs.Job, c jobs.Claim) bool { return slices.Contains(j.Tried, string(c.Worker)) }
	for id, j := range rows {
		if given[id] || j.State != jobs.Pending || v.NotBefore[id] > v.Now {
			continue
		}
		elsewhere := slices.ContainsFunc(v.Busy, func(c jobs.Claim) bool { return c.Can(j) && !had(j, c) })
		for _, c := range left {
			if c.Can(j) && (!had(j, c) || !elsewhere) {
				t.Fatalf("%s leaves %s idle while %s waits", told(picks), c.Worker, id)
			}
		}
		for _, p := range picks {
			if c := first[p.Lease.Worker]; rows[p.Lease.Job].Seq > j.Seq && c.Can(j) && !had(j, c) {
				t.Fatalf("%s: %s was overtaken on %s", told(picks), id, c.Worker)
			}
		}
	}
}

// BenchmarkPick has 100,000 jobs waiting: once the first fits, once none does.
func BenchmarkPick(b *testing.B) {
	q := make(queue, 100_000)
	for i := range q {
		q[i] = waiting(i+1, "CheckpointLoaderSimple", "KSampler", "SaveImage", "VAEDecode")
	}
	for name, claim := range map[string]jobs.Claim{
		"first_fits": worker("a"),
		"none_fits":  worker("a", "CheckpointLoaderSimple", "KSampler", "SaveImage"),
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				policy.Pick(policy.View{Jobs: q, Idle: []jobs.Claim{claim}, Busy: []jobs.Claim{claim}})
			}
		})
	}
}
