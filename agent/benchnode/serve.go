package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/consensus"
	"github.com/ahelme/comfyume/cluster/state"
	"github.com/ahelme/comfyume/roles/queue"
)

// The numbers of the protocol; deploy/bench/wire.go says what they promise.
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

// bench answers requests with the product's own parts.
type bench struct {
	log     *consensus.Log
	machine *state.Machine
	steward *queue.Steward
	admit   cluster.Proposer
	settled atomic.Uint64 // the term in which this node, leading, applied all of earlier ones
}

// request is one frame from the bench.
type request struct {
	number  uint64
	op      byte
	payload []byte
}

func (b *bench) serve(ln net.Listener) error {
	for {
		c, err := ln.Accept()
		if err != nil {
			return err
		}
		go b.converse(c)
	}
}

// converse answers one connection's requests, each on its own, until it closes.
func (b *bench) converse(c net.Conn) {
	ctx, cancel := context.WithCancel(context.Background())
	out := &answers{conn: c}
	defer func() { cancel(); _ = c.Close() }()
	r := bufio.NewReaderSize(c, 64<<10)
	work := make(chan request) // closed when nothing more comes
	defer close(work)
	for {
		in, err := readRequest(r)
		if err != nil {
			return
		}
		select {
		case work <- in: // somebody has time
		default:
			go func() {
				for ok := true; ok; in, ok = <-work {
					status, payload := b.answer(ctx, in)
					out.send(in.number, status, payload)
				}
			}()
		}
	}
}

func readRequest(r io.Reader) (in request, err error) {
	var head [4 + frameHead]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return in, err
	}
	size := binary.BigEndian.Uint32(head[:])
	if size < frameHead || size > maxFrame {
		return in, fmt.Errorf("a frame of %d bytes", size)
	}
	in.number, in.op, in.payload = binary.BigEndian.Uint64(head[4:]), head[12], make([]byte, size-frameHead)
	_, err = io.ReadFull(r, in.payload)
	return in, err
}

// answers writes frames: whoever finds nobody writing writes for all that come
// meanwhile.
type answers struct {
	conn net.Conn

	mu         sync.Mutex
	out, spare []byte
	writing    bool
}

func (a *answers) send(number uint64, status byte, payload []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.out = binary.BigEndian.AppendUint32(a.out, uint32(frameHead+len(payload)))
	a.out = binary.BigEndian.AppendUint64(a.out, number)
	a.out = append(append(a.out, status), payload...)
	if a.writing {
		return
	}
	a.writing = true
	for len(a.out) > 0 {
		buf := a.out
		a.out = a.spare[:0]
		a.mu.Unlock()
		_, err := a.conn.Write(buf)
		a.mu.Lock()
		a.spare = buf
		if err != nil {
			a.out = nil
			_ = a.conn.Close() // its reader ends too
		}
	}
	a.writing = false
}

// ready reports whether this node leads and has applied whatever earlier
// leaders committed.
func (b *bench) ready() bool {
	term := b.log.Status().Term
	if !b.log.Leads() {
		return false
	}
	if b.settled.Load() == term {
		return true
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if b.log.Barrier(ctx) != nil || b.log.Status().Term != term {
		return false
	}
	b.settled.Store(term)
	return true
}
