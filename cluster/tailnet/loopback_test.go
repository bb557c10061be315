package tailnet_test

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/tailnet"
)

func open(t *testing.T, dir string) tailnet.Network {
	t.Helper()
	n, err := tailnet.Loopback(tailnet.LoopbackConfig{Dir: dir, Name: "mello"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

func TestIDStaysOverRestarts(t *testing.T) {
	dir := t.TempDir()
	first := open(t, dir).Self()
	if first.ID == "" || first.Name != "mello" || !first.Online {
		t.Fatalf("Self() = %+v", first)
	}
	if got := open(t, dir).Self().ID; got != first.ID {
		t.Errorf("after a restart the id is %s, want %s", got, first.ID)
	}
	if got := open(t, t.TempDir()).Self().ID; got == first.ID {
		t.Errorf("two machines have the id %s", got)
	}
	info, err := os.Stat(filepath.Join(dir, "node-id"))
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode().Perm(); got != 0o600 {
		t.Errorf("node-id has mode %o, want 600", got)
	}
}

func TestDamagedIDIsNotReplaced(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "node-id"), []byte("\x00\x00"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := tailnet.Loopback(tailnet.LoopbackConfig{Dir: dir})
	if cluster.CodeOf(err) != cluster.Invalid {
		t.Fatalf("Loopback = %v, want an Invalid error", err)
	}
}

func TestListenersAreOnLoopbackOnly(t *testing.T) {
	n := open(t, t.TempDir())
	ln, err := n.Listen(0)
	if err != nil {
		t.Fatal(err)
	}
	pc, err := n.ListenPacket(0)
	if err != nil {
		t.Fatal(err)
	}
	if got := ln.Addr().(*net.TCPAddr).IP; !got.IsLoopback() {
		t.Errorf("Listen on %s", got)
	}
	if got := pc.LocalAddr().(*net.UDPAddr).IP; !got.IsLoopback() {
		t.Errorf("ListenPacket on %s", got)
	}
}

func TestDialReachesOnlyThisMachine(t *testing.T) {
	n := open(t, t.TempDir())
	ln, err := n.Listen(0)
	if err != nil {
		t.Fatal(err)
	}
	remote := make(chan string, 1) // one send
	go func() {
		c, err := ln.Accept()
		if err != nil {
			remote <- ""
			return
		}
		remote <- c.RemoteAddr().String()
		_, _ = c.Write([]byte("hello"))
		_ = c.Close()
	}()
	c, err := n.Dial(t.Context(), ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if b, err := io.ReadAll(c); err != nil || string(b) != "hello" {
		t.Errorf("read %q, %v", b, err)
	}
	who, err := n.WhoIs(t.Context(), <-remote)
	if err != nil || who.Node != n.Self().ID {
		t.Errorf("WhoIs = %+v, %v", who, err)
	}
	if _, err := n.WhoIs(t.Context(), "192.0.2.1:80"); cluster.CodeOf(err) != cluster.NotFound {
		t.Errorf("WhoIs of a stranger = %v, want NotFound", err)
	}
	for _, addr := range []string{"192.0.2.1:80", "example.org:80", "nonsense"} {
		if _, err := n.Dial(t.Context(), addr); err == nil {
			t.Errorf("Dial(%q) worked", addr)
		}
	}
	if peers, err := n.Peers(t.Context()); err != nil || len(peers) != 0 {
		t.Errorf("Peers = %v, %v", peers, err)
	}
}

func TestCloseEndsListeners(t *testing.T) {
	n := open(t, t.TempDir())
	ln, err := n.Listen(0)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept = %v, want closed", err)
	}
	if _, err := n.Listen(0); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Listen after Close = %v, want closed", err)
	}
}
