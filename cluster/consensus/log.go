// Package consensus keeps the one log that the table is built from. It
// promises that an entry it acknowledged is on this disk (and, with more
// voters, on a majority of disks), that entries are applied in order, and that
// several commands of one call stand in one entry. It refuses to know what a
// command means. It alone imports raft and its store.
package consensus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"

	"github.com/ahelme/comfyume/cluster"
)

// Machine is what the log drives. Apply must be deterministic and must not
// block; Snapshot must return quickly, its writer may take its time.
type Machine interface {
	Apply(index uint64, at int64, cmds [][]byte) [][]byte
	Snapshot() func(io.Writer) error
	Restore(io.Reader) error
	Applied() (index uint64, now int64)
}

// Stream carries the log between nodes. Addresses are node ids.
type Stream interface {
	net.Listener
	Dial(addr string, timeout time.Duration) (net.Conn, error)
}

// Config of a Log.
type Config struct {
	Dir     string           // where the log lives; created 0700
	Node    cluster.NodeID   // who this is
	Machine Machine          // what entries are applied to
	Stream  Stream           // nil: this node stands alone and opens no port
	Logger  *slog.Logger     // nil: slog.Default
	Now     func() time.Time // nil: time.Now
	// Heartbeat is the raft heartbeat and election timeout; the leader's lease
	// is half of it. 0: 1 s, right for links across countries.
	Heartbeat time.Duration
}

// Log is this node's copy of the replicated log.
type Log struct {
	cfg     Config
	id      raft.ServerID
	raft    *raft.Raft
	store   *raftboltdb.BoltStore
	trans   raft.Transport
	batcher *batcher
	leading chan bool
	stop    sync.Once
}

// Open starts the log: an empty folder forms a cluster of one voter. Entries
// that were committed before are applied again before it leads.
func Open(cfg Config) (*Log, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	cfg.Logger = cfg.Logger.With("component", "consensus")
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Heartbeat == 0 {
		cfg.Heartbeat = time.Second
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("create the log's folder: %w", err)
	}
	incarnation, err := incarnation(cfg.Dir)
	if err != nil {
		return nil, err
	}
	l := &Log{cfg: cfg, id: raft.ServerID(string(cfg.Node) + "." + incarnation), leading: make(chan bool, 16)}
	if err := l.open(); err != nil {
		return nil, err
	}
	return l, nil
}

func (l *Log) open() (err error) {
	logger := newHclog(l.cfg.Logger)
	l.store, err = raftboltdb.New(raftboltdb.Options{
		Path:                    filepath.Join(l.cfg.Dir, "raft.db"),
		BoltOptions:             &bbolt.Options{Timeout: time.Second, NoFreelistSync: true, FreelistType: bbolt.FreelistMapType},
		MsgpackUseNewTimeFormat: true,
	})
	if errors.Is(err, bbolterrors.ErrTimeout) {
		return cluster.Errorf(cluster.Conflict, "%s is in use: another comfyume-agent runs with this state folder. Stop it, or give this one its own --state-dir.", l.cfg.Dir)
	}
	if err != nil {
		return fmt.Errorf("open the log's store: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.store.Close())
		}
	}()
	snaps, err := raft.NewFileSnapshotStoreWithLogger(l.cfg.Dir, 2, logger)
	if err != nil {
		return fmt.Errorf("open the snapshots' folder: %w", err)
	}
	addr := raft.ServerAddress(l.cfg.Node)
	if l.cfg.Stream == nil {
		_, l.trans = raft.NewInmemTransport(addr)
	} else {
		l.trans = raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
			Stream: stream{l.cfg.Stream}, MaxPool: 3, Timeout: 5 * time.Second, Logger: logger, MsgpackUseNewTimeFormat: true,
		})
	}
	conf := raft.DefaultConfig()
	conf.LocalID, conf.Logger = l.id, logger
	conf.HeartbeatTimeout, conf.ElectionTimeout, conf.LeaderLeaseTimeout = l.cfg.Heartbeat, l.cfg.Heartbeat, l.cfg.Heartbeat/2
	if l.cfg.Stream == nil {
		// Nobody to wait for: a node that stands alone elects itself at once.
		conf.HeartbeatTimeout, conf.ElectionTimeout, conf.LeaderLeaseTimeout = 50*time.Millisecond, 50*time.Millisecond, 50*time.Millisecond
	}
	conf.CommitTimeout = 10 * time.Millisecond // how late an idle follower learns of a commit
	conf.ShutdownOnRemove = false
	conf.NoLegacyTelemetry = true
	conf.NotifyCh = l.leading
	fsm := &fsm{m: l.cfg.Machine}
	has, err := raft.HasExistingState(l.store, l.store, snaps)
	if err != nil {
		return fmt.Errorf("read the log: %w", err)
	}
	if l.raft, err = raft.NewRaft(conf, fsm, l.store, l.store, snaps, l.trans); err != nil {
		return fmt.Errorf("start raft: %w", err)
	}
	if !has {
		self := raft.Configuration{Servers: []raft.Server{{ID: l.id, Address: addr}}}
		if err := l.raft.BootstrapCluster(self).Error(); err != nil {
			return fmt.Errorf("form the cluster: %w", err)
		}
	}
	l.batcher = newBatcher(l)
	return nil
}

// Run serves proposals until ctx ends, then stops the log and closes its store.
func (l *Log) Run(ctx context.Context) error {
	l.batcher.run(ctx)
	return l.close()
}

func (l *Log) close() error {
	var err error
	l.stop.Do(func() {
		f := l.raft.Shutdown()
		// Closing the transport first frees calls that hang on a dead peer.
		if c, ok := l.trans.(raft.WithClose); ok {
			err = errors.Join(err, c.Close())
		}
		err = errors.Join(err, f.Error(), l.store.Close())
	})
	return err
}

// Propose commits commands in one entry and returns their answers and the
// entry's index, once this node has applied it. Code NoLeader means that
// nothing was committed; Unavailable that it is not known whether it was: the
// same command id may be proposed again.
func (l *Log) Propose(ctx context.Context, cmds ...[]byte) (answers [][]byte, index uint64, err error) {
	return l.batcher.propose(ctx, cmds)
}

// Leads reports whether this node leads now.
func (l *Log) Leads() bool { return l.raft.State() == raft.Leader }

// Leading tells each change of leadership of this node. One reader.
func (l *Log) Leading() <-chan bool { return l.leading }

// Barrier waits until everything committed before has been applied here.
func (l *Log) Barrier(ctx context.Context) error {
	timeout := 10 * time.Second
	if d, ok := ctx.Deadline(); ok {
		timeout = time.Until(d)
	}
	return l.raft.Barrier(timeout).Error()
}

// Peer is one member of the raft configuration.
type Peer struct {
	Node   cluster.NodeID `json:"node"`
	Voter  bool           `json:"voter"`
	Leader bool           `json:"leader"`
}

// Status is what a page shows of the log.
type Status struct {
	Leader  cluster.NodeID `json:"leader"` // "" = none
	Term    uint64         `json:"term"`
	Last    uint64         `json:"last_index"`
	Applied uint64         `json:"applied_index"`
	Peers   []Peer         `json:"peers"`
}

// Status reads the current state; it never blocks on the disk.
func (l *Log) Status() Status {
	addr, _ := l.raft.LeaderWithID()
	s := Status{Leader: cluster.NodeID(addr), Term: l.raft.CurrentTerm(), Last: l.raft.LastIndex(), Applied: l.raft.AppliedIndex()}
	for _, srv := range l.raft.GetConfiguration().Configuration().Servers {
		s.Peers = append(s.Peers, Peer{Node: cluster.NodeID(srv.Address), Voter: srv.Suffrage == raft.Voter, Leader: srv.Address == addr})
	}
	return s
}

// SnapshotNow writes a snapshot and lets the log be cut behind it.
func (l *Log) SnapshotNow() error {
	err := l.raft.Snapshot().Error()
	if errors.Is(err, raft.ErrNothingNewToSnapshot) {
		return nil
	}
	return err
}

// stream adapts Stream to raft's type of address.
type stream struct{ Stream }

func (s stream) Dial(a raft.ServerAddress, d time.Duration) (net.Conn, error) {
	return s.Stream.Dial(string(a), d)
}
