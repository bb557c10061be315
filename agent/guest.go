package agent

import (
	"context"
	"sync"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/ui"
)

// guest is a node that only runs jobs: it holds no table, takes the workshop's
// word for which history it is of, and enters itself so that people can see
// and drain it.
type guest struct {
	s *swarm

	mu      sync.Mutex
	line    cluster.Lineage
	entered time.Time // when this node was last entered
	leaving bool      // it has said goodbye: it does not enter itself again
	trouble string
	view    ui.View // what a core node last showed, and when
	seen    time.Time
	via     string
}

// The pace of a guest.
const (
	enterEvery = 15 * time.Second
	guestTick  = time.Second
)

func (g *guest) lineage() cluster.Lineage {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.line
}

// follow takes up a later generation of the same workshop, or a first one.
func (g *guest) follow(l cluster.Lineage) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.line.Cluster == "" || l.Cluster == g.line.Cluster && l.Generation.Compare(g.line.Generation) > 0 {
		g.line = l
	}
}

// run looks for the workshop, enters this node, and keeps what a core node
// shows, until ctx ends.
func (g *guest) run(ctx context.Context) error {
	tick := time.NewTicker(guestTick)
	defer tick.Stop()
	for {
		err := g.tend(ctx)
		g.mu.Lock()
		g.trouble = ""
		if err != nil && ctx.Err() == nil {
			g.trouble = sentence(err)
		}
		g.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

var errNoCore = cluster.Errorf(cluster.Unavailable, "no node that holds the workshop's table is there: this node joins as soon as one is")

func (g *guest) tend(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, tendWithin)
	defer cancel()
	cores := g.s.otherCores()
	if len(cores) == 0 {
		return errNoCore
	}
	if g.lineage().Cluster == "" {
		for _, id := range cores {
			var hi greeting
			one, cancel := context.WithTimeout(ctx, greetWithin)
			err := g.s.client.Call(one, id, verbHello, struct{}{}, &hi)
			cancel()
			if err == nil && hi.Lineage.Cluster != "" {
				g.s.log.Info("joining the workshop as a worker", "lineage", hi.Lineage, "found_at", hi.Name)
				g.follow(hi.Lineage)
				break
			}
		}
		if g.lineage().Cluster == "" {
			return errNoCore
		}
	}
	g.look(ctx, cores)
	g.mu.Lock()
	wait := g.leaving || time.Since(g.entered) < enterEvery
	g.mu.Unlock()
	if wait {
		return nil
	}
	if err := g.s.work().Enter(ctx, g.s.row()); err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.entered = time.Now()
	return nil
}

// look fetches what a core node shows.
func (g *guest) look(ctx context.Context, cores []cluster.NodeID) {
	for _, id := range cores {
		var v shown
		one, cancel := context.WithTimeout(ctx, greetWithin)
		err := g.s.client.Call(one, id, verbView, struct{}{}, &v)
		cancel()
		if err != nil {
			continue
		}
		view, err := v.read()
		if err != nil {
			continue
		}
		g.mu.Lock()
		g.view, g.seen, g.via = view, time.Now(), view.Head.Node
		g.mu.Unlock()
		return
	}
}

// leave keeps this node from entering itself.
func (g *guest) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.leaving = true
}

// last is what was fetched last: from whom and when.
func (g *guest) last() (v ui.View, via string, at time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.view, g.via, g.seen
}
