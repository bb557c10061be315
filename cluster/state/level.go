package state

import (
	"fmt"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/files"
	"github.com/ahelme/comfyume/cluster/jobs"
)

// The kinds of agreement between builds and replicas.
const (
	KindSetLevel   cluster.Kind = 2
	KindCheckpoint cluster.Kind = 3
)

// SetLevel agrees on a set of commands that everybody can apply. It is
// proposed when every member of the log, alive or not, has recorded that it
// can; a build that cannot stops applying here.
type SetLevel struct {
	Level uint32 `cbor:"1,keyasint"`
}

// Checkpoint says what the leader's state was at a boundary. A replica whose
// state was another one then stops and fetches the state anew.
type Checkpoint struct {
	Boundary uint64 `cbor:"1,keyasint"` // see CheckpointEvery
	Digest   uint64 `cbor:"2,keyasint"`
}

// Kind of SetLevel.
func (SetLevel) Kind() cluster.Kind { return KindSetLevel }

// Kind of Checkpoint.
func (Checkpoint) Kind() cluster.Kind { return KindCheckpoint }

// CheckpointEvery is how many entries lie between two boundaries. Boundary n
// is the state before the first entry whose index is n*CheckpointEvery or more.
const CheckpointEvery = 1000

// since is the level at which a kind may be proposed.
func since(k cluster.Kind) uint32 {
	switch k {
	case KindSetClass, KindSetQuota, KindSetBoost, jobs.KindNow, jobs.KindPreempt:
		return 2
	case KindSetDisk, files.KindRemove:
		return 3
	}
	return sinceNext(k)
}

// Level is the agreed level: nothing above it may be proposed.
func (m *Machine) Level() uint32 {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.level
}

// Permits reports whether a command may be proposed now.
func (m *Machine) Permits(k cluster.Kind) error {
	if have := m.Level(); since(k) > have {
		return cluster.Errorf(cluster.Conflict, "this needs level %d and the workshop is at %d: some node still runs an older version; see node ls", since(k), have)
	}
	return nil
}

// Fit is the command as it may be proposed now: without what the agreed level
// does not know. Older builds would pass over it, and their tables differ.
func (m *Machine) Fit(cmd cluster.Command) cluster.Command {
	if c, ok := cmd.(*jobs.Submit); ok && m.Level() < 2 && (c.Form != "" || c.Models != nil) {
		older := *c
		older.Form, older.Models = "", nil
		return &older
	}
	return cmd
}

// planLevel checks a SetLevel or a Checkpoint.
func (m *Machine) planLevel(cmd cluster.Command) (func() any, error) {
	switch c := cmd.(type) {
	case *SetLevel:
		if c.Level <= m.level {
			return func() any { return nil }, nil
		}
		return func() any {
			m.level = c.Level
			if c.Level > Level {
				m.halt(fmt.Errorf("the workshop agreed on level %d and this build knows level %d; install a newer version here", c.Level, Level))
			}
			return nil
		}, nil
	case *Checkpoint:
		return func() any { m.compare(c); return nil }, nil
	}
	return nil, nil
}

// halt stops applying. The lock is held.
func (m *Machine) halt(why error) {
	m.halted = why
	m.log.Error("stopped applying the log", "index", m.index, "err", why)
}

// mark is the state's digest at a boundary.
type mark struct {
	boundary, digest uint64
}

// crossed takes the state's digest when an entry is the first behind a
// boundary. The lock is held, the entry not applied.
func (m *Machine) crossed(index uint64) {
	if n := index / CheckpointEvery; n > m.index/CheckpointEvery {
		m.marked = mark{n, m.digest()}
	}
}

// compare looks whether this replica was what the leader was. One that began
// from a snapshot behind the boundary cannot tell.
func (m *Machine) compare(c *Checkpoint) {
	m.checked = max(m.checked, c.Boundary)
	if m.marked.boundary == c.Boundary && m.marked.digest != c.Digest {
		m.halt(cluster.Errorf(cluster.Stale, "this node's table is not what the leader's is (boundary %d: %x and %x); it is fetched anew", c.Boundary, m.marked.digest, c.Digest))
	}
}

// Due returns the checkpoint that the leader should propose, if one is due.
func (m *Machine) Due() (Checkpoint, bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	due := m.marked.boundary > m.checked
	return Checkpoint{Boundary: m.marked.boundary, Digest: m.marked.digest}, due
}
