package jobs

import (
	"slices"

	"github.com/ahelme/comfyume/cluster"
)

// Plan checks a command against the table without touching it and returns the
// change to make, which cannot fail. touched are the rows that will move; now
// is the entry's time in milliseconds. A command of another table gives nil.
func (t *Table) Plan(cmd cluster.Command, now int64) (mutate func() any, touched []ID, err error) {
	change, touched, err := t.plan(cmd, now)
	if err != nil || change == nil {
		return nil, nil, err
	}
	return func() any {
		t.expire(now)
		return change()
	}, touched, nil
}

func (t *Table) plan(cmd cluster.Command, now int64) (change func() any, touched []ID, err error) {
	switch c := cmd.(type) {
	case *Submit:
		return t.submit(c, now)
	case *Assign:
		return t.assign(c, now)
	case *Started:
		return t.started(c, now)
	case *GpuDone:
		return t.gpuDone(c, now)
	case *Finish:
		return t.finish(c, now)
	case *Requeue:
		return t.requeue(c, now)
	case *Cancel:
		return t.cancel(c, now)
	case *Forget:
		return t.forget(c)
	case *Hold:
		return t.hold(c)
	case *Release:
		return t.release(c)
	case *Front:
		return t.front(c)
	case *Now:
		return t.urgent(c)
	case *Preempt:
		return t.preempt(c)
	case *Adopt:
		return t.adopt(c, now)
	}
	return nil, nil, nil
}

func checkID(id ID) error {
	if !id.User.Valid() || !ValidPromptID(id.Prompt) {
		return cluster.Errorf(cluster.Invalid, "a job needs a user and a prompt id of 1 to %d letters, digits, '-', '_' or '.'", MaxPromptID)
	}
	return nil
}

func checkBody(b []byte) error {
	if len(b) == 0 || len(b) > MaxBody {
		return cluster.Errorf(cluster.TooLarge, "this workflow is %d kB after compression; the limit is %d kB", len(b)>>10, MaxBody>>10)
	}
	return nil
}

func (t *Table) submit(c *Submit, now int64) (func() any, []ID, error) {
	if err := checkID(c.ID); err != nil {
		return nil, nil, err
	}
	if old, ok := t.rows[c.ID]; ok {
		if old.BodyHash != c.BodyHash {
			return nil, nil, cluster.Errorf(cluster.Conflict, "prompt_id %s was used before for a different workflow", c.ID.Prompt)
		}
		answer := Accepted{Number: old.Number, Seq: old.Seq, Replay: true, Epoch: old.Epoch}
		return func() any { return answer }, nil, nil
	}
	if err := checkBody(c.Body); err != nil {
		return nil, nil, err
	}
	if c.MaxWaiting > 0 && uint64(t.waiting.size) >= c.MaxWaiting {
		return nil, nil, cluster.Errorf(cluster.Quota, "The queue is full (%d jobs waiting). Try again when some have finished.", t.waiting.size)
	}
	touched := []ID{c.ID}
	if c.Front {
		for _, group := range t.places(c.ID.User) {
			if group[0].Priority == c.Priority {
				touched = appendIDs(touched, group)
			}
		}
	}
	return func() any {
		t.seq++
		a := t.account(c.ID.User)
		a.number++
		if c.Form != "" && a.open.size == 0 {
			t.catchUp(a, now)
		}
		j := &Job{
			ID: c.ID, Seq: t.seq, Order: int64(t.seq), Number: a.number, State: Pending, ClientID: c.ClientID,
			BodyHash: c.BodyHash, Body: c.Body, Inputs: c.Inputs, Classes: c.Classes, WorkflowID: cluster.Clip(c.WorkflowID, 200),
			Title: cluster.Clip(c.Title, 200), Priority: c.Priority, APINodes: c.APINodes, Secrets: c.Secrets, Created: now,
			Models: c.Models, Form: cluster.Clip(c.Form, 64),
		}
		t.insert(j)
		if c.Front {
			t.exchange(t.ownFront(c.ID.User, []*Job{j}))
		}
		return Accepted{Number: j.Number, Seq: j.Seq, Epoch: j.Epoch}
	}, touched, nil
}

func (t *Table) assign(c *Assign, now int64) (func() any, []ID, error) {
	j, ok := t.rows[c.Lease.Job]
	if !ok {
		return nil, nil, cluster.Errorf(cluster.NotFound, "no job %s", c.Lease.Job)
	}
	if j.State != Pending && j.State != Assigned {
		return nil, nil, cluster.Errorf(cluster.Stale, "job %s is %s", j.ID, j.State)
	}
	if c.Lease.Epoch != j.Epoch+1 || c.Lease.Worker == "" {
		return nil, nil, cluster.Errorf(cluster.Stale, "job %s is at epoch %d", j.ID, j.Epoch)
	}
	return func() any {
		t.move(j, func(j *Job) {
			j.retire()
			j.State, j.Worker, j.Epoch, j.Assigned = Assigned, c.Lease.Worker, c.Lease.Epoch, now
			j.Reason, j.NotBefore = "", 0
		})
		return nil
	}, []ID{j.ID}, nil
}

func (t *Table) started(c *Started, now int64) (func() any, []ID, error) {
	j, err := t.leased(c.Lease)
	if err != nil {
		return nil, nil, err
	}
	if j.State == Running {
		return func() any { return nil }, nil, nil
	}
	if j.State != Assigned {
		return nil, nil, cluster.Errorf(cluster.Stale, "job %s is %s", j.ID, j.State)
	}
	return func() any {
		t.move(j, func(j *Job) { j.State, j.Started = Running, now })
		t.began(j)
		return nil
	}, []ID{j.ID}, nil
}

func (t *Table) gpuDone(c *GpuDone, now int64) (func() any, []ID, error) {
	j, err := t.leased(c.Lease)
	if err != nil {
		return nil, nil, err
	}
	switch j.State {
	case Running:
		return func() any {
			t.charge(j, now)
			t.move(j, func(j *Job) { j.State, j.GpuDone = Storing, now })
			return nil
		}, []ID{j.ID}, nil
	case Storing, Cancelling: // said before, or its result may still come in time
		return func() any { return nil }, nil, nil
	}
	return nil, nil, cluster.Errorf(cluster.Stale, "job %s is %s", j.ID, j.State)
}

func (t *Table) requeue(c *Requeue, now int64) (func() any, []ID, error) {
	j, err := t.leased(c.Lease)
	if err != nil {
		return nil, nil, err
	}
	if !j.State.Active() {
		return nil, nil, cluster.Errorf(cluster.Stale, "job %s is %s", j.ID, j.State)
	}
	reason := cluster.Clip(c.Reason, maxFailure)
	note := func(j *Job) {
		j.Reason = reason
		if m := c.NoRoom; m != nil && !slices.ContainsFunc(j.NoRoom, func(o Memory) bool { return o.Device == m.Device && o.VRAM >= m.VRAM }) {
			j.NoRoom = append(slices.Clone(j.NoRoom), Memory{cluster.Clip(m.Device, maxDevice), m.VRAM})
		}
		if !c.Strike {
			return
		}
		j.Strikes++
		if w := string(c.Lease.Worker); !slices.Contains(j.Tried, w) {
			j.Tried = append(slices.Clone(j.Tried), w)
		}
	}
	return func() any {
		switch {
		case j.State == Cancelling:
			t.end(j, Cancelled, now, func(j *Job) {
				note(j)
				j.Hidden = j.Started == 0 // as if it had been cancelled while it waited
			})
		case c.Strike && j.Strikes+1 >= MaxStrikes:
			t.end(j, Failed, now, func(j *Job) {
				note(j)
				j.Failure = &Failure{Type: "worker_lost", Message: cluster.Clip("Tried three times without a result. Last: "+reason, maxFailure)}
			})
		case j.APINodes && j.Started > 0:
			t.end(j, Failed, now, func(j *Job) {
				note(j)
				j.Failure = notRetried(reason)
			})
		default:
			if c.Strike {
				t.charge(j, now) // the job may be the cause; else its user pays nothing for what is lost
			}
			t.move(j, func(j *Job) {
				note(j)
				j.retire()
				j.State, j.NotBefore = Pending, 0
				if c.Strike {
					j.NotBefore = now + delay(j.Strikes)
				}
			})
		}
		return nil
	}, []ID{j.ID}, nil
}

// maxDevice bounds the name of a GPU.
const maxDevice = 100

// notRetried is why a job that costs money elsewhere was not begun again.
func notRetried(reason string) *Failure {
	return &Failure{Type: "not_retried", Message: cluster.Clip("Its worker was lost ("+reason+"). It uses paid API nodes, so it was not run again by itself.", maxFailure)}
}

func (t *Table) cancel(c *Cancel, now int64) (func() any, []ID, error) {
	var ids []ID
	seen := map[ID]bool{}
	for _, id := range c.IDs {
		j, ok := t.rows[id]
		if ok && !j.State.Ended() && j.State != Cancelling && !seen[id] {
			seen[id] = true
			ids = append(ids, id)
		}
	}
	return func() any {
		for _, id := range ids {
			j := t.rows[id]
			if j.State == Pending || j.State == Held {
				// ComfyUI keeps no history of what never ran.
				t.end(j, Cancelled, now, func(j *Job) {
					j.Hidden, j.Body, j.Inputs, j.Reason = true, nil, nil, cluster.Clip(c.Reason, maxFailure)
				})
				continue
			}
			t.move(j, func(j *Job) { j.State, j.Reason = Cancelling, cluster.Clip(c.Reason, maxFailure) })
		}
		return Touched{IDs: ids}
	}, ids, nil
}

func (t *Table) forget(c *Forget) (func() any, []ID, error) {
	named := map[string]bool{}
	for _, p := range c.IDs {
		named[p] = true
	}
	var ids []ID
	if a := t.users[c.User]; a != nil {
		for _, j := range a.ended {
			if !j.Hidden && (c.All || named[j.ID.Prompt]) {
				ids = append(ids, j.ID)
			}
		}
	}
	return func() any {
		for _, id := range ids {
			t.rows[id].Hidden = true
		}
		return Touched{IDs: ids}
	}, ids, nil
}

func (t *Table) hold(c *Hold) (func() any, []ID, error) {
	j, err := t.leased(c.Lease)
	if err != nil {
		return nil, nil, err
	}
	if j.State != Assigned {
		return nil, nil, cluster.Errorf(cluster.Stale, "job %s is %s", j.ID, j.State)
	}
	return func() any {
		t.move(j, func(j *Job) {
			j.retire()
			j.State, j.Reason = Held, cluster.Clip(c.Reason, maxFailure)
		})
		return nil
	}, []ID{j.ID}, nil
}

func (t *Table) release(c *Release) (func() any, []ID, error) {
	var ids []ID
	if a := t.users[c.User]; a != nil {
		a.open.each(func(j *Job) bool {
			if j.State == Held {
				ids = append(ids, j.ID)
			}
			return true
		})
	}
	return func() any {
		for _, id := range ids {
			t.move(t.rows[id], func(j *Job) { j.State, j.Secrets, j.Reason = Pending, c.Secrets, "" })
		}
		return Touched{IDs: ids}
	}, ids, nil
}
