package gossip

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
)

// How often somebody is sought.
const (
	joinSoon   = time.Second      // while alone, or while somebody answered but does not count yet
	joinLater  = 10 * time.Second // otherwise: a partition may have healed
	joinAtOnce = 8                // dials at a time; to the dead each takes a stream's whole patience
	peersTime  = 3 * time.Second
)

// join finds the others, at first and whenever some are missing.
func (g *Gossip) join(ctx context.Context, list *memberlist.Memberlist) {
	for ctx.Err() == nil {
		pause(ctx, g.seek(ctx, list))
	}
}

// seek exchanges states with the machines that are not members and says when
// to do so again.
func (g *Gossip) seek(ctx context.Context, list *memberlist.Memberlist) time.Duration {
	if g.cfg.Peers == nil || g.hasLeft() {
		return joinLater
	}
	addrs, err := g.peers(ctx)
	if err != nil {
		g.log.Debug("cannot list the machines that may be members", "err", err)
		return joinSoon
	}
	here := g.table.here()
	var wg sync.WaitGroup
	var answers atomic.Int32
	slots := make(chan struct{}, joinAtOnce)
	for _, a := range addrs {
		a = a.Unmap()
		if a == g.cfg.Addr || here[a] {
			continue
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if n, _ := list.Join([]string{netip.AddrPortFrom(a, g.cfg.Port).String()}); n > 0 {
				answers.Add(1)
			}
		})
	}
	wg.Wait()
	// After a short partition both sides have each other down as dead. The
	// exchange makes each object; a second one carries the objection across.
	if len(here) == 0 || answers.Load() > 0 {
		return joinSoon
	}
	return joinLater + rand.N(joinLater/5) // not all nodes in step
}

func (g *Gossip) peers(ctx context.Context) ([]netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, peersTime)
	defer cancel()
	return g.cfg.Peers(ctx)
}
