// Package consensus keeps the one log that the table is built from. It
// promises that an entry it acknowledged is on this disk (and, with more
// voters, on a majority of disks), that entries are applied in order, that
// several commands of one call stand in one entry, and that a full disk stops
// it without a panic and without a lost entry. It refuses to know what a
// command means and who should be a member. It alone imports raft and its store.
//
//	log.go       what others see        batch.go     proposals into entries
//	engine.go    raft, started/stopped  disk.go      the store and a full disk
//	identity.go  who this log is        transport.go what followers confirmed
//	members.go   who takes part         plan.go      who should (pure)
//	fork.go      recover, rejoin        image.go     snapshots, in and out
package consensus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/ahelme/comfyume/cluster"
)

// Machine is what the log drives. Apply must be deterministic and must not
// block; Snapshot must return quickly, its writer may take its time.
type Machine interface {
	Apply(index uint64, at int64, cmds [][]byte) [][]byte
	Snapshot() func(io.Writer) error
	Restore(io.Reader) error
	// Reset empties it: another history begins.
	Reset()
	Applied() (index uint64, now int64)
	// Halted is why it applies no more, nil while it does. Code Stale says that
	// its state is not what the leader's is.
	Halted() error
}

// Profile is how long raft waits before it calls a leader dead.
type Profile string

// The profiles. An election takes about twice the timeout.
const (
	WAN  Profile = "wan"  // 1 s: links across countries
	Site Profile = "site" // 0.5 s: machines that stand together
)

// ParseProfile reads a profile's name.
func ParseProfile(s string) (Profile, error) {
	if p := Profile(s); p == WAN || p == Site {
		return p, nil
	}
	return "", cluster.Errorf(cluster.Invalid, "unknown raft profile %q; use wan or site", s)
}

func (p Profile) timeout() time.Duration {
	if p == Site {
		return 500 * time.Millisecond
	}
	return time.Second
}

// Config of a Log.
type Config struct {
	Dir     string         // where the log lives; created 0700
	Node    cluster.NodeID // who this is
	Level   uint32         // of this build; a folder of a higher one is refused. 0 = not checked
	Machine Machine        // what entries are applied to
	Fresh   func() Machine // an empty one, for looking at other histories; needed by Recover and Salvage
	// Stream opens the way to the other nodes, each time raft starts, for one
	// incarnation of this node's log. Nil: this node stands alone.
	Stream  func(incarnation string) (Stream, error)
	Logger  *slog.Logger     // nil: slog.Default
	Now     func() time.Time // nil: time.Now
	Profile Profile          // "" = WAN
	// Holder says whether a node that has no vote counts as a second copy; an
	// answer waits for one of those. Nil: none does.
	Holder   func(cluster.NodeID) bool
	CopyWait time.Duration // how long it waits at most; 0 = 250 ms
	// Reserve is the free space, in bytes, below which the log hands over and
	// stops; 0 = 64 MiB. Ballast is what it gives back then; 0 = 16 MiB.
	Reserve, Ballast int64
	Free             func(dir string) (int64, error) // free bytes; nil asks the system
}

// Log is this node's copy of the replicated log.
type Log struct {
	cfg     Config
	log     *slog.Logger
	batcher *batcher
	leading chan bool     // one token: leadership may have changed
	full    chan struct{} // one token: a write found no space

	mu   sync.Mutex // held while raft starts, stops or becomes another
	shut bool       // Run has ended

	who    atomic.Pointer[identity]
	engine atomic.Pointer[engine]        // nil while raft does not run
	why    atomic.Pointer[cluster.Error] // why it does not
}

// Open opens the log's folder. A folder without a history waits for Form or
// Join; one with a history goes on where it was.
func Open(cfg Config) (*Log, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.CopyWait == 0 {
		cfg.CopyWait = 250 * time.Millisecond
	}
	if cfg.Reserve == 0 {
		cfg.Reserve = 64 << 20
	}
	if cfg.Ballast == 0 {
		cfg.Ballast = 16 << 20
	}
	if cfg.Free == nil {
		cfg.Free = freeSpace
	}
	if cfg.Holder == nil {
		cfg.Holder = func(cluster.NodeID) bool { return false }
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("create the log's folder: %w", err)
	}
	l := &Log{cfg: cfg, log: cfg.Logger.With("component", "consensus"), leading: make(chan bool, 1), full: make(chan struct{}, 1)}
	l.batcher = newBatcher(l)
	if exists(filepath.Join(cfg.Dir, boltFile)) {
		return nil, earlyBuild(cfg.Dir)
	}
	who, err := readIdentity(cfg.Dir)
	if err != nil {
		return nil, err
	}
	if cfg.Level > 0 && who.Level > cfg.Level {
		return nil, cluster.Errorf(cluster.Invalid, "this workshop has agreed on level %d and this build knows level %d: install the version that ran here before, or a newer one; nothing was changed", who.Level, cfg.Level)
	}
	l.who.Store(&who)
	l.why.Store(errEmpty)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.finishPending(); err != nil {
		return nil, err
	}
	if l.who.Load().Cluster == "" && !exists(filepath.Join(l.logDir(), entriesFolder)) {
		return l, nil
	}
	if err := l.start(); err != nil {
		return nil, err
	}
	return l, l.finishForming()
}

// errEmpty answers while there is no history.
var errEmpty = cluster.Errorf(cluster.NoLeader, "this node has not joined the workshop's table yet")

// finishForming names the history of a folder in which Form was cut off just before
// that.
func (l *Log) finishForming() error {
	who := *l.who.Load()
	if who.Cluster != "" {
		return nil
	}
	if !l.engine.Load().hasState() {
		l.stopEngine(errEmpty) // an empty store, left by a form that went no further
		return nil
	}
	return l.keep(firstIdentity(who))
}

func firstIdentity(who identity) identity {
	who.Cluster = cluster.WorkshopID(randomName(8))
	who.Generation = cluster.Generation{Number: 1, Mark: randomName(4)}
	return who
}

// keep writes who this log is from now on.
func (l *Log) keep(who identity) error {
	if err := who.write(l.cfg.Dir); err != nil {
		return err
	}
	l.who.Store(&who)
	return nil
}

func (l *Log) logDir() string { return filepath.Join(l.cfg.Dir, logFolder) }

// Lineage is the history that this log is part of; no cluster while it has none.
func (l *Log) Lineage() cluster.Lineage { return l.who.Load().lineage() }

// Incarnation is new each time this node's log began empty.
func (l *Log) Incarnation() string { return l.who.Load().Incarnation }

// Form begins a history with this node as its one voter.
func (l *Log) Form() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if who := l.who.Load(); who.Cluster != "" {
		return cluster.Errorf(cluster.Conflict, "this node is part of a workshop already (%s)", who.lineage())
	}
	if err := l.start(); err != nil {
		return err
	}
	if err := l.engine.Load().bootstrap(); err != nil {
		return err
	}
	if err := l.keep(firstIdentity(*l.who.Load())); err != nil {
		return err
	}
	l.log.Info("formed a new workshop", "lineage", l.Lineage())
	return nil
}

// Join makes this node an empty part of a history that others hold. The leader
// has to add it before it gets anything.
func (l *Log) Join(to cluster.Lineage) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	who := *l.who.Load()
	if who.Cluster != "" {
		return cluster.Errorf(cluster.Conflict, "this node is part of a workshop already (%s)", who.lineage())
	}
	who.Cluster, who.Generation = to.Cluster, to.Generation
	if err := l.keep(who); err != nil {
		return err
	}
	return l.start()
}

// NoteLevel remembers the table's level, so that an older build refuses this
// folder before it touches it.
func (l *Log) NoteLevel(level uint32) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	who := *l.who.Load()
	if who.Level >= level {
		return nil
	}
	who.Level = level
	return l.keep(who)
}

// Run serves proposals until ctx ends, hands leadership over if it can, then
// stops the log and closes its store.
func (l *Log) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	wg.Go(func() { l.watchOver(ctx) })
	l.batcher.run(ctx)
	wg.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.shut = true
	l.handOver(time.Second)
	return l.stopEngine(errStopping)
}

// Propose commits commands in one entry and returns their answers and the
// entry's index, once this node has applied it. With one voter and a live
// second holder it waits a moment for that one, see Status.Copied. Code
// NoLeader means that nothing was committed;
// Unavailable that it is not known whether it was: the same command id may be
// proposed again. NoSpace: the disk of this node is full.
func (l *Log) Propose(ctx context.Context, cmds ...[]byte) (answers [][]byte, index uint64, err error) {
	return l.batcher.propose(ctx, cmds)
}

// Leads reports whether this node leads now.
func (l *Log) Leads() bool {
	e := l.engine.Load()
	return e != nil && e.raft.State() == raft.Leader
}

// Leading holds a token after each change of leadership of this node. One reader.
func (l *Log) Leading() <-chan bool { return l.leading }

// Leader is who leads as far as this node knows, "" = nobody.
func (l *Log) Leader() cluster.NodeID {
	e := l.engine.Load()
	if e == nil {
		return ""
	}
	_, id := e.raft.LeaderWithID()
	node, _ := parseServer(string(id))
	return node
}

// Barrier waits until everything committed before has been applied here; only
// the leader can.
func (l *Log) Barrier(ctx context.Context) error {
	e := l.engine.Load()
	if e == nil {
		return l.stopped()
	}
	timeout := 10 * time.Second
	if d, ok := ctx.Deadline(); ok {
		timeout = time.Until(d)
	}
	if err := e.raft.Barrier(timeout).Error(); err != nil {
		return proposeError(err)
	}
	return nil
}

// stopped is why raft does not run.
func (l *Log) stopped() error {
	if why := l.why.Load(); why != nil {
		return why
	}
	return errStopping
}

var errStopping = cluster.Errorf(cluster.NoLeader, "this node is stopping; try again in a moment")

// refusal is why a proposal was not committed: what stopped raft says more than
// that it was stopped.
func (l *Log) refusal(err error) error {
	if why := l.why.Load(); why != nil && errors.Is(err, raft.ErrRaftShutdown) {
		return why
	}
	return proposeError(err)
}

// proposeError is an error of raft's in our codes.
func proposeError(err error) error {
	switch {
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrRaftShutdown), errors.Is(err, raft.ErrEnqueueTimeout),
		errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return cluster.Errorf(cluster.NoLeader, "no node can accept changes right now; try again in a moment")
	case errors.Is(err, raft.ErrLeadershipLost), errors.Is(err, raft.ErrAbortedByRestore):
		return cluster.Errorf(cluster.Unavailable, "the change was not confirmed; it may still take effect")
	}
	return err
}
