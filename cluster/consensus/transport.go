package consensus

import (
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/raft"
)

// Stream carries the log between nodes. Its own address, and the addresses
// that it dials, are NODE.INCARNATION; it must reach nobody but that incarnation. Closing it closes every connection that came
// through it: raft's own transport forgets those it has accepted.
type Stream interface {
	net.Listener
	Dial(addr string, timeout time.Duration) (net.Conn, error)
}

// stream adapts Stream to raft's type of address.
type stream struct{ Stream }

func (s stream) Dial(a raft.ServerAddress, d time.Duration) (net.Conn, error) {
	return s.Stream.Dial(string(a), d)
}

// transport is raft's own, watched: what a follower has confirmed is on its
// disk, and raft itself tells nobody.
type transport struct {
	*raft.NetworkTransport
	heard *heard
}

// AppendEntries sends entries, or a heartbeat, and notes what was confirmed.
func (t *transport) AppendEntries(id raft.ServerID, target raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	err := t.NetworkTransport.AppendEntries(id, target, args, resp)
	if err == nil {
		t.heard.note(id, args, resp)
	}
	return err
}

// RequestPreVote asks whether a vote would be given.
func (t *transport) RequestPreVote(id raft.ServerID, target raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	return freshly(func() error { return t.NetworkTransport.RequestPreVote(id, target, args, resp) })
}

// RequestVote asks for a vote.
func (t *transport) RequestVote(id raft.ServerID, target raft.ServerAddress, args *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	return freshly(func() error { return t.NetworkTransport.RequestVote(id, target, args, resp) })
}

// TimeoutNow asks another to lead.
func (t *transport) TimeoutNow(id raft.ServerID, target raft.ServerAddress, args *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	return freshly(func() error { return t.NetworkTransport.TimeoutNow(id, target, args, resp) })
}

// keptConns is how many idle connections raft keeps to each server.
const keptConns = 3

// freshly makes a call again while the connection that it went over proves to
// be dead. Those that are kept outlive the process at their other end, and each
// of them would cost a round of an election: the other node would not even hear
// of it. Asking twice for the same vote is harmless.
func freshly(call func() error) error {
	err := call()
	for range keptConns {
		if !hungUp(err) {
			return err
		}
		err = call()
	}
	return err
}

// hungUp reports whether a connection had been closed by the other end.
func hungUp(err error) bool {
	var inner interface{ Cause() error } // msgpack's errors do not unwrap
	if errors.As(err, &inner) && inner.Cause() != nil {
		err = inner.Cause()
	}
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, net.ErrClosed)
}

// AppendEntriesPipeline sends without waiting for each answer.
func (t *transport) AppendEntriesPipeline(id raft.ServerID, target raft.ServerAddress) (raft.AppendPipeline, error) {
	inner, err := t.NetworkTransport.AppendEntriesPipeline(id, target)
	if err != nil {
		return nil, err
	}
	p := &pipeline{AppendPipeline: inner, out: make(chan raft.AppendFuture), stop: make(chan struct{})}
	go p.watch(id, t.heard)
	return p, nil
}

// InstallSnapshot sends a whole state.
func (t *transport) InstallSnapshot(id raft.ServerID, target raft.ServerAddress, args *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	err := t.NetworkTransport.InstallSnapshot(id, target, args, resp, data)
	if err == nil && resp.Success {
		t.heard.holds(id, args.Term, args.LastLogIndex)
	}
	return err
}

// pipeline hands on what its inner one is answered.
type pipeline struct {
	raft.AppendPipeline
	out  chan raft.AppendFuture // never closed, as raft's own
	stop chan struct{}          // closed by Close
	once sync.Once
}

func (p *pipeline) watch(id raft.ServerID, h *heard) {
	for {
		select {
		case f := <-p.AppendPipeline.Consumer():
			if f.Error() == nil {
				h.note(id, f.Request(), f.Response())
			}
			select {
			case p.out <- f:
			case <-p.stop:
				return
			}
		case <-p.stop:
			return
		}
	}
}

func (p *pipeline) Consumer() <-chan raft.AppendFuture { return p.out }

func (p *pipeline) Close() error {
	p.once.Do(func() { close(p.stop) })
	return p.AppendPipeline.Close()
}

// heard is what the other servers have confirmed to this node while it led.
type heard struct {
	mu      sync.Mutex
	term    uint64 // of servers: what was confirmed to an earlier leader may be overwritten since
	servers map[raft.ServerID]confirmed
	moved   chan struct{} // closed and made anew when somebody holds more
}

// confirmed is the last of one server.
type confirmed struct {
	index uint64 // it holds everything up to here
	at    time.Time
}

func newHeard() *heard {
	return &heard{servers: map[raft.ServerID]confirmed{}, moved: make(chan struct{})}
}

func (h *heard) note(id raft.ServerID, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) {
	switch n := len(args.Entries); {
	case !resp.Success:
		h.holds(id, args.Term, 0)
	case n > 0:
		h.holds(id, args.Term, args.Entries[n-1].Index)
	default:
		h.holds(id, args.Term, args.PrevLogEntry) // 0 in a heartbeat
	}
}

func (h *heard) holds(id raft.ServerID, term, index uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if term > h.term {
		h.term = term
		clear(h.servers)
	}
	c := h.servers[id]
	c.at = time.Now()
	if index > c.index {
		c.index = index
		close(h.moved)
		h.moved = make(chan struct{})
	}
	h.servers[id] = c
}

// of returns what one server confirmed, and a channel that is closed when any
// of them confirms more.
func (h *heard) of(id raft.ServerID) (confirmed, <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.servers[id], h.moved
}
