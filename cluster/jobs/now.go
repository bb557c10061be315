package jobs

import "github.com/ahelme/comfyume/cluster"

// The kinds of what cannot wait, since level 2.
const (
	KindNow     cluster.Kind = 112
	KindPreempt cluster.Kind = 113
)

// Now moves waiting jobs to the very front, as Front does, and marks them
// urgent: a running job may be stopped for one. Answer: Touched.
type Now struct {
	IDs []ID `cbor:"1,keyasint"`
}

// Preempt takes a job from its worker so that another can begin. The job goes
// back to its place; what it had done is lost, and its worker's report counts
// for nothing. A job is stopped so once only, unless Again, and never one that
// has cost money elsewhere.
type Preempt struct {
	Lease  Lease  `cbor:"1,keyasint"`
	Reason string `cbor:"2,keyasint"` // its user reads it
	Again  bool   `cbor:"3,keyasint,omitempty"`
}

// Kind of Now.
func (Now) Kind() cluster.Kind { return KindNow }

// Kind of Preempt.
func (Preempt) Kind() cluster.Kind { return KindPreempt }

// Preemptible reports whether the job's attempt may be stopped for another's sake.
func (j *Job) Preemptible(again bool) bool {
	return (j.State == Running || j.State == Assigned) && (again || !j.Preempted) && !j.Urgent && !(j.APINodes && j.Started > 0)
}

func (t *Table) urgent(c *Now) (func() any, []ID, error) {
	front, ids, err := t.front(&Front{IDs: c.IDs})
	if err != nil {
		return nil, nil, err
	}
	return func() any {
		out := front()
		for _, id := range ids {
			t.rows[id].Urgent = true
		}
		return out
	}, ids, nil
}

func (t *Table) preempt(c *Preempt) (func() any, []ID, error) {
	j, err := t.leased(c.Lease)
	if err != nil {
		return nil, nil, err
	}
	if !j.Preemptible(c.Again) {
		return nil, nil, cluster.Errorf(cluster.Conflict, "job %s cannot be stopped for another: it is %s, was stopped before, is urgent itself, or uses paid API nodes", j.ID, j.State)
	}
	return func() any {
		t.move(j, func(j *Job) {
			// Not a past attempt: its result does not count any more, so its worker stops.
			j.State, j.Worker, j.Assigned, j.Started, j.NotBefore = Pending, "", 0, 0, 0
			j.Preempted, j.Reason = true, cluster.Clip(c.Reason, maxFailure)
		})
		return nil
	}, []ID{j.ID}, nil
}
