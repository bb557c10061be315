package gossip

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// How much is taken from the network at a time; more is dropped, and sent
// again by design of the protocol.
const (
	packetQueue = 256
	streamsMost = 128
)

// transport carries memberlist over the Network. It never blocks for a peer's
// sake: what cannot be delivered is lost.
type transport struct {
	net   Network
	self  netip.AddrPort
	label string
	gate  *gate
	log   *slog.Logger
	lose  func(error) // a socket ended under us

	pc      net.PacketConn
	ln      net.Listener
	packets chan *memberlist.Packet // never closed
	streams chan net.Conn           // never closed

	ctx    context.Context // ends with Shutdown, and dials with it
	cancel context.CancelFunc
	wg     sync.WaitGroup // the two readers

	mu   sync.Mutex
	open map[*stream]struct{} // nil after Shutdown
}

var _ memberlist.Transport = (*transport)(nil)

func newTransport(cfg Config, g *gate, log *slog.Logger, lose func(error)) (*transport, error) {
	pc, err := cfg.Network.ListenPacket(cfg.Port)
	if err != nil {
		return nil, fmt.Errorf("open gossip's port %d for datagrams: %w", cfg.Port, err)
	}
	ln, err := cfg.Network.Listen(cfg.Port)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open gossip's port %d for streams: %w", cfg.Port, err), pc.Close())
	}
	t := &transport{
		net: cfg.Network, self: netip.AddrPortFrom(cfg.Addr, cfg.Port), label: cfg.Label, gate: g, log: log, lose: lose,
		pc: pc, ln: ln, open: map[*stream]struct{}{},
		packets: make(chan *memberlist.Packet, packetQueue), streams: make(chan net.Conn),
	}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	t.wg.Go(t.readPackets)
	t.wg.Go(t.accept)
	return t, nil
}

// readPackets hands on what admitted peers of this label sent and drops the rest.
func (t *transport) readPackets() {
	buf := make([]byte, 1<<16)
	for {
		n, from, err := t.pc.ReadFrom(buf)
		if err != nil {
			if t.ended(err, "datagrams") {
				return
			}
			continue
		}
		addr, err := netip.ParseAddrPort(from.String())
		if err != nil || checkPacket(buf[:n], t.label) != nil || !t.gate.admits(t.ctx, addr.Addr().Unmap()) {
			continue
		}
		p := &memberlist.Packet{Buf: append([]byte(nil), buf[:n]...), From: from, Timestamp: time.Now()}
		select {
		case t.packets <- p:
		default:
		}
	}
}

func (t *transport) accept() {
	for {
		c, err := t.ln.Accept()
		if err != nil {
			if t.ended(err, "streams") {
				return
			}
			continue
		}
		addr, err := netip.ParseAddrPort(c.RemoteAddr().String())
		if err != nil || !t.gate.admits(t.ctx, addr.Addr().Unmap()) {
			t.log.Debug("a stream of a stranger was closed", "remote", c.RemoteAddr().String())
			_ = c.Close()
			continue
		}
		s, err := t.track(c, true)
		if err != nil {
			_ = c.Close()
			continue
		}
		select {
		case t.streams <- s:
		case <-t.ctx.Done():
			_ = s.Close()
		}
	}
}

// ended tells a socket that is closed from one that had a bad moment. Where
// nobody asked for the end, Run ends with the error.
func (t *transport) ended(err error, what string) bool {
	if t.ctx.Err() != nil {
		return true
	}
	if errors.Is(err, net.ErrClosed) {
		t.lose(fmt.Errorf("its socket for %s was closed: %w", what, err))
		return true
	}
	t.log.Debug("cannot receive "+what, "err", err)
	pause(t.ctx, 10*time.Millisecond)
	return false
}

// FinalAdvertiseAddr is the address the others are told.
func (t *transport) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return t.self.Addr().AsSlice(), int(t.self.Port()), nil
}

// WriteTo sends a datagram. It reports no error: memberlist lets a node whose
// ping could not be sent live for ever, while one that does not answer is
// found dead. No route, no permission and no answer are the same thing here.
func (t *transport) WriteTo(b []byte, addr string) (time.Time, error) {
	now := time.Now()
	to, err := netip.ParseAddrPort(addr)
	if err != nil || !t.gate.admits(t.ctx, to.Addr().Unmap()) {
		return now, nil
	}
	if _, err := t.pc.WriteTo(b, net.UDPAddrFromAddrPort(to)); err != nil && t.ctx.Err() == nil {
		t.log.Debug("a datagram was not sent", "to", addr, "err", err)
	}
	return now, nil
}

// PacketCh is where memberlist takes datagrams from.
func (t *transport) PacketCh() <-chan *memberlist.Packet { return t.packets }

// StreamCh is where memberlist takes streams from.
func (t *transport) StreamCh() <-chan net.Conn { return t.streams }

// DialTimeout opens a stream. It ends with Shutdown at the latest, because a
// peer that is gone does not refuse.
func (t *transport) DialTimeout(addr string, within time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(t.ctx, within)
	defer cancel()
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, err
	}
	if !t.gate.admits(ctx, to.Addr().Unmap()) {
		return nil, fmt.Errorf("the address %s is nobody's", to.Addr())
	}
	c, err := t.net.Dial(ctx, addr)
	if err != nil {
		return nil, err
	}
	s, err := t.track(c, false)
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	// memberlist writes the label before it sets a deadline of its own.
	if err := s.SetDeadline(time.Now().Add(within)); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Shutdown closes all there is and waits for the readers. It may be called twice.
func (t *transport) Shutdown() error {
	t.cancel()
	_ = t.pc.Close() // nobody is left whom a failure could tell something
	_ = t.ln.Close()
	t.mu.Lock()
	open := t.open
	t.open = nil
	t.mu.Unlock()
	for s := range open {
		_ = s.Conn.Close()
	}
	t.wg.Wait()
	return nil
}

// stream is a connection that Shutdown can find, of which memberlist gets to
// read one whole, checked message or nothing.
type stream struct {
	net.Conn
	t       *transport
	inbound bool // the peer's first message bears the label
	once    sync.Once
	message []byte
	err     error
}

func (t *transport) track(c net.Conn, inbound bool) (*stream, error) {
	s := &stream{Conn: c, t: t, inbound: inbound}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open == nil {
		return nil, net.ErrClosed
	}
	if inbound && len(t.open) >= streamsMost {
		return nil, errors.New("too many streams")
	}
	t.open[s] = struct{}{}
	return s, nil
}

func (s *stream) Read(p []byte) (int, error) {
	s.once.Do(func() {
		r := newReader(s.Conn)
		if s.inbound {
			s.err = r.label(s.t.label)
		}
		if s.err == nil {
			_, s.err = r.message()
		}
		s.message = r.taken
	})
	if len(s.message) == 0 || s.err != nil {
		return 0, s.end()
	}
	n := copy(p, s.message)
	s.message = s.message[n:]
	return n, nil
}

func (s *stream) end() error {
	if s.err != nil {
		return s.err
	}
	return errOneMessage
}

// Write closes a stream it fails on: memberlist forgets to when it cannot
// write the label.
func (s *stream) Write(p []byte) (int, error) {
	n, err := s.Conn.Write(p)
	if err != nil {
		_ = s.Close()
	}
	return n, err
}

func (s *stream) Close() error {
	s.t.mu.Lock()
	delete(s.t.open, s)
	s.t.mu.Unlock()
	return s.Conn.Close()
}
