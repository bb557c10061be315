package gossip

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/ahelme/comfyume/cluster"
)

// Network is what gossip needs of the network the nodes share.
type Network interface {
	// Listen accepts streams of other nodes. Whatever they open with (tag,
	// lineage) has been checked when Accept returns one.
	Listen(port uint16) (net.Listener, error)
	// ListenPacket receives and sends datagrams. It drops what it cannot
	// deliver and does not block for it.
	ListenPacket(port uint16) (net.PacketConn, error)
	// Dial connects to host:port. A dead peer does not refuse, it is silent:
	// the attempt ends with ctx.
	Dial(ctx context.Context, addr string) (net.Conn, error)
}

// Config of a Gossip. Network, Addr, Self.ID and Who are required.
type Config struct {
	Network Network
	Addr    netip.Addr // own address on the network
	Port    uint16     // the same on every node; 0: cluster.PortGossip
	// Label keeps workshops apart: what carries another label is dropped unread.
	// It is the cluster's id; "" is a label too, that of nodes without a cluster.
	Label string
	// Self is what the others see of this node at first; Update changes it.
	Self Meta
	// Peers lists the machines that may be members, those online if that is
	// known. It is asked every second while this node is alone and every ten
	// seconds then, because a partition that healed is found in no other way.
	// nil: others must find us.
	Peers func(ctx context.Context) ([]netip.Addr, error)
	// Who names the node behind an address, or says that the address may not
	// gossip. Datagrams and streams of strangers are dropped, nothing is sent to
	// them, and a member counts only if its address is its own. It is asked for
	// each address that turns up, but at most once a second for one address:
	// Gossip caches, so Who need not. Gossip waits for it (a second at most, then
	// ctx ends), so it should answer from memory.
	Who func(ctx context.Context, addr netip.Addr) (cluster.NodeID, bool)
	// Profile says how patient to be; "": Near.
	Profile Profile
	Logger  *slog.Logger // nil: slog.Default
}

// The pace of the loops. Probing and spreading follow the Profile.
const (
	lookEvery     = 500 * time.Millisecond // suspicions come and go without an event
	lookApart     = 50 * time.Millisecond
	announceApart = 250 * time.Millisecond
	leaveWithin   = 2 * time.Second
)

// Gossip is this node's view of the others.
type Gossip struct {
	cfg   Config
	log   *slog.Logger
	table *table
	gate  *gate

	// Each holds one token at most and is never closed.
	changed chan struct{} // Members differ: for the owner
	moved   chan struct{} // memberlist said something: look
	dirty   chan struct{} // Update was called: announce

	mu       sync.Mutex
	list     *memberlist.Memberlist // nil unless running
	ran      bool
	left     bool
	disputed time.Time      // when a conflict was last logged
	leaving  sync.WaitGroup // calls of Leave that use list
}

// New checks cfg. Nothing is opened before Run.
func New(cfg Config) (*Gossip, error) {
	switch {
	case cfg.Network == nil || cfg.Who == nil:
		return nil, cluster.Errorf(cluster.Invalid, "gossip needs a network and a way to tell who is who on it")
	case !cfg.Addr.IsValid() || cfg.Addr.IsUnspecified():
		return nil, cluster.Errorf(cluster.Invalid, "gossip needs this node's own address, not %q", cfg.Addr)
	case cfg.Self.ID == "" || len(cfg.Self.ID) > maxID:
		return nil, cluster.Errorf(cluster.Invalid, "gossip needs a node id of 1 to %d bytes, not %q", maxID, cfg.Self.ID)
	case len(cfg.Label) > maxLabel:
		return nil, cluster.Errorf(cluster.Invalid, "a cluster id of %d bytes is too long for gossip; %d are allowed", len(cfg.Label), maxLabel)
	}
	if _, err := cfg.Profile.timing(); err != nil {
		return nil, err
	}
	cfg.Port = cmp.Or(cfg.Port, cluster.PortGossip)
	cfg.Addr = cfg.Addr.Unmap()
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	token := func() chan struct{} { return make(chan struct{}, 1) }
	return &Gossip{
		cfg: cfg, log: cfg.Logger.With("component", "gossip"),
		table: newTable(cfg.Self, cfg.Addr, time.Now()), gate: newGate(cfg.Who),
		changed: token(), moved: token(), dirty: token(),
	}, nil
}

// Run takes part until ctx ends: it joins, and joins again whom it lost. It
// says no goodbye (a restart is no departure; see Leave), so the others find
// this node dead unless it is back within seconds. It returns nil when ctx
// ended, and an error if the sockets could not be opened or were lost. It may
// be called once.
func (g *Gossip) Run(ctx context.Context) error {
	ctx, lose := context.WithCancelCause(ctx)
	defer lose(nil)
	t, err := newTransport(g.cfg, g.gate, g.log, func(err error) { lose(lostSocket{err}) })
	if err != nil {
		return err
	}
	list, err := memberlist.Create(g.options(t))
	if err != nil {
		return errors.Join(fmt.Errorf("start gossip: %w", err), t.Shutdown())
	}
	if err := g.begin(list); err != nil {
		return errors.Join(err, list.Shutdown())
	}
	var wg sync.WaitGroup
	wg.Go(func() { g.watch(ctx, t, list) })
	wg.Go(func() { g.announce(ctx, list) })
	wg.Go(func() { g.join(ctx, list) })
	<-ctx.Done()
	g.end()
	err = list.Shutdown() // ends dials and streams, on which join may wait
	wg.Wait()
	if lost, ok := errors.AsType[lostSocket](context.Cause(ctx)); ok {
		return errors.Join(fmt.Errorf("gossip: %w", lost.error), err)
	}
	return err
}

// lostSocket tells the end of a socket from the end of Run's context.
type lostSocket struct{ error }

func (g *Gossip) begin(list *memberlist.Memberlist) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ran {
		return cluster.Errorf(cluster.Conflict, "gossip runs once; make a new one")
	}
	g.ran, g.list = true, list
	return nil
}

// end lets no further Leave begin and waits for one that did: memberlist
// panics when it is left after its end.
func (g *Gossip) end() {
	g.mu.Lock()
	g.list = nil
	g.mu.Unlock()
	g.leaving.Wait()
}

// Leave tells the others that this node goes on purpose: they see it as left.
// It waits until that was sent, for two seconds at most (less if ctx has a
// nearer deadline); then end Run. A node that has left does not come back
// without a new Gossip.
func (g *Gossip) Leave(ctx context.Context) error {
	g.mu.Lock()
	list := g.list
	if list == nil {
		g.mu.Unlock()
		return cluster.Errorf(cluster.Unavailable, "gossip does not run, so there is nothing to leave")
	}
	g.left = true
	g.leaving.Add(1)
	g.mu.Unlock()
	defer g.leaving.Done()
	g.table.leave(time.Now())
	within := leaveWithin
	if until, ok := ctx.Deadline(); ok {
		within = min(within, max(time.Until(until), time.Millisecond))
	}
	if err := list.Leave(within); err != nil {
		return fmt.Errorf("tell the others that this node leaves: %w", err)
	}
	return nil
}

// Members lists everybody known, this node included, sorted by name. Those
// that are dead or left stay for a day, the last two hundred of them.
func (g *Gossip) Members() []Member { return g.table.all() }

// State is what is known of one node.
func (g *Gossip) State(id cluster.NodeID) (Member, bool) { return g.table.one(id) }

// Update changes what the others see of this node. Calls that follow each
// other closely are sent as one, at most four times a second; too long values
// are clipped (see Meta). The id cannot be changed. change is called at once,
// with no other call of Update at the same time, and must not call back.
func (g *Gossip) Update(change func(*Meta)) {
	if g.table.update(change) {
		signal(g.dirty)
	}
}

// Changed holds a token after Members changed for any reason but Update and
// RTT. It is one channel for one reader and is never closed.
func (g *Gossip) Changed() <-chan struct{} { return g.changed }

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// pause sleeps unless ctx ends first.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// hasLeft is true from the first Leave on.
func (g *Gossip) hasLeft() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.left
}

// watch keeps the table equal to what memberlist believes.
func (g *Gossip) watch(ctx context.Context, t *transport, list *memberlist.Memberlist) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	d := &doubts{list: list, port: g.cfg.Port, done: func() { signal(g.moved) }, asking: map[cluster.NodeID]bool{}}
	defer d.wg.Wait()
	for ctx.Err() == nil {
		seen, err := t.look(ctx)
		if err != nil && ctx.Err() == nil {
			g.log.Warn("cannot read who is here", "err", err)
		}
		if err == nil {
			g.note(g.table.merge(seen, time.Now()))
			d.settle(g.table.all(), time.Now())
		}
		pause(ctx, lookApart)
		select {
		case <-g.moved:
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// note passes on what moved, to the owner and to the log.
func (g *Gossip) note(moves []move) {
	for _, m := range moves {
		if m.to.State == m.from {
			continue
		}
		level := slog.LevelDebug
		switch {
		case m.to.State == Dead:
			level = slog.LevelWarn
		case m.to.State == Left, m.to.State == Alive && m.from != Slow:
			level = slog.LevelInfo
		}
		g.log.Log(context.Background(), level, "member is "+string(m.to.State),
			"node", m.to.ID, "name", m.to.Name, "addr", m.to.Addr, "was", cmp.Or(m.from, "unknown"))
	}
	if len(moves) > 0 {
		signal(g.changed)
	}
}

// announce sends what Update changed. memberlist's wait for the sending is
// bounded and its verdict of no interest: what was not sent yet stays queued.
func (g *Gossip) announce(ctx context.Context, list *memberlist.Memberlist) {
	var sent []byte
	for {
		select {
		case <-ctx.Done():
			return
		case <-g.dirty:
		}
		// After a departure memberlist drops its own record, and announcing
		// would dereference it.
		now := g.table.encoded()
		if g.hasLeft() || slices.Equal(now, sent) {
			continue
		}
		next := time.Now().Add(announceApart)
		if err := list.UpdateNode(announceApart); err != nil {
			g.log.Debug("nobody has confirmed the last update yet", "err", err)
		}
		sent = now
		pause(ctx, time.Until(next))
	}
}
