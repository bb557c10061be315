package consensus

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hashicorp/raft"

	"github.com/ahelme/comfyume/cluster"
)

// Raft's own bounds. A follower that lags more entries than stay after a
// snapshot gets the snapshot.
const (
	snapshotEvery     = 2 * time.Minute
	snapshotThreshold = 4096
	trailingLogs      = 4096
	keptSnapshots     = 2
	cachedLogs        = 64                    // entries kept in memory for followers that are nearly there
	commitTimeout     = 10 * time.Millisecond // how late an idle follower learns of a commit
	rpcTimeout        = 5 * time.Second
)

// engine is raft while it runs.
type engine struct {
	raft   *raft.Raft
	id     raft.ServerID
	addr   raft.ServerAddress
	store  *guard
	snaps  *raft.FileSnapshotStore
	trans  *transport
	heard  *heard
	notify chan bool     // raft's own: it waits for its reader
	done   chan struct{} // closed by stop
	read   chan struct{} // closed when notify's reader has ended
}

// serverID names one incarnation of a node. It is the server's address as well:
// what is meant for a log that is gone must not reach the one in its place.
func serverID(node cluster.NodeID, incarnation string) raft.ServerID {
	return raft.ServerID(string(node) + "." + incarnation)
}

// parseServer is the other way round. Of an address without an incarnation all
// is the node.
func parseServer(s string) (cluster.NodeID, string) {
	at := strings.LastIndexByte(s, '.')
	if at < 0 {
		return cluster.NodeID(s), ""
	}
	return cluster.NodeID(s[:at]), s[at+1:]
}

// parts are what raft is made of, open.
type parts struct {
	conf  *raft.Config
	store *guard
	snaps *raft.FileSnapshotStore
	trans *transport
	heard *heard
}

func (p *parts) close() error {
	p.store.release()
	return errors.Join(p.trans.Close(), p.store.Close())
}

// open opens the log's files and the way to the others. The lock is held.
func (l *Log) open() (*parts, error) {
	if err := os.MkdirAll(l.logDir(), 0o700); err != nil {
		return nil, fmt.Errorf("create the log's folder: %w", err)
	}
	files, err := openStore(l.logDir())
	if err != nil {
		return nil, err
	}
	logger := newHclog(l.log)
	snaps, err := raft.NewFileSnapshotStoreWithLogger(l.logDir(), keptSnapshots, logger)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the snapshots' folder: %w", err), files.Close())
	}
	id := serverID(l.cfg.Node, l.who.Load().Incarnation)
	way := Stream(newAlone(string(id)))
	if l.cfg.Stream != nil {
		if way, err = l.cfg.Stream(l.who.Load().Incarnation); err != nil {
			return nil, errors.Join(fmt.Errorf("open the way to the other nodes: %w", err), files.Close())
		}
	}
	p := &parts{snaps: snaps, heard: newHeard()}
	p.store = newGuard(files, filepath.Join(l.cfg.Dir, ballastFile), l.noteFull)
	p.trans = &transport{heard: p.heard, NetworkTransport: raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream: stream{way}, MaxPool: keptConns, Timeout: rpcTimeout, Logger: logger, MsgpackUseNewTimeFormat: true,
	})}
	p.conf = raft.DefaultConfig()
	p.conf.LocalID, p.conf.Logger = id, logger
	t := l.cfg.Profile.timeout()
	p.conf.HeartbeatTimeout, p.conf.ElectionTimeout, p.conf.LeaderLeaseTimeout = t, t, t/2
	p.conf.CommitTimeout = commitTimeout
	p.conf.SnapshotInterval, p.conf.SnapshotThreshold, p.conf.TrailingLogs = snapshotEvery, snapshotThreshold, trailingLogs
	p.conf.ShutdownOnRemove = false
	p.conf.NoLegacyTelemetry = true
	return p, nil
}

// start starts raft. The lock is held.
func (l *Log) start() error {
	if l.shut {
		return errStopping
	}
	if l.engine.Load() != nil {
		return nil
	}
	p, err := l.open()
	if err != nil {
		return err
	}
	e := &engine{
		id: p.conf.LocalID, addr: raft.ServerAddress(p.conf.LocalID), store: p.store, snaps: p.snaps, trans: p.trans, heard: p.heard,
		notify: make(chan bool), done: make(chan struct{}), read: make(chan struct{}),
	}
	p.conf.NotifyCh = e.notify
	// A machine that has applied more than the newest snapshot holds goes on from
	// where it is: its readers never see the past again.
	p.conf.NoSnapshotRestoreOnStart = l.ahead(p.snaps)
	cache, err := raft.NewLogCache(cachedLogs, p.store)
	if err != nil {
		return errors.Join(err, p.close())
	}
	if e.raft, err = raft.NewRaft(p.conf, &fsm{m: l.cfg.Machine}, cache, p.store, p.snaps, p.trans); err != nil {
		return errors.Join(fmt.Errorf("start raft: %w", err), p.close())
	}
	go e.readNotify(l.news)
	l.engine.Store(e)
	l.why.Store(nil)
	e.leadAlone(rpcTimeout)
	return nil
}

func (l *Log) ahead(snaps *raft.FileSnapshotStore) bool {
	applied, _ := l.cfg.Machine.Applied()
	list, err := snaps.List()
	return err == nil && len(list) > 0 && applied >= list[0].Index
}

// news puts a token into leading. It never waits.
func (l *Log) news(leads bool) {
	select {
	case l.leading <- leads:
	default:
	}
}

// readNotify takes what raft tells of its leadership; raft waits for that.
func (e *engine) readNotify(tell func(bool)) {
	defer close(e.read)
	for {
		select {
		case leads := <-e.notify:
			tell(leads)
		case <-e.done:
			return
		}
	}
}

// hasState reports whether anything was ever written.
func (e *engine) hasState() bool {
	has, err := raft.HasExistingState(e.store, e.store, e.snaps)
	return has || err != nil
}

func (e *engine) bootstrap() error {
	self := raft.Configuration{Servers: []raft.Server{{ID: e.id, Address: e.addr}}}
	if err := e.raft.BootstrapCluster(self).Error(); err != nil {
		return fmt.Errorf("form the cluster: %w", err)
	}
	e.leadAlone(rpcTimeout)
	return nil
}

// leadAlone makes the only voter stand for election at once: there is nobody
// whose heartbeat could be missing.
func (e *engine) leadAlone(within time.Duration) {
	voters := 0
	for _, s := range e.raft.GetConfiguration().Configuration().Servers {
		if s.Suffrage == raft.Voter {
			voters++
			if s.ID != e.id {
				return
			}
		}
	}
	if voters != 1 {
		return
	}
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), within)
		defer cancel()
		req := &raft.TimeoutNowRequest{RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(e.id), Addr: []byte(e.addr)}}
		for e.raft.State() == raft.Follower && ctx.Err() == nil {
			var resp raft.TimeoutNowResponse
			if e.trans.TimeoutNow(e.id, e.addr, req, &resp) == nil {
				return
			}
			select {
			case <-time.After(20 * time.Millisecond):
			case <-e.done:
				return
			}
		}
	}()
}

// stopEngine stops raft and closes its files; why answers proposals from then
// on. The lock is held.
func (l *Log) stopEngine(why *cluster.Error) error {
	l.why.Store(why)
	e := l.engine.Swap(nil)
	if e == nil {
		return nil
	}
	f := e.raft.Shutdown()
	e.store.release()
	// Closing the transport frees calls that hang on a dead peer.
	err := e.trans.Close()
	err = errors.Join(err, f.Error())
	close(e.done)
	<-e.read
	l.news(false)
	return errors.Join(err, e.store.Close())
}

// handOver gives leadership to another voter, if there is one. The lock is held.
func (l *Log) handOver(within time.Duration) {
	e := l.engine.Load()
	if e == nil || e.raft.State() != raft.Leader {
		return
	}
	others := 0
	for _, s := range e.raft.GetConfiguration().Configuration().Servers {
		if s.Suffrage == raft.Voter && s.ID != e.id {
			others++
		}
	}
	if others == 0 {
		return
	}
	done := make(chan error, 1)
	go func() { done <- e.raft.LeadershipTransfer().Error() }()
	select {
	case err := <-done:
		if err != nil {
			l.log.Warn("leadership was not handed over", "err", err)
		}
	case <-time.After(within):
		l.log.Warn("leadership was not handed over in time", "waited", within)
	}
}

// noteFull asks watchOver to look at the disk now. It never waits.
func (l *Log) noteFull() {
	select {
	case l.full <- struct{}{}:
	default:
	}
}

// lookEvery is how often the disk and the machine are looked at.
const lookEvery = time.Second

// watchOver stops raft when the disk is full or the machine has halted, and
// starts it again when there is space.
func (l *Log) watchOver(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		full := false
		select {
		case <-ctx.Done():
			return
		case <-l.full:
			full = true
		case <-tick.C:
		}
		l.look(full)
	}
}

func (l *Log) look(full bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	free, err := l.cfg.Free(l.cfg.Dir)
	if err != nil {
		l.log.Warn("the log's disk cannot be measured", "err", err)
		free = l.cfg.Reserve
	}
	running := l.engine.Load() != nil
	why := l.why.Load()
	switch {
	case running && l.cfg.Machine.Halted() != nil:
		halted := l.cfg.Machine.Halted()
		l.log.Error("raft is stopped: this node applies no more", "err", halted)
		l.halt(cluster.Errorf(cluster.Unavailable, "%v", halted))
	case running && (full || free < l.cfg.Reserve):
		l.log.Error("the log's disk is full: handing over and stopping; the table stays readable here", "free_bytes", free)
		l.halt(cluster.Errorf(cluster.NoSpace, "the disk of this node's state folder is full, so it accepts no changes; nothing that was accepted is lost. Free space there; it goes on by itself."))
	case !running && why != nil && why.Code == cluster.NoSpace && free >= 2*l.cfg.Reserve+l.cfg.Ballast:
		l.log.Info("there is space again: the log goes on", "free_bytes", free)
		if err := l.start(); err != nil {
			l.log.Error("the log cannot go on", "err", err)
		}
	}
	if l.engine.Load() != nil && free >= l.cfg.Reserve+2*l.cfg.Ballast {
		if err := fillBallast(l.cfg.Dir, l.cfg.Ballast); err != nil {
			l.log.Warn("no space could be set aside", "err", err)
		}
	}
}

// halt hands over and stops. The lock is held.
func (l *Log) halt(why *cluster.Error) {
	l.why.Store(why)
	l.handOver(2 * time.Second)
	if err := l.stopEngine(why); err != nil {
		l.log.Warn("stopping raft", "err", err)
	}
}
