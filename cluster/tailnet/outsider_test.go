package tailnet_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/tailnet"
	"github.com/ahelme/comfyume/cluster/tailnet/networktest"
)

func TestAnOutsiderGetsNothing(t *testing.T) {
	b := newBuilding(t)
	n := b.Open(t, "mello", cluster.TagCore)
	ln, err := n.Listen(0)
	if err != nil {
		t.Fatal(err)
	}
	pc, err := n.ListenPacket(0)
	if err != nil {
		t.Fatal(err)
	}
	// Connections that say nothing, or the wrong thing, hold up nobody.
	for _, said := range []string{"", "GET / HTTP/1.1\r\n\r\n", "comfyume-hall-1\n" + strings.Repeat("x", 200)} {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		if _, err := c.Write([]byte(said)); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := net.Dial("udp", pc.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = raw.Close() }()
	for _, said := range []string{"", "hello", "cyh1" + strings.Repeat("x", 400)} {
		if _, err := raw.Write([]byte(said)); err != nil {
			t.Fatal(err)
		}
	}
	accepted := make(chan string, 1) // one send
	go func() {
		c, err := ln.Accept()
		if err != nil {
			accepted <- err.Error()
			return
		}
		accepted <- c.RemoteAddr().String()
		_ = c.Close()
	}()
	mac := b.Open(t, "mac", cluster.TagCore)
	c, err := mac.Dial(t.Context(), ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if got, want := <-accepted, c.LocalAddr().String(); got != want {
		t.Errorf("accepted %s, want the member %s", got, want)
	}
	if err := pc.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if m, from, err := pc.ReadFrom(make([]byte, 2048)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a stranger's datagram of %d bytes from %v came in: %v", m, from, err)
	}
}

func TestANodeOfAnotherHallIsRefused(t *testing.T) {
	ours, theirs := newBuilding(t), newBuilding(t)
	n := ours.Open(t, "mello", cluster.TagCore)
	spy := theirs.Open(t, "spy", cluster.TagCore)
	ln, err := n.Listen(0)
	if err != nil {
		t.Fatal(err)
	}
	// The spy knows of the node, but not the secret.
	raw, err := os.ReadFile(filepath.Join(ours.hall, string(n.Self().ID)+".node"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(theirs.hall, string(n.Self().ID)+".node"), raw, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), networktest.Patience)
	defer cancel()
	if c, err := spy.Dial(ctx, ln.Addr().String()); err == nil {
		_ = c.Close()
		t.Error("a node of another hall was let in")
	} else if cluster.CodeOf(err) != cluster.Forbidden {
		t.Errorf("dial = %v", err)
	}
}

func TestAFolderOpenToOthersIsRefused(t *testing.T) {
	hall := t.TempDir()
	if err := os.Chmod(hall, 0o755); err != nil {
		t.Fatal(err)
	}
	_, err := tailnet.Loopback(tailnet.LoopbackConfig{Dir: t.TempDir(), Hall: hall})
	if cluster.CodeOf(err) != cluster.Invalid || !strings.Contains(err.Error(), "chmod 700") {
		t.Errorf("Loopback = %v", err)
	}
}
