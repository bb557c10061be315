package tailnet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/ahelme/comfyume/cluster"
)

// hallNode is one of several nodes on this machine. Each has an address of its
// own, 127.77.x.y; where that cannot be bound, or the port on it cannot, the
// node listens elsewhere and its registration tells the others where.
type hallNode struct {
	hall *hall
	life *os.File // its lock says that we live
	bind bool     // the address can be bound, so dials come from it

	me  registration // fixed, but for what its maps hold
	reg sync.Mutex   // guards that, the file, and:
	out bool         // the file is gone

	met    sync.Map // netip.Addr → Identity of who proved to be a member
	who    acquaintances
	routes routes
	*opened
}

var (
	_ Network   = (*hallNode)(nil)
	_ Forgetter = (*hallNode)(nil)
)

func enterHall(cfg LoopbackConfig, id cluster.NodeID, can func(netip.Addr) bool) (Network, error) {
	h, err := openHall(cfg.Hall)
	if err != nil {
		return nil, err
	}
	life, err := h.own(id)
	if err != nil {
		return nil, err
	}
	me, err := h.take(cfg, id)
	if err != nil {
		return nil, errors.Join(err, life.Close())
	}
	return &hallNode{hall: h, life: life, bind: can(me.Addr), me: me, opened: newOpened()}, nil
}

func (n *hallNode) Self() Peer { return n.me.peer(true) }

func (n *hallNode) Listen(port uint16) (net.Listener, error) {
	if !n.enter() {
		return nil, fmt.Errorf("listen on port %d: %w", port, net.ErrClosed)
	}
	defer n.leave()
	var raw *net.TCPListener
	at, err := n.claim(n.me.TCP, port, func(at netip.AddrPort) (bound net.Addr, err error) {
		if raw, err = net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(at)); err != nil {
			return nil, err
		}
		return raw.Addr(), nil
	})
	if err != nil {
		if raw != nil {
			err = errors.Join(err, raw.Close())
		}
		return nil, err
	}
	l := &hallListener{raw: raw, at: at, of: n, queue: make(chan net.Conn), done: make(chan struct{})}
	n.users.Go(l.serve)
	return l, n.keep(l)
}

func (n *hallNode) ListenPacket(port uint16) (net.PacketConn, error) {
	if !n.enter() {
		return nil, fmt.Errorf("listen on port %d: %w", port, net.ErrClosed)
	}
	defer n.leave()
	var raw *net.UDPConn
	at, err := n.claim(n.me.UDP, port, func(at netip.AddrPort) (bound net.Addr, err error) {
		if raw, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(at)); err != nil {
			return nil, err
		}
		return raw.LocalAddr(), nil
	})
	if err != nil {
		if raw != nil {
			err = errors.Join(err, raw.Close())
		}
		return nil, err
	}
	p := &hallPackets{PacketConn: raw, at: at, of: n}
	return p, n.keep(p)
}

// claim finds a place for a port, opens it and tells the others. ports is one
// of the registration's maps.
func (n *hallNode) claim(ports map[uint16]string, port uint16, open func(netip.AddrPort) (net.Addr, error)) (netip.AddrPort, error) {
	n.reg.Lock()
	defer n.reg.Unlock()
	if n.out {
		return netip.AddrPort{}, net.ErrClosed
	}
	if _, ok := ports[port]; ok {
		return netip.AddrPort{}, portTaken(port)
	}
	var bound net.Addr
	err := errors.ErrUnsupported
	for _, at := range n.places(port) {
		if bound, err = open(at); err == nil || !elsewhere(err) {
			break
		}
	}
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("listen on port %d: %w", port, err)
	}
	ap, err := netip.ParseAddrPort(bound.String())
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("listen on port %d: %w", port, err)
	}
	if port == 0 {
		for port = ap.Port(); ports[port] != "" || port == 0; {
			port++
		}
	}
	ports[port] = ap.String()
	if err := n.hall.write(n.me); err != nil {
		delete(ports, port)
		return netip.AddrPort{}, err
	}
	return netip.AddrPortFrom(n.me.Addr, port), nil
}

// places are where a port is tried, in this order.
func (n *hallNode) places(port uint16) (all []netip.AddrPort) {
	if n.bind {
		all = append(all, netip.AddrPortFrom(n.me.Addr, port))
		if port != 0 {
			all = append(all, netip.AddrPortFrom(n.me.Addr, 0))
		}
	}
	return append(all, netip.AddrPortFrom(localhost, 0))
}

// elsewhere reports whether another place may do: the port is for the
// superuser, or another program has it on all addresses.
func elsewhere(err error) bool {
	return errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EADDRINUSE) || errors.Is(err, syscall.EADDRNOTAVAIL)
}

// release takes a port out of the registration.
func (n *hallNode) release(ports map[uint16]string, port uint16) error {
	n.reg.Lock()
	defer n.reg.Unlock()
	delete(ports, port)
	if n.out {
		return nil
	}
	return n.hall.write(n.me)
}

// dialer dials from the node's own address, so that a firewall can tell nodes
// apart.
func (n *hallNode) dialer() *net.Dialer {
	d := &net.Dialer{}
	if n.bind {
		d.LocalAddr = &net.TCPAddr{IP: n.me.Addr.AsSlice()}
	}
	return d
}

func (n *hallNode) Dial(ctx context.Context, addr string) (net.Conn, error) {
	if !n.enter() {
		return nil, fmt.Errorf("dial %s: %w", addr, net.ErrClosed)
	}
	defer n.leave()
	ctx, cancel := n.until(ctx)
	defer cancel()
	c, err := n.dial(ctx, addr)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("dial %s: %w", addr, err)
	}
	return c, nil
}

func (n *hallNode) dial(ctx context.Context, addr string) (net.Conn, error) {
	ap, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, unknown(addr)
	}
	to, ok, err := n.hall.at(ap.Addr())
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, unknown(addr)
	}
	there, ok := to.TCP[ap.Port()]
	if !ok {
		return nil, syscall.ECONNREFUSED
	}
	raw, err := n.dialer().DialContext(ctx, "tcp4", there)
	if err != nil {
		return nil, err
	}
	c, ok := raw.(*net.TCPConn)
	if !ok {
		return nil, errors.Join(errors.ErrUnsupported, raw.Close())
	}
	k := &hallConn{TCPConn: c, of: n, remote: net.TCPAddrFromAddrPort(ap), local: at(n.me.Addr, c.LocalAddr())}
	if err := n.keep(k); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	err = n.hall.introduce(c, n.me.ID, to.ID, ap.Port())
	if !stop() && err == nil {
		err = ctx.Err() // the deadline may have been set behind our back
	}
	if err != nil {
		return nil, errors.Join(err, k.Close())
	}
	n.met.Store(to.Addr, to.identity())
	return k, nil
}

// at is a node's address with the port that a socket of it has.
func at(addr netip.Addr, socket net.Addr) net.Addr {
	port := 0
	if a, ok := socket.(*net.TCPAddr); ok {
		port = a.Port
	}
	return &net.TCPAddr{IP: addr.AsSlice(), Port: port}
}

func (n *hallNode) Peers(context.Context) ([]Peer, error) {
	all, err := n.hall.list()
	if err != nil {
		return nil, err
	}
	peers := make([]Peer, 0, len(all))
	for _, r := range all {
		if r.ID != n.me.ID {
			peers = append(peers, r.peer(n.hall.alive(r.ID)))
		}
	}
	return peers, nil
}

func (n *hallNode) WhoIs(_ context.Context, remote string) (Identity, error) {
	ap, err := netip.ParseAddrPort(remote)
	if err != nil {
		return Identity{}, unknown(remote)
	}
	addr := ap.Addr().Unmap()
	return n.who.ask(addr, func() (Identity, error) {
		r, ok, err := n.hall.at(addr)
		if err != nil {
			return Identity{}, err
		}
		if ok {
			return r.identity(), nil
		}
		// One that has left may still have a connection open.
		if who, ok := n.met.Load(addr); ok {
			return who.(Identity), nil
		}
		return Identity{}, unknown(remote)
	})
}

func (n *hallNode) Forget(id cluster.NodeID) error {
	if err := n.hall.forget(id); err != nil {
		return err
	}
	n.met.Range(func(addr, who any) bool {
		if who.(Identity).Node == id {
			n.met.Delete(addr)
		}
		return true
	})
	return nil
}

// Close leaves the hall: the others no longer list this node.
func (n *hallNode) Close() error {
	n.reg.Lock()
	n.out = true
	n.reg.Unlock()
	first, err := n.close()
	if !first {
		return nil
	}
	// The registration first: a lock that is free says that the node was killed.
	return errors.Join(err, n.hall.remove(n.me.ID), n.life.Close())
}

// hallConn is a connection between members; its addresses are theirs.
type hallConn struct {
	*net.TCPConn
	of            *hallNode
	local, remote net.Addr
}

func (c *hallConn) LocalAddr() net.Addr  { return c.local }
func (c *hallConn) RemoteAddr() net.Addr { return c.remote }

func (c *hallConn) Close() error {
	c.of.drop(c)
	return c.TCPConn.Close()
}

var _ io.ReaderFrom = (*hallConn)(nil) // files go out by sendfile
