//go:build linux

package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
)

/*
The protocol between bench and one node of our side.

# Process

The bench starts three nodes, each with its own empty folder:

	CMD --id N --dir DIR --listen ADDR --peers 1=ADDR,2=ADDR,3=ADDR --profile P

N is 1, 2 or 3. ADDR of --listen is where this node serves the protocol below.
--peers names the address on which each node replicates, this one included. All
are on 127.0.0.1. P is "wan" (heartbeat and election 1 s, lease 500 ms) or "site"
(500 ms, 500 ms, lease 250 ms). The three form one cluster of three voters by
themselves within 20 s. CMD may hold arguments of its own before these (split at
spaces). stdout and stderr go to a file whose end is shown when the start fails.
A node is ended by SIGKILL; it is not started again on the same folder.

# Frames

Clients share one connection to the leader, or several (--conns), and keep them;
STATUS comes on short ones of its own. Both directions carry frames; integers are
big-endian.

	request   u32 length   u64 request   u8 op       payload
	answer    u32 length   u64 request   u8 status   payload

length counts what follows it (9 + payload) and is at most 1 MiB. The client
chooses request numbers, unique on its connection. Requests are pipelined: the
server reads on while earlier ones wait, and answers in any order, exactly once
each. A "string" is u8 length and that many bytes.

	op                   payload of the request          payload of the answer OK
	1 STATUS             -                               u8 ready, u8 voters, u8 leader
	2 ENQUEUE            string id, body (the rest)      -
	3 RESERVE            u32 worker, u32 wait_ms         u64 token, string id, body (the rest)
	4 COMPLETE           u64 token, string id            -
	5 LIST               string after                    u8 more, then strings

	status               meaning                                       payload
	0 OK
	1 EMPTY              no job to reserve
	2 NOT_LEADER         nothing was done here                         -
	3 UNAVAILABLE        not confirmed, may still take effect          text
	4 STALE              the token does not hold this job any more     -
	5 BAD                the request makes no sense                    text

# What an answer promises

  - STATUS: any node answers, at once. ready is 1 on the node that leads and has
    committed an entry of its own term (so that the next ENQUEUE succeeds), else 0.
    voters is how many the node's configuration holds. leader is its id, 0 = unknown.
  - ENQUEUE: OK when the job, body included, is in an entry that was fsynced on two
    of three nodes and applied on the leader. The same id again is OK and adds
    nothing, also under a later leader. Ids are 16 bytes, bodies 1 KiB or 64 KiB and
    not compressible; they are stored as they are.
  - RESERVE: OK when the oldest waiting job was assigned to worker in an entry
    durable in the same sense; no other worker is given it. token is the fence. With
    nothing waiting: EMPTY at once if wait_ms is 0, else the request is held until
    a job comes (which may be assigned in the entry that enqueues it) or the time
    is over. A closed connection withdraws what is held on it.
  - COMPLETE: OK when that the job is done is durable; the job is then forgotten.
  - LIST: up to 4,096 ids above after (empty: from the start) in byte order, waiting
    and reserved alike; more is 1 if there are others. Read on the leader behind
    everything it acknowledged.

All ops but STATUS answer NOT_LEADER on a node that does not lead. The bench then,
and when a connection breaks, asks STATUS of all nodes every 10 ms until one is
ready, and sends the same ENQUEUE again.

RESERVE and COMPLETE are two requests, one after the other, as for every system.
*/
const (
	opStatus   = 1
	opEnqueue  = 2
	opReserve  = 3
	opComplete = 4
	opList     = 5

	stOK          = 0
	stEmpty       = 1
	stNotLeader   = 2
	stUnavailable = 3
	stStale       = 4
	stBad         = 5

	maxFrame  = 1 << 20
	frameHead = 9 // request number and op or status
)

// answer of one request.
type answer struct {
	status  byte
	payload []byte
	err     error // the connection broke
}

// link is one connection to a node; many goroutines call through it at once.
type link struct {
	conn net.Conn
	node int // index of the node at the other end

	mu      sync.Mutex
	next    uint64
	waiting map[uint64]chan answer // buffered, one send
	out     []byte                 // frames not written yet
	spare   []byte
	writing bool
	err     error
}

func dialLink(ctx context.Context, node int, addr string) (*link, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	l := &link{conn: conn, node: node, waiting: map[uint64]chan answer{}}
	go l.read()
	return l, nil
}

// call sends one request and waits for its answer.
func (l *link) call(ctx context.Context, op byte, payload ...[]byte) (answer, error) {
	ch := make(chan answer, 1)
	n, err := l.send(op, payload, ch)
	if err != nil {
		return answer{}, err
	}
	select {
	case a := <-ch:
		return a, a.err
	case <-ctx.Done():
		l.mu.Lock()
		delete(l.waiting, n)
		l.mu.Unlock()
		return answer{}, ctx.Err()
	}
}

// send appends a frame. Whoever finds nobody writing writes for all that join
// meanwhile, so that one system call carries many small frames.
func (l *link) send(op byte, payload [][]byte, ch chan answer) (uint64, error) {
	size := frameHead
	for _, p := range payload {
		size += len(p)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return 0, l.err
	}
	l.next++
	n := l.next
	l.waiting[n] = ch
	l.out = binary.BigEndian.AppendUint32(l.out, uint32(size))
	l.out = binary.BigEndian.AppendUint64(l.out, n)
	l.out = append(l.out, op)
	for _, p := range payload {
		l.out = append(l.out, p...)
	}
	if l.writing {
		return n, nil
	}
	l.writing = true
	for len(l.out) > 0 && l.err == nil {
		buf := l.out
		l.out = l.spare[:0]
		l.mu.Unlock()
		_, err := l.conn.Write(buf)
		l.mu.Lock()
		l.spare = buf
		if err != nil {
			l.fail(err)
		}
	}
	l.writing = false
	return n, nil
}

func (l *link) read() {
	r := bufio.NewReaderSize(l.conn, 64<<10)
	for {
		n, status, payload, err := readFrame(r)
		l.mu.Lock()
		if err != nil {
			l.fail(err)
			l.mu.Unlock()
			return
		}
		ch := l.waiting[n]
		delete(l.waiting, n)
		l.mu.Unlock()
		if ch != nil { // nil: its caller gave up
			ch <- answer{status: status, payload: payload}
		}
	}
}

// fail ends every call; l.mu is held.
func (l *link) fail(err error) {
	if l.err != nil {
		return
	}
	l.err = fmt.Errorf("connection to node %d: %w", l.node+1, err)
	for n, ch := range l.waiting {
		ch <- answer{err: l.err}
		delete(l.waiting, n)
	}
	_ = l.conn.Close()
}

func (l *link) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fail(net.ErrClosed)
}

// readFrame reads one frame of either direction.
func readFrame(r io.Reader) (n uint64, kind byte, payload []byte, err error) {
	var head [4 + frameHead]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, 0, nil, err
	}
	size := binary.BigEndian.Uint32(head[:])
	if size < frameHead || size > maxFrame {
		return 0, 0, nil, fmt.Errorf("a frame of %d bytes", size)
	}
	payload = make([]byte, size-frameHead)
	_, err = io.ReadFull(r, payload)
	return binary.BigEndian.Uint64(head[4:]), head[12], payload, err
}

func wireString(s string) []byte { return append([]byte{byte(len(s))}, s...) }

var errShort = errors.New("an answer is too short")

func cutString(b []byte) (s string, rest []byte, err error) {
	if len(b) == 0 || len(b) < 1+int(b[0]) {
		return "", nil, errShort
	}
	return string(b[1 : 1+b[0]]), b[1+b[0]:], nil
}
