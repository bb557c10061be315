package jobs

import "github.com/ahelme/comfyume/cluster"

// adopt plans the rows that are not known here.
func (t *Table) adopt(c *Adopt, now int64) (func() any, []ID, error) {
	var rows []*Job
	var ids []ID
	seen := map[ID]bool{}
	for i := range c.Rows {
		j := &c.Rows[i]
		if err := j.check(); err != nil {
			return nil, nil, err
		}
		if _, known := t.rows[j.ID]; known || seen[j.ID] {
			continue
		}
		seen[j.ID] = true
		rows, ids = append(rows, j.adopted(c.Reason, now)), append(ids, j.ID)
	}
	return func() any {
		for _, j := range rows {
			a := t.account(j.ID.User)
			t.seq++
			a.number++
			j.Seq, j.Order, j.Number = t.seq, int64(t.seq), a.number
			if j.State.Ended() {
				a.endNumber++
				j.EndNumber = a.endNumber
			}
			t.insert(j)
		}
		return Touched{IDs: ids}
	}, ids, nil
}

// check reports why a row of another table cannot be one of this.
func (j *Job) check() error {
	if err := checkID(j.ID); err != nil {
		return err
	}
	switch {
	case !j.State.Ended() && !j.State.Waiting() && !j.State.Active():
		return cluster.Errorf(cluster.Invalid, "job %s cannot be %q", j.ID, j.State)
	case j.History != "" && !j.History.Valid(), j.State == Done && j.History == "":
		return cluster.Errorf(cluster.Invalid, "the ended job %s names no history", j.ID)
	case len(j.Preview) > MaxPreview:
		return cluster.Errorf(cluster.TooLarge, "the preview item of job %s is over %d bytes", j.ID, MaxPreview)
	case j.State.Ended() && len(j.Body) == 0:
		return nil
	}
	return checkBody(j.Body)
}

// adopted is the row as it begins here: ended, or waiting without a lease.
func (j *Job) adopted(reason string, now int64) *Job {
	c := j.copy()
	c.WorkflowID, c.Title, c.Reason = cluster.Clip(c.WorkflowID, 200), cluster.Clip(c.Title, 200), cluster.Clip(c.Reason, maxFailure)
	c.Failure = c.Failure.clip()
	c.NotBefore, c.Past, c.EndNumber = 0, nil, 0
	began := c.Started != 0
	switch {
	case c.State.Ended():
		c.backfill()
		if c.Ended == 0 {
			c.Ended = now
		}
		return &c
	case c.State == Cancelling:
		c.State, c.Ended, c.Hidden = Cancelled, now, !began
		return &c
	case c.APINodes && began:
		c.State, c.Ended, c.Failure = Failed, now, notRetried(reason)
		return &c
	}
	c.State, c.Worker, c.Assigned, c.Started, c.GpuDone = Pending, "", 0, 0, 0
	c.Ended, c.Hidden, c.Finished, c.History = 0, false, 0, ""
	c.Failure, c.Outputs, c.Previewable, c.Preview = nil, 0, 0, nil
	c.Reason = cluster.Clip(reason, maxFailure)
	return &c
}

// backfill names the attempt that ended a job in rows older than the field.
func (j *Job) backfill() {
	if j.Finished == 0 && j.History != "" {
		j.Finished = j.Epoch
	}
}
