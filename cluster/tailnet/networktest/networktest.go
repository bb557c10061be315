// Package networktest is the conformance suite of tailnet.Network: what every
// network promises, whatever it runs on. It refuses to know what is special to
// one of them; that is tested beside it.
package networktest

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/tailnet"
)

// Workshop opens the nodes of one test.
type Workshop interface {
	// Open starts a node. The same host again, after Close, is a restart. What
	// follows a slash in host tells machines with the same name apart.
	Open(t *testing.T, host, tag string) tailnet.Network
}

// Check is one promise. Run may be called in a synctest bubble; it closes
// what it opened.
type Check struct {
	Name string
	Run  func(t *testing.T, w Workshop)
}

// Patience is how long a network may take to do what it promises.
const Patience = 10 * time.Second

// Checks lists all promises.
func Checks() []Check {
	return []Check{
		{"a node knows itself", self},
		{"dial, listen and identify", identify},
		{"names differ", names},
		{"a stranger", stranger},
		{"a closed port", closedPort},
		{"a taken port", takenPort},
		{"dial ends with its context", dialEnds},
		{"streams are whole", streams},
		{"a read ends at its deadline", deadline},
		{"datagrams", datagrams},
		{"peers come and go", peers},
		{"a restart keeps the id", restart},
		{"close ends everything", closeEnds},
	}
}

// open opens a node and closes it at the end of the check.
func open(t *testing.T, w Workshop, host, tag string) tailnet.Network {
	t.Helper()
	n := w.Open(t, host, tag)
	t.Cleanup(func() { shut(t, n) })
	return n
}

func shut(t *testing.T, n tailnet.Network) {
	t.Helper()
	if err := n.Close(); err != nil {
		t.Errorf("close %s: %v", n.Self().Name, err)
	}
}

// Await waits until ok gives true, for at most Patience.
func Await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("waited %v in vain: %s", Patience, what)
		}
	}
}

// listed finds a node among n's peers.
func listed(t *testing.T, n tailnet.Network, id cluster.NodeID) (tailnet.Peer, bool) {
	t.Helper()
	all, err := n.Peers(t.Context())
	if err != nil {
		t.Fatalf("peers: %v", err)
	}
	if !slices.IsSortedFunc(all, func(a, b tailnet.Peer) int { return compare(a.ID, b.ID) }) {
		t.Errorf("peers are not in order: %v", all)
	}
	i := slices.IndexFunc(all, func(p tailnet.Peer) bool { return p.ID == id })
	if i < 0 {
		return tailnet.Peer{}, false
	}
	return all[i], true
}

func compare(a, b cluster.NodeID) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// met waits until the nodes list each other as online.
func met(t *testing.T, nodes ...tailnet.Network) {
	t.Helper()
	for _, a := range nodes {
		for _, b := range nodes {
			if a == b {
				continue
			}
			Await(t, a.Self().Name+" lists "+b.Self().Name, func() bool {
				p, ok := listed(t, a, b.Self().ID)
				return ok && p.Online
			})
		}
	}
}

func self(t *testing.T, w Workshop) {
	me := open(t, w, "mello", cluster.TagCore).Self()
	if me.ID == "" || me.Name == "" || !me.Addr.IsValid() || !me.Online || !slices.Equal(me.Tags, []string{cluster.TagCore}) {
		t.Errorf("Self() = %+v", me)
	}
}

func names(t *testing.T, w Workshop) {
	a, b := open(t, w, "mello", cluster.TagCore), open(t, w, "mello/2", cluster.TagCore)
	if x, y := a.Self(), b.Self(); x.Name == y.Name || x.ID == y.ID || x.Addr == y.Addr {
		t.Errorf("two machines are %+v and %+v", x, y)
	}
	met(t, a, b)
	if p, _ := listed(t, a, b.Self().ID); p.Name != b.Self().Name {
		t.Errorf("the name is %q for others and %q for itself", p.Name, b.Self().Name)
	}
}

func peers(t *testing.T, w Workshop) {
	a, b := open(t, w, "mello", cluster.TagCore), open(t, w, "verda", cluster.TagGPU)
	met(t, a, b)
	want := b.Self()
	if got, _ := listed(t, a, want.ID); got.Name != want.Name || got.Addr != want.Addr || !slices.Equal(got.Tags, want.Tags) {
		t.Errorf("peer %+v, it says itself %+v", got, want)
	}
	if _, ok := listed(t, a, a.Self().ID); ok {
		t.Error("a node is its own peer")
	}
	shut(t, b)
	Await(t, "verda is offline", func() bool {
		p, ok := listed(t, a, want.ID)
		return !ok || !p.Online
	})
	met(t, a, open(t, w, "verda", cluster.TagGPU))
}

func restart(t *testing.T, w Workshop) {
	a := open(t, w, "mello", cluster.TagCore)
	first := open(t, w, "mac", cluster.TagCore)
	before := first.Self()
	met(t, a, first)
	talk(t, a, first)
	shut(t, first)
	second := open(t, w, "mac", cluster.TagCore)
	if got := second.Self(); got.ID != before.ID || got.Addr != before.Addr || got.Name != before.Name {
		t.Errorf("after a restart %+v, before %+v", got, before)
	}
	met(t, a, second)
	// It is reached again, whatever the other remembers of its first life.
	talk(t, a, second)
	talk(t, second, a)
}

func stranger(t *testing.T, w Workshop) {
	a := open(t, w, "mello", cluster.TagCore)
	for _, addr := range []string{"192.0.2.1:80", "100.127.255.254:1", "nonsense", ""} {
		if _, err := a.WhoIs(t.Context(), addr); cluster.CodeOf(err) != cluster.NotFound {
			t.Errorf("WhoIs(%q) = %v", addr, err)
		}
		begin := time.Now()
		if c, err := a.Dial(t.Context(), addr); err == nil {
			_ = c.Close()
			t.Errorf("Dial(%q) worked", addr)
		} else if cluster.CodeOf(err) != cluster.NotFound {
			t.Errorf("Dial(%q) = %v", addr, err)
		}
		if took := time.Since(begin); took > time.Second {
			t.Errorf("Dial(%q) took %v", addr, took)
		}
	}
}

func closeEnds(t *testing.T, w Workshop) {
	a, b := open(t, w, "mello", cluster.TagCore), open(t, w, "mac", cluster.TagCore)
	met(t, a, b)
	ln, pc := listen(t, a), listenPacket(t, a)
	c, far := pair(t, a, b)
	var ended []chan error
	begin := func(f func() error) {
		ch := make(chan error, 1) // one send
		ended = append(ended, ch)
		go func() { ch <- f() }()
	}
	begin(func() error { _, err := ln.Accept(); return err })
	begin(func() error { _, err := c.Read(make([]byte, 1)); return err })
	begin(func() error { _, _, err := pc.ReadFrom(make([]byte, 1)); return err })
	shut(t, a)
	for i, ch := range ended {
		select {
		case err := <-ch:
			if err == nil {
				t.Errorf("wait %d ended without an error", i)
			}
		case <-time.After(Patience):
			t.Fatalf("wait %d goes on after Close", i)
		}
	}
	_ = far.Close()
	_, errListen := a.Listen(0)
	_, errPacket := a.ListenPacket(0)
	_, errDial := a.Dial(t.Context(), netip.AddrPortFrom(b.Self().Addr, 1).String())
	for what, err := range map[string]error{"Listen": errListen, "ListenPacket": errPacket, "Dial": errDial} {
		if !errors.Is(err, os.ErrClosed) && !isClosed(err) {
			t.Errorf("%s after Close = %v", what, err)
		}
	}
	if err := a.Close(); err != nil {
		t.Errorf("a second Close = %v", err)
	}
}
