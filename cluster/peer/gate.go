package peer

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/ahelme/comfyume/cluster"
)

// Who is the node, or the person, behind a connection.
type Who struct {
	Node  cluster.NodeID
	Name  string // unique in the workshop; its workers are called NAME/N
	Core  bool   // it may hold the table
	GPU   bool   // it may use the verbs of workers
	Login string // of a person, "" for a machine
}

// Holds reports whether a worker is one of this node's.
func (w Who) Holds(id cluster.WorkerID) bool {
	return w.Name != "" && len(id) > len(w.Name) && string(id[:len(w.Name)]) == w.Name && id[len(w.Name)] == '/'
}

// Purpose is what a stream is for.
type Purpose string

// The purposes.
const (
	ForRaft   Purpose = "raft"
	ForLink   Purpose = "link"
	ForGossip Purpose = "gossip"
)

// admits says who may open a stream.
func (p Purpose) admits(w Who) bool {
	return w.Core || w.GPU && p != ForRaft
}

// GateConfig of a Gate.
type GateConfig struct {
	Self    cluster.NodeID
	Lineage func() cluster.Lineage // of this node now
	WhoIs   func(ctx context.Context, remote string) (Who, error)
	// Dial reaches a port of a node, wherever its address is now.
	Dial func(ctx context.Context, node cluster.NodeID, port uint16) (net.Conn, error)
	// Later is told when somebody is of a later generation of this workshop.
	Later  func(from cluster.NodeID, to cluster.Lineage)
	Logger *slog.Logger
}

// Gate checks every stream between nodes before a byte of it is used: who is
// it (by the network, not by its own word), may it, and is it of the same
// history of the same workshop.
type Gate struct{ cfg GateConfig }

// NewGate returns a Gate.
func NewGate(cfg GateConfig) *Gate {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Later == nil {
		cfg.Later = func(cluster.NodeID, cluster.Lineage) {}
	}
	return &Gate{cfg: cfg}
}

// hello opens a stream.
type hello struct {
	Version uint8           `cbor:"1,keyasint"`
	Purpose Purpose         `cbor:"2,keyasint"`
	Node    cluster.NodeID  `cbor:"3,keyasint"`
	Lineage cluster.Lineage `cbor:"4,keyasint"`
	// Target is the incarnation of the log that is meant, for streams of the log.
	Target string `cbor:"5,keyasint,omitempty"`
}

// welcome answers it.
type welcome struct {
	Err     *cluster.Error  `cbor:"1,keyasint,omitempty"`
	Lineage cluster.Lineage `cbor:"2,keyasint"`
}

const (
	helloVersion = 1
	helloWithin  = 5 * time.Second
	maxHello     = 4 << 10 // bytes
)

// compare judges another node's history by this one's. What to do about a
// later generation is Later's.
func (g *Gate) compare(from cluster.NodeID, theirs cluster.Lineage) *cluster.Error {
	ours := g.cfg.Lineage()
	if ours.Cluster == "" || theirs.Cluster != ours.Cluster {
		return cluster.Errorf(cluster.Forbidden, "%s is part of another workshop or of none (%s, here %s)", from, theirs, ours)
	}
	switch c := theirs.Generation.Compare(ours.Generation); {
	case c > 0:
		g.cfg.Later(from, theirs)
		return cluster.Errorf(cluster.Stale, "%s is of the later generation %s, here it is %s", from, theirs.Generation, ours.Generation)
	case c < 0:
		return cluster.Errorf(cluster.Stale, "%s is of the earlier generation %s, here it is %s", from, theirs.Generation, ours.Generation)
	}
	return nil
}

// Dial opens a stream to a node; target is the incarnation of its log that is
// meant, "" for other purposes.
func (g *Gate) Dial(ctx context.Context, node cluster.NodeID, port uint16, p Purpose, target string) (net.Conn, error) {
	c, err := g.cfg.Dial(ctx, node, port)
	if err != nil {
		return nil, err
	}
	return g.open(ctx, c, node, p, target)
}

// open makes a connection that stands already a stream.
func (g *Gate) open(ctx context.Context, c net.Conn, node cluster.NodeID, p Purpose, target string) (net.Conn, error) {
	err := g.greet(ctx, c, node, p, target)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open a %s stream to %s: %w", p, node, err), c.Close())
	}
	return c, nil
}

func (g *Gate) greet(ctx context.Context, c net.Conn, node cluster.NodeID, p Purpose, target string) error {
	deadline := time.Now().Add(helloWithin)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	if err := c.SetDeadline(deadline); err != nil {
		return err
	}
	if err := writeFrame(c, hello{helloVersion, p, g.cfg.Self, g.cfg.Lineage(), target}); err != nil {
		return err
	}
	var w welcome
	if err := readFrame(c, maxHello, &w); err != nil {
		return err
	}
	if w.Err != nil {
		if w.Lineage.Cluster == g.cfg.Lineage().Cluster && w.Lineage.Generation.Compare(g.cfg.Lineage().Generation) > 0 {
			g.cfg.Later(node, w.Lineage)
		}
		return w.Err
	}
	if err := g.compare(node, w.Lineage); err != nil {
		return err
	}
	return c.SetDeadline(time.Time{})
}

// Listener hands on the connections of inner that are streams for p. Each is
// checked beside the others, so that one that is silent holds up nobody.
func (g *Gate) Listener(inner net.Listener, p Purpose) net.Listener { return g.listen(inner, p, "") }

func (g *Gate) listen(inner net.Listener, p Purpose, target string) *gated {
	l := &gated{Listener: inner, g: g, purpose: p, target: target, ready: make(chan net.Conn), done: make(chan struct{}), open: map[net.Conn]struct{}{}}
	l.wg.Go(l.accept)
	return l
}

// gated is a listener whose connections have been checked.
type gated struct {
	net.Listener
	g       *Gate
	purpose Purpose
	target  string // the incarnation that is here, for streams of the log
	ready   chan net.Conn
	done    chan struct{} // closed by Close
	wg      sync.WaitGroup

	mu   sync.Mutex
	err  error                 // why accept ended
	open map[net.Conn]struct{} // nil once closed
}

func (l *gated) accept() {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			l.mu.Lock()
			l.err = err
			l.mu.Unlock()
			l.close()
			return
		}
		if !l.keep(c) {
			return
		}
		l.wg.Go(func() { l.check(c) })
	}
}

// keep remembers what Close has to close.
func (l *gated) keep(c net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open == nil {
		_ = c.Close() // nobody waits for it any more
		return false
	}
	l.open[c] = struct{}{}
	return true
}

func (l *gated) forget(c net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.open, c)
}

func (l *gated) check(c net.Conn) {
	s := &stream{Conn: c, l: l}
	who, err := l.g.receive(c, l.purpose, l.target)
	if err != nil {
		l.g.cfg.Logger.Debug("refused a stream", "purpose", l.purpose, "remote", c.RemoteAddr().String(), "err", err)
		_ = s.Close()
		return
	}
	s.who = who
	select {
	case l.ready <- s:
	case <-l.done:
		_ = s.Close()
	}
}

// receive is the other half of greet.
func (g *Gate) receive(c net.Conn, p Purpose, target string) (Who, error) {
	ctx, cancel := context.WithTimeout(context.Background(), helloWithin)
	defer cancel()
	if err := c.SetDeadline(time.Now().Add(helloWithin)); err != nil {
		return Who{}, err
	}
	var h hello
	if err := readFrame(c, maxHello, &h); err != nil {
		return Who{}, err
	}
	who, err := g.cfg.WhoIs(ctx, c.RemoteAddr().String())
	w := welcome{Lineage: g.cfg.Lineage()}
	switch {
	case err != nil, h.Version != helloVersion, h.Purpose != p, who.Node != h.Node, !p.admits(who):
		w.Err, w.Lineage = cluster.Errorf(cluster.Forbidden, "this stream is not for you"), cluster.Lineage{}
	case h.Target != target:
		w.Err = cluster.Errorf(cluster.Stale, "the log that is meant is gone; another is in its place")
	default:
		w.Err = g.compare(h.Node, h.Lineage)
	}
	if err := writeFrame(c, w); err != nil {
		return Who{}, err
	}
	if w.Err != nil {
		return Who{}, errors.Join(w.Err, err)
	}
	return who, c.SetDeadline(time.Time{})
}

// Accept waits for the next stream.
func (l *gated) Accept() (net.Conn, error) {
	select {
	case c := <-l.ready:
		return c, nil
	case <-l.done:
		l.mu.Lock()
		defer l.mu.Unlock()
		return nil, errors.Join(net.ErrClosed, l.err)
	}
}

func (l *gated) close() {
	l.mu.Lock()
	open := l.open
	l.open = nil
	l.mu.Unlock()
	if open == nil {
		return
	}
	close(l.done)
	for c := range open {
		_ = c.Close() // they are the network's; it tells its own reader
	}
}

// Close ends Accept and every stream that came through it.
func (l *gated) Close() error {
	l.close()
	err := l.Listener.Close()
	l.wg.Wait()
	return err
}

// stream is a checked connection.
type stream struct {
	net.Conn
	l   *gated
	who Who
}

func (s *stream) Close() error {
	s.l.forget(s.Conn)
	return s.Conn.Close()
}

// WhoOf names the node behind a connection that a gated listener has accepted.
func WhoOf(c net.Conn) Who {
	if s, ok := c.(*stream); ok {
		return s.who
	}
	return Who{}
}

// writeFrame writes a value behind its length: 4 bytes, big-endian.
func writeFrame(w io.Writer, v any) error {
	raw, err := cluster.Marshal(v)
	if err != nil {
		return fmt.Errorf("write a frame: %w", err)
	}
	_, err = w.Write(append(binary.BigEndian.AppendUint32(make([]byte, 0, len(raw)+4), uint32(len(raw))), raw...)) //nolint:gosec // frames are far below 4 GiB
	return err
}

// firstRead is how much memory a frame gets before it has come, in bytes.
const firstRead = 64 << 10

// readFrame reads a value of at most limit bytes.
func readFrame(r io.Reader, limit int, v any) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(head[:])
	if uint64(n) > uint64(limit) {
		return cluster.Errorf(cluster.TooLarge, "a frame of %d bytes is over the limit of %d", n, limit)
	}
	// A length is only a word: memory is taken as the bytes come.
	var raw bytes.Buffer
	raw.Grow(int(min(n, firstRead)) + bytes.MinRead)
	if _, err := io.CopyN(&raw, r, int64(n)); err != nil {
		return err
	}
	if err := cluster.Unmarshal(raw.Bytes(), v); err != nil {
		return fmt.Errorf("read a frame: %w", err)
	}
	return nil
}
