package jobs

import "github.com/ahelme/comfyume/cluster"

// front plans the very front, or a user's own.
func (t *Table) front(c *Front) (func() any, []ID, error) {
	var rows []*Job
	seen := map[ID]bool{}
	for _, id := range c.IDs {
		j, ok := t.rows[id]
		if !ok || seen[id] || j.State != Pending && j.State != Assigned {
			continue
		}
		if c.User == "" || id.User == c.User && !j.Fronted() {
			seen[id] = true
			rows = append(rows, j)
		}
	}
	if len(rows) == 0 {
		return func() any { return Touched{} }, nil, nil
	}
	ids := appendIDs(nil, rows)
	if c.User != "" {
		moves := t.ownFront(c.User, rows)
		touched := make([]ID, len(moves))
		for i, m := range moves {
			touched[i] = m.job.ID
		}
		return func() any { t.exchange(moves); return Touched{IDs: ids} }, touched, nil
	}
	return func() any {
		place := min(0, t.waiting.first().Order) - int64(len(rows))
		for i, j := range rows {
			t.move(j, func(j *Job) { j.Order = place + int64(i) })
		}
		return Touched{IDs: ids}
	}, ids, nil
}

// toPlace is a job and the place it gets.
type toPlace struct {
	job   *Job
	order int64
}

// ownFront gives the first of a user's places to rows, in their order, and the
// others to the rest. Places are exchanged among jobs of one priority only: by
// priority, a low job on the place of a high one would overtake other people's.
func (t *Table) ownFront(u cluster.User, rows []*Job) []toPlace {
	byPriority := map[Priority][]*Job{} // looked up, never walked
	chosen := map[*Job]bool{}
	for _, j := range rows {
		byPriority[j.Priority] = append(byPriority[j.Priority], j)
		chosen[j] = true
	}
	var moves []toPlace
	for _, group := range t.places(u) {
		want := byPriority[group[0].Priority]
		if len(want) == 0 {
			continue
		}
		for _, j := range group {
			if !chosen[j] {
				want = append(want, j)
			}
		}
		for i, j := range want {
			if order := group[i].Order; j.Order != order {
				moves = append(moves, toPlace{j, order})
			}
		}
	}
	return moves
}

// places returns a user's waiting jobs that are not fronted, one group for each
// priority, in the order of the queue.
func (t *Table) places(u cluster.User) [][]*Job {
	a := t.users[u]
	if a == nil {
		return nil
	}
	var groups [][]*Job
	a.open.each(func(j *Job) bool {
		if j.Fronted() || j.State != Pending && j.State != Assigned {
			return true
		}
		if n := len(groups); n == 0 || groups[n-1][0].Priority != j.Priority {
			groups = append(groups, nil)
		}
		groups[len(groups)-1] = append(groups[len(groups)-1], j)
		return true
	})
	return groups
}

func (t *Table) exchange(moves []toPlace) {
	for _, m := range moves {
		t.move(m.job, func(j *Job) { j.Order = m.order })
	}
}

func appendIDs(ids []ID, rows []*Job) []ID {
	for _, j := range rows {
		ids = append(ids, j.ID)
	}
	return ids
}
