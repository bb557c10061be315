package state

import (
	"slices"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
)

// rememberFor is how long a command's answer is kept, in milliseconds of table time.
const rememberFor = 10 * 60 * 1000

// harmless reports whether a command may be applied twice: a submit is known by
// its id, a report by its epoch, and the rest says how things are. They are by
// far the most, so their answers are not kept.
func harmless(cmd cluster.Command) bool {
	switch cmd.(type) {
	case *Noop, *SetLevel, *Checkpoint, *PutNode, *jobs.Submit, *jobs.Assign, *jobs.Started, *jobs.GpuDone, *jobs.Finish:
		return true
	}
	return false
}

// memory is one remembered answer.
type memory struct {
	ID     string `cbor:"1,keyasint"`
	At     int64  `cbor:"2,keyasint"`
	Answer []byte `cbor:"3,keyasint"`
}

// remembered keeps the answers of recent commands: a client whose connection
// broke after the commit may ask again without doing the thing twice.
type remembered struct {
	byID  map[string][]byte
	order []memory // oldest first
}

func newRemembered() remembered { return remembered{byID: map[string][]byte{}} }

func (r *remembered) answer(id string) ([]byte, bool) {
	if id == "" {
		return nil, false
	}
	a, ok := r.byID[id]
	return a, ok
}

func (r *remembered) remember(id string, now int64, a []byte) {
	if id == "" {
		return
	}
	r.byID[id] = a
	r.order = append(r.order, memory{id, now, a})
}

func (r *remembered) expire(now int64) {
	n := 0
	for n < len(r.order) && r.order[n].At+rememberFor < now {
		delete(r.byID, r.order[n].ID)
		n++
	}
	if n > 0 {
		r.order = slices.Delete(r.order, 0, n)
	}
}

func (r *remembered) digest(d *cluster.Digest) {
	for _, m := range r.order {
		d.Row("seen").Text(m.ID).Int(m.At).Bytes(m.Answer)
	}
}

func (r *remembered) snapshot() []memory { return slices.Clone(r.order) }

func restoreRemembered(ms []memory) remembered {
	r := newRemembered()
	for _, m := range ms {
		r.remember(m.ID, m.At, m.Answer)
	}
	return r
}
