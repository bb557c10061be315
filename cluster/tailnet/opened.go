package tailnet

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

// opened is what a Network has handed out and must end when it is closed.
type opened struct {
	mu     sync.Mutex
	things map[io.Closer]struct{}
	closed bool
	done   chan struct{}  // closed by close
	users  sync.WaitGroup // dials under way and goroutines that serve listeners
}

func newOpened() *opened {
	return &opened{things: map[io.Closer]struct{}{}, done: make(chan struct{})}
}

// keep remembers what to close; on a closed network it closes it at once.
func (o *opened) keep(c io.Closer) error {
	o.mu.Lock()
	closed := o.closed
	if !closed {
		o.things[c] = struct{}{}
	}
	o.mu.Unlock()
	if closed {
		return errors.Join(net.ErrClosed, c.Close())
	}
	return nil
}

func (o *opened) drop(c io.Closer) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.things, c)
}

// enter counts a user that close waits for; leave must follow if it gives true.
func (o *opened) enter() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return false
	}
	o.users.Add(1)
	return true
}

func (o *opened) leave() { o.users.Done() }

// until is ctx, but it also ends when the network is closed.
func (o *opened) until(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	o.users.Go(func() {
		select {
		case <-o.done:
			cancel(net.ErrClosed)
		case <-ctx.Done():
		}
	})
	return ctx, func() { cancel(nil) }
}

// close ends everything and waits for the users. It reports whether it was the
// first call.
func (o *opened) close() (first bool, err error) {
	o.mu.Lock()
	first = !o.closed
	o.closed = true
	things := o.things
	o.things = nil
	if first {
		close(o.done)
	}
	o.mu.Unlock()
	for c := range things {
		if e := c.Close(); e != nil && !errors.Is(e, net.ErrClosed) {
			err = errors.Join(err, e)
		}
	}
	o.users.Wait()
	return first, err
}

// acquaintances remembers for a moment who stands behind an address, because
// every request asks.
type acquaintances struct {
	mu    sync.Mutex
	known map[netip.Addr]acquaintance
}

type acquaintance struct {
	who Identity
	at  time.Time
}

const (
	acquainted       = time.Second // how long an answer is believed
	maxAcquaintances = 4096        // more addresses than any workshop has
)

// ask gives the remembered answer, or look's. Refusals are not remembered: a
// node that has just joined must not wait.
func (a *acquaintances) ask(addr netip.Addr, look func() (Identity, error)) (Identity, error) {
	a.mu.Lock()
	got, ok := a.known[addr]
	a.mu.Unlock()
	if ok && time.Since(got.at) < acquainted {
		return got.who.clone(), nil
	}
	who, err := look()
	if err != nil {
		return Identity{}, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.known == nil || len(a.known) >= maxAcquaintances {
		a.known = map[netip.Addr]acquaintance{}
	}
	a.known[addr] = acquaintance{who: who, at: time.Now()}
	return who.clone(), nil
}

func (i Identity) clone() Identity {
	i.Tags = append([]string(nil), i.Tags...)
	return i
}
