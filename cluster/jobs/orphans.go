package jobs

import (
	"slices"

	"github.com/ahelme/comfyume/cluster"
)

// Orphan is the result of an attempt that was given up, which came when a newer
// one had started or the job had ended. It is in nobody's history.
type Orphan struct {
	Job     ID               `cbor:"1,keyasint" json:"job"`
	Epoch   uint64           `cbor:"2,keyasint" json:"epoch"`
	Worker  cluster.WorkerID `cbor:"3,keyasint" json:"worker"`
	State   State            `cbor:"4,keyasint" json:"state"` // Done or Failed
	History cluster.Ref      `cbor:"5,keyasint" json:"history"`
	Outputs int64            `cbor:"6,keyasint" json:"outputs"`
	At      int64            `cbor:"7,keyasint" json:"at"` // table milliseconds
}

// What is kept of orphans. One over a bound drops the oldest.
const (
	OrphanMillis  = 24 * 60 * 60 * 1000
	OrphansPerJob = 3
	MaxOrphans    = 1000
)

// of reports whether the attempt was the lease's.
func (o *Orphan) of(l Lease) bool {
	return o.Job == l.Job && o.Epoch == l.Epoch && o.Worker == l.Worker
}

// Orphans returns a job's orphans, oldest first. They are dropped by the first
// command after their time.
func (t *Table) Orphans(id ID) []Orphan {
	var out []Orphan
	for _, o := range t.orphans {
		if o.Job == id {
			out = append(out, o)
		}
	}
	return out
}

// orphan keeps a result aside. The same report again changes nothing.
func (t *Table) orphan(c *Finish, now int64) (func() any, []ID, error) {
	same := slices.IndexFunc(t.orphans, func(o Orphan) bool { return o.of(c.Lease) })
	switch {
	case same < 0:
	case t.orphans[same].History == c.History:
		return func() any { return Finished{Orphan: true} }, nil, nil
	default:
		return nil, nil, cluster.Errorf(cluster.Stale, "epoch %d of job %s has brought another result before", c.Lease.Epoch, c.Lease.Job)
	}
	return func() any {
		if kept := t.Orphans(c.Lease.Job); len(kept) >= OrphansPerJob {
			i := slices.Index(t.orphans, kept[0])
			t.orphans = slices.Delete(t.orphans, i, i+1)
		}
		t.orphans = append(t.orphans, Orphan{
			Job: c.Lease.Job, Epoch: c.Lease.Epoch, Worker: c.Lease.Worker,
			State: c.State, History: c.History, Outputs: c.Outputs, At: now,
		})
		t.orphans = t.orphans[max(0, len(t.orphans)-MaxOrphans):]
		return Finished{Orphan: true}
	}, nil, nil
}

// expire drops the orphans whose time is over.
func (t *Table) expire(now int64) {
	n := 0
	for n < len(t.orphans) && t.orphans[n].At+OrphanMillis <= now {
		n++
	}
	t.orphans = t.orphans[n:]
}
