package jobs

import (
	"slices"

	"github.com/ahelme/comfyume/cluster"
)

// Plan checks a command against the table without touching it and returns the
// change to make, which cannot fail. touched are the rows that will move; now
// is the entry's time in milliseconds. A command of another table gives nil.
func (t *Table) Plan(cmd cluster.Command, now int64) (mutate func() any, touched []ID, err error) {
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
	}
	return nil, nil, nil
}

func (t *Table) submit(c *Submit, now int64) (func() any, []ID, error) {
	if !c.ID.User.Valid() || !ValidPromptID(c.ID.Prompt) {
		return nil, nil, cluster.Errorf(cluster.Invalid, "a job needs a user and a prompt id of 1 to %d letters, digits, '-', '_' or '.'", MaxPromptID)
	}
	if old, ok := t.rows[c.ID]; ok {
		if old.BodyHash != c.BodyHash {
			return nil, nil, cluster.Errorf(cluster.Conflict, "prompt_id %s was used before for a different workflow", c.ID.Prompt)
		}
		answer := Accepted{Number: old.Number, Seq: old.Seq, Replay: true, Epoch: old.Epoch}
		return func() any { return answer }, nil, nil
	}
	if len(c.Body) == 0 || len(c.Body) > MaxBody {
		return nil, nil, cluster.Errorf(cluster.TooLarge, "this workflow is %d kB after compression; the limit is %d kB", len(c.Body)>>10, MaxBody>>10)
	}
	if c.MaxWaiting > 0 && uint64(len(t.waiting)) >= c.MaxWaiting {
		return nil, nil, cluster.Errorf(cluster.Quota, "The queue is full (%d jobs waiting). Try again when some have finished.", len(t.waiting))
	}
	return func() any {
		t.seq++
		a := t.account(c.ID.User)
		a.number++
		j := &Job{
			ID: c.ID, Seq: t.seq, Order: int64(t.seq), Number: a.number, State: Pending, ClientID: c.ClientID,
			BodyHash: c.BodyHash, Body: c.Body, Inputs: c.Inputs, Classes: c.Classes, WorkflowID: clip(c.WorkflowID, 200),
			Title: clip(c.Title, 200), Priority: c.Priority, APINodes: c.APINodes, Secrets: c.Secrets, Created: now,
		}
		if c.Front {
			j.Order = t.frontOf(c.ID.User, j.Order)
		}
		t.rows[j.ID] = j
		t.place(j)
		return Accepted{Number: j.Number, Seq: j.Seq, Epoch: j.Epoch}
	}, []ID{c.ID}, nil
}

// frontOf is the order of a user's first waiting job: a job placed there sorts
// before it when their waiting jobs are moved up by one place each. Others'
// places do not change.
func (t *Table) frontOf(u cluster.User, last int64) int64 {
	var mine []*Job
	for _, j := range t.waiting {
		if j.ID.User == u && j.State == Pending {
			mine = append(mine, j)
		}
	}
	if len(mine) == 0 {
		return last
	}
	first := mine[0].Order
	for i, j := range mine {
		next := last
		if i+1 < len(mine) {
			next = mine[i+1].Order
		}
		t.move(j, func(j *Job) { j.Order = next })
	}
	return first
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
			j.State, j.Worker, j.Epoch, j.Assigned, j.Reason = Assigned, c.Lease.Worker, c.Lease.Epoch, now, ""
		})
		return nil
	}, []ID{j.ID}, nil
}

// leased returns the row a lease speaks for, if it is still the newest attempt.
func (t *Table) leased(l Lease) (*Job, error) {
	j, ok := t.rows[l.Job]
	if !ok {
		return nil, cluster.Errorf(cluster.NotFound, "no job %s", l.Job)
	}
	if j.Epoch != l.Epoch || j.Worker != l.Worker {
		return nil, cluster.Errorf(cluster.Stale, "epoch %d of job %s has passed; it is at %d", l.Epoch, j.ID, j.Epoch)
	}
	return j, nil
}

// CheckLease reports whether a lease may still report outputs.
func (t *Table) CheckLease(l Lease) error {
	j, err := t.leased(l)
	if err != nil {
		return err
	}
	if !j.State.Active() {
		return cluster.Errorf(cluster.Stale, "job %s is %s", j.ID, j.State)
	}
	return nil
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
			t.move(j, func(j *Job) { j.State, j.GpuDone = Storing, now })
			return nil
		}, []ID{j.ID}, nil
	case Storing, Cancelling: // said before, or its result may still come in time
		return func() any { return nil }, nil, nil
	}
	return nil, nil, cluster.Errorf(cluster.Stale, "job %s is %s", j.ID, j.State)
}

func (t *Table) finish(c *Finish, now int64) (func() any, []ID, error) {
	j, err := t.leased(c.Lease)
	if err != nil {
		return nil, nil, err
	}
	if j.State.Ended() {
		if j.History == c.History && j.State == c.State {
			return func() any { return nil }, nil, nil // the same report again
		}
		return nil, nil, cluster.Errorf(cluster.Stale, "job %s is %s", j.ID, j.State)
	}
	switch {
	case !c.State.Ended():
		return nil, nil, cluster.Errorf(cluster.Invalid, "a job cannot finish as %q", c.State)
	case !c.History.Valid():
		return nil, nil, cluster.Errorf(cluster.Invalid, "a finished job names its history")
	case c.State == Failed && c.Failure == nil:
		return nil, nil, cluster.Errorf(cluster.Invalid, "a failed job says why")
	case len(c.Preview) > MaxPreview:
		return nil, nil, cluster.Errorf(cluster.TooLarge, "the preview item is over %d bytes", MaxPreview)
	case !j.State.Active():
		return nil, nil, cluster.Errorf(cluster.Stale, "job %s is %s", j.ID, j.State)
	}
	end := c.State
	if j.State == Cancelling {
		end = Cancelled // the cancel was committed first
	}
	return func() any {
		t.end(j, end, now, func(j *Job) {
			j.History, j.Outputs, j.Previewable, j.Preview = c.History, c.Outputs, c.Previewable, c.Preview
			j.Body, j.Inputs = nil, nil
			j.Failure = c.Failure.clip()
		})
		return nil
	}, []ID{j.ID}, nil
}

// end closes a job and numbers it in its user's history.
func (t *Table) end(j *Job, s State, now int64, change func(*Job)) {
	t.move(j, func(j *Job) {
		a := t.account(j.ID.User)
		a.endNumber++
		j.State, j.Ended, j.EndNumber = s, now, a.endNumber
		if change != nil {
			change(j)
		}
	})
}

func (t *Table) requeue(c *Requeue, now int64) (func() any, []ID, error) {
	j, err := t.leased(c.Lease)
	if err != nil {
		return nil, nil, err
	}
	if !j.State.Active() {
		return nil, nil, cluster.Errorf(cluster.Stale, "job %s is %s", j.ID, j.State)
	}
	return func() any {
		reason := clip(c.Reason, maxFailure)
		strikes := j.Strikes
		if c.Strike {
			strikes++
		}
		tried := j.Tried
		if c.Strike && !slices.Contains(tried, string(c.Lease.Worker)) {
			tried = append(slices.Clone(tried), string(c.Lease.Worker))
		}
		note := func(j *Job) { j.Strikes, j.Reason, j.Tried = strikes, reason, tried }
		switch {
		case j.State == Cancelling:
			t.end(j, Cancelled, now, func(j *Job) {
				note(j)
				j.Hidden = j.Started == 0 // as if it had been cancelled while it waited
			})
		case strikes >= MaxStrikes:
			t.end(j, Failed, now, func(j *Job) {
				note(j)
				j.Failure = &Failure{Type: "worker_lost", Message: clip("Tried three times without a result. Last: "+reason, maxFailure)}
			})
		case j.APINodes && j.Started > 0:
			t.end(j, Failed, now, func(j *Job) {
				note(j)
				j.Failure = &Failure{Type: "not_retried", Message: clip("Its worker was lost ("+reason+"). It uses paid API nodes, so it was not run again by itself.", maxFailure)}
			})
		default:
			t.move(j, func(j *Job) {
				note(j)
				j.State, j.Worker, j.Started, j.GpuDone, j.Assigned = Pending, "", 0, 0, 0
			})
		}
		return nil
	}, []ID{j.ID}, nil
}

func (t *Table) cancel(c *Cancel, now int64) (func() any, []ID, error) {
	var ids []ID
	for _, id := range c.IDs {
		j, ok := t.rows[id]
		if ok && !j.State.Ended() && j.State != Cancelling && !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	return func() any {
		for _, id := range ids {
			j := t.rows[id]
			if j.State == Pending || j.State == Held {
				// ComfyUI keeps no history of what never ran.
				t.end(j, Cancelled, now, func(j *Job) {
					j.Hidden, j.Body, j.Inputs, j.Reason = true, nil, nil, clip(c.Reason, maxFailure)
				})
				continue
			}
			t.move(j, func(j *Job) { j.State, j.Reason = Cancelling, clip(c.Reason, maxFailure) })
		}
		return Touched{IDs: ids}
	}, ids, nil
}

func (t *Table) forget(c *Forget) (func() any, []ID, error) {
	var ids []ID
	if a := t.users[c.User]; a != nil {
		for _, j := range a.ended {
			if !j.Hidden && (c.All || slices.Contains(c.IDs, j.ID.Prompt)) {
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
			j.State, j.Worker, j.Assigned, j.Reason = Held, "", 0, clip(c.Reason, maxFailure)
		})
		return nil
	}, []ID{j.ID}, nil
}

func (t *Table) release(c *Release) (func() any, []ID, error) {
	var ids []ID
	if a := t.users[c.User]; a != nil {
		for _, j := range a.open {
			if j.State == Held {
				ids = append(ids, j.ID)
			}
		}
	}
	return func() any {
		for _, id := range ids {
			t.move(t.rows[id], func(j *Job) { j.State, j.Secrets, j.Reason = Pending, c.Secrets, "" })
		}
		return Touched{IDs: ids}
	}, ids, nil
}
