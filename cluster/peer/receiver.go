package peer

import (
	"bufio"
	"context"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/ahelme/comfyume/cluster/jobs"
)

// Receiver takes what other nodes' links bring.
type Receiver struct {
	Replica interface {
		Await(ctx context.Context, index uint64) error
	}
	// Event takes an event of a worker of who's; it must not block for long.
	Event func(who Who, e jobs.Event)
	// Report takes what a node says of itself.
	Report func(who Who, raw []byte)
	Logger *slog.Logger

	mu    sync.Mutex
	conns map[net.Conn]bool
}

// Anew ends all links: those who made them come back within a second and tell how
// things stand. It is for a gateway that begins to listen on a node whose links
// are up already.
func (r *Receiver) Anew() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.conns {
		_ = c.Close() // its reader hears of it
	}
}

// keep notes a link for Anew, or forgets it.
func (r *Receiver) keep(c net.Conn, here bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !here {
		delete(r.conns, c)
		return
	}
	if r.conns == nil {
		r.conns = map[net.Conn]bool{}
	}
	r.conns[c] = true
}

// Serve takes links from a gated listener until it is closed.
func (r *Receiver) Serve(ctx context.Context, ln net.Listener) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	stop := context.AfterFunc(ctx, func() { _ = ln.Close() })
	defer stop()
	for {
		c, err := ln.Accept()
		if err != nil {
			return ignoreEnd(ctx, err)
		}
		r.keep(c, true)
		wg.Go(func() {
			defer r.keep(c, false)
			why := r.take(ctx, c)
			r.Logger.Debug("a link ended", "node", WhoOf(c).Name, "err", why)
			_ = c.Close()
		})
	}
}

// take returns why the link ended.
func (r *Receiver) take(ctx context.Context, c net.Conn) error {
	who := WhoOf(c)
	in := bufio.NewReaderSize(c, linkBuffer)
	for {
		var p parcel
		if err := readFrame(in, maxParcel, &p); err != nil {
			return err
		}
		switch {
		case p.Event != nil:
			r.event(ctx, who, *p.Event)
		case p.Report != nil:
			r.Report(who, p.Report)
		case p.Sync != 0:
			if err := c.SetWriteDeadline(time.Now().Add(writeWithin)); err != nil {
				return err
			}
			if err := writeFrame(c, parcel{Sync: p.Sync}); err != nil {
				return err
			}
		}
	}
}

// event hands an event on once this replica has applied what it relies on.
func (r *Receiver) event(ctx context.Context, who Who, e jobs.Event) {
	wait, cancel := context.WithTimeout(ctx, indexWithin)
	defer cancel()
	if err := r.Replica.Await(wait, e.Index); err != nil {
		return // a page must not be told of what this node does not know
	}
	r.Event(who, e)
}
