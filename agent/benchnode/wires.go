package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/ahelme/comfyume/cluster"
)

// wires carries the log between the nodes, and once the words by which a node
// joins: the first byte of a connection tells which.
type wires struct {
	ln    net.Listener
	self  cluster.NodeID
	addrs map[cluster.NodeID]string
	logs  chan net.Conn
	// admit takes a newcomer in; without an incarnation it only says what there is
	// to join. Nil on all but the first node.
	admit func(ctx context.Context, who cluster.NodeID, incarnation string) (cluster.Lineage, error)
}

const (
	forLog  = 'L'
	forJoin = 'J'
)

// joining is what a newcomer says; joined answers it.
type joining struct {
	Node        cluster.NodeID
	Incarnation string
}

type joined struct {
	Lineage cluster.Lineage
	Err     string
}

func listenWires(self cluster.NodeID, addrs map[cluster.NodeID]string) (*wires, error) {
	ln, err := net.Listen("tcp", addrs[self])
	return &wires{ln: ln, self: self, addrs: addrs, logs: make(chan net.Conn)}, err
}

// serve accepts until the process ends.
func (w *wires) serve() error {
	for {
		c, err := w.ln.Accept()
		if err != nil {
			return err
		}
		go w.take(c)
	}
}

func (w *wires) take(c net.Conn) {
	var purpose [1]byte
	if _, err := io.ReadFull(c, purpose[:]); err != nil {
		_ = c.Close()
		return
	}
	if purpose[0] == forLog {
		w.logs <- c
		return
	}
	defer func() { _ = c.Close() }()
	var in joining
	var out joined
	err := json.NewDecoder(c).Decode(&in)
	if err == nil && w.admit == nil {
		err = errors.New("this is not the first node")
	}
	if err == nil {
		out.Lineage, err = w.admit(context.Background(), in.Node, in.Incarnation)
	}
	if err != nil {
		out.Err = err.Error()
	}
	_ = json.NewEncoder(c).Encode(out) // the newcomer asks again
}

// ask says something to the first node.
func (w *wires) ask(in joining) (cluster.Lineage, error) {
	c, err := w.dial(nodeID(1), forJoin, time.Second)
	if err != nil {
		return cluster.Lineage{}, err
	}
	defer func() { _ = c.Close() }()
	var out joined
	err = errors.Join(c.SetDeadline(time.Now().Add(5*time.Second)), json.NewEncoder(c).Encode(in), json.NewDecoder(c).Decode(&out))
	if err == nil && out.Err != "" {
		err = errors.New(out.Err)
	}
	return out.Lineage, err
}

func (w *wires) dial(to cluster.NodeID, purpose byte, timeout time.Duration) (net.Conn, error) {
	c, err := net.DialTimeout("tcp", w.addrs[to], timeout)
	if err != nil {
		return nil, err
	}
	if _, err := c.Write([]byte{purpose}); err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

// way is the consensus.Stream of one start of raft.
type way struct {
	*wires
	incarnation string

	once   sync.Once
	closed chan struct{}
}

func (w *way) Accept() (net.Conn, error) {
	select {
	case c := <-w.logs:
		return c, nil
	case <-w.closed:
		return nil, net.ErrClosed
	}
}

func (w *way) Close() error { w.once.Do(func() { close(w.closed) }); return nil }

// Dial reaches NODE.INCARNATION; no node of a bench has more than one.
func (w *way) Dial(addr string, timeout time.Duration) (net.Conn, error) {
	node, _, _ := strings.Cut(addr, ".")
	return w.dial(cluster.NodeID(node), forLog, timeout)
}

func (w *way) Addr() net.Addr { return address(string(w.self) + "." + w.incarnation) }

type address string

func (address) Network() string  { return "node" }
func (a address) String() string { return string(a) }
