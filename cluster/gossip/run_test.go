package gossip_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/gossip"
)

func TestNew(t *testing.T) {
	f := newFabric()
	for name, breakIt := range map[string]func(*gossip.Config){
		"no id":      func(c *gossip.Config) { c.Self.ID = "" },
		"no network": func(c *gossip.Config) { c.Network = nil },
		"no who":     func(c *gossip.Config) { c.Who = nil },
		"no address": func(c *gossip.Config) { c.Addr = netip.Addr{} },
		"profile":    func(c *gossip.Config) { c.Profile = "fast" },
		"label":      func(c *gossip.Config) { c.Label = string(make([]byte, 256)) },
	} {
		cfg := config(f, 1)
		breakIt(&cfg)
		if _, err := gossip.New(cfg); cluster.CodeOf(err) != cluster.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRunSaysWhyItEnds(t *testing.T) {
	bubble(t, func(t *testing.T, f *fabric) {
		cfg := config(f, 1)
		g, err := gossip.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if err := g.Leave(t.Context()); cluster.CodeOf(err) != cluster.Unavailable {
			t.Errorf("Leave before Run: %v", err)
		}
		taken, err := machine{f, addr(1)}.Listen(1)
		if err != nil {
			t.Fatal(err)
		}
		if err := g.Run(t.Context()); err == nil {
			t.Error("Run without its port returned nil")
		}
		_ = taken.Close()
		done := make(chan error, 1)
		go func() { done <- g.Run(t.Context()) }()
		time.Sleep(time.Second)
		f.mu.Lock()
		pc := f.packets[addr(1)]
		f.mu.Unlock()
		_ = pc.Close()
		if err := <-done; err == nil {
			t.Error("Run whose socket was closed returned nil")
		}
		if err := g.Run(t.Context()); cluster.CodeOf(err) != cluster.Conflict {
			t.Errorf("a second Run: %v", err)
		}
	})
}

func TestRunEndsWhileDialling(t *testing.T) {
	bubble(t, func(t *testing.T, f *fabric) {
		for i := range 5 {
			config(f, 50+i)
		}
		f.cut(func(_, _ netip.Addr) bool { return true })
		n := run(t, config(f, 1))
		time.Sleep(1500 * time.Millisecond)
		begin := time.Now()
		n.stop()
		if d := time.Since(begin); d > 0 {
			t.Errorf("Run ended %v after its context", d)
		}
	})
}
