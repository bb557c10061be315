package consensus

import (
	"net"
	"sync"
	"time"

	"github.com/ahelme/comfyume/cluster"
)

// alone is the Stream of a node that has no network: it reaches itself only.
type alone struct {
	self  string
	conns chan net.Conn
	done  chan struct{} // closed by Close

	mu   sync.Mutex
	ends []net.Conn // of every pipe; raft closes those that it has accepted never
}

func newAlone(self string) *alone {
	return &alone{self: self, conns: make(chan net.Conn), done: make(chan struct{})}
}

// Accept waits for this node's own calls.
func (a *alone) Accept() (net.Conn, error) {
	select {
	case c := <-a.conns:
		return c, nil
	case <-a.done:
		return nil, net.ErrClosed
	}
}

// Dial reaches this node, or nobody.
func (a *alone) Dial(addr string, _ time.Duration) (net.Conn, error) {
	if addr != a.self {
		return nil, cluster.Errorf(cluster.Unavailable, "this node stands alone, it does not reach %s", addr)
	}
	here, there := net.Pipe()
	a.mu.Lock()
	a.ends = append(a.ends, here, there)
	a.mu.Unlock()
	select {
	case a.conns <- there:
		return here, nil
	case <-a.done:
		return nil, net.ErrClosed
	}
}

// Close ends Accept and every pipe.
func (a *alone) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	select {
	case <-a.done:
	default:
		close(a.done)
	}
	for _, c := range a.ends {
		_ = c.Close() // a pipe has nothing to say
	}
	a.ends = nil
	return nil
}

// Addr is this node's name.
func (a *alone) Addr() net.Addr { return serverAddr(a.self) }

type serverAddr string

func (serverAddr) Network() string  { return "node" }
func (s serverAddr) String() string { return string(s) }
