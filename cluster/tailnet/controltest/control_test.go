package controltest_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/tailnet"
	"github.com/ahelme/comfyume/cluster/tailnet/controltest"
	"github.com/ahelme/comfyume/cluster/tailnet/networktest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T, cfg controltest.Config) *controltest.Control {
	t.Helper()
	c, err := controltest.Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for range 2 { // the second time does nothing
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	return c
}

func join(t *testing.T, cfg tailnet.Config) tailnet.Network {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*networktest.Patience)
	defer cancel()
	cfg.Dir = t.TempDir()
	n, err := tailnet.Tailnet(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Close() })
	return n
}

// elsewhere is an address of this machine that is not 127.0.0.1.
func elsewhere(t *testing.T) netip.Addr {
	t.Helper()
	all, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range all {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() && !p.Addr().IsLoopback() {
			return p.Addr()
		}
	}
	t.Skip("this machine has no other address")
	return netip.Addr{}
}

func TestOpenOnAnotherAddress(t *testing.T) {
	c := start(t, controltest.Config{IP: elsewhere(t), Open: true, Domain: "example.test"})
	a := join(t, tailnet.Config{Hostname: "mello", Tags: []string{cluster.TagCore}, ControlURL: c.URL()})
	b := join(t, tailnet.Config{Hostname: "mello", Tags: []string{cluster.TagGPU}, ControlURL: c.URL()})
	if x, y := a.Self().Name, b.Self().Name; x != "mello" || y != "mello-1" {
		t.Errorf("names are %s and %s", x, y)
	}
	networktest.Await(t, "they know each other", func() bool {
		peers, err := a.Peers(t.Context())
		return err == nil && len(peers) == 1 && peers[0].Online
	})
	ln, err := b.Listen(0)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		if c, err := ln.Accept(); err == nil {
			_, _ = c.Write([]byte("hello"))
			_ = c.Close()
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), networktest.Patience)
	defer cancel()
	conn, err := a.Dial(ctx, ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(conn); err != nil || string(got) != "hello" {
		t.Errorf("read %q, %v", got, err)
	}
	_ = conn.Close()
}

func TestOpeningTheLoginPageApproves(t *testing.T) {
	c := start(t, controltest.Config{})
	opened := make(chan error, 1)
	join(t, tailnet.Config{Hostname: "mello", ControlURL: c.URL(), Approve: func(url string) {
		go func() {
			res, err := http.Get(url)
			if err == nil {
				err = res.Body.Close()
			}
			opened <- err
		}()
	}})
	if err := <-opened; err != nil {
		t.Error(err)
	}
	http.DefaultClient.CloseIdleConnections()
	if c.Approve(c.URL() + "/auth/nobody") {
		t.Error("a door that does not exist was opened")
	}
}

func TestAKeyOpensOnceOrAgain(t *testing.T) {
	c := start(t, controltest.Config{})
	again := c.NewKey(controltest.KeyOptions{Reusable: true, Expires: time.Now().Add(time.Hour)})
	for range 2 {
		join(t, tailnet.Config{Hostname: "verda", AuthKey: again, ControlURL: c.URL()})
	}
}
