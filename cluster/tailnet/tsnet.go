package tailnet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"tailscale.com/client/local"
	"tailscale.com/ipn/ipnstate"
	"tailscale.com/tsnet"

	"github.com/ahelme/comfyume/cluster"
)

// node is this machine as a member of a tailnet.
type node struct {
	cfg     Config
	server  *tsnet.Server
	client  *local.Client // in memory, to the server above
	idle    http.Transport
	self    Peer
	member  bool         // it had an identity when it started
	scratch string       // removed at the end; "" = none
	streams atomic.Int64 // open ones
	who     acquaintances
	*opened
}

var (
	_ Network = (*node)(nil)
	_ Expirer = (*node)(nil)
)

func (n *node) Self() Peer {
	self := n.self
	self.Tags = slices.Clone(self.Tags)
	return self
}

func (n *node) addr(port uint16) string { return netip.AddrPortFrom(n.self.Addr, port).String() }

func (n *node) Listen(port uint16) (net.Listener, error) {
	if !n.enter() {
		return nil, fmt.Errorf("listen on port %d: %w", port, net.ErrClosed)
	}
	defer n.leave()
	ln, err := n.server.Listen("tcp", n.addr(port))
	if err != nil {
		return nil, taken(port, err)
	}
	at, err := netip.ParseAddrPort(ln.Addr().String())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen on port %d: %w", port, err), ln.Close())
	}
	l := &listener{Listener: ln, at: net.TCPAddrFromAddrPort(at), of: n}
	return l, n.keep(l)
}

func (n *node) ListenPacket(port uint16) (net.PacketConn, error) {
	if !n.enter() {
		return nil, fmt.Errorf("listen on port %d: %w", port, net.ErrClosed)
	}
	defer n.leave()
	pc, err := n.server.ListenPacket("udp", n.addr(port))
	if err != nil {
		return nil, taken(port, err)
	}
	p := &packets{PacketConn: pc, of: n.opened}
	return p, n.keep(p)
}

// taken recognizes the one error of listening that a caller may have caused.
func taken(port uint16, err error) error {
	if s := err.Error(); strings.Contains(s, "already open") || strings.Contains(s, "in use") {
		return portTaken(port)
	}
	return fmt.Errorf("listen on port %d of the tailnet: %w", port, err)
}

func portTaken(port uint16) error {
	return cluster.Errorf(cluster.Conflict, "This node listens on port %d already; choose another.", port)
}

func (n *node) Dial(ctx context.Context, addr string) (net.Conn, error) {
	if !n.enter() {
		return nil, fmt.Errorf("dial %s: %w", addr, net.ErrClosed)
	}
	defer n.leave()
	ctx, cancel := n.until(ctx)
	defer cancel()
	// The library would look for an address that is not in the tailnet on
	// this machine's other networks.
	if _, err := n.WhoIs(ctx, addr); err != nil {
		return nil, fmt.Errorf("dial %s: %w", addr, err)
	}
	c, err := n.server.Dial(ctx, "tcp", addr)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		} else if strings.Contains(err.Error(), "refused") {
			err = syscall.ECONNREFUSED // the library's own type says so in words only
		}
		return nil, fmt.Errorf("dial %s: %w", addr, err)
	}
	k := newConn(c, n)
	if err := n.keep(k); err != nil {
		return nil, fmt.Errorf("dial %s: %w", addr, err)
	}
	return k, nil
}

func (n *node) Peers(ctx context.Context) ([]Peer, error) {
	if !n.enter() {
		return nil, net.ErrClosed
	}
	defer n.leave()
	st, err := n.client.Status(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the tailnet: %w", err)
	}
	peers := make([]Peer, 0, len(st.Peer))
	for _, p := range st.Peer {
		// One without an address was removed; one of ShareeNode is hidden.
		if q := peer(p); q.Addr.IsValid() && !p.ShareeNode {
			peers = append(peers, q)
		}
	}
	slices.SortFunc(peers, func(a, b Peer) int { return cmp.Compare(a.ID, b.ID) })
	return peers, nil
}

func peer(p *ipnstate.PeerStatus) Peer {
	q := Peer{ID: cluster.NodeID(p.ID), Name: label(p.DNSName, p.HostName), Online: p.Online}
	for _, a := range p.TailscaleIPs { // the IPv4 one, if there is one
		if !q.Addr.IsValid() || a.Is4() && !q.Addr.Is4() {
			q.Addr = a
		}
	}
	if p.Tags != nil {
		q.Tags = p.Tags.AsSlice()
	}
	return q
}

// label is the name that control made unique: the first part of the DNS name.
func label(dns, host string) string {
	first, _, _ := strings.Cut(dns, ".")
	return cmp.Or(first, host)
}

func (n *node) WhoIs(ctx context.Context, remote string) (Identity, error) {
	ap, err := netip.ParseAddrPort(remote)
	if err != nil {
		return Identity{}, unknown(remote)
	}
	if !n.enter() {
		return Identity{}, net.ErrClosed
	}
	defer n.leave()
	addr := ap.Addr().Unmap()
	return n.who.ask(addr, func() (Identity, error) {
		// Without the port: with one, the library looks for a stranger among
		// its proxied connections for a third of a second.
		w, err := n.client.WhoIs(ctx, addr.String())
		if errors.Is(err, local.ErrPeerNotFound) {
			return Identity{}, unknown(remote)
		}
		if err != nil {
			return Identity{}, fmt.Errorf("ask who %s is: %w", remote, err)
		}
		id := Identity{Node: cluster.NodeID(w.Node.StableID), Name: label(w.Node.Name, w.Node.ComputedName), Tags: w.Node.Tags}
		if w.UserProfile != nil && len(id.Tags) == 0 { // tagged machines belong to nobody
			id.Login = w.UserProfile.LoginName
		}
		return id, nil
	})
}

func (n *node) KeyExpiry(ctx context.Context) (time.Time, error) {
	if !n.enter() {
		return time.Time{}, net.ErrClosed
	}
	defer n.leave()
	st, err := n.client.StatusWithoutPeers(ctx)
	if err != nil {
		return time.Time{}, fmt.Errorf("ask for the key's end: %w", err)
	}
	if st.Self == nil || st.Self.KeyExpiry == nil {
		return time.Time{}, nil
	}
	return *st.Self.KeyExpiry, nil
}

// farewell is for how long the last packets of closed streams may go out: the
// library has no way to wait for them.
const farewell = 20 * time.Millisecond

// Close takes the node off the tailnet. An ephemeral one tells the control
// server, for at most five seconds.
func (n *node) Close() error {
	streams := n.streams.Load()
	first, err := n.close()
	if !first {
		return nil
	}
	if streams > 0 {
		time.Sleep(farewell)
	}
	n.idle.CloseIdleConnections()
	return errors.Join(err, n.server.Close(), n.sweep())
}

func (n *node) sweep() error {
	if n.scratch == "" {
		return nil
	}
	return os.RemoveAll(n.scratch)
}

func (n *node) lookAtSelf(ctx context.Context) (Peer, error) {
	st, err := n.client.StatusWithoutPeers(ctx)
	if err != nil {
		return Peer{}, fmt.Errorf("look at this node: %w", err)
	}
	if st.Self == nil || len(st.Self.TailscaleIPs) == 0 {
		return Peer{}, errors.New("the tailnet let this node in without an address")
	}
	self := peer(st.Self)
	self.Online = true
	return self, nil
}

// listener gives connections that end with the network.
type listener struct {
	net.Listener
	at net.Addr
	of *node
}

func (l *listener) Addr() net.Addr { return l.at }

func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	k := newConn(c, l.of)
	if err := l.of.keep(k); err != nil {
		return nil, err
	}
	return k, nil
}

func (l *listener) Close() error {
	l.of.drop(l)
	return l.Listener.Close()
}

// conn is one connection over the tailnet.
type conn struct {
	net.Conn
	of   *node
	once sync.Once
}

func newConn(c net.Conn, n *node) *conn {
	n.streams.Add(1)
	return &conn{Conn: c, of: n}
}

func (c *conn) Close() error {
	c.once.Do(func() {
		c.of.drop(c)
		c.of.streams.Add(-1)
	})
	return c.Conn.Close()
}

// CloseWrite ends what is sent and leaves what is received open.
func (c *conn) CloseWrite() error {
	if h, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return h.CloseWrite()
	}
	return errors.ErrUnsupported
}

// packets is one socket for datagrams on the tailnet.
type packets struct {
	net.PacketConn
	of *opened
}

func (p *packets) Close() error {
	p.of.drop(p)
	return p.PacketConn.Close()
}
