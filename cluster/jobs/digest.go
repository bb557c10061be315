package jobs

import "github.com/ahelme/comfyume/cluster"

// Digest adds everything in the table to d. Of a body its digest stands for
// the bytes, which came with it.
func (t *Table) Digest(d *cluster.Digest) {
	d.Row("jobs").Int(int64(t.seq)) //nolint:gosec // only compared
	for _, j := range t.rows {
		j.digest(d)
	}
	for u, a := range t.users {
		d.Row("account").Text(string(u)).Int(a.number).Int(a.endNumber)
		if a.used != 0 {
			d.Int(a.used).Int(a.usedAt)
		}
		for _, m := range a.served {
			d.Int(m.At).Int(m.N)
		}
	}
	for i, o := range t.orphans {
		d.Row("orphan").Int(int64(i)).Text(string(o.Job.User)).Text(o.Job.Prompt).Int(int64(o.Epoch)).Text(string(o.Worker)) //nolint:gosec // only compared
		d.Text(string(o.State)).Text(string(o.History)).Int(o.Outputs).Int(o.At)
	}
}

func (j *Job) digest(d *cluster.Digest) {
	d.Row("job").Text(string(j.ID.User)).Text(j.ID.Prompt).Int(int64(j.Seq)).Int(j.Order).Int(j.Number).Text(string(j.State)) //nolint:gosec // only compared
	d.Text(j.ClientID).Text(j.BodyHash).Int(int64(len(j.Body))).Text(j.WorkflowID).Text(j.Title).Int(int64(j.Priority)).Bool(j.APINodes)
	d.Text(string(j.Secrets)).Text(string(j.Worker)).Int(int64(j.Epoch)).Int(int64(j.Strikes)).Text(j.Reason) //nolint:gosec // only compared
	for _, in := range j.Inputs {
		d.Text(in.Value).Text(in.Name).Text(string(in.Ref)).Int(in.Size)
	}
	for _, c := range j.Classes {
		d.Text(c)
	}
	if f := j.Failure; f != nil {
		d.Text(f.Type).Text(f.Message).Text(f.NodeID).Text(f.NodeType)
	}
	d.Int(j.Created).Int(j.Assigned).Int(j.Started).Int(j.GpuDone).Int(j.Ended).Int(j.EndNumber)
	d.Text(string(j.History)).Int(j.Outputs).Int(j.Previewable).Bytes(j.Preview).Bool(j.Hidden)
	for _, w := range j.Tried {
		d.Text(w)
	}
	d.Int(j.NotBefore).Int(int64(j.Finished)) //nolint:gosec // only compared
	for _, m := range j.NoRoom {
		d.Text(m.Device).Int(m.VRAM)
	}
	for _, a := range j.Past {
		d.Int(int64(a.Epoch)).Text(string(a.Worker)).Int(a.Started) //nolint:gosec // only compared
	}
	for _, m := range j.Models {
		d.Row("model").Text(m)
	}
	if j.Form != "" {
		d.Row("form").Text(j.Form)
	}
	if j.Preempted || j.Urgent {
		d.Row("now").Bool(j.Preempted).Bool(j.Urgent)
	}
}
