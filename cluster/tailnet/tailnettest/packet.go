package tailnettest

import (
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"time"
)

const (
	socketQueue = 1024  // datagrams that wait for ReadFrom; more are lost
	maxPacket   = 65507 // bytes in one
)

// socket sends and receives datagrams. node.f.mu guards it.
type socket struct {
	node  *node
	port  uint16
	queue []datagram
	wake  chan struct{}
	over  bool
	read  deadline
}

type datagram struct {
	data []byte
	from netip.AddrPort
}

var _ net.PacketConn = (*socket)(nil)

func (s *socket) LocalAddr() net.Addr { return net.UDPAddrFromAddrPort(s.node.at(s.port)) }

func (s *socket) opError(op string, addr net.Addr, err error) error {
	return &net.OpError{Op: op, Net: "udp", Source: s.LocalAddr(), Addr: addr, Err: err}
}

// WriteTo sends. What has no way, no receiver or no luck is lost.
func (s *socket) WriteTo(b []byte, addr net.Addr) (int, error) {
	to, err := netip.ParseAddrPort(addr.String())
	if err != nil {
		return 0, s.opError("write", addr, err)
	}
	if len(b) > maxPacket {
		return 0, s.opError("write", addr, syscall.EMSGSIZE)
	}
	f := s.node.f
	f.mu.Lock()
	defer f.mu.Unlock()
	if s.over {
		return 0, s.opError("write", addr, net.ErrClosed)
	}
	d := f.byAddr[to.Addr().Unmap()]
	if d == nil || !f.open(s.node.dev, d) {
		return len(b), nil
	}
	if l := f.losses[pairOf(string(s.node.dev.peer.ID), string(d.peer.ID))]; l != nil && l.rand.Float64() < l.share {
		return len(b), nil
	}
	p := datagram{slices.Clone(b), s.node.at(s.port)}
	if f.delay == 0 {
		d.deliver(p, to.Port())
		return len(b), nil
	}
	from := s.node.dev
	time.AfterFunc(f.delay, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.open(from, d) {
			d.deliver(p, to.Port())
		}
	})
	return len(b), nil
}

func (d *device) deliver(p datagram, port uint16) {
	if d.live == nil {
		return
	}
	if s := d.live.sockets[port]; s != nil && len(s.queue) < socketQueue {
		s.queue = append(s.queue, p)
		s.rouse()
	}
}

func (s *socket) rouse() {
	close(s.wake)
	s.wake = make(chan struct{})
}

// ReadFrom waits for the next datagram; what does not fit into b is lost.
func (s *socket) ReadFrom(b []byte) (int, net.Addr, error) {
	f := s.node.f
	for {
		f.mu.Lock()
		n, from, ready, err := s.take(b)
		wake, passed := s.wake, s.read.passed
		f.mu.Unlock()
		if err != nil {
			return 0, nil, s.opError("read", nil, err)
		}
		if ready {
			return n, net.UDPAddrFromAddrPort(from), nil
		}
		select {
		case <-wake:
		case <-passed:
		}
	}
}

func (s *socket) take(b []byte) (n int, from netip.AddrPort, ready bool, err error) {
	switch {
	case s.over:
		return 0, from, true, net.ErrClosed
	case s.read.over():
		return 0, from, true, os.ErrDeadlineExceeded
	case len(s.queue) > 0:
		p := s.queue[0]
		s.queue = s.queue[1:]
		return copy(b, p.data), p.from, true, nil
	}
	return 0, from, false, nil
}

// Close ends the socket.
func (s *socket) Close() error {
	s.node.f.mu.Lock()
	defer s.node.f.mu.Unlock()
	if s.over {
		return s.opError("close", nil, net.ErrClosed)
	}
	s.shut()
	return nil
}

func (s *socket) shut() {
	if s.over {
		return
	}
	s.over = true
	s.read.stop()
	s.queue = nil
	delete(s.node.sockets, s.port)
	s.rouse()
}

func (s *socket) SetDeadline(t time.Time) error { return s.SetReadDeadline(t) }

func (s *socket) SetReadDeadline(t time.Time) error {
	s.node.f.mu.Lock()
	defer s.node.f.mu.Unlock()
	if s.over {
		return s.opError("set", nil, net.ErrClosed)
	}
	s.read.set(&s.node.f.mu, t)
	s.rouse()
	return nil
}

// SetWriteDeadline does nothing: sending does not wait.
func (s *socket) SetWriteDeadline(time.Time) error { return nil }
