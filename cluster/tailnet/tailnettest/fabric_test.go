package tailnettest_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/tailnet"
	"github.com/ahelme/comfyume/cluster/tailnet/networktest"
	"github.com/ahelme/comfyume/cluster/tailnet/tailnettest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type workshop struct{ fabric *tailnettest.Fabric }

func (w workshop) Open(t *testing.T, host, tag string) tailnet.Network {
	n := w.fabric.Join(host, strings.TrimSuffix(host, "/2"), tag)
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

func TestFabricConforms(t *testing.T) {
	for _, delay := range []time.Duration{0, 40 * time.Millisecond} {
		for _, c := range networktest.Checks() {
			t.Run(c.Name+" at "+delay.String(), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					f := tailnettest.New()
					f.Delay(delay)
					c.Run(t, workshop{f})
				})
			})
		}
	}
	t.Run("in real time", func(t *testing.T) {
		for _, c := range networktest.Checks() {
			t.Run(c.Name, func(t *testing.T) { c.Run(t, workshop{tailnettest.New()}) })
		}
	})
}

// two are machines with a stream from a to b.
type two struct {
	f         *tailnettest.Fabric
	a, b      tailnet.Network
	near, far net.Conn
	ln        net.Listener
}

// between runs a test in a bubble with two machines and a stream.
func between(t *testing.T, test func(t *testing.T, w *two)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := tailnettest.New()
		w := &two{f: f, a: f.Join("a", "mello", cluster.TagCore), b: f.Join("b", "mac", cluster.TagCore)}
		t.Cleanup(func() { _, _ = w.a.Close(), w.b.Close() })
		var err error
		if w.ln, err = w.b.Listen(7100); err != nil {
			t.Fatal(err)
		}
		w.near, w.far = w.connect(t)
		test(t, w)
	})
}

func (w *two) connect(t *testing.T) (near, far net.Conn) {
	t.Helper()
	near, err := w.a.Dial(t.Context(), w.ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if far, err = w.ln.Accept(); err != nil {
		t.Fatal(err)
	}
	return near, far
}

func send(t *testing.T, c net.Conn, s string) {
	t.Helper()
	if _, err := c.Write([]byte(s)); err != nil {
		t.Fatalf("write: %v", err)
	}
}

func expect(t *testing.T, c net.Conn, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != want {
		t.Fatalf("read %q, %v; want %q", got, err, want)
	}
}

// silent reads for an hour in vain.
func silent(t *testing.T, c net.Conn) {
	t.Helper()
	begin := time.Now()
	if err := c.SetReadDeadline(begin.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	var timeout net.Error
	if n, err := c.Read(make([]byte, 1)); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Fatalf("read %d, %v; want silence", n, err)
	}
	if got := time.Since(begin); got != time.Hour {
		t.Errorf("the silence took %v", got)
	}
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
}

func TestACutStallsAndHealResumes(t *testing.T) {
	between(t, func(t *testing.T, w *two) {
		send(t, w.near, "before")
		expect(t, w.far, "before")
		w.f.Cut("a", "b")
		send(t, w.near, "during") // it is buffered
		silent(t, w.far)
		w.f.Heal("a", "b")
		expect(t, w.far, "during")
		send(t, w.far, "back")
		expect(t, w.near, "back")
	})
}

func TestACutFillsTheWindow(t *testing.T) {
	between(t, func(t *testing.T, w *two) {
		w.f.Cut("a", "b")
		data := bytes.Repeat([]byte("x"), 3<<20)
		if err := w.near.SetWriteDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		n, err := w.near.Write(data)
		var timeout net.Error
		if n != 1<<20 || !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Fatalf("wrote %d, %v", n, err)
		}
		// With nobody reading, too; and the rest goes on when somebody does.
		w.f.Heal("a", "b")
		if err := w.near.SetWriteDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() {
			_, err := w.near.Write(data[n:])
			done <- errors.Join(err, w.near.Close())
		}()
		synctest.Wait()
		select {
		case err := <-done:
			t.Fatalf("the window has no end: %v", err)
		default:
		}
		if got, err := io.ReadAll(w.far); err != nil || len(got) != len(data) {
			t.Errorf("read %d bytes, %v", len(got), err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestAReaderThatLeavesFreesTheWriter(t *testing.T) {
	between(t, func(t *testing.T, w *two) {
		done := make(chan error, 1)
		go func() {
			_, err := w.near.Write(make([]byte, 4<<20))
			done <- err
		}()
		synctest.Wait()
		if err := w.far.Close(); err != nil {
			t.Fatal(err)
		}
		if err := <-done; !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("write = %v", err)
		}
	})
}

func TestDialsWaitForTheWay(t *testing.T) {
	between(t, func(t *testing.T, w *two) {
		w.f.Cut("a", "b")
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		begin := time.Now()
		if _, err := w.a.Dial(ctx, w.ln.Addr().String()); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != time.Minute {
			t.Errorf("dial through a cut = %v after %v", err, time.Since(begin))
		}
		time.AfterFunc(time.Hour, func() { w.f.Heal("a", "b") })
		begin = time.Now()
		near, _ := w.connect(t)
		if got := time.Since(begin); got != time.Hour {
			t.Errorf("the dial took %v", got)
		}
		_ = near.Close()
	})
}

func TestAKilledMachineIsSilent(t *testing.T) {
	between(t, func(t *testing.T, w *two) {
		w.f.Kill("b")
		if _, err := w.far.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("its own code reads on: %v", err)
		}
		if _, err := w.ln.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("its own code accepts: %v", err)
		}
		silent(t, w.near)
		send(t, w.near, "into the void")
		silent(t, w.near)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := w.a.Dial(ctx, w.ln.Addr().String()); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("dial a dead machine = %v", err)
		}
		if peers, err := w.a.Peers(t.Context()); err != nil || len(peers) != 1 || peers[0].Online {
			t.Errorf("peers are %v, %v", peers, err)
		}
		if err := w.b.Close(); err != nil {
			t.Errorf("close a killed machine: %v", err)
		}
		// It comes back as itself, and does not know the old stream.
		before := w.b.Self()
		w.b = w.f.Join("b", "mac", cluster.TagCore)
		if got := w.b.Self(); got.Addr != before.Addr || got.Name != before.Name {
			t.Errorf("it comes back as %+v", got)
		}
		if _, err := w.near.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the old stream = %v", err)
		}
		if _, err := w.a.Dial(t.Context(), w.ln.Addr().String()); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("dial a port nobody listens on = %v", err)
		}
	})
}

func TestAQuietStreamToAKilledMachineStaysQuiet(t *testing.T) {
	between(t, func(t *testing.T, w *two) {
		w.f.Kill("b")
		w.b = w.f.Join("b", "mac", cluster.TagCore)
		silent(t, w.near) // nothing was sent, so nothing was refused
		send(t, w.near, "x")
		if _, err := w.near.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("after sending = %v", err)
		}
	})
}

func TestACrashedProcessResets(t *testing.T) {
	between(t, func(t *testing.T, w *two) {
		w.f.Crash("b")
		if _, err := w.near.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("read = %v", err)
		}
		if _, err := w.a.Dial(t.Context(), w.ln.Addr().String()); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("dial = %v", err)
		}
	})
}

func TestAFarewellIsLostInACut(t *testing.T) {
	between(t, func(t *testing.T, w *two) {
		w.f.Cut("a", "b")
		if err := w.b.Close(); err != nil {
			t.Fatal(err)
		}
		w.f.HealAll()
		silent(t, w.near)
	})
}

func TestAFarewellArrives(t *testing.T) {
	between(t, func(t *testing.T, w *two) {
		w.f.Delay(time.Second)
		send(t, w.far, "last words")
		if err := w.b.Close(); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(w.near); err != nil || string(got) != "last words" {
			t.Errorf("read %q, %v", got, err)
		}
	})
}

func TestIsolate(t *testing.T) {
	between(t, func(t *testing.T, w *two) {
		c := w.f.Join("c", "verda", cluster.TagGPU)
		defer func() { _ = c.Close() }()
		w.f.Isolate("b")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := c.Dial(ctx, w.ln.Addr().String()); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("dial an isolated machine = %v", err)
		}
		w.f.HealAll()
		if _, err := c.Dial(t.Context(), w.ln.Addr().String()); err != nil {
			t.Error(err)
		}
	})
}

func TestDelayIsOneWay(t *testing.T) {
	between(t, func(t *testing.T, w *two) {
		const delay = 70 * time.Millisecond
		w.f.Delay(delay)
		begin := time.Now()
		near, far := w.connect(t)
		if got := time.Since(begin); got != 2*delay {
			t.Errorf("a dial took %v", got)
		}
		begin = time.Now()
		send(t, near, "ping")
		expect(t, far, "ping")
		if got := time.Since(begin); got != delay {
			t.Errorf("one way took %v", got)
		}
	})
}

func TestDatagramsAreLostByShare(t *testing.T) {
	count := func(seed uint64) (got int) {
		between(t, func(t *testing.T, w *two) {
			w.f.Lose("a", "b", 0.3, seed)
			from, err := w.a.ListenPacket(7946)
			if err != nil {
				t.Fatal(err)
			}
			to, err := w.b.ListenPacket(7946)
			if err != nil {
				t.Fatal(err)
			}
			for range 500 {
				if _, err := from.WriteTo([]byte("x"), to.LocalAddr()); err != nil {
					t.Fatal(err)
				}
			}
			if err := to.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
				t.Fatal(err)
			}
			for {
				if _, _, err := to.ReadFrom(make([]byte, 2)); err != nil {
					return
				}
				got++
			}
		})
		return got
	}
	one := count(1)
	if one < 300 || one > 400 {
		t.Errorf("%d of 500 arrived, want about 350", one)
	}
	if again := count(1); again != one {
		t.Errorf("the same seed gave %d and %d", one, again)
	}
}

func TestAPersonHasALogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := tailnettest.New().Join("p", "laptop")
		defer func() { _ = n.Close() }()
		who, err := n.WhoIs(t.Context(), netip.AddrPortFrom(n.Self().Addr, 1).String())
		if err != nil || who.Login != "laptop@example.com" || len(who.Tags) != 0 {
			t.Errorf("WhoIs = %+v, %v", who, err)
		}
	})
}

func TestRemovedMachinesAreForgotten(t *testing.T) {
	between(t, func(t *testing.T, w *two) {
		addr := w.b.Self().Addr
		w.f.Kill("b")
		w.f.Remove("b")
		if peers, err := w.a.Peers(t.Context()); err != nil || len(peers) != 0 {
			t.Errorf("peers are %v, %v", peers, err)
		}
		if _, err := w.a.WhoIs(t.Context(), netip.AddrPortFrom(addr, 1).String()); cluster.CodeOf(err) != cluster.NotFound {
			t.Errorf("WhoIs = %v", err)
		}
		w.b = w.f.Join("b", "mac", cluster.TagCore)
		if got := w.b.Self().Addr; got == addr {
			t.Errorf("another machine has the address %s", got)
		}
	})
}
