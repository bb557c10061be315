package gossip_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/gossip"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// sockets is the operating system's loopback network; a node's address is its
// identity because dials are bound to it.
type sockets netip.Addr

func (s sockets) at(port uint16) string {
	return netip.AddrPortFrom(netip.Addr(s), port).String()
}

func (s sockets) Listen(port uint16) (net.Listener, error) {
	return (&net.ListenConfig{}).Listen(context.Background(), "tcp4", s.at(port))
}

func (s sockets) ListenPacket(port uint16) (net.PacketConn, error) {
	return (&net.ListenConfig{}).ListenPacket(context.Background(), "udp4", s.at(port))
}

func (s sockets) Dial(ctx context.Context, addr string) (net.Conn, error) {
	from := net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.Addr(s), 0))
	return (&net.Dialer{LocalAddr: from}).DialContext(ctx, "tcp4", addr)
}

// TestOnSockets runs three nodes in real time on real datagrams.
func TestOnSockets(t *testing.T) {
	before := goleak.IgnoreCurrent()
	address := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{127, 77, 23, byte(i)}) }
	if pc, err := sockets(address(1)).ListenPacket(0); err != nil {
		t.Skipf("this system has one loopback address only: %v", err)
	} else if err := pc.Close(); err != nil {
		t.Fatal(err)
	}
	f := newFabric() // only for its names
	var nodes []*node
	for i := range 3 {
		cfg := config(f, i+1)
		cfg.Addr, cfg.Network, cfg.Port = address(i+1), sockets(address(i+1)), 27946
		cfg.Peers = func(context.Context) ([]netip.Addr, error) {
			return []netip.Addr{address(1), address(2), address(3)}, nil
		}
		cfg.Who = func(_ context.Context, a netip.Addr) (cluster.NodeID, bool) {
			return cluster.NodeID(fmt.Sprintf("n%d", a.As4()[3])), a.As4()[2] == 23
		}
		nodes = append(nodes, run(t, cfg))
	}
	t.Logf("converged in %v", until(t, "converge", 20*time.Second, func() bool { return together(nodes) }))
	nodes[0].Update(func(m *gossip.Meta) { m.Running = 3 })
	until(t, "update", 10*time.Second, func() bool { m, _ := nodes[2].State("n1"); return m.Running == 3 })
	begin := time.Now()
	if err := nodes[0].Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	nodes[0].stop()
	until(t, "left", 10*time.Second, func() bool { return all(nodes, "n1", gossip.Left) })
	t.Logf("a departure was known after %v", time.Since(begin))
	nodes[1].stop()
	nodes[2].stop()
	until(t, "memberlist's own goroutines end", 20*time.Second, func() bool { return goleak.Find(before) == nil })
}
