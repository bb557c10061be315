package consensus

import (
	"errors"
	"fmt"
	"io"

	"github.com/hashicorp/raft"

	"github.com/ahelme/comfyume/cluster"
)

// entry is one raft log: commands committed together, with the one time that
// the leader stamped on them.
type entry struct {
	Version  uint8    `cbor:"1,keyasint"`
	At       int64    `cbor:"2,keyasint"` // milliseconds since 1970
	Commands [][]byte `cbor:"3,keyasint"`
}

const entryVersion = 1

// fsm lets raft drive the Machine. The machine's own index may be ahead of
// raft's after a restored snapshot; raft never replays below it.
type fsm struct{ m Machine }

func (f *fsm) Apply(l *raft.Log) any {
	if applied, _ := f.m.Applied(); l.Index <= applied {
		return errKnown // raft was started again behind a machine that went on
	}
	var e entry
	if err := cluster.Unmarshal(l.Data, &e); err != nil || e.Version != entryVersion {
		// Hand it on as a command nobody knows: the machine stops applying.
		return f.m.Apply(l.Index, e.At, [][]byte{nil})
	}
	return f.m.Apply(l.Index, e.At, e.Commands)
}

var errKnown = errors.New("the entry was applied before")

// Snapshot refuses when the machine has stopped: raft would write the state
// down under an index that it has not reached.
func (f *fsm) Snapshot() (raft.FSMSnapshot, error) {
	if err := f.m.Halted(); err != nil {
		return nil, fmt.Errorf("no snapshot of a halted machine: %w", err)
	}
	return writer(f.m.Snapshot()), nil
}

func (f *fsm) Restore(r io.ReadCloser) error {
	return errors.Join(f.m.Restore(r), r.Close())
}

type writer func(io.Writer) error

func (w writer) Persist(sink raft.SnapshotSink) error {
	if err := w(sink); err != nil {
		return errors.Join(err, sink.Cancel())
	}
	return sink.Close()
}

func (w writer) Release() {}
