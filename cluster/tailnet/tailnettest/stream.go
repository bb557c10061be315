package tailnettest

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"time"
)

const (
	window  = 1 << 20 // bytes that are sent and not yet read, per direction
	backlog = 128     // streams that wait for Accept, per listener
)

// end is one end of a stream. What comes in passes three places: under way
// (in), arrived (got), read. f.mu guards all of it.
type end struct {
	node          *node
	far           *end
	local, remote netip.AddrPort

	in     []segment // under way to this end, oldest first
	got    []byte    // arrived, not yet read
	size   int       // bytes in both
	eof    bool      // the far end has said its last
	err    error     // the stream is broken
	closed bool      // by our own code
	half   bool      // we have said our last
	wake   chan struct{}
	timer  *time.Timer // for the oldest segment under way
	read   deadline
	write  deadline
}

// segment is something under way.
type segment struct {
	data []byte
	last bool
	due  time.Time
}

var _ net.Conn = (*end)(nil)

// link makes a stream between two running machines. f.mu is held.
func link(from, to *node, local, remote netip.AddrPort) (near, far *end) {
	near = &end{node: from, local: local, remote: remote}
	far = &end{node: to, local: remote, remote: local}
	near.far, far.far = far, near
	for _, e := range []*end{near, far} {
		e.wake, e.read, e.write = make(chan struct{}), newDeadline(), newDeadline()
		e.node.order = append(e.node.order, e)
	}
	return near, far
}

func (e *end) LocalAddr() net.Addr  { return net.TCPAddrFromAddrPort(e.local) }
func (e *end) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(e.remote) }

func (e *end) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Source: e.LocalAddr(), Addr: e.RemoteAddr(), Err: err}
}

// rouse wakes whoever waits in Read or Write.
func (e *end) rouse() {
	close(e.wake)
	e.wake = make(chan struct{})
}

func (e *end) Read(b []byte) (int, error) {
	f := e.node.f
	for {
		f.mu.Lock()
		n, ready, err := e.take(b)
		wake, passed := e.wake, e.read.passed
		f.mu.Unlock()
		if ready {
			if err != nil && !errors.Is(err, io.EOF) {
				err = e.opError("read", err)
			}
			return n, err
		}
		select {
		case <-wake:
		case <-passed:
		}
	}
}

// take reads what is there, or says that nothing is.
func (e *end) take(b []byte) (n int, ready bool, err error) {
	switch {
	case e.closed:
		return 0, true, net.ErrClosed
	case e.read.over():
		return 0, true, os.ErrDeadlineExceeded
	case len(b) == 0:
		return 0, true, nil
	case len(e.got) > 0:
		n = copy(b, e.got)
		e.got = e.got[n:]
		e.size -= n
		e.far.rouse() // there is room
		return n, true, nil
	case e.err != nil:
		return 0, true, e.err
	case e.eof:
		return 0, true, io.EOF
	}
	return 0, false, nil
}

func (e *end) Write(b []byte) (sent int, err error) {
	f := e.node.f
	for {
		f.mu.Lock()
		n, err := e.send(b[sent:])
		wake, passed := e.wake, e.write.passed
		f.mu.Unlock()
		sent += n
		if err != nil {
			return sent, e.opError("write", err)
		}
		if sent == len(b) {
			return sent, nil
		}
		if n > 0 {
			continue // what was sent may have broken the stream
		}
		select {
		case <-wake:
		case <-passed:
		}
	}
}

// send puts as much under way as the window takes.
func (e *end) send(b []byte) (int, error) {
	switch {
	case e.closed:
		return 0, net.ErrClosed
	case e.half:
		return 0, syscall.EPIPE
	case e.write.over():
		return 0, os.ErrDeadlineExceeded
	case e.err != nil:
		return 0, e.err
	}
	n := min(len(b), window-e.far.size)
	if n > 0 {
		e.far.under(segment{data: slices.Clone(b[:n])})
	}
	return n, nil
}

// under puts a segment under way to this end.
func (e *end) under(s segment) {
	s.due = time.Now().Add(e.node.f.delay)
	e.in = append(e.in, s)
	e.size += len(s.data)
	e.pump()
}

// pump delivers what is due and has a way to this end.
func (e *end) pump() {
	f := e.node.f
	if len(e.in) == 0 || !f.open(e.far.node.dev, e.node.dev) {
		return
	}
	if e.node.state != running {
		// Nobody is there. If the machine runs again, or its host does, it
		// does not know this stream.
		if e.node.dev.live != nil || e.node.dev.refuses {
			e.far.reset()
		}
		return
	}
	for len(e.in) > 0 {
		s := e.in[0]
		if wait := time.Until(s.due); wait > 0 {
			e.later(wait)
			return
		}
		if e.closed && len(s.data) > 0 { // nobody reads it any more
			e.in = nil
			e.far.reset()
			return
		}
		e.in = e.in[1:]
		e.got = append(e.got, s.data...)
		e.eof = e.eof || s.last
		e.rouse()
	}
}

func (e *end) later(wait time.Duration) {
	if e.timer != nil {
		e.timer.Stop()
	}
	e.timer = time.AfterFunc(wait, func() {
		e.node.f.mu.Lock()
		defer e.node.f.mu.Unlock()
		e.pump()
	})
}

// reset breaks the stream for this end, whatever is still under way.
func (e *end) reset() {
	if e.err == nil {
		e.err = syscall.ECONNRESET
	}
	e.in = nil
	e.far.in = nil
	e.rouse()
}

// mute ends this end without a word to the far one.
func (e *end) mute() {
	if e.closed {
		return
	}
	e.closed = true
	e.read.stop()
	e.write.stop()
	e.got = nil
	e.node.order = slices.DeleteFunc(e.node.order, func(o *end) bool { return o == e })
	e.rouse()
}

// shut is Close: what was written is still delivered, then the far end reads
// EOF; what it sends after that is answered by a reset.
func (e *end) shut() {
	if e.closed {
		return
	}
	e.finish()
	e.size -= len(e.got) // a far end that waits for room must learn of the end
	e.mute()
	e.far.rouse()
	e.pump()
}

// finish says our last.
func (e *end) finish() {
	if e.half || e.err != nil {
		return
	}
	e.half = true
	e.far.under(segment{last: true})
}

// Close ends the stream.
func (e *end) Close() error {
	e.node.f.mu.Lock()
	defer e.node.f.mu.Unlock()
	if e.closed {
		return e.opError("close", net.ErrClosed)
	}
	e.shut()
	return nil
}

// CloseWrite ends what is sent and leaves what is received open.
func (e *end) CloseWrite() error {
	e.node.f.mu.Lock()
	defer e.node.f.mu.Unlock()
	if e.closed {
		return e.opError("close", net.ErrClosed)
	}
	e.finish()
	return nil
}

func (e *end) SetDeadline(t time.Time) error {
	return e.set(func() { e.read.set(&e.node.f.mu, t); e.write.set(&e.node.f.mu, t) })
}

func (e *end) SetReadDeadline(t time.Time) error {
	return e.set(func() { e.read.set(&e.node.f.mu, t) })
}

func (e *end) SetWriteDeadline(t time.Time) error {
	return e.set(func() { e.write.set(&e.node.f.mu, t) })
}

func (e *end) set(do func()) error {
	e.node.f.mu.Lock()
	defer e.node.f.mu.Unlock()
	if e.closed {
		return e.opError("set", net.ErrClosed)
	}
	do()
	e.rouse() // who waits must wait for the new time
	return nil
}

// listener takes streams on a port.
type listener struct {
	node  *node
	port  uint16
	queue []*end
	wake  chan struct{}
	done  chan struct{} // closed by shut
	over  bool
}

func (l *listener) Addr() net.Addr { return net.TCPAddrFromAddrPort(l.node.at(l.port)) }

func (l *listener) rouse() {
	close(l.wake)
	l.wake = make(chan struct{})
}

func (l *listener) Accept() (net.Conn, error) {
	f := l.node.f
	for {
		f.mu.Lock()
		var c *end
		if len(l.queue) > 0 {
			if c, l.queue = l.queue[0], l.queue[1:]; len(l.queue) == backlog-1 {
				f.stir() // there is room
			}
		}
		wake, over := l.wake, l.over
		f.mu.Unlock()
		if over {
			return nil, &net.OpError{Op: "accept", Net: "tcp", Addr: l.Addr(), Err: net.ErrClosed}
		}
		if c != nil {
			return c, nil
		}
		select {
		case <-wake:
		case <-l.done:
		}
	}
}

// Close refuses what nobody has accepted.
func (l *listener) Close() error {
	l.node.f.mu.Lock()
	defer l.node.f.mu.Unlock()
	if l.over {
		return &net.OpError{Op: "close", Net: "tcp", Addr: l.Addr(), Err: net.ErrClosed}
	}
	l.shut()
	for _, e := range l.queue {
		e.mute()
		e.far.reset()
	}
	l.queue = nil
	return nil
}

func (l *listener) shut() {
	if l.over {
		return
	}
	l.over = true
	close(l.done)
	delete(l.node.listeners, l.port)
}
