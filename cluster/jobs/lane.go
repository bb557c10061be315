package jobs

import (
	"slices"

	"github.com/ahelme/comfyume/cluster"
)

// Lane is pending jobs of one user and one priority that need the same of a
// worker: whether one can have them is asked once, however many there are.
type Lane struct {
	User     cluster.User
	Priority Priority
	Classes  []string // node classes
	Models   []string // model files
	load     string
	jobs     line
}

// Walk returns a function that gives the lane's jobs in their turn, nil at the
// end: first what the instructor fronted, then by place.
func (l *Lane) Walk() func() *Job { return l.jobs.walk() }

// Len is how many jobs stand in the lane.
func (l *Lane) Len() int { return l.jobs.size }

// LoadKey is that of its jobs, see Job.LoadKey.
func (l *Lane) LoadKey() string { return l.load }

// Lanes calls f for each lane, in no order. Neither a lane nor a row may be kept.
func (t *Table) Lanes(f func(*Lane)) {
	for _, a := range t.users {
		for _, l := range a.lanes {
			f(l)
		}
	}
}

func (a *account) lane(j *Job) int {
	return slices.IndexFunc(a.lanes, func(l *Lane) bool {
		return l.Priority == j.Priority && slices.Equal(l.Models, j.Models) && slices.Equal(l.Classes, j.Classes)
	})
}

func (a *account) enter(j *Job) {
	at := a.lane(j)
	if at < 0 {
		at = len(a.lanes)
		a.lanes = append(a.lanes, &Lane{User: j.ID.User, Priority: j.Priority, Classes: j.Classes, Models: j.Models, load: j.LoadKey(), jobs: line{key: byTurn}})
	}
	a.lanes[at].jobs.add(j)
}

func (a *account) leave(j *Job) {
	at := a.lane(j)
	l := a.lanes[at]
	if l.jobs.remove(j); l.jobs.size == 0 {
		a.lanes = slices.Delete(a.lanes, at, at+1)
	}
}
