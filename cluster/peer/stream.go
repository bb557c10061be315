package peer

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/ahelme/comfyume/cluster"
)

// LogStream is the way of the log to the other nodes, checked: a
// consensus.Stream. Its addresses are node ids.
type LogStream struct {
	net.Listener
	g    *Gate
	life context.Context // ends with Close: a dial to a dead node hangs until then
	end  context.CancelFunc

	mu    sync.Mutex
	conns map[net.Conn]struct{} // dialled ones; nil once closed
}

// LogStream opens it on a listener of the log's port.
func (g *Gate) LogStream(inner net.Listener) *LogStream {
	s := &LogStream{Listener: g.Listener(inner, ForRaft), g: g, conns: map[net.Conn]struct{}{}}
	s.life, s.end = context.WithCancel(context.Background())
	return s
}

// Addr is this node's id.
func (s *LogStream) Addr() net.Addr { return nodeAddr(s.g.cfg.Self) }

type nodeAddr cluster.NodeID

func (nodeAddr) Network() string  { return "node" }
func (n nodeAddr) String() string { return string(n) }

// Dial reaches another node's log, or this node's own without the network.
func (s *LogStream) Dial(node string, timeout time.Duration) (net.Conn, error) {
	if cluster.NodeID(node) == s.g.cfg.Self {
		return s.self()
	}
	ctx, cancel := context.WithTimeout(s.life, timeout)
	defer cancel()
	c, err := s.g.Dial(ctx, cluster.NodeID(node), cluster.PortRaft, ForRaft)
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
	l := s.Listener.(*gated)
	s.mu.Lock()
	if s.conns != nil {
		s.conns[here], s.conns[there] = struct{}{}, struct{}{}
	}
	s.mu.Unlock()
	select {
	case l.ready <- there:
		return here, nil
	case <-l.done:
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
	return s.Listener.Close()
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
	return n.Gate.open(ctx, c, cluster.NodeID(addr), ForGossip)
}
