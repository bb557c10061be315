package policy_test

import (
	"cmp"
	"fmt"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/cluster/policy"
)

var (
	users   = []cluster.User{"ann", "bob", "cec"}
	classes = []string{"A", "B", "C"}
)

const now = 100 * 60_000

func drawClaims(t *rapid.T, label string, names []string) []jobs.Claim {
	var out []jobs.Claim
	for _, n := range rapid.SliceOfN(rapid.SampledFrom(names), 0, 5).Draw(t, label) {
		c := jobs.Claim{Worker: cluster.WorkerID(n), Node: cluster.NodeID("n" + n[1:])}
		if rapid.Bool().Draw(t, label+" knows its classes") {
			c.Classes = map[string]bool{}
			for _, class := range rapid.SliceOfDistinct(rapid.SampledFrom(classes), rapid.ID[string]).Draw(t, label+" classes") {
				c.Classes[class] = true
			}
		}
		out = append(out, c)
	}
	return out
}

func drawRows(t *rapid.T) []jobs.Job {
	var rows []jobs.Job
	for i := range rapid.IntRange(0, 14).Draw(t, "jobs") {
		j := waitingOf(rapid.SampledFrom(users).Draw(t, "user"), i+1)
		j.State = rapid.SampledFrom([]jobs.State{jobs.Pending, jobs.Pending, jobs.Pending, jobs.Pending, jobs.Assigned, jobs.Running, jobs.Held}).Draw(t, "state")
		j.Created = now - rapid.SampledFrom([]int64{60_000, 799_999, 800_000}).Draw(t, "waits")
		if j.State == jobs.Running {
			j.Worker, j.Started = "v9", now-rapid.Int64Range(0, 50_000).Draw(t, "runs")
		}
		j.Priority = jobs.Priority(rapid.IntRange(0, 3).Draw(t, "priority"))
		j.Epoch = rapid.Uint64Range(0, 5).Draw(t, "epoch")
		j.Classes = rapid.SliceOfDistinct(rapid.SampledFrom(classes), rapid.ID[string]).Draw(t, "classes")
		j.Tried = rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"w1", "w2", "w3", "v1"}), 0, 2, rapid.ID[string]).Draw(t, "tried")
		if rapid.IntRange(0, 4).Draw(t, "held back") == 0 {
			j.NotBefore = now + rapid.Int64Range(-1, 2).Draw(t, "not before")
		}
		if rapid.IntRange(0, 5).Draw(t, "fronted") == 0 {
			j.Order = -j.Order
		}
		rows = append(rows, j)
	}
	return rows
}

// drawView returns a view and the rows of its table.
func drawView(t *rapid.T) (policy.View, []jobs.Job) {
	rows := drawRows(t)
	s := jobs.Snapshot{Rows: rows}
	for _, u := range users {
		s.Accounts = append(s.Accounts, jobs.Account{User: u, Served: []jobs.Minute{{At: rapid.Int64Range(38, 42).Draw(t, "minute"), N: rapid.Int64Range(0, 3).Draw(t, "served")}}, Used: rapid.Int64Range(0, 3).Draw(t, "used") * 30_000_000, UsedAt: now / 60_000})
	}
	v := policy.View{
		Jobs: jobs.Restore(s), Now: now, Mode: rapid.SampledFrom(policy.Modes()).Draw(t, "mode"),
		Idle: drawClaims(t, "idle", []string{"w1", "w2", "w3", "w4"}), Busy: drawClaims(t, "busy", []string{"v1", "v2"}),
		Paused:   policy.Pause{All: rapid.IntRange(0, 19).Draw(t, "all") == 0, Users: map[cluster.User]bool{}, Workers: map[cluster.WorkerID]bool{}},
		Draining: map[cluster.NodeID]bool{},
	}
	if rapid.Bool().Draw(t, "pauses") {
		v.Paused.Users[rapid.SampledFrom(users).Draw(t, "paused user")] = true
		v.Paused.Workers[cluster.WorkerID(rapid.SampledFrom([]string{"w1", "w2", "v1"}).Draw(t, "paused worker"))] = true
		v.Draining[cluster.NodeID(rapid.SampledFrom([]string{"n1", "n3"}).Draw(t, "draining"))] = true
	}
	return v, rows
}

// model says again what a view allows, in the plainest words.
type model struct {
	policy.View
	rows []jobs.Job
}

func (m *model) takes(c jobs.Claim) bool {
	return !m.Paused.All && !m.Paused.Workers[c.Worker] && !m.Draining[c.Node]
}

func (m *model) ready(j jobs.Job) bool {
	return j.State == jobs.Pending && !m.Paused.Users[j.ID.User] && j.NotBefore <= m.Now
}

// idle are the workers that ask and take jobs; the first of a name counts.
func (m *model) idle() []jobs.Claim {
	var out []jobs.Claim
	seen := map[cluster.WorkerID]bool{}
	for _, c := range m.Idle {
		if !seen[c.Worker] && m.takes(c) {
			out = append(out, c)
			seen[c.Worker] = true
		}
	}
	return out
}

func (m *model) busy() []jobs.Claim {
	return slices.DeleteFunc(slices.Clone(m.Busy), func(c jobs.Claim) bool { return !m.takes(c) })
}

func had(j jobs.Job, c jobs.Claim) bool { return slices.Contains(j.Tried, string(c.Worker)) }

// standing is what the model keeps of users.
type standing struct {
	had  map[cluster.User]int   // jobs running and served
	runs map[cluster.User]int   // jobs running
	used map[cluster.User]int64 // milliseconds of GPU time
	last map[cluster.User]int64 // start
}

func (m *model) starves(s standing, j jobs.Job) bool {
	return s.runs[j.ID.User] == 0 && m.Now-max(s.last[j.ID.User], j.Created) >= 800_000
}

// before is the order of the mode as users stand.
func (m *model) before(s standing, a, b jobs.Job) int {
	byPlace := cmp.Or(cmp.Compare(a.Order, b.Order), cmp.Compare(a.Seq, b.Seq))
	u, v := a.ID.User, b.ID.User
	switch {
	case a.Order < 0 || b.Order < 0 || m.Mode == policy.FIFO:
		return byPlace
	case m.Mode == policy.Priority:
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), byPlace)
	case m.Mode == policy.RoundRobin:
		return cmp.Or(cmp.Compare(s.had[u], s.had[v]), cmp.Compare(a.Priority, b.Priority), byPlace)
	}
	switch x, y := m.starves(s, a), m.starves(s, b); {
	case x && y:
		return cmp.Or(cmp.Compare(max(s.last[u], a.Created), max(s.last[v], b.Created)), byPlace)
	case x:
		return -1
	case y:
		return 1
	}
	return cmp.Or(cmp.Compare(s.used[u], s.used[v]), cmp.Compare(a.Priority, b.Priority), byPlace)
}

// pick considers one job after the other and looks for the next anew each time.
// Nothing is known of these jobs' run times: each counts as 30 s.
func (m *model) pick() []jobs.Assign {
	s := standing{map[cluster.User]int{}, map[cluster.User]int{}, map[cluster.User]int64{}, map[cluster.User]int64{}}
	var queue []jobs.Job
	for _, u := range users {
		s.had[u], s.used[u] = m.Jobs.Served(u, m.Now), m.Jobs.Used(u, m.Now)/1000
	}
	for _, j := range m.rows {
		if j.State.Active() {
			s.had[j.ID.User]++
			s.runs[j.ID.User]++
			s.used[j.ID.User] += 30_000
			if j.Started > 0 {
				s.used[j.ID.User] += max(30_000, m.Now-j.Started) - 30_000
				s.last[j.ID.User] = max(s.last[j.ID.User], j.Started)
			}
		}
		if m.ready(j) {
			queue = append(queue, j)
		}
	}
	idle, busy := m.idle(), m.busy()
	var out []jobs.Assign
	for len(queue) > 0 && len(idle) > 0 {
		slices.SortFunc(queue, func(a, b jobs.Job) int { return m.before(s, a, b) })
		j := queue[0]
		queue = queue[1:]
		fresh := func(c jobs.Claim) bool { return c.Can(&j) && !had(j, c) }
		at := slices.IndexFunc(idle, fresh)
		if at < 0 && !slices.ContainsFunc(busy, fresh) {
			at = slices.IndexFunc(idle, func(c jobs.Claim) bool { return c.Can(&j) })
		}
		if at < 0 {
			continue
		}
		out = append(out, jobs.Assign{Lease: jobs.Lease{Job: j.ID, Worker: idle[at].Worker, Epoch: j.Epoch + 1}})
		busy, idle = append(busy, idle[at]), slices.Delete(idle, at, at+1)
		s.had[j.ID.User]++
		s.runs[j.ID.User]++
		s.used[j.ID.User] += 30_000
		s.last[j.ID.User] = m.Now
	}
	return out
}

// TestPickProperties draws queues and workers and checks what Pick promises.
func TestPickProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v, rows := drawView(t)
		m := &model{v, rows}
		picks := policy.Pick(v)
		if diff := gocmp.Diff(picks, policy.Pick(v)); diff != "" {
			t.Fatalf("not deterministic: %s", diff)
		}
		if diff := gocmp.Diff(m.pick(), picks); diff != "" {
			t.Fatalf("%s is not what the mode %s says: %s", told(picks), v.Mode, diff)
		}
		m.checkSafe(t, picks)
		m.checkConserved(t, picks)
	})
}

// checkSafe sees to it that nothing is given twice, nor to or from whom it may not.
func (m *model) checkSafe(t *rapid.T, picks []jobs.Assign) {
	claims := map[cluster.WorkerID]jobs.Claim{}
	for _, c := range m.idle() {
		claims[c.Worker] = c
	}
	rows := map[jobs.ID]jobs.Job{}
	for _, j := range m.rows {
		rows[j.ID] = j
	}
	for _, p := range picks {
		j, waits := rows[p.Lease.Job]
		c, asks := claims[p.Lease.Worker]
		if !waits || !asks || !m.ready(j) || !c.Can(&j) || p.Lease.Epoch != j.Epoch+1 {
			t.Fatalf("%s: %s must not go to %s", told(picks), p.Lease.Job, p.Lease.Worker)
		}
		delete(rows, j.ID)
		delete(claims, c.Worker)
	}
}

// checkConserved sees to it that whoever is left over is so for a reason, and
// that no fronted job was overtaken on a worker that it could have had.
func (m *model) checkConserved(t *rapid.T, picks []jobs.Assign) {
	given, taken := map[jobs.ID]bool{}, map[cluster.WorkerID]jobs.ID{}
	for _, p := range picks {
		given[p.Lease.Job], taken[p.Lease.Worker] = true, p.Lease.Job
	}
	idle := m.idle()
	for _, j := range m.rows {
		if given[j.ID] || !m.ready(j) {
			continue
		}
		elsewhere := slices.ContainsFunc(append(m.busy(), idle...), func(c jobs.Claim) bool { return c.Can(&j) && !had(j, c) })
		for _, c := range idle {
			by, isTaken := taken[c.Worker]
			switch {
			case !c.Can(&j):
			case !isTaken && (!had(j, c) || !elsewhere):
				t.Fatalf("%s leaves %s idle while %s waits", told(picks), c.Worker, j.ID)
			case isTaken && !had(j, c) && j.Fronted() && !m.fronted(by):
				t.Fatalf("%s: %s was overtaken on %s", told(picks), j.ID, c.Worker)
			}
		}
	}
}

func (m *model) fronted(id jobs.ID) bool {
	return slices.ContainsFunc(m.rows, func(j jobs.Job) bool { return j.ID == id && j.Fronted() })
}

// BenchmarkPick has 100,000 jobs of 200 users waiting and three workers idle:
// once the first jobs fit, once none does.
func BenchmarkPick(b *testing.B) {
	rows := make([]jobs.Job, 100_000)
	for i := range rows {
		rows[i] = waitingOf(cluster.User(fmt.Sprintf("user%03d", i%200)), i+1, "CheckpointLoaderSimple", "KSampler", "SaveImage", "VAEDecode")
	}
	tab := queue(rows...)
	for _, mode := range policy.Modes() {
		for name, known := range map[string][]string{"first_fit": {"CheckpointLoaderSimple", "KSampler", "SaveImage", "VAEDecode"}, "none_fits": {"CheckpointLoaderSimple", "KSampler", "SaveImage"}} {
			b.Run(string(mode)+"/"+name, func(b *testing.B) {
				idle := []jobs.Claim{worker("a", known...), worker("b", known...), worker("c", known...)}
				for b.Loop() {
					policy.Pick(policy.View{Jobs: tab, Idle: idle, Mode: mode, Now: now})
				}
			})
		}
	}
}
