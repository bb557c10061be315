// Package models is the catalogue: which ComfyUI workers there are and what
// each can run. The heavy part (object_info, model lists) is a blob that the
// row names, so editing works from the last known state when no GPU is up.
package models

import (
	"cmp"
	"slices"

	"github.com/ahelme/comfyume/cluster"
)

// The kinds of this table.
const (
	KindPutWorker    cluster.Kind = 400
	KindForgetWorker cluster.Kind = 401
)

// Worker is one ComfyUI process as it last described itself. Whether it is
// there now is not a row: see the leader's live view.
type Worker struct {
	ID       cluster.WorkerID `cbor:"1,keyasint" json:"id"`
	Node     cluster.NodeID   `cbor:"2,keyasint" json:"node"`
	Version  string           `cbor:"3,keyasint" json:"comfyui_version"`
	Device   string           `cbor:"4,keyasint" json:"device"`
	VRAM     int64            `cbor:"5,keyasint" json:"vram_total"` // bytes
	Caps     cluster.Ref      `cbor:"6,keyasint" json:"capabilities"`
	CapsSize int64            `cbor:"7,keyasint" json:"capabilities_size"`
	Changed  int64            `cbor:"8,keyasint" json:"changed"` // table milliseconds
}

// PutWorker enters a worker or its new capabilities. The same again changes nothing.
type PutWorker struct {
	Worker Worker `cbor:"1,keyasint"`
}

// ForgetWorker removes a worker.
type ForgetWorker struct {
	ID cluster.WorkerID `cbor:"1,keyasint"`
}

// Kind of PutWorker.
func (PutWorker) Kind() cluster.Kind { return KindPutWorker }

// Kind of ForgetWorker.
func (ForgetWorker) Kind() cluster.Kind { return KindForgetWorker }

// Table holds the rows. Not safe for concurrent use: state.Machine locks.
type Table struct {
	rows map[cluster.WorkerID]*Worker
}

// New returns an empty table.
func New() *Table { return &Table{rows: map[cluster.WorkerID]*Worker{}} }

// Workers returns all rows by id.
func (t *Table) Workers() []Worker {
	out := make([]Worker, 0, len(t.rows))
	for _, w := range t.rows {
		out = append(out, *w)
	}
	slices.SortFunc(out, func(a, b Worker) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// Plan checks a command without touching the table and returns the change to
// make, which cannot fail. A command of another table gives nil.
func (t *Table) Plan(cmd cluster.Command, now int64) (func() any, error) {
	switch c := cmd.(type) {
	case *PutWorker:
		if c.Worker.ID == "" || len(c.Worker.ID) > 200 || !c.Worker.Caps.Valid() {
			return nil, cluster.Errorf(cluster.Invalid, "a worker has an id and capabilities")
		}
		return func() any {
			w := c.Worker
			w.Changed = now
			if old, ok := t.rows[w.ID]; ok {
				same := *old
				same.Changed = now
				if same == w {
					return nil
				}
			}
			t.rows[w.ID] = &w
			return nil
		}, nil
	case *ForgetWorker:
		if _, ok := t.rows[c.ID]; !ok {
			return nil, cluster.Errorf(cluster.NotFound, "there is no worker %q", c.ID)
		}
		return func() any { delete(t.rows, c.ID); return nil }, nil
	}
	return nil, nil
}

// Snapshot is the whole table by id.
type Snapshot struct {
	Rows []Worker `cbor:"1,keyasint"`
}

// Snapshot copies the table.
func (t *Table) Snapshot() Snapshot { return Snapshot{Rows: t.Workers()} }

// Restore makes a table from a snapshot.
func Restore(s Snapshot) *Table {
	t := New()
	for _, w := range s.Rows {
		t.rows[w.ID] = &w
	}
	return t
}
