package gossip_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/gossip"
)

// fabric is a network in memory, for use in a bubble: datagrams are late, get
// lost and are dropped rather than waited for; streams are late and, across a
// cut, silent.
type fabric struct {
	mu       sync.Mutex
	latency  time.Duration // one way
	loss     float64       // of datagrams
	random   *rand.Rand
	owners   map[netip.Addr]cluster.NodeID
	packets  map[netip.Addr]*packets
	ports    map[netip.Addr]*port
	severed  func(a, b netip.Addr) bool
	noPacket func(a, b netip.Addr) bool
}

func newFabric() *fabric {
	return &fabric{
		random: rand.New(rand.NewPCG(1, 2)), owners: map[netip.Addr]cluster.NodeID{},
		packets: map[netip.Addr]*packets{}, ports: map[netip.Addr]*port{},
	}
}

// cut separates every pair for which apart is true; nil heals.
func (f *fabric) cut(apart func(a, b netip.Addr) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.severed = apart
}

func (f *fabric) apart(a, b netip.Addr) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.severed != nil && (f.severed(a, b) || f.severed(b, a))
}

func (f *fabric) who(_ context.Context, a netip.Addr) (cluster.NodeID, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	id, ok := f.owners[a]
	return id, ok
}

func (f *fabric) lost(a, b netip.Addr) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.severed != nil && (f.severed(a, b) || f.severed(b, a)) || f.noPacket != nil && f.noPacket(a, b) || f.random.Float64() < f.loss
}

func (f *fabric) peers(context.Context) ([]netip.Addr, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []netip.Addr
	for a := range f.owners {
		out = append(out, a)
	}
	return out, nil
}

// machine is one address on the fabric.
type machine struct {
	f    *fabric
	addr netip.Addr
}

var _ gossip.Network = machine{}

type datagram struct {
	b    []byte
	from net.Addr
}

type packets struct {
	m     machine
	port  uint16
	inbox chan datagram
	done  chan struct{}
	once  sync.Once
}

func (m machine) ListenPacket(p uint16) (net.PacketConn, error) {
	m.f.mu.Lock()
	defer m.f.mu.Unlock()
	if m.f.packets[m.addr] != nil {
		return nil, errors.New("address already in use")
	}
	pc := &packets{m: m, port: p, inbox: make(chan datagram, 256), done: make(chan struct{})}
	m.f.packets[m.addr] = pc
	return pc, nil
}

func (p *packets) ReadFrom(b []byte) (int, net.Addr, error) {
	select {
	case d := <-p.inbox:
		return copy(b, d.b), d.from, nil
	case <-p.done:
		return 0, nil, net.ErrClosed
	}
}

func (p *packets) WriteTo(b []byte, to net.Addr) (int, error) {
	select {
	case <-p.done:
		return 0, net.ErrClosed
	default:
	}
	p.m.f.send(b, p.LocalAddr(), to)
	return len(b), nil
}

// send delivers a datagram after the latency, or not at all.
func (f *fabric) send(b []byte, from, to net.Addr) {
	a, c := netip.MustParseAddrPort(from.String()).Addr(), netip.MustParseAddrPort(to.String()).Addr()
	if f.lost(a, c) {
		return
	}
	d := datagram{append([]byte(nil), b...), from}
	time.AfterFunc(f.latency, func() {
		f.mu.Lock()
		pc := f.packets[c]
		f.mu.Unlock()
		if pc == nil {
			return
		}
		select {
		case pc.inbox <- d:
		default:
		}
	})
}

func (p *packets) Close() error {
	p.once.Do(func() {
		close(p.done)
		p.m.f.mu.Lock()
		delete(p.m.f.packets, p.m.addr)
		p.m.f.mu.Unlock()
	})
	return nil
}

func (p *packets) LocalAddr() net.Addr {
	return net.UDPAddrFromAddrPort(netip.AddrPortFrom(p.m.addr, p.port))
}
func (p *packets) SetDeadline(time.Time) error      { return nil }
func (p *packets) SetReadDeadline(time.Time) error  { return nil }
func (p *packets) SetWriteDeadline(time.Time) error { return nil }

type port struct {
	m     machine
	port  uint16
	queue chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (m machine) Listen(p uint16) (net.Listener, error) {
	m.f.mu.Lock()
	defer m.f.mu.Unlock()
	if m.f.ports[m.addr] != nil {
		return nil, errors.New("address already in use")
	}
	l := &port{m: m, port: p, queue: make(chan net.Conn), done: make(chan struct{})}
	m.f.ports[m.addr] = l
	return l, nil
}

func (l *port) Accept() (net.Conn, error) {
	select {
	case c := <-l.queue:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *port) Close() error {
	l.once.Do(func() {
		close(l.done)
		l.m.f.mu.Lock()
		delete(l.m.f.ports, l.m.addr)
		l.m.f.mu.Unlock()
	})
	return nil
}

func (l *port) Addr() net.Addr { return net.TCPAddrFromAddrPort(netip.AddrPortFrom(l.m.addr, l.port)) }

type conn struct {
	net.Conn
	remote net.Addr
}

func (c conn) RemoteAddr() net.Addr { return c.remote }

func (m machine) Dial(ctx context.Context, addr string) (net.Conn, error) {
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, err
	}
	wait := time.NewTimer(2 * m.f.latency)
	defer wait.Stop()
	select {
	case <-wait.C:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if m.f.apart(m.addr, to.Addr()) {
		<-ctx.Done() // a dead peer does not refuse
		return nil, ctx.Err()
	}
	m.f.mu.Lock()
	l := m.f.ports[to.Addr()]
	m.f.mu.Unlock()
	if l == nil {
		return nil, fmt.Errorf("dial %s: connection refused", addr)
	}
	near, a := net.Pipe()
	b, far := net.Pipe()
	go m.f.pump(a, b, m.addr, to.Addr())
	go m.f.pump(b, a, to.Addr(), m.addr)
	theirs := conn{far, net.TCPAddrFromAddrPort(netip.AddrPortFrom(m.addr, 40000))}
	select {
	case l.queue <- theirs:
		return conn{near, net.TCPAddrFromAddrPort(to)}, nil
	case <-l.done:
	case <-ctx.Done():
	}
	_, _ = near.Close(), far.Close()
	return nil, fmt.Errorf("dial %s: connection reset", addr)
}

// pump carries bytes one way until an end is closed. Over a cut nothing
// arrives, and neither end learns of it.
func (f *fabric) pump(from, to net.Conn, a, b netip.Addr) {
	defer from.Close()
	defer to.Close()
	buf := make([]byte, 1<<16)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		time.Sleep(f.latency)
		if f.apart(a, b) {
			continue
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

// node is a running Gossip.
type node struct {
	*gossip.Gossip
	id   cluster.NodeID
	addr netip.Addr
	stop func() // ends Run without a goodbye; may be called twice
}

func addr(i int) netip.Addr { return netip.AddrFrom4([4]byte{100, 64, 0, byte(i)}) }

// config is that of node number i. Its address is entered into the fabric.
func config(f *fabric, i int) gossip.Config {
	id := cluster.NodeID(fmt.Sprintf("n%d", i))
	f.mu.Lock()
	f.owners[addr(i)] = id
	f.mu.Unlock()
	m := gossip.Meta{Started: time.Now().UnixMilli()}
	m.Member = cluster.Member{ID: id, Name: fmt.Sprintf("host%d", i), Roles: []cluster.Role{cluster.GPU}, Version: "v1", Level: 1}
	return gossip.Config{
		Network: machine{f, addr(i)}, Addr: addr(i), Label: "workshop", Self: m,
		Peers: f.peers, Who: f.who, Logger: slog.New(slog.DiscardHandler),
	}
}

func run(t *testing.T, cfg gossip.Config) *node {
	t.Helper()
	g, err := gossip.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	n := &node{Gossip: g, id: cfg.Self.ID, addr: cfg.Addr}
	var once sync.Once
	n.stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("%s: Run: %v", n.id, err)
			}
		})
	}
	t.Cleanup(n.stop)
	return n
}

// bubble runs a test in virtual time. memberlist's probes outlive it by some
// seconds, which pass at once. Timers of a bubble that fire on two threads at
// once crash the race detector (golang/go#78156), hence one thread.
func bubble(t *testing.T, test func(*testing.T, *fabric)) {
	t.Helper()
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	synctest.Test(t, func(t *testing.T) {
		t.Cleanup(func() { time.Sleep(time.Minute) })
		test(t, newFabric())
	})
}

// until waits for ok and tells how long that took.
func until(t *testing.T, what string, within time.Duration, ok func() bool) time.Duration {
	t.Helper()
	begin := time.Now()
	for !ok() {
		if time.Since(begin) > within {
			t.Fatalf("%s: not within %v", what, within)
		}
		time.Sleep(10 * time.Millisecond)
	}
	return time.Since(begin)
}

// all reports whether every one of nodes sees id in the state want.
func all(nodes []*node, id cluster.NodeID, want gossip.State) bool {
	for _, n := range nodes {
		if m, ok := n.State(id); n.id != id && (!ok || m.State != want) {
			return false
		}
	}
	return true
}

// together reports whether everybody sees everybody alive.
func together(nodes []*node) bool {
	for _, n := range nodes {
		if !all(nodes, n.id, gossip.Alive) {
			return false
		}
	}
	return true
}

// start runs nodes 1 to count and waits until they know each other.
func start(t *testing.T, f *fabric, count int, change func(*gossip.Config)) []*node {
	t.Helper()
	var nodes []*node
	for i := range count {
		cfg := config(f, i+1)
		if change != nil {
			change(&cfg)
		}
		nodes = append(nodes, run(t, cfg))
	}
	d := until(t, "converge", 10*time.Second, func() bool { return together(nodes) })
	t.Logf("%d nodes converged in %v", count, d)
	return nodes
}
