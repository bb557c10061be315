package peer

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/ahelme/comfyume/cluster"
)

// LogStream is the way of the log to the other nodes, checked: a
// consensus.Stream. Its addresses are NODE.INCARNATION.
type LogStream struct {
	*gated
	addr string
	life context.Context // ends with Close: a dial to a dead node hangs until then
	end  context.CancelFunc

	mu    sync.Mutex
	conns map[net.Conn]struct{} // dialled ones; nil once closed
}

// LogStream opens it on a listener of the log's port, for one incarnation of
// this node's log.
func (g *Gate) LogStream(inner net.Listener, incarnation string) *LogStream {
	s := &LogStream{gated: g.listen(inner, ForRaft, incarnation), addr: string(g.cfg.Self) + "." + incarnation, conns: map[net.Conn]struct{}{}}
	s.life, s.end = context.WithCancel(context.Background())
	return s
}

// Addr is this log's own.
func (s *LogStream) Addr() net.Addr { return logAddr(s.addr) }

type logAddr string

func (logAddr) Network() string  { return "node" }
func (a logAddr) String() string { return string(a) }

// Dial reaches another node's log, or this node's own without the network.
func (s *LogStream) Dial(addr string, timeout time.Duration) (net.Conn, error) {
	if addr == s.addr {
		return s.self()
	}
	at := max(strings.LastIndexByte(addr, '.'), 0)
	node, incarnation := cluster.NodeID(addr[:at]), strings.TrimPrefix(addr[at:], ".")
	ctx, cancel := context.WithTimeout(s.life, timeout)
	defer cancel()
	c, err := s.g.Dial(ctx, node, cluster.PortRaft, ForRaft, incarnation)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns == nil {
		return nil, errors.Join(net.ErrClosed, c.Close())
	}
	s.conns[c] = struct{}{}
	return &dialled{c, s}, nil
}

func (s *LogStream) self() (net.Conn, error) {
	here, there := net.Pipe()
	s.mu.Lock()
	if s.conns != nil {
		s.conns[here], s.conns[there] = struct{}{}, struct{}{}
	}
	s.mu.Unlock()
	select {
	case s.ready <- there:
		return here, nil
	case <-s.done:
		return nil, net.ErrClosed
	}
}

// Close ends every stream in both directions.
func (s *LogStream) Close() error {
	s.end()
	s.mu.Lock()
	conns := s.conns
	s.conns = nil
	s.mu.Unlock()
	for c := range conns {
		_ = c.Close() // raft's own reader hears of it
	}
	return s.gated.Close()
}

type dialled struct {
	net.Conn
	s *LogStream
}

func (d *dialled) Close() error {
	d.s.mu.Lock()
	delete(d.s.conns, d.Conn)
	d.s.mu.Unlock()
	return d.Conn.Close()
}

// Gossip is the network as gossip may use it: every stream is checked.
type Gossip struct {
	Gate *Gate
	// Net is the network itself.
	Net interface {
		Listen(port uint16) (net.Listener, error)
		ListenPacket(port uint16) (net.PacketConn, error)
		Dial(ctx context.Context, addr string) (net.Conn, error)
	}
}

// Listen accepts checked streams of gossip.
func (n Gossip) Listen(port uint16) (net.Listener, error) {
	l, err := n.Net.Listen(port)
	if err != nil {
		return nil, err
	}
	return n.Gate.Listener(l, ForGossip), nil
}

// ListenPacket takes datagrams; who may send them is gossip's to ask.
func (n Gossip) ListenPacket(port uint16) (net.PacketConn, error) { return n.Net.ListenPacket(port) }

// Dial opens a checked stream to an address.
func (n Gossip) Dial(ctx context.Context, addr string) (net.Conn, error) {
	c, err := n.Net.Dial(ctx, addr)
	if err != nil {
		return nil, err
	}
	return n.Gate.open(ctx, c, cluster.NodeID(addr), ForGossip, "")
}
