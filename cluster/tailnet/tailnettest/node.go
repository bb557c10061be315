package tailnettest

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/tailnet"
)

// state is how far a machine's run has come.
type state int

const (
	running state = iota
	closed        // it said goodbye
	killed        // it is silent
	crashed       // its host answers for it
)

// node is one run of a machine, from Join to Close or Kill.
type node struct {
	f    *Fabric
	dev  *device
	done chan struct{} // closed at the end

	// All below is guarded by f.mu.
	state     state
	listeners map[uint16]*listener
	sockets   map[uint16]*socket
	order     []*end // open streams, oldest first
	next      uint16 // port
}

var _ tailnet.Network = (*node)(nil)

// firstPort begins the range of ports that nobody asked for by number.
const firstPort = 20000

func newNode(f *Fabric, d *device) *node {
	return &node{f: f, dev: d, done: make(chan struct{}), listeners: map[uint16]*listener{}, sockets: map[uint16]*socket{}, next: firstPort}
}

func (n *node) Self() tailnet.Peer {
	n.f.mu.Lock()
	defer n.f.mu.Unlock()
	return n.dev.seen(true)
}

func (d *device) seen(online bool) tailnet.Peer {
	p := d.peer
	p.Tags, p.Online = slices.Clone(p.Tags), online
	return p
}

func (n *node) Peers(context.Context) ([]tailnet.Peer, error) {
	n.f.mu.Lock()
	defer n.f.mu.Unlock()
	if n.state != running {
		return nil, net.ErrClosed
	}
	var peers []tailnet.Peer
	for _, d := range n.f.sorted() {
		if d != n.dev {
			peers = append(peers, d.seen(d.live != nil))
		}
	}
	return peers, nil
}

func (n *node) WhoIs(_ context.Context, remote string) (tailnet.Identity, error) {
	ap, err := netip.ParseAddrPort(remote)
	n.f.mu.Lock()
	defer n.f.mu.Unlock()
	d := n.f.byAddr[ap.Addr().Unmap()]
	if err != nil || d == nil {
		return tailnet.Identity{}, unknown(remote)
	}
	return tailnet.Identity{Node: d.peer.ID, Name: d.peer.Name, Login: d.login, Tags: slices.Clone(d.peer.Tags)}, nil
}

func unknown(addr string) error {
	return cluster.Errorf(cluster.NotFound, "nobody of this workshop has the address %s", addr)
}

func taken(port uint16) error {
	return cluster.Errorf(cluster.Conflict, "This node listens on port %d already; choose another.", port)
}

func (n *node) Listen(port uint16) (net.Listener, error) {
	n.f.mu.Lock()
	defer n.f.mu.Unlock()
	if n.state != running {
		return nil, fmt.Errorf("listen on port %d: %w", port, net.ErrClosed)
	}
	if port == 0 {
		port = n.freePort()
	}
	if n.listeners[port] != nil {
		return nil, taken(port)
	}
	l := &listener{node: n, port: port, wake: make(chan struct{}), done: make(chan struct{})}
	n.listeners[port] = l
	return l, nil
}

func (n *node) ListenPacket(port uint16) (net.PacketConn, error) {
	n.f.mu.Lock()
	defer n.f.mu.Unlock()
	if n.state != running {
		return nil, fmt.Errorf("listen on port %d: %w", port, net.ErrClosed)
	}
	if port == 0 {
		port = n.freePort()
	}
	if n.sockets[port] != nil {
		return nil, taken(port)
	}
	s := &socket{node: n, port: port, wake: make(chan struct{}), read: newDeadline()}
	n.sockets[port] = s
	return s, nil
}

// freePort goes round, so that a port is not used again at once.
func (n *node) freePort() uint16 {
	for {
		p := n.next
		if n.next++; n.next == 0 {
			n.next = firstPort
		}
		if n.listeners[p] == nil && n.sockets[p] == nil {
			return p
		}
	}
}

func (n *node) at(port uint16) netip.AddrPort { return netip.AddrPortFrom(n.dev.peer.Addr, port) }

// Dial takes one round trip. While the way is cut or the machine is dead it
// waits, as for the answer to a SYN; it goes on at once when the way is free.
func (n *node) Dial(ctx context.Context, addr string) (net.Conn, error) {
	c, err := n.dial(ctx, addr)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", addr, err)
	}
	return c, nil
}

func (n *node) dial(ctx context.Context, addr string) (net.Conn, error) {
	ap, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, unknown(addr)
	}
	for sent := false; ; {
		n.f.mu.Lock()
		to, delay, changed := n.f.byAddr[ap.Addr()], n.f.delay, n.f.changed
		var c *end
		arrives := to != nil && n.f.open(n.dev, to) && (to.live != nil || to.refuses)
		if arrives && (sent || delay == 0) {
			c, err = n.connect(to, ap)
		}
		over := n.state != running
		n.f.mu.Unlock()
		switch {
		case over:
			return nil, net.ErrClosed
		case to == nil:
			return nil, unknown(addr)
		case err != nil || c != nil:
			if e := n.wait(ctx, delay, nil); e != nil { // for the answer
				if c != nil {
					_ = c.Close()
				}
				return nil, e
			}
			if err != nil {
				return nil, err
			}
			return c, nil
		case arrives && !sent:
			if err := n.wait(ctx, delay, nil); err != nil {
				return nil, err
			}
			sent = true
		default: // silence, or a listener that is too busy
			if err := n.wait(ctx, forever, changed); err != nil {
				return nil, err
			}
		}
	}
}

// connect is what happens when a SYN arrives. Neither a stream nor an error
// means that the listener has no room. f.mu is held.
func (n *node) connect(to *device, ap netip.AddrPort) (*end, error) {
	if to.live == nil || to.live.listeners[ap.Port()] == nil {
		return nil, syscall.ECONNREFUSED
	}
	l := to.live.listeners[ap.Port()]
	if n.state != running || len(l.queue) >= backlog {
		return nil, nil
	}
	near, far := link(n, to.live, n.at(n.freePort()), ap)
	l.queue = append(l.queue, far)
	l.rouse()
	return near, nil
}

const forever = time.Duration(-1)

// wait passes time, or waits for a change.
func (n *node) wait(ctx context.Context, d time.Duration, changed <-chan struct{}) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	if d == 0 {
		return nil
	}
	var timer <-chan time.Time
	if d != forever {
		t := time.NewTimer(d)
		defer t.Stop()
		timer = t.C
	}
	select {
	case <-timer:
	case <-changed:
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-n.done:
		return net.ErrClosed
	}
	return nil
}

// Close says goodbye on all streams and leaves. After Kill it is harmless.
func (n *node) Close() error {
	n.f.mu.Lock()
	defer n.f.mu.Unlock()
	n.end(closed)
	return nil
}

// end stops a run. f.mu is held.
func (n *node) end(how state) {
	if n.state != running {
		return
	}
	for _, l := range n.listeners {
		l.shut()
	}
	for _, s := range n.sockets {
		s.shut()
	}
	for _, e := range slices.Clone(n.order) {
		switch how {
		case closed:
			e.shut()
		case crashed:
			if n.f.open(n.dev, e.far.node.dev) {
				e.far.reset()
			}
			e.mute()
		default:
			e.mute()
		}
		if !n.f.open(n.dev, e.far.node.dev) {
			e.far.in = nil // nobody sends again what the cut has stopped
		}
	}
	n.state, n.dev.live = how, nil
	close(n.done)
	n.f.stir()
}
