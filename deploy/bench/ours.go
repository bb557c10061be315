//go:build linux

package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
)

// oursQueue drives three nodes of our own side through the protocol of wire.go.
type oursQueue struct {
	kids  []*child
	addrs []string
	slots []slot // one for each connection that the clients share

	mu     sync.Mutex
	leader int // index, -1 = to be found
}

type slot struct {
	mu sync.Mutex
	l  *link
}

// lease is a job that a client holds.
type lease struct {
	token uint64
	id    string
}

func startOurs(ctx context.Context, s Setup) (Queue, error) { return newOurs(ctx, s) }

func newOurs(ctx context.Context, s Setup) (Queue, error) {
	q := &oursQueue{leader: -1, slots: make([]slot, s.Conns)}
	if err := q.start(ctx, s); err != nil {
		err = explain(err, q.kids)
		q.Close()
		return nil, err
	}
	return q, nil
}

func (q *oursQueue) start(ctx context.Context, s Setup) error {
	const n = 3
	p, err := ports(2 * n)
	if err != nil {
		return err
	}
	var peers []string
	for i := range n {
		peers = append(peers, fmt.Sprintf("%d=%s", i+1, loopback(p[n+i])))
	}
	for i := range n {
		dir, err := s.Lab.folder("ours")
		if err != nil {
			return err
		}
		argv := append(strings.Fields(s.Ours), "--id", fmt.Sprint(i+1), "--dir", dir, "--listen", loopback(p[i]),
			"--peers", strings.Join(peers, ","), "--profile", s.Profile)
		c, err := s.Lab.start("ours", dir, argv...)
		if err != nil {
			return err
		}
		q.kids, q.addrs = append(q.kids, c), append(q.addrs, loopback(p[i]))
	}
	return q.find(ctx, n)
}

// find asks all nodes until one leads a cluster of at least that many voters.
func (q *oursQueue) find(ctx context.Context, voters int) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.leader < 0 {
		for i := range q.addrs {
			if ready, v := q.status(ctx, i); ready && v >= voters {
				q.leader = i
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for a leader of %d voters: %w", voters, context.Cause(ctx))
		case <-time.After(10 * time.Millisecond):
		}
	}
	return nil
}

func (q *oursQueue) status(ctx context.Context, node int) (ready bool, voters int) {
	ctx, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	l, err := dialLink(ctx, node, q.addrs[node])
	if err != nil {
		return false, 0
	}
	defer l.close()
	a, err := l.call(ctx, opStatus)
	if err != nil || a.status != stOK || len(a.payload) < 3 {
		return false, 0
	}
	return a.payload[0] == 1, int(a.payload[1])
}

// link is the client's connection to the leader, made anew after it broke.
func (q *oursQueue) link(ctx context.Context, client int) (*link, error) {
	s := &q.slots[client%len(q.slots)]
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.l != nil {
		return s.l, nil
	}
	if err := q.find(ctx, 0); err != nil {
		return nil, err
	}
	q.mu.Lock()
	node := q.leader
	q.mu.Unlock()
	if node < 0 {
		return nil, errors.New("the leader was lost again")
	}
	l, err := dialLink(ctx, node, q.addrs[node])
	if err != nil {
		q.forget(node)
		return nil, err
	}
	s.l = l
	return l, nil
}

func (q *oursQueue) forget(node int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.leader == node {
		q.leader = -1
	}
}

// drop forgets a connection and the leader at its other end.
func (q *oursQueue) drop(client int, l *link) {
	s := &q.slots[client%len(q.slots)]
	s.mu.Lock()
	if s.l == l {
		s.l = nil
	}
	s.mu.Unlock()
	l.close()
	q.forget(l.node)
}

// call answers OK and EMPTY as they are and all else as an error.
func (q *oursQueue) call(ctx context.Context, client int, op byte, payload ...[]byte) (answer, error) {
	l, err := q.link(ctx, client)
	if err != nil {
		return answer{}, err
	}
	a, err := l.call(ctx, op, payload...)
	switch {
	case err != nil:
		if a.err != nil { // the connection, not our patience
			q.drop(client, l)
		}
		return a, err
	case a.status == stOK || a.status == stEmpty:
		return a, nil
	case a.status == stNotLeader:
		q.drop(client, l)
		return a, errors.New("the node does not lead")
	}
	return a, fmt.Errorf("op %d: status %d: %s", op, a.status, a.payload)
}

func (q *oursQueue) Enqueue(ctx context.Context, client int, id ID, body []byte) error {
	_, err := q.call(ctx, client, opEnqueue, wireString(string(id)), body)
	return err
}

// reserve returns nil when there is no job.
func (q *oursQueue) reserve(ctx context.Context, client int, wait time.Duration) (*lease, error) {
	var p [8]byte
	binary.BigEndian.PutUint32(p[:], uint32(client))
	binary.BigEndian.PutUint32(p[4:], uint32(wait.Milliseconds()))
	a, err := q.call(ctx, client, opReserve, p[:])
	return leaseOf(a, err)
}

func leaseOf(a answer, err error) (*lease, error) {
	if err != nil || a.status == stEmpty {
		return nil, err
	}
	if len(a.payload) < 8 {
		return nil, errShort
	}
	id, body, err := cutString(a.payload[8:])
	if err == nil && !strings.HasPrefix(string(body[:min(len(body), idLen)]), id) {
		err = fmt.Errorf("job %s came with another's body", id)
	}
	return &lease{token: binary.BigEndian.Uint64(a.payload), id: id}, err
}

func (q *oursQueue) complete(ctx context.Context, client int, l *lease) error {
	_, err := q.call(ctx, client, opComplete, binary.BigEndian.AppendUint64(nil, l.token), wireString(l.id))
	return err
}

func (q *oursQueue) ReserveComplete(ctx context.Context, client int) (bool, error) {
	l, err := q.reserve(ctx, client, 0)
	if l == nil || err != nil {
		return false, err
	}
	return true, q.complete(ctx, client, l)
}

func (q *oursQueue) Take(ctx context.Context, client int) (ID, func(context.Context) error, error) {
	l, err := q.reserve(ctx, client, 20*time.Second)
	if err == nil && l == nil {
		err = errors.New("no job came")
	}
	if err != nil {
		return "", nil, err
	}
	return ID(l.id), func(ctx context.Context) error { return q.complete(ctx, client, l) }, nil
}

func (q *oursQueue) KillLeader(ctx context.Context) error {
	for i := range q.addrs {
		if ready, _ := q.status(ctx, i); ready {
			q.kids[i].kill()
			return nil
		}
	}
	return errors.New("no node leads")
}

func (q *oursQueue) Held(ctx context.Context) ([]ID, error) {
	var held []ID
	after := ""
	for {
		var a answer
		if err := until(ctx, "read jobs back", func(ctx context.Context) (err error) {
			a, err = q.call(ctx, 0, opList, wireString(after))
			return err
		}); err != nil {
			return held, err
		}
		if len(a.payload) < 1 {
			return held, errShort
		}
		more, rest := a.payload[0] == 1, a.payload[1:]
		for len(rest) > 0 {
			var err error
			if after, rest, err = cutString(rest); err != nil {
				return held, err
			}
			held = append(held, ID(after))
		}
		if !more {
			return held, nil
		}
	}
}

func (q *oursQueue) Servers() []*child { return q.kids }

func (q *oursQueue) Close() {
	for i := range q.slots {
		if l := q.slots[i].l; l != nil {
			l.close()
		}
	}
	stop(q.kids)
}
