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
	waiting []*Job // Pending and Assigned, by (Order, Seq)
	active  map[ID]*Job
	seq     uint64
}

// account is what the table remembers of one user.
type account struct {
	number    int64 // submits so far
	endNumber int64 // ends so far
	open      []*Job
	ended     []*Job // by EndNumber
}

// New returns an empty table.
func New() *Table {
	return &Table{rows: map[ID]*Job{}, users: map[cluster.User]*account{}, active: map[ID]*Job{}}
}

func (t *Table) account(u cluster.User) *account {
	a := t.users[u]
	if a == nil {
		a = &account{}
		t.users[u] = a
	}
	return a
}

// Job returns a row by id.
func (t *Table) Job(id ID) (Job, bool) {
	j, ok := t.rows[id]
	if !ok {
		return Job{}, false
	}
	return j.copy(), true
}

// Waiting calls f for each job that waits for a GPU, in queue order, until f
// returns false. f must not keep or change the row.
func (t *Table) Waiting(f func(*Job) bool) {
	for _, j := range t.waiting {
		if !f(j) {
			return
		}
	}
}

// Active returns the jobs that a worker holds, oldest first.
func (t *Table) Active() []Job {
	out := make([]Job, 0, len(t.active))
	for _, j := range t.active {
		out = append(out, j.copy())
	}
	slices.SortFunc(out, func(a, b Job) int { return cmp.Compare(a.Seq, b.Seq) })
	return out
}

// Open returns a user's jobs that have not ended, in queue order.
func (t *Table) Open(u cluster.User) []Job {
	a := t.users[u]
	if a == nil {
		return nil
	}
	out := make([]Job, 0, len(a.open))
	for _, j := range a.open {
		out = append(out, j.copy())
	}
	slices.SortFunc(out, func(x, y Job) int {
		return cmp.Or(cmp.Compare(x.Order, y.Order), cmp.Compare(x.Seq, y.Seq))
	})
	return out
}

// Remaining is a user's jobs that have not ended: ComfyUI's queue_remaining.
func (t *Table) Remaining(u cluster.User) int {
	if a := t.users[u]; a != nil {
		return len(a.open)
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

// Count adds up the rows by state. Hidden rows count: they happened.
func (t *Table) Count() Counts {
	var c Counts
	for _, j := range t.rows {
		switch {
		case j.State.Waiting():
			c.Waiting++
		case j.State == Done:
			c.Done++
		case j.State == Failed:
			c.Failed++
		case j.State == Cancelled:
			c.Cancelled++
		default:
			c.Running++
		}
	}
	return c
}

// place files j under its state's indexes; unplace takes it out of them all.
func (t *Table) place(j *Job) {
	a := t.account(j.ID.User)
	switch {
	case j.State.Ended():
		a.ended = append(a.ended, j)
		t.trim(a)
		return
	case j.State == Pending || j.State == Assigned:
		i, _ := slices.BinarySearchFunc(t.waiting, j, byOrder)
		t.waiting = slices.Insert(t.waiting, i, j)
	}
	if j.State.Active() {
		t.active[j.ID] = j
	}
	a.open = append(a.open, j)
}

func (t *Table) unplace(j *Job) {
	if i, ok := slices.BinarySearchFunc(t.waiting, j, byOrder); ok {
		t.waiting = slices.Delete(t.waiting, i, i+1)
	}
	delete(t.active, j.ID)
	a := t.account(j.ID.User)
	if i := slices.Index(a.open, j); i >= 0 {
		a.open = slices.Delete(a.open, i, i+1)
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
		delete(t.rows, a.ended[0].ID)
		a.ended = slices.Delete(a.ended, 0, 1)
	}
}

func byOrder(a, b *Job) int {
	return cmp.Or(cmp.Compare(a.Order, b.Order), cmp.Compare(a.Seq, b.Seq))
}
