package jobs

import (
	"slices"

	"github.com/ahelme/comfyume/cluster"
)

// passed refuses a lease that is not, or no more, the job's.
func passed(j *Job, l Lease) error {
	if l.Epoch >= j.Epoch {
		return cluster.Errorf(cluster.Stale, "epoch %d of job %s is not worker %s's; it is at %d", l.Epoch, j.ID, l.Worker, j.Epoch)
	}
	return cluster.Errorf(cluster.Stale, "epoch %d of job %s has passed; it is at %d", l.Epoch, j.ID, j.Epoch)
}

// leased returns the row a lease speaks for, if it is still the newest attempt.
func (t *Table) leased(l Lease) (*Job, error) {
	j, ok := t.rows[l.Job]
	if !ok {
		return nil, cluster.Errorf(cluster.NotFound, "no job %s", l.Job)
	}
	if !j.newest(l) {
		return nil, passed(j, l)
	}
	return j, nil
}

// CheckLease reports whether a lease may report outputs: the newest attempt's
// until the job has ended, and one that was given up as long as no newer one has
// started, because its Finish would count.
func (t *Table) CheckLease(l Lease) error {
	j, ok := t.rows[l.Job]
	if !ok {
		return cluster.Errorf(cluster.NotFound, "no job %s", l.Job)
	}
	if _, late := j.past(l); late && j.State.Waiting() {
		return nil
	}
	switch {
	case !j.newest(l):
		return passed(j, l)
	case !j.State.Active():
		return cluster.Errorf(cluster.Stale, "job %s is %s", j.ID, j.State)
	}
	return nil
}

// check reports what is wrong with a report whatever the job's state.
func (c *Finish) check() error {
	switch {
	case !c.State.Ended():
		return cluster.Errorf(cluster.Invalid, "a job cannot finish as %q", c.State)
	case !c.History.Valid():
		return cluster.Errorf(cluster.Invalid, "a finished job names its history")
	case c.State == Failed && c.Failure == nil:
		return cluster.Errorf(cluster.Invalid, "a failed job says why")
	case len(c.Preview) > MaxPreview:
		return cluster.Errorf(cluster.TooLarge, "the preview item is over %d bytes", MaxPreview)
	}
	return nil
}

func (t *Table) finish(c *Finish, now int64) (func() any, []ID, error) {
	j, ok := t.rows[c.Lease.Job]
	if !ok {
		return nil, nil, cluster.Errorf(cluster.NotFound, "no job %s", c.Lease.Job)
	}
	if j.Finished != 0 && j.Finished == c.Lease.Epoch && j.Worker == c.Lease.Worker {
		if j.History != c.History {
			return nil, nil, cluster.Errorf(cluster.Stale, "job %s is %s", j.ID, j.State)
		}
		return func() any { return Finished{} }, nil, nil // the same report again
	}
	attempt, late := j.past(c.Lease)
	if !late && !j.newest(c.Lease) {
		return nil, nil, passed(j, c.Lease)
	}
	if err := c.check(); err != nil {
		return nil, nil, err
	}
	if !late && j.State.Active() {
		return t.finishInTime(j, c, now)
	}
	if c.State == Cancelled {
		return nil, nil, cluster.Errorf(cluster.Stale, "job %s is %s; an attempt that was given up does not cancel it", j.ID, j.State)
	}
	if late && j.State.Waiting() {
		return t.finishLate(j, attempt, c, now)
	}
	return t.orphan(c, now)
}

func (t *Table) finishInTime(j *Job, c *Finish, now int64) (func() any, []ID, error) {
	end := c.State
	if j.State == Cancelling {
		end = Cancelled // the cancel was committed first
	}
	return func() any {
		t.end(j, end, now, c.write)
		return Finished{}
	}, []ID{j.ID}, nil
}

// finishLate ends a job with the result of an attempt that was given up, while
// nobody has begun anew. It was not lost after all, so no strike stays.
func (t *Table) finishLate(j *Job, attempt Attempt, c *Finish, now int64) (func() any, []ID, error) {
	return func() any {
		t.end(j, c.State, now, func(j *Job) {
			j.retire() // the one that holds it now finds its lease lost
			j.Worker, j.Started = attempt.Worker, attempt.Started
			j.Strikes, j.Tried, j.Reason = 0, nil, ""
			c.write(j)
		})
		t.orphans = slices.DeleteFunc(t.orphans, func(o Orphan) bool { return o.of(c.Lease) })
		return Finished{}
	}, []ID{j.ID}, nil
}

// write enters a result into its row. The body is in the history from now on.
func (c *Finish) write(j *Job) {
	j.Finished, j.History, j.Failure = c.Lease.Epoch, c.History, c.Failure.clip()
	j.Outputs, j.Previewable, j.Preview = c.Outputs, c.Previewable, c.Preview
	j.Body, j.Inputs = nil, nil
}

// end closes a job and numbers it in its user's history.
func (t *Table) end(j *Job, s State, now int64, change func(*Job)) {
	if j.GpuDone == 0 {
		t.charge(j, now)
	}
	t.move(j, func(j *Job) {
		a := t.account(j.ID.User)
		a.endNumber++
		j.State, j.Ended, j.EndNumber, j.NotBefore = s, now, a.endNumber, 0
		change(j)
		if j.Finished != 0 || j.Started != 0 {
			a.serve(now)
		}
	})
	t.ran(j)
}
