package gateway

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// pond waits for all sockets that are silent at once, with one descriptor of the
// kernel's in place of a goroutine each. A socket that has something to say gets
// one until it is silent again.
type pond struct {
	file *os.File
	raw  syscall.RawConn

	mu   sync.Mutex
	last int32
	in   map[int32]*sock // by ticket
}

func newPond() (*pond, error) {
	fd, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make a place for silent sockets: %w", os.NewSyscallError("epoll_create1", err))
	}
	// The runtime waits for it as for a connection.
	if err := syscall.SetNonblock(fd, true); err != nil {
		return nil, errors.Join(os.NewSyscallError("setnonblock", err), syscall.Close(fd))
	}
	p := &pond{file: os.NewFile(uintptr(fd), "epoll"), in: map[int32]*sock{}}
	if p.raw, err = p.file.SyscallConn(); err != nil {
		return nil, errors.Join(err, p.file.Close())
	}
	return p, nil
}

// run serves the pond until it is closed.
func (p *pond) run() {
	var events [128]syscall.EpollEvent
	for {
		n := 0
		err := p.raw.Read(func(fd uintptr) bool {
			var err error
			n, err = syscall.EpollWait(int(fd), events[:], 0)
			return n > 0 || err != nil && err != syscall.EINTR //nolint:errorlint // a bare number
		})
		if err != nil {
			return
		}
		p.mu.Lock()
		for _, e := range events[:max(n, 0)] {
			if s := p.in[e.Fd]; s != nil {
				go p.serve(s)
			}
		}
		p.mu.Unlock()
	}
}

func (p *pond) close() { _ = p.file.Close() } // run hears of it

// add puts a socket in. It reports false for a connection without a descriptor.
func (p *pond) add(s *sock) bool {
	if rawConn(s.conn) == nil {
		return false
	}
	p.mu.Lock()
	for p.last++; p.in[p.last] != nil; p.last++ { //nolint:revive // the next free one
	}
	s.ticket = p.last
	p.in[s.ticket] = s
	p.mu.Unlock()
	if !p.arm(s, syscall.EPOLL_CTL_ADD) {
		s.drop()
	}
	return true
}

// remove forgets a socket. Closing it has taken it out of the kernel's list.
func (p *pond) remove(s *sock) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.in, s.ticket)
}

// arm lets the kernel tell once more. Under the lock, so that whoever serves the
// socket next sees what was read so far.
func (p *pond) arm(s *sock, op int) (ok bool) {
	raw := rawConn(s.conn)
	if raw == nil {
		return false // it was closed meanwhile
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	e := syscall.EpollEvent{Events: syscall.EPOLLIN | syscall.EPOLLRDHUP | syscall.EPOLLONESHOT, Fd: s.ticket}
	err := raw.Control(func(fd uintptr) {
		ok = p.raw.Control(func(in uintptr) { ok = syscall.EpollCtl(int(in), op, int(fd), &e) == nil }) == nil && ok
	})
	return err == nil && ok
}

// patch is what a socket's goroutine reads into.
type patch [4 << 10]byte

var patches = sync.Pool{New: func() any { return new(patch) }}

// quiet is how long a socket that has spoken is listened to for more. TLS may
// hold back what it has read, and its descriptor does not tell.
const quiet = time.Millisecond

// serve takes all that a socket has to say now.
func (p *pond) serve(s *sock) {
	buf := patches.Get().(*patch)
	defer patches.Put(buf)
	for {
		if s.conn.SetReadDeadline(time.Now().Add(quiet)) != nil {
			break
		}
		n, err := s.conn.Read(buf[:])
		if n > 0 && s.take(buf[:n]) != nil {
			break
		}
		if err == nil {
			continue
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) || !p.arm(s, syscall.EPOLL_CTL_MOD) {
			break
		}
		return
	}
	s.drop()
}

// rawConn is the descriptor beneath a connection, or nil.
func rawConn(c net.Conn) syscall.RawConn {
	for {
		switch t := c.(type) {
		case interface{ NetConn() net.Conn }: // TLS
			c = t.NetConn()
		case syscall.Conn:
			raw, err := t.SyscallConn()
			if err != nil {
				return nil
			}
			return raw
		default:
			return nil
		}
	}
}
