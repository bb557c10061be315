package gossip_test

import (
	"context"
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/gossip"
)

func TestFiveConverge(t *testing.T) {
	bubble(t, func(t *testing.T, f *fabric) {
		nodes := start(t, f, 5, nil)
		got := nodes[2].Members()
		if len(got) != 5 {
			t.Fatalf("%d members, want 5", len(got))
		}
		for i, m := range got {
			if want := fmt.Sprintf("host%d", i+1); m.Name != want || m.Addr != addr(i+1) || m.Version != "v1" || m.Roles[0] != cluster.GPU || m.State != gossip.Alive {
				t.Errorf("member %d is %+v, want %s", i, m, want)
			}
		}
	})
}

func TestLeaveIsSeenAsLeft(t *testing.T) {
	bubble(t, func(t *testing.T, f *fabric) {
		nodes := start(t, f, 5, nil)
		begin := time.Now()
		if err := nodes[1].Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
		if m, _ := nodes[1].State("n2"); m.State != gossip.Left {
			t.Errorf("the node itself says it is %s", m.State)
		}
		nodes[1].stop()
		until(t, "left", 2*time.Second, func() bool { return all(nodes, "n2", gossip.Left) })
		t.Logf("a departure was known to all after %v", time.Since(begin))
		time.Sleep(10 * time.Minute)
		if !all(nodes, "n2", gossip.Left) {
			t.Error("the departure was forgotten or became a death")
		}
		if err := nodes[1].Leave(t.Context()); cluster.CodeOf(err) != cluster.Unavailable {
			t.Errorf("Leave after the end: %v", err)
		}
		again := run(t, config(f, 2))
		nodes[1] = again
		t.Logf("back after %v", until(t, "return after a departure", 3*time.Second, func() bool { return together(nodes) }))
	})
}

func TestSilenceIsSlowThenDead(t *testing.T) {
	for _, count := range []int{2, 3, 5} {
		t.Run(fmt.Sprint(count), func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fabric) {
				f.latency = 20 * time.Millisecond
				nodes := start(t, f, count, nil)
				f.cut(func(a, _ netip.Addr) bool { return a == addr(1) })
				nodes[0].stop()
				rest, slow := nodes[1:], map[cluster.NodeID]bool{}
				d := until(t, "dead", 5*time.Second, func() bool {
					for _, n := range rest {
						m, _ := n.State("n1")
						slow[n.id] = slow[n.id] || m.State == gossip.Slow
					}
					return all(rest, "n1", gossip.Dead)
				})
				t.Logf("dead to all after %v", d)
				if len(slow) != len(rest) {
					t.Errorf("only to %v it was slow before", slow)
				}
				m, _ := rest[0].State("n1")
				if d := time.Since(m.Since); d < 0 || d > 2*time.Second {
					t.Errorf("dead since %v", d)
				}
				if count > 2 {
					return
				}
				time.Sleep(time.Hour)
				if m, ok := rest[0].State("n1"); !ok || m.State != gossip.Dead || m.Name != "host1" {
					t.Errorf("an hour later it is %+v", m)
				}
			})
		})
	}
}

func TestManyDieAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, f *fabric) {
		nodes := start(t, f, 5, nil)
		f.cut(func(a, _ netip.Addr) bool { return a == addr(1) || a == addr(2) || a == addr(3) })
		rest := nodes[3:]
		d := until(t, "three dead", 15*time.Second, func() bool {
			return all(rest, "n1", gossip.Dead) && all(rest, "n2", gossip.Dead) && all(rest, "n3", gossip.Dead)
		})
		t.Logf("three of five dead to the other two after %v", d)
		if !together(rest) {
			t.Error("the survivors lost each other")
		}
	})
}

// TestNoFalseDeath holds for bad links that lose a twentieth of all datagrams,
// also for one that is slower than the profile allows for, where the living are
// suspected all the time.
func TestNoFalseDeath(t *testing.T) {
	for _, c := range []struct {
		profile gossip.Profile
		latency time.Duration
	}{{gossip.Near, 50 * time.Millisecond}, {gossip.Near, 150 * time.Millisecond}, {gossip.Far, 400 * time.Millisecond}} {
		t.Run(fmt.Sprint(c.profile, " ", c.latency), func(t *testing.T) {
			hour := time.Hour
			if testing.Short() || raceEnabled {
				hour = 5 * time.Minute // an hour of it takes a minute or more
			}
			bubble(t, func(t *testing.T, f *fabric) {
				f.latency, f.loss = c.latency, 0.05
				nodes := start(t, f, 5, func(cfg *gossip.Config) { cfg.Profile = c.profile })
				begin, slow, looks := time.Now(), 0, 0
				for time.Since(begin) < hour {
					time.Sleep(250 * time.Millisecond)
					for _, n := range nodes {
						for _, m := range n.Members() {
							looks++
							if m.State == gossip.Slow {
								slow++
							} else if m.State != gossip.Alive {
								t.Fatalf("after %v %s takes %s for %s", time.Since(begin), n.id, m.ID, m.State)
							}
						}
					}
				}
				t.Logf("%v without a false death; %.3f %% of the time somebody was slow to somebody", hour, 100*float64(slow)/float64(looks))
				f.cut(func(a, _ netip.Addr) bool { return a == addr(1) })
				d := until(t, "dead", 30*time.Second, func() bool { return all(nodes[1:], "n1", gossip.Dead) })
				t.Logf("a true death was known to all after %v", d)
			})
		})
	}
}

func TestRestart(t *testing.T) {
	for _, c := range []struct {
		name   string
		away   time.Duration
		moved  bool
		within time.Duration
	}{
		{"quick", 100 * time.Millisecond, false, time.Second},
		{"when dead", 10 * time.Second, false, time.Second},
		{"when forgotten", time.Minute, false, time.Second},
		{"quick, other address", 100 * time.Millisecond, true, 7 * time.Second}, // its old self must die first
		{"when dead, other address", 10 * time.Second, true, 3 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fabric) {
				nodes := start(t, f, 5, nil)
				nodes[2].stop()
				time.Sleep(c.away)
				cfg := config(f, 3)
				cfg.Self.Version = "v2"
				if c.moved {
					f.mu.Lock()
					delete(f.owners, addr(3))
					f.owners[addr(33)] = "n3"
					f.mu.Unlock()
					cfg.Addr, cfg.Network = addr(33), machine{f, addr(33)}
				}
				begin := time.Now()
				nodes[2] = run(t, cfg)
				until(t, "back", c.within, func() bool {
					for _, n := range nodes {
						if m, _ := n.State("n3"); m.State != gossip.Alive || m.Version != "v2" || m.Addr != cfg.Addr {
							return false
						}
					}
					return together(nodes)
				})
				t.Logf("back after %v", time.Since(begin))
			})
		})
	}
}

func TestPartitionHeals(t *testing.T) {
	for _, away := range []time.Duration{12 * time.Second, 29 * time.Second, 35 * time.Second, 10 * time.Minute} {
		t.Run(away.String(), func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fabric) {
				nodes := start(t, f, 5, nil)
				f.cut(func(a, b netip.Addr) bool { return a.Compare(addr(2)) <= 0 && b.Compare(addr(2)) > 0 })
				time.Sleep(away)
				if !all(nodes[:2], "n5", gossip.Dead) || !all(nodes[2:], "n1", gossip.Dead) || !together(nodes[:2]) || !together(nodes[2:]) {
					t.Fatal("the sides do not see the partition")
				}
				f.cut(nil)
				t.Logf("whole again after %v", until(t, "heal", 20*time.Second, func() bool { return together(nodes) }))
			})
		})
	}
}

func TestUpdateSpreads(t *testing.T) {
	bubble(t, func(t *testing.T, f *fabric) {
		f.latency = 20 * time.Millisecond
		nodes := start(t, f, 5, nil)
		select {
		case <-nodes[4].Changed():
		default:
			t.Error("no sign of the joins")
		}
		for i := range 1000 {
			nodes[0].Update(func(m *gossip.Meta) {
				m.ID, m.Applied, m.Running, m.Draining = "other", uint64(i), i, true
			})
		}
		d := until(t, "update", time.Second, func() bool {
			for _, n := range nodes {
				if m, _ := n.State("n1"); m.Applied != 999 || !m.Draining || m.ID != "n1" {
					return false
				}
			}
			return true
		})
		t.Logf("an update was known to all after %v", d)
		select {
		case <-nodes[4].Changed():
		default:
			t.Error("no sign of the update")
		}
		m, _ := nodes[4].State("n1")
		m.Roles[0] = cluster.Backup
		if again, _ := nodes[4].State("n1"); again.Roles[0] != cluster.GPU {
			t.Error("what State returned is shared with the table")
		}
	})
}

func TestUpdatesAreRationed(t *testing.T) {
	bubble(t, func(t *testing.T, f *fabric) {
		nodes := start(t, f, 2, nil)
		seen := map[uint64]bool{}
		for i := range 400 {
			nodes[0].Update(func(m *gossip.Meta) { m.Applied = uint64(i) })
			time.Sleep(10 * time.Millisecond)
			m, _ := nodes[1].State("n1")
			seen[m.Applied] = true
		}
		if len(seen) < 8 || len(seen) > 18 {
			t.Errorf("of an update every 10 ms for 4 s, %d were spread", len(seen))
		}
		until(t, "the last one", time.Second, func() bool { m, _ := nodes[1].State("n1"); return m.Applied == 399 })
	})
}

func TestRoundTripIsMeasured(t *testing.T) {
	bubble(t, func(t *testing.T, f *fabric) {
		f.latency = 20 * time.Millisecond
		nodes := start(t, f, 2, nil)
		until(t, "rtt", 3*time.Second, func() bool {
			m, _ := nodes[0].State("n2")
			return m.RTT == 40*time.Millisecond
		})
	})
}

// TestUnreachableIsFoundDead: memberlist forgives a ping that could not be
// sent, and would list the node for ever.
func TestUnreachableIsFoundDead(t *testing.T) {
	bubble(t, func(t *testing.T, f *fabric) {
		nodes := start(t, f, 3, nil)
		f.mu.Lock()
		delete(f.owners, addr(1)) // its tag was taken away
		f.mu.Unlock()
		d := until(t, "outlawed", 8*time.Second, func() bool { return all(nodes[1:], "n1", gossip.Dead) })
		t.Logf("a node without its tag was dead to the others after %v", d)
	})
}

func TestLabelsDoNotMix(t *testing.T) {
	bubble(t, func(t *testing.T, f *fabric) {
		labels := []string{"a", "b", "", "aa"}
		var groups [4][]*node
		for i := range 8 {
			cfg := config(f, i+1)
			cfg.Label = labels[i%4]
			groups[i%4] = append(groups[i%4], run(t, cfg))
		}
		for i := range groups {
			until(t, "own label", 5*time.Second, func() bool { return together(groups[i]) })
		}
		time.Sleep(2 * time.Minute)
		for i := range groups {
			for _, n := range groups[i] {
				if got := len(n.Members()); got != 2 {
					t.Errorf("label %q: %s sees %d members", labels[i], n.id, got)
				}
			}
		}
	})
}

func TestStrangersAreRefused(t *testing.T) {
	bubble(t, func(t *testing.T, f *fabric) {
		nodes := start(t, f, 2, nil)
		stranger := config(f, 9)
		liar := config(f, 8)
		liar.Self.ID = "n2x" // its address is that of n8
		f.mu.Lock()
		delete(f.owners, addr(9))
		f.mu.Unlock()
		var asked atomic.Int32
		stranger.Who = func(context.Context, netip.Addr) (cluster.NodeID, bool) { asked.Add(1); return "n1", true }
		stranger.Peers = func(context.Context) ([]netip.Addr, error) { return []netip.Addr{addr(1), addr(2)}, nil }
		run(t, stranger)
		run(t, liar)
		time.Sleep(time.Minute)
		if asked.Load() > 61*3 {
			t.Errorf("Who was asked %d times in a minute", asked.Load())
		}
		for _, n := range nodes {
			if got := len(n.Members()); got != 2 {
				t.Errorf("%s sees %d members: %v", n.id, got, n.Members())
			}
		}
		if !together(nodes) {
			t.Error("the strangers did harm")
		}
	})
}
