package gossip

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/ahelme/comfyume/cluster"
)

// An answer of Who counts this long, so that a datagram costs a look into a
// map; a machine whose tag was taken away is out a second later.
const (
	askEvery = time.Second
	askMost  = 4096 // addresses remembered
	askLong  = time.Second
)

// gate remembers who is behind which address.
type gate struct {
	who func(context.Context, netip.Addr) (cluster.NodeID, bool)

	mu    sync.Mutex
	known map[netip.Addr]verdict
}

type verdict struct {
	id    cluster.NodeID
	ok    bool
	until time.Time
}

func newGate(who func(context.Context, netip.Addr) (cluster.NodeID, bool)) *gate {
	return &gate{who: who, known: map[netip.Addr]verdict{}}
}

// node names the node at addr. Who is asked without the lock held, so two may
// ask at once; a slow answer for one address delays no other.
func (g *gate) node(ctx context.Context, addr netip.Addr) (cluster.NodeID, bool) {
	now := time.Now()
	g.mu.Lock()
	v, ok := g.known[addr]
	g.mu.Unlock()
	if ok && now.Before(v.until) {
		return v.id, v.ok
	}
	ctx, cancel := context.WithTimeout(ctx, askLong)
	defer cancel()
	v = verdict{until: now.Add(askEvery)}
	v.id, v.ok = g.who(ctx, addr)
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.known) >= askMost {
		clear(g.known)
	}
	g.known[addr] = v
	return v.id, v.ok
}

// admits reports whether addr may gossip at all.
func (g *gate) admits(ctx context.Context, addr netip.Addr) bool {
	_, ok := g.node(ctx, addr)
	return ok
}
