package networktest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/tailnet"
)

func isClosed(err error) bool { return errors.Is(err, net.ErrClosed) }

func listen(t *testing.T, n tailnet.Network) net.Listener {
	t.Helper()
	ln, err := n.Listen(0)
	if err != nil {
		t.Fatalf("listen: %v", err)
	}
	return ln
}

func listenPacket(t *testing.T, n tailnet.Network) net.PacketConn {
	t.Helper()
	pc, err := n.ListenPacket(0)
	if err != nil {
		t.Fatalf("listen for datagrams: %v", err)
	}
	return pc
}

// pair connects from a to a listener of b and gives both ends.
func pair(t *testing.T, a, b tailnet.Network) (near, far net.Conn) {
	t.Helper()
	ln := listen(t, b)
	defer func() { _ = ln.Close() }()
	return dial(t, a, ln)
}

func dial(t *testing.T, a tailnet.Network, ln net.Listener) (near, far net.Conn) {
	t.Helper()
	accepted := make(chan net.Conn, 1) // one send
	go func() {
		c, err := ln.Accept()
		if err != nil {
			t.Errorf("accept: %v", err)
		}
		accepted <- c
	}()
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	near, err := a.Dial(ctx, ln.Addr().String())
	if err != nil {
		t.Fatalf("dial %s: %v", ln.Addr(), err)
	}
	far = <-accepted
	if far == nil {
		t.FailNow()
	}
	return near, far
}

// talk sends a word each way.
func talk(t *testing.T, a, b tailnet.Network) {
	t.Helper()
	near, far := pair(t, a, b)
	defer func() { _, _ = near.Close(), far.Close() }()
	for _, d := range []struct{ from, to net.Conn }{{near, far}, {far, near}} {
		if _, err := d.from.Write([]byte("hello")); err != nil {
			t.Fatalf("write: %v", err)
		}
		got := make([]byte, 5)
		if _, err := io.ReadFull(d.to, got); err != nil || string(got) != "hello" {
			t.Fatalf("read %q, %v", got, err)
		}
	}
}

func identify(t *testing.T, w Workshop) {
	core, gpu := open(t, w, "mello", cluster.TagCore), open(t, w, "verda", cluster.TagGPU)
	met(t, core, gpu)
	ln := listen(t, core)
	if ap, err := netip.ParseAddrPort(ln.Addr().String()); err != nil || ap.Addr() != core.Self().Addr || ap.Port() == 0 {
		t.Errorf("the listener is at %s, the node at %s", ln.Addr(), core.Self().Addr)
	}
	near, far := dial(t, gpu, ln)
	defer func() { _, _ = near.Close(), far.Close() }()
	for _, c := range []struct {
		asked tailnet.Network
		of    string
		want  tailnet.Peer
	}{
		{core, far.RemoteAddr().String(), gpu.Self()},
		{gpu, near.RemoteAddr().String(), core.Self()},
		{core, near.RemoteAddr().String(), core.Self()}, // itself
	} {
		who, err := c.asked.WhoIs(t.Context(), c.of)
		if err != nil || who.Node != c.want.ID || who.Name != c.want.Name || who.Login != "" || !slices.Equal(who.Tags, c.want.Tags) {
			t.Errorf("%s asked who %s is: %+v, %v; want %+v", c.asked.Self().Name, c.of, who, err, c.want)
		}
	}
	if ap, err := netip.ParseAddrPort(far.RemoteAddr().String()); err != nil || ap.Addr() != gpu.Self().Addr {
		t.Errorf("the dialer comes from %s, want %s", far.RemoteAddr(), gpu.Self().Addr)
	}
	talk(t, core, gpu)
	talk(t, core, core)
}

func closedPort(t *testing.T, w Workshop) {
	a, b := open(t, w, "mello", cluster.TagCore), open(t, w, "mac", cluster.TagCore)
	met(t, a, b)
	talk(t, a, b) // the way is known, so the time below is that of the refusal
	ln := listen(t, b)
	addr := ln.Addr().String()
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	if c, err := a.Dial(ctx, addr); err == nil {
		_ = c.Close()
		t.Error("a closed port was reached")
	} else if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dial a closed port = %v", err)
	}
}

func takenPort(t *testing.T, w Workshop) {
	a, b := open(t, w, "mello", cluster.TagCore), open(t, w, "mac", cluster.TagCore)
	const port = 17100
	for range 2 { // what was closed is free again
		ln, err := a.Listen(port)
		if err != nil {
			t.Fatal(err)
		}
		pc, err := a.ListenPacket(port)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.Listen(port); cluster.CodeOf(err) != cluster.Conflict {
			t.Errorf("the port is listened on twice: %v", err)
		}
		if _, err := a.ListenPacket(port); cluster.CodeOf(err) != cluster.Conflict {
			t.Errorf("the port is listened on twice for datagrams: %v", err)
		}
		other, err := b.Listen(port) // it is another machine
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []io.Closer{ln, pc, other} {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

func dialEnds(t *testing.T, w Workshop) {
	a, b := open(t, w, "mello", cluster.TagCore), open(t, w, "mac", cluster.TagCore)
	met(t, a, b)
	ln := listen(t, b)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if c, err := a.Dial(gone, ln.Addr().String()); err == nil {
		_ = c.Close()
		t.Error("a dial whose context is over worked")
	}
	shut(t, b)
	// The peer is dead: it may refuse or be silent, but not for ever.
	brief, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	begin := time.Now()
	if c, err := a.Dial(brief, ln.Addr().String()); err == nil {
		_ = c.Close()
		t.Error("a dead node was reached")
	}
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("the dial took %v", took)
	}
}

func streams(t *testing.T, w Workshop) {
	a, b := open(t, w, "mello", cluster.TagCore), open(t, w, "mac", cluster.TagCore)
	met(t, a, b)
	near, far := pair(t, a, b)
	defer func() { _, _ = near.Close(), far.Close() }()
	const size = 3 << 20 // more than any window
	done := make(chan error, 2)
	send := func(c net.Conn, seed byte) {
		_, err := c.Write(noise(seed, size))
		if half, ok := c.(interface{ CloseWrite() error }); ok {
			err = errors.Join(err, half.CloseWrite())
		} else {
			err = errors.Join(err, errors.New("a stream has no CloseWrite"))
		}
		done <- err
	}
	go send(near, 1)
	go send(far, 2)
	read := func(c net.Conn, seed byte) chan error {
		ch := make(chan error, 1) // one send
		go func() {
			got, err := io.ReadAll(c)
			if err == nil && !bytes.Equal(got, noise(seed, size)) {
				err = errors.New("other bytes arrived")
			}
			ch <- err
		}()
		return ch
	}
	for i, err := range []error{<-read(far, 1), <-read(near, 2), <-done, <-done} {
		if err != nil {
			t.Errorf("step %d: %v", i, err)
		}
	}
}

// noise makes n bytes, the same for one seed.
func noise(seed byte, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b) // never fails
	return b
}

func deadline(t *testing.T, w Workshop) {
	a, b := open(t, w, "mello", cluster.TagCore), open(t, w, "mac", cluster.TagCore)
	met(t, a, b)
	near, far := pair(t, a, b)
	defer func() { _, _ = near.Close(), far.Close() }()
	if err := near.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	_, err := near.Read(make([]byte, 1))
	var timeout net.Error
	if !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("a read past its deadline = %v", err)
	}
	// The stream goes on with a new deadline.
	if err := near.SetReadDeadline(time.Now().Add(Patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := far.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := near.Read(make([]byte, 1)); err != nil {
		t.Errorf("a read before its deadline = %v", err)
	}
}

func datagrams(t *testing.T, w Workshop) {
	a, b := open(t, w, "mello", cluster.TagCore), open(t, w, "verda", cluster.TagGPU)
	met(t, a, b)
	pa, pb := listenPacket(t, a), listenPacket(t, b)
	for _, d := range []struct {
		from, to net.PacketConn
		asked    tailnet.Network
		want     tailnet.Peer
	}{{pa, pb, b, a.Self()}, {pb, pa, a, b.Self()}} {
		for _, size := range []int{1, 512, 1200} {
			sent := noise(byte(size), size)
			got, from := deliver(t, d.from, d.to, sent)
			if !bytes.Equal(got, sent) {
				t.Errorf("%d bytes arrived as %d others", size, len(got))
			}
			if from.String() != d.from.LocalAddr().String() {
				t.Errorf("a datagram comes from %s, it was sent by %s", from, d.from.LocalAddr())
			}
			if who, err := d.asked.WhoIs(t.Context(), from.String()); err != nil || who.Node != d.want.ID {
				t.Errorf("the sender is %+v, %v; want %s", who, err, d.want.ID)
			}
		}
	}
}

// deliver sends until one arrives: a datagram may be lost while the way is found.
func deliver(t *testing.T, from, to net.PacketConn, raw []byte) ([]byte, net.Addr) {
	t.Helper()
	buf := make([]byte, 2048)
	for begin := time.Now(); time.Since(begin) < Patience; {
		if n, err := from.WriteTo(raw, to.LocalAddr()); err != nil || n != len(raw) {
			t.Fatalf("send %d bytes: %d, %v", len(raw), n, err)
		}
		if err := to.SetReadDeadline(time.Now().Add(500 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		n, addr, err := to.ReadFrom(buf)
		if err == nil && n == len(raw) {
			return buf[:n], addr
		}
		var timeout net.Error
		if err != nil && (!errors.As(err, &timeout) || !timeout.Timeout()) {
			t.Fatalf("receive: %v", err)
		}
	}
	t.Fatalf("no datagram of %d bytes arrived in %v", len(raw), Patience)
	return nil, nil
}
