package jobs_test

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
)

// world is a table under random commands, with what is known of it from outside.
type world struct {
	*rapid.T
	tab    *jobs.Table
	users  int
	each   int // prompts of a user; few of both make long stories of one job
	now    int64
	served map[cluster.User][]int64 // when a worker's work ended
}

func encoded(t interface{ Fatal(...any) }, tab *jobs.Table) []byte {
	b, err := cluster.Marshal(tab.Snapshot())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (w *world) rows() map[jobs.ID]jobs.Job {
	rows := map[jobs.ID]jobs.Job{}
	w.tab.Rows(func(j *jobs.Job) bool { rows[j.ID] = *j; return true })
	return rows
}

func (w *world) drawID() jobs.ID {
	user := []cluster.User{"ann", "bob", "cec"}[rapid.IntRange(0, w.users-1).Draw(w.T, "user")]
	return jobs.ID{User: user, Prompt: fmt.Sprint("p", rapid.IntRange(1, w.each).Draw(w.T, "prompt"))}
}

func (w *world) drawIDs() []jobs.ID {
	ids := make([]jobs.ID, rapid.IntRange(0, 4).Draw(w.T, "ids"))
	for i := range ids {
		ids[i] = w.drawID()
	}
	return ids
}

// drawLease is mostly one that is, or was, a job's.
func (w *world) drawLease() jobs.Lease {
	id := w.drawID()
	row, _ := w.tab.Job(id)
	l := jobs.Lease{Job: id, Worker: row.Worker, Epoch: row.Epoch}
	switch kind := rapid.IntRange(0, 9).Draw(w.T, "lease"); {
	case kind < 3 && len(row.Past) > 0:
		a := rapid.SampledFrom(row.Past).Draw(w.T, "past")
		l.Worker, l.Epoch = a.Worker, a.Epoch
	case kind == 9:
		l.Worker = cluster.WorkerID(rapid.SampledFrom([]string{"", "w1", "w2"}).Draw(w.T, "worker"))
		l.Epoch = rapid.Uint64Range(0, 12).Draw(w.T, "epoch")
	}
	return l
}

func (w *world) drawCommand() cluster.Command {
	priority := rapid.SampledFrom([]jobs.Priority{jobs.Normal, jobs.Normal, jobs.Low}).Draw(w.T, "priority")
	yes := rapid.Bool().Draw(w.T, "yes")
	switch rapid.IntRange(0, 16).Draw(w.T, "command") {
	case 0, 1, 2:
		return &jobs.Submit{
			ID: w.drawID(), BodyHash: "h", Body: []byte("b"), Priority: priority, Front: yes, APINodes: rapid.IntRange(0, 5).Draw(w.T, "api") == 0,
			Models: rapid.SampledFrom([][]string{nil, {"m"}, {"n"}, {"m", "n"}}).Draw(w.T, "models"), Form: rapid.SampledFrom([]string{"", "f", "g"}).Draw(w.T, "form"),
		}
	case 3, 4, 5:
		id := w.drawID()
		row, _ := w.tab.Job(id)
		return &jobs.Assign{Lease: jobs.Lease{Job: id, Worker: cluster.WorkerID(rapid.SampledFrom([]string{"w1", "w2", "w3"}).Draw(w.T, "worker")), Epoch: row.Epoch + 1}}
	case 6, 7:
		return &jobs.Started{Lease: w.drawLease()}
	case 8:
		return &jobs.GpuDone{Lease: w.drawLease()}
	case 9, 10:
		c := &jobs.Finish{Lease: w.drawLease(), State: rapid.SampledFrom([]jobs.State{jobs.Done, jobs.Done, jobs.Failed, jobs.Cancelled}).Draw(w.T, "state"), History: ref("a")}
		if c.State == jobs.Failed {
			c.Failure = &jobs.Failure{Type: "x"}
		}
		return c
	case 11, 12:
		return &jobs.Requeue{Lease: w.drawLease(), Strike: yes}
	case 13:
		return &jobs.Cancel{IDs: w.drawIDs()}
	case 14:
		if yes {
			return &jobs.Hold{Lease: w.drawLease()}
		}
		return &jobs.Release{User: w.drawID().User}
	case 15:
		c := &jobs.Front{IDs: w.drawIDs()}
		if yes {
			c.User = w.drawID().User
		}
		return c
	}
	row := jobs.Job{ID: w.drawID(), State: jobs.Running, Worker: "w1", Epoch: 3, Started: 1, Body: []byte("b"), Priority: priority}
	if yes {
		row.State, row.History = jobs.Done, ref("c")
	}
	return &jobs.Adopt{Rows: []jobs.Job{row}}
}

// step applies one command and checks what no command may do.
func (w *world) step() {
	w.now += rapid.SampledFrom([]int64{0, 1000, 1000, 1000, 61_000, 25 * 60_000, 13 * 3600_000}).Draw(w.T, "pause")
	c := w.drawCommand()
	before, rows := encoded(w, w.tab), w.rows()
	mutate, touched, err := w.tab.Plan(c, w.now)
	if !bytes.Equal(before, encoded(w, w.tab)) {
		w.Fatalf("checking %T changed the table", c)
	}
	if err != nil {
		return
	}
	mutate()
	for id, j := range w.rows() {
		old, was := rows[id]
		if !was {
			old = jobs.Job{ID: id}
		}
		if fmt.Sprint(old) != fmt.Sprint(j) && !slices.Contains(touched, id) {
			w.Fatalf("%T changed %s and did not say so", c, id)
		}
		w.checkStep(c, old, j)
		if was && !old.State.Ended() && j.State.Ended() && (j.Finished != 0 || j.Started != 0) {
			w.served[id.User] = append(w.served[id.User], w.now/60_000)
		}
	}
	if rapid.IntRange(0, 9).Draw(w.T, "restore") == 0 {
		now := encoded(w, w.tab)
		var was, is cluster.Digest
		w.tab.Digest(&was)
		w.tab = jobs.Restore(w.tab.Snapshot())
		w.tab.Digest(&is)
		if !bytes.Equal(now, encoded(w, w.tab)) || was.Sum() != is.Sum() {
			w.Fatal("a restored table differs")
		}
	}
}

func (w *world) checkStep(c cluster.Command, old, j jobs.Job) {
	last := uint64(0)
	for _, a := range j.Past {
		if a.Epoch <= last || a.Epoch > j.Epoch || a.Worker == "" {
			w.Fatalf("%T made past attempts %v", c, j.Past)
		}
		last = a.Epoch
	}
	old.Hidden = j.Hidden
	switch {
	case old.State.Ended() && fmt.Sprint(old) != fmt.Sprint(j):
		w.Fatalf("%T changed an ended job: %+v, now %+v", c, old, j)
	case j.Epoch < old.Epoch || len(j.Past) > 8:
		w.Fatalf("%T went from %+v to %+v", c, old, j)
	case j.State.Waiting() != (j.Worker == "" || j.State == jobs.Assigned) && !j.State.Ended():
		w.Fatalf("%T left %s with worker %q", c, j.State, j.Worker)
	case j.NotBefore != 0 && j.State != jobs.Pending:
		w.Fatalf("%T left a %s job with a delay", c, j.State)
	case (j.Finished != 0) != (j.History != ""):
		w.Fatalf("%T left history %q and finished %d", c, j.History, j.Finished)
	case j.State.Waiting() && j.Strikes >= jobs.MaxStrikes:
		w.Fatalf("%T left %d strikes", c, j.Strikes)
	}
}

// checkIndexes counts everything again.
func (w *world) checkIndexes() {
	var want jobs.Counts
	var queue []jobs.Job
	open := map[cluster.User][]jobs.Job{}
	running := map[cluster.User]int{}
	w.tab.Rows(func(j *jobs.Job) bool {
		switch {
		case j.State.Waiting():
			want.Waiting++
		case j.State == jobs.Done:
			want.Done++
		case j.State == jobs.Failed:
			want.Failed++
		case j.State == jobs.Cancelled:
			want.Cancelled++
		default:
			want.Running++
		}
		if j.State == jobs.Pending || j.State == jobs.Assigned {
			queue = append(queue, *j)
		}
		if j.State.Active() {
			running[j.ID.User]++
		}
		if !j.State.Ended() {
			open[j.ID.User] = append(open[j.ID.User], *j)
		}
		return true
	})
	if got := w.tab.Count(); got != want {
		w.Fatalf("counts %+v, want %+v", got, want)
	}
	inOrder := func(a, b jobs.Job) int { return cmp.Or(cmp.Compare(a.Order, b.Order), cmp.Compare(a.Seq, b.Seq)) }
	slices.SortFunc(queue, inOrder)
	var got []jobs.Job
	w.tab.Waiting(func(j *jobs.Job) bool { got = append(got, *j); return true })
	w.same("queue", got, queue)
	for _, u := range []cluster.User{"ann", "bob", "cec"} {
		slices.SortFunc(open[u], inOrder)
		w.same("open", w.tab.Open(u), open[u])
		served := 0
		for _, at := range w.served[u] {
			if at > w.now/60_000-60 {
				served++
			}
		}
		if got := w.tab.Served(u, w.now); got != served || w.tab.RunningOf(u) != running[u] || w.tab.Remaining(u) != len(open[u]) {
			w.Fatalf("%s: served %d, want %d; running %d, want %d", u, got, served, w.tab.RunningOf(u), running[u])
		}
	}
	w.checkLanes(open)
	w.checkOrphans()
}

func (w *world) checkLanes(open map[cluster.User][]jobs.Job) {
	pending := map[string][]jobs.Job{}
	lane := func(u cluster.User, p jobs.Priority, classes, models []string) string {
		return fmt.Sprint(u, p, classes, models)
	}
	for u, rows := range open {
		for _, j := range rows {
			if j.State == jobs.Pending {
				key := lane(u, j.Priority, j.Classes, j.Models)
				pending[key] = append(pending[key], j)
			}
		}
	}
	w.tab.Lanes(func(l *jobs.Lane) {
		key := lane(l.User, l.Priority, l.Classes, l.Models)
		want := pending[key]
		slices.SortFunc(want, func(a, b jobs.Job) int {
			if a.Fronted() != b.Fronted() {
				return cmp.Compare(a.Order, b.Order)
			}
			return cmp.Or(cmp.Compare(a.Order, b.Order), cmp.Compare(a.Seq, b.Seq))
		})
		var got []jobs.Job
		next := l.Walk()
		for j := next(); j != nil; j = next() {
			got = append(got, *j)
		}
		w.same("lane", got, want)
		delete(pending, key)
	})
	if len(pending) > 0 {
		w.Fatalf("no lane for %v", pending)
	}
}

func (w *world) checkOrphans() {
	per := map[jobs.ID]int{}
	for _, o := range w.tab.Snapshot().Orphans {
		per[o.Job]++
		if per[o.Job] > jobs.OrphansPerJob || o.State == jobs.Cancelled {
			w.Fatalf("orphan %+v", o)
		}
		if row, ok := w.tab.Job(o.Job); !ok || row.Finished == o.Epoch {
			w.Fatalf("orphan %+v is the job's own result", o)
		}
	}
}

func (w *world) same(what string, got, want []jobs.Job) {
	a, b := ids(got), ids(want)
	if !slices.Equal(a, b) {
		w.Fatalf("%s: %v, want %v", what, a, b)
	}
}

func ids(rows []jobs.Job) []jobs.ID {
	var out []jobs.ID
	for _, j := range rows {
		out = append(out, j.ID)
	}
	return out
}

// TestAnyCommands draws commands and checks that no transition but the drawn
// ones happens and that every index says what a recount says.
func TestAnyCommands(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &world{T: t, tab: jobs.New(), now: 1_000_000_000, served: map[cluster.User][]int64{}}
		w.users, w.each = rapid.IntRange(1, 3).Draw(t, "users"), rapid.IntRange(1, 4).Draw(t, "each")
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			w.step()
			w.checkIndexes()
		}
	})
}

// TestSwapsAreCountedAndTimed: a start with other models than before is a swap;
// what it took shows once the form has run without.
func TestSwapsAreCountedAndTimed(t *testing.T) {
	tb := jobs.New()
	at := int64(1_000_000)
	run := func(prompt, model string, seconds int64) {
		id := jobs.ID{User: "user001", Prompt: prompt}
		l := jobs.Lease{Job: id, Worker: "a/0", Epoch: 1}
		for _, c := range []cluster.Command{
			&jobs.Submit{ID: id, BodyHash: prompt, Body: []byte("b"), Models: []string{model}, Form: "form of " + model},
			&jobs.Assign{Lease: l}, &jobs.Started{Lease: l},
		} {
			mustApply(t, tb, c, at)
		}
		at += seconds * 1000
		mustApply(t, tb, &jobs.GpuDone{Lease: l}, at)
		mustApply(t, tb, &jobs.Finish{Lease: l, State: jobs.Done, History: cluster.Ref(strings.Repeat("ab", 32))}, at)
	}
	run("1", "sdxl.safetensors", 40) // nobody knows yet what of it was loading
	run("2", "sdxl.safetensors", 10)
	run("3", "ltx.safetensors", 60)
	run("4", "sdxl.safetensors", 35)
	if n, lost := tb.Swaps("a/0", 0); n != 3 || lost != 25_000 {
		t.Errorf("%d swaps took %d ms, want 3 and 25000", n, lost)
	}
	if n, _ := tb.Swaps("a/0", at-40_000); n != 1 {
		t.Errorf("%d swaps of late, want 1", n)
	}
	if n, _ := tb.Swaps("b/0", 0); n != 0 || tb.Loaded("a/0") != "sdxl.safetensors" {
		t.Errorf("%d swaps of another, %q in memory", n, tb.Loaded("a/0"))
	}
}

func mustApply(t *testing.T, tb *jobs.Table, c cluster.Command, now int64) {
	t.Helper()
	mutate, _, err := tb.Plan(c, now)
	if err != nil {
		t.Fatalf("%T: %v", c, err)
	}
	mutate()
}
