//go:build linux

package main

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
)

// Queue is one system that runs in its own processes. Clients are numbered from
// 0; one client calls one method at a time, different clients call in parallel.
type Queue interface {
	// Enqueue returns nil when the job is durable. The body begins with the id.
	// Called again with the same id after an error it should not add a second
	// job (Redis cannot tell).
	Enqueue(ctx context.Context, client int, id ID, body []byte) error
	// ReserveComplete takes a job and completes it, both durable when it
	// returns; false when there is none.
	ReserveComplete(ctx context.Context, client int) (bool, error)
	// Take waits until this client holds a job and returns how to complete it.
	Take(ctx context.Context, client int) (id ID, complete func(context.Context) error, err error)
	// KillLeader sends SIGKILL to the server that accepts writes. A system of
	// one copy is started again on the same folder.
	KillLeader(ctx context.Context) error
	// Held lists every job that was enqueued and not completed, as often as it
	// is held. It is used once, after the writers stopped.
	Held(ctx context.Context) ([]ID, error)
	// Servers are the processes that run now.
	Servers() []*child
	// Close ends the servers and removes their folders.
	Close()
}

// Setup is what a system needs to start.
type Setup struct {
	Lab     *lab
	Clients int
	Conns   int    // connections that the clients share, where a client library can share one
	Kill    bool   // a leader will be killed: know all servers, not only the leader
	Ours    string // command of our node
	Profile string // timeouts of our node: "wan" or "site"
}

// system is a name on the command line and how to start it.
type system struct {
	name  string
	start func(context.Context, Setup) (Queue, error)
}

func systems() []system {
	return []system{
		{"nats-r3", startNATS},
		{"etcd", startEtcd},
		{"redis", startRedis},
		{"ours", startOurs},
	}
}

// ID names a job; it is the first idLen bytes of the body.
type ID string

const idLen = 16

func newID(client, n int) ID {
	var b [idLen / 2]byte
	binary.BigEndian.PutUint16(b[:], uint16(client))
	binary.BigEndian.PutUint32(b[4:], uint32(n))
	return ID(hex.EncodeToString(b[:]))
}

func idOf(body []byte) (ID, error) {
	if len(body) < idLen {
		return "", fmt.Errorf("a job of %d bytes came back: too short", len(body))
	}
	return ID(body[:idLen]), nil
}
