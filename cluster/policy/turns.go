package policy

import (
	"cmp"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
)

// turn is one user's jobs in their own order, with what the user has had.
type turn struct {
	job  *jobs.Job // the next that somebody could have, nil when there is none
	next func() *jobs.Job
	had  int // jobs running and served in the last hour; 0 when the mode does not ask
}

// advance goes on to the user's next job that somebody could have.
func (t *turn) advance(r *round) {
	for t.job = t.next(); t.job != nil && r.choose(t.job) < 0; {
		t.job = t.next()
	}
}

// before reports whether t's job is offered before o's.
func (t *turn) before(o *turn) bool {
	a, b := t.job, o.job
	if !a.Fronted() && !b.Fronted() {
		if c := cmp.Or(cmp.Compare(t.had, o.had), cmp.Compare(a.Priority, b.Priority)); c != 0 {
			return c < 0
		}
	}
	return cmp.Or(cmp.Compare(a.Order, b.Order), cmp.Compare(a.Seq, b.Seq)) < 0
}

// byTurns offers the jobs of all users, the users' lines merged. A job that
// nobody can have is left out: the next of its user's has the turn.
func (r *round) byTurns() {
	var turns []*turn
	r.view.Jobs.Turns(func(u cluster.User, next func() *jobs.Job) {
		if r.view.Paused.Users[u] {
			return
		}
		t := &turn{next: next}
		if t.advance(r); t.job == nil {
			return
		}
		if r.view.Mode == RoundRobin {
			t.had = r.view.Jobs.RunningOf(u) + r.view.Jobs.Served(u, r.view.Now)
		}
		turns = append(turns, t)
	})
	for i := len(turns) / 2; i >= 0; i-- {
		sink(turns, i)
	}
	for len(turns) > 0 {
		t := turns[0]
		if r.offer(t.job) && r.view.Mode == RoundRobin {
			t.had++
		}
		if len(r.idle) == 0 {
			return
		}
		if t.advance(r); t.job == nil {
			last := len(turns) - 1
			turns[0], turns = turns[last], turns[:last]
		}
		sink(turns, 0)
	}
}

// sink restores the heap below i: no turn stands under a later one.
func sink(turns []*turn, i int) {
	for {
		first := i
		for child := 2*i + 1; child <= 2*i+2 && child < len(turns); child++ {
			if turns[child].before(turns[first]) {
				first = child
			}
		}
		if first == i {
			return
		}
		turns[i], turns[first] = turns[first], turns[i]
		i = first
	}
}
