package jobs

import (
	"cmp"
	"slices"

	"github.com/ahelme/comfyume/cluster"
)

// HistoryPerUser bounds the ended jobs that are kept for one user.
const HistoryPerUser = 1000

// Table holds the rows. It is not safe for concurrent use: state.Machine locks.
// What it hands out are copies.
type Table struct {
	rows    map[ID]*Job
	users   map[cluster.User]*account
	all     line     // every row
	waiting line     // Pending and Assigned
	active  line     // those that a worker holds
	orphans []Orphan // oldest first
	counts  Counts
	seq     uint64
	past    past
}

// account is what the table remembers of one user.
type account struct {
	number    int64 // submits so far
	endNumber int64 // ends so far
	open      line
	running   int      // of the open ones, those that a worker holds
	ended     []*Job   // by EndNumber
	served    []Minute // oldest first
	lanes     []*Lane  // of the open ones, those that are pending
	used      int64    // see Used
	usedAt    int64    // minutes since 1970
	began     int64    // when a worker last started one of the user's jobs
}

// New returns an empty table.
func New() *Table {
	return &Table{
		rows: map[ID]*Job{}, users: map[cluster.User]*account{},
		all: line{key: bySeq}, waiting: line{key: byOrder}, active: line{key: bySeq}, past: newPast(),
	}
}

func (t *Table) account(u cluster.User) *account {
	a := t.users[u]
	if a == nil {
		a = &account{open: line{key: byTurn}}
		t.users[u] = a
	}
	return a
}

// Job returns a row by id. Its Body and other slices are the table's own: they
// are never written in place.
func (t *Table) Job(id ID) (Job, bool) {
	j, ok := t.rows[id]
	if !ok {
		return Job{}, false
	}
	return j.copy(), true
}

// Rows calls f for every row in the order in which they came, until f returns
// false. f must not keep or change the row.
func (t *Table) Rows(f func(*Job) bool) { t.all.each(f) }

// Waiting calls f for each job that waits for a GPU, in queue order, until f
// returns false. f must not keep or change the row.
func (t *Table) Waiting(f func(*Job) bool) { t.waiting.each(f) }

// Active returns the jobs that a worker holds, oldest first.
func (t *Table) Active() []Job {
	out := make([]Job, 0, t.active.size)
	t.active.each(func(j *Job) bool { out = append(out, j.copy()); return true })
	return out
}

// Held calls f for each job that a worker holds, oldest first, until f returns
// false. f must not keep or change the row.
func (t *Table) Held(f func(*Job) bool) { t.active.each(f) }

// Open returns a user's jobs that have not ended, in queue order.
func (t *Table) Open(u cluster.User) []Job {
	a := t.users[u]
	if a == nil {
		return nil
	}
	rows := make([]*Job, 0, a.open.size)
	a.open.each(func(j *Job) bool { rows = append(rows, j); return true })
	slices.SortFunc(rows, func(x, y *Job) int {
		return cmp.Or(cmp.Compare(x.Order, y.Order), cmp.Compare(x.Seq, y.Seq))
	})
	out := make([]Job, len(rows))
	for i, j := range rows {
		out[i] = j.copy()
	}
	return out
}

// Remaining is a user's jobs that have not ended: ComfyUI's queue_remaining.
func (t *Table) Remaining(u cluster.User) int {
	if a := t.users[u]; a != nil {
		return a.open.size
	}
	return 0
}

// History returns a user's ended jobs that are not hidden, oldest first.
func (t *Table) History(u cluster.User) []Job {
	a := t.users[u]
	if a == nil {
		return nil
	}
	out := make([]Job, 0, len(a.ended))
	for _, j := range a.ended {
		if !j.Hidden {
			out = append(out, j.copy())
		}
	}
	return out
}

// Recent returns up to n ended jobs of everybody, newest first, without bodies.
func (t *Table) Recent(n int, keep func(*Job) bool) []Job {
	var out []Job
	for _, a := range t.users {
		for i := len(a.ended) - 1; i >= 0 && i >= len(a.ended)-n; i-- {
			if keep == nil || keep(a.ended[i]) {
				c := a.ended[i].copy()
				c.Body = nil
				out = append(out, c)
			}
		}
	}
	slices.SortFunc(out, func(x, y Job) int {
		return cmp.Or(cmp.Compare(y.Ended, x.Ended), cmp.Compare(y.Seq, x.Seq))
	})
	return out[:min(n, len(out))]
}

// Counts are totals over everybody, for pages.
type Counts struct {
	Waiting, Running, Done, Failed, Cancelled int
}

// Count says how many rows are in which state. Hidden rows count: they happened.
func (t *Table) Count() Counts { return t.counts }

func (c *Counts) add(s State, n int) {
	switch {
	case s.Waiting():
		c.Waiting += n
	case s == Done:
		c.Done += n
	case s == Failed:
		c.Failed += n
	case s == Cancelled:
		c.Cancelled += n
	default:
		c.Running += n
	}
}

// insert enters a new row.
func (t *Table) insert(j *Job) {
	t.rows[j.ID] = j
	t.all.add(j)
	t.place(j)
}

// place files j under its state's indexes; unplace takes it out of them all.
// An ended row is never moved again.
func (t *Table) place(j *Job) {
	a := t.account(j.ID.User)
	t.counts.add(j.State, 1)
	if j.State.Ended() {
		a.ended = append(a.ended, j)
		t.trim(a)
		return
	}
	a.open.add(j)
	if j.State == Pending {
		a.enter(j)
	}
	if j.State == Pending || j.State == Assigned {
		t.waiting.add(j)
	}
	if j.State.Active() {
		t.active.add(j)
		a.running++
	}
}

func (t *Table) unplace(j *Job) {
	a := t.account(j.ID.User)
	t.counts.add(j.State, -1)
	a.open.remove(j)
	if j.State == Pending {
		a.leave(j)
	}
	t.waiting.remove(j)
	if j.State.Active() {
		t.active.remove(j)
		a.running--
	}
}

// move changes a job under all indexes.
func (t *Table) move(j *Job, change func(*Job)) {
	t.unplace(j)
	change(j)
	t.place(j)
}

// trim forgets the oldest ended jobs over the bound.
func (t *Table) trim(a *account) {
	for len(a.ended) > HistoryPerUser {
		old := a.ended[0]
		t.counts.add(old.State, -1)
		delete(t.rows, old.ID)
		t.all.remove(old)
		a.ended = slices.Delete(a.ended, 0, 1)
	}
}
