// Package state is the Machine behind the log: it routes each command to its
// table, remembers answers so that a repeated command is answered and not
// applied again, snapshots everything, and tells watchers what moved. Apply
// reads no clock, no disk and no random number: the same entries give the same
// bytes on every replica.
package state

import (
	"fmt"
	"io"
	"log/slog"
	"sync"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/files"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/cluster/models"
	"github.com/ahelme/comfyume/cluster/people"
)

// Machine holds the tables. All methods are safe for concurrent use.
type Machine struct {
	kinds registry
	log   *slog.Logger

	mu     sync.RWMutex
	now    int64 // table time, never goes back
	index  uint64
	jobs   *jobs.Table
	files  *files.Table
	people *people.Table
	models *models.Table
	seen   remembered
	audit  []Audit
	halted error // why nothing more is applied: reads go on, marked stale

	nodes    *nodes
	settings Settings
	level    uint32 // agreed on, at least 1
	checked  uint64 // the newest boundary that a checkpoint was proposed for
	marked   mark   // of the newest boundary that was crossed here

	touched  map[jobs.ID]uint64 // index of a job's last change, of the newest changes only
	waits    waits
	watchMu  sync.Mutex
	watchers map[*Watcher]struct{}
}

// New returns an empty machine.
func New(log *slog.Logger) *Machine {
	m := &Machine{kinds: known(), log: log.With("component", "state"), watchers: map[*Watcher]struct{}{}}
	m.clear()
	return m
}

// clear empties the tables. The lock is held, or nobody else has m yet.
func (m *Machine) clear() {
	m.jobs, m.files, m.people, m.models, m.nodes = jobs.New(), files.New(), people.New(), models.New(), newNodes()
	m.seen, m.audit, m.settings = newRemembered(), nil, Settings{}
	m.index, m.now, m.level, m.checked, m.marked, m.halted = 0, 0, 1, 0, mark{}, nil
	m.touched = map[jobs.ID]uint64{}
}

// Reset empties the machine: another history begins.
func (m *Machine) Reset() {
	m.mu.Lock()
	m.clear()
	m.mu.Unlock()
	m.notifyAll(0)
}

// Jobs lets f read the job table. f must not keep the table nor block.
func (m *Machine) Jobs(f func(*jobs.Table)) { m.mu.RLock(); defer m.mu.RUnlock(); f(m.jobs) }

// Files lets f read the file table.
func (m *Machine) Files(f func(*files.Table)) { m.mu.RLock(); defer m.mu.RUnlock(); f(m.files) }

// People lets f read the people table.
func (m *Machine) People(f func(*people.Table)) { m.mu.RLock(); defer m.mu.RUnlock(); f(m.people) }

// Models lets f read the catalogue.
func (m *Machine) Models(f func(*models.Table)) { m.mu.RLock(); defer m.mu.RUnlock(); f(m.models) }

// Applied is the index of the last entry that was applied, and the table's time.
func (m *Machine) Applied() (index uint64, now int64) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.index, m.now
}

// Halted is why the machine stopped applying, nil while it does not.
func (m *Machine) Halted() error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.halted
}

// Apply applies one entry: commands that were committed together, in order.
// It returns one encoded answer for each.
func (m *Machine) Apply(index uint64, at int64, cmds [][]byte) [][]byte {
	m.mu.Lock()
	out := make([][]byte, len(cmds))
	ch := newChange(index)
	if m.halted == nil {
		m.crossed(index)
		m.now, m.index = max(m.now, at), index
		m.seen.expire(m.now)
	}
	for i, raw := range cmds {
		out[i] = m.one(raw, &ch)
	}
	reached := m.index
	m.touch(ch)
	m.mu.Unlock()
	m.notify(ch)
	m.waits.reached(reached)
	return out
}

// maxTouched bounds the jobs whose last change is remembered: those before are
// long on every machine that there is.
const maxTouched = 20_000

func (m *Machine) touch(ch cluster.Change) {
	if len(m.touched) > maxTouched {
		clear(m.touched)
	}
	for id := range ch.Jobs {
		m.touched[id] = m.index
	}
}

// Touched is the index of the entry that last changed a job, 0 for one that
// has not changed for long.
func (m *Machine) Touched(id jobs.ID) uint64 {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.touched[id]
}

func (m *Machine) one(raw []byte, ch *cluster.Change) []byte {
	refuse := func(e *cluster.Error) []byte { return mustMarshal(answer{Err: e}) }
	if m.halted != nil {
		return refuse(cluster.Errorf(cluster.Unavailable, "this node stopped applying: %v", m.halted))
	}
	var env Envelope
	err := cluster.Unmarshal(raw, &env)
	var cmd cluster.Command
	if err == nil {
		cmd, err = m.kinds.decode(env)
	}
	if err != nil {
		// Skipping what we do not understand would fork the replicas.
		m.halt(fmt.Errorf("entry %d: %w; upgrade this node", m.index, err))
		return refuse(cluster.Errorf(cluster.Unavailable, "this node stopped applying: %v", m.halted))
	}
	if harmless(cmd) {
		env.ID = ""
	}
	if old, ok := m.seen.answer(env.ID); ok {
		return old
	}
	mutate, refusal := m.plan(cmd, env.Actor, ch)
	a := answer{Err: refusal}
	if refusal == nil {
		if v := mutate(); v != nil {
			a.Body = mustMarshal(v)
		}
		m.note(env, cmd)
	}
	enc := mustMarshal(a)
	m.seen.remember(env.ID, m.now, enc)
	return enc
}

// plan asks the command's table. A panic there is a refusal: it happened while
// only reading, so the tables are as they were.
func (m *Machine) plan(cmd cluster.Command, actor string, ch *cluster.Change) (mutate func() any, refusal *cluster.Error) {
	defer func() {
		if p := recover(); p != nil {
			m.log.Error("a check panicked; command refused", "kind", cmd.Kind(), "index", m.index, "panic", p)
			mutate, refusal = nil, cluster.Errorf(cluster.Internal, "the command could not be checked")
		}
	}()
	var err error
	switch k := cmd.Kind(); {
	case k < 100:
		if mutate, err = m.planOwn(cmd, actor); err == nil && k != KindNoop {
			ch.Tables["state"] = m.index
		}
	case k < 200:
		var ids []jobs.ID
		mutate, ids, err = m.jobs.Plan(cmd, m.now)
		if err == nil {
			for _, id := range ids {
				ch.Jobs[id] = true
			}
		}
	case k < 300:
		var u cluster.User
		if err = m.checkFiles(cmd); err == nil {
			mutate, u, err = m.files.Plan(cmd, m.now)
		}
		if err == nil {
			ch.Users[u] = true
		}
	case k < 400:
		if mutate, err = m.people.Plan(cmd, m.now); err == nil {
			ch.Tables["people"] = m.index
		}
	default:
		if mutate, err = m.models.Plan(cmd, m.now); err == nil {
			ch.Tables["models"] = m.index
		}
	}
	if err != nil {
		return nil, &cluster.Error{Code: cluster.CodeOf(err), Message: cluster.MessageOf(err)}
	}
	if mutate == nil {
		return nil, cluster.Errorf(cluster.Internal, "no table takes command kind %d", cmd.Kind())
	}
	return mutate, nil
}

// planOwn asks the tables of this package.
func (m *Machine) planOwn(cmd cluster.Command, actor string) (func() any, error) {
	switch c := cmd.(type) {
	case *Noop:
		return func() any { return nil }, nil
	case *Acted:
		return func() any { return nil }, c.check()
	case *SetLevel, *Checkpoint:
		return m.planLevel(cmd)
	case *PutNode, *LeaveNode, *DrainNode:
		return m.nodes.plan(cmd, m.now, actor, m.level)
	case *SetMode, *SetPause, *SetInstructor, *SetClass, *SetQuota, *SetBoost, *SetDisk:
		return m.settings.plan(cmd, m.now, actor)
	}
	return m.planNext(cmd)
}

// checkFiles are the rules across tables: only the holder of a job's lease may enter
// its outputs, and an upload must be within its user's bound. Results are entered
// whatever the bound: their job was let in.
func (m *Machine) checkFiles(cmd cluster.Command) error {
	switch c := cmd.(type) {
	case *files.PutOutputs:
		return m.jobs.CheckLease(jobs.Lease{Job: jobs.ID{User: c.User, Prompt: c.Prompt}, Worker: c.Worker, Epoch: c.Epoch})
	case *files.PutInput:
		if bound := m.settings.Quota(c.User).Bytes; bound > 0 { // which no build below level 3 can have
			return m.files.CheckRoom(c, bound)
		}
	}
	return nil
}

func mustMarshal(v any) []byte {
	b, err := cluster.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("state: encode %T: %v", v, err)) // a defect of a type, found by every test
	}
	return b
}

// digest is the same number on every replica in the same state. The lock is held.
func (m *Machine) digest() uint64 {
	var d cluster.Digest
	m.jobs.Digest(&d)
	m.files.Digest(&d)
	m.people.Digest(&d)
	m.models.Digest(&d)
	m.nodes.digest(&d)
	m.settings.digest(&d)
	m.seen.digest(&d)
	for i, a := range m.audit {
		d.Row("audit").Int(int64(i)).Int(a.At).Text(a.Actor).Text(a.What)
	}
	return d.Row("state").Int(m.now).Int(int64(m.index)).Int(int64(m.level)).Sum()
}

// snapshot is the file format of everything.
type snapshot struct {
	Version uint32          `cbor:"1,keyasint"`
	Index   uint64          `cbor:"2,keyasint"`
	Now     int64           `cbor:"3,keyasint"`
	Jobs    jobs.Snapshot   `cbor:"4,keyasint"`
	Files   files.Snapshot  `cbor:"5,keyasint"`
	People  people.Snapshot `cbor:"6,keyasint"`
	Models  models.Snapshot `cbor:"7,keyasint"`
	Seen    []memory        `cbor:"8,keyasint"`
	Audit   []Audit         `cbor:"9,keyasint"`

	Nodes    []Node   `cbor:"10,keyasint"`
	Settings Settings `cbor:"11,keyasint"`
	Level    uint32   `cbor:"12,keyasint"` // 0 in snapshots from before there were levels
	Checked  uint64   `cbor:"13,keyasint"`
}

const snapshotVersion = 1

// Snapshot captures the state and returns a function that writes it later.
func (m *Machine) Snapshot() func(io.Writer) error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	s := snapshot{
		Version: snapshotVersion, Index: m.index, Now: m.now,
		Jobs: m.jobs.Snapshot(), Files: m.files.Snapshot(), People: m.people.Snapshot(), Models: m.models.Snapshot(),
		Seen: m.seen.snapshot(), Audit: append([]Audit(nil), m.audit...),
		Nodes: m.nodes.all(), Settings: m.settings, Level: m.level, Checked: m.checked,
	}
	return func(w io.Writer) error { return cluster.NewEncoder(w).Encode(s) }
}

// Restore replaces the state by a snapshot.
func (m *Machine) Restore(r io.Reader) error {
	var s snapshot
	if err := cluster.NewDecoder(r).Decode(&s); err != nil {
		return fmt.Errorf("decode snapshot: %w", err)
	}
	if s.Version != snapshotVersion || s.Level > Level {
		return fmt.Errorf("snapshot of version %d, level %d is newer than this build; upgrade this node", s.Version, s.Level)
	}
	m.mu.Lock()
	m.index, m.now = s.Index, s.Now
	m.nodes, m.settings, m.level, m.checked, m.marked = restoreNodes(s.Nodes), s.Settings, max(s.Level, 1), s.Checked, mark{}
	m.jobs, m.files, m.people, m.models = jobs.Restore(s.Jobs), files.Restore(s.Files), people.Restore(s.People), models.Restore(s.Models)
	m.seen, m.audit, m.halted = restoreRemembered(s.Seen), s.Audit, nil
	m.mu.Unlock()
	m.notifyAll(s.Index)
	m.waits.reached(s.Index)
	return nil
}
