package tailnet_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/tailnet"
	"github.com/ahelme/comfyume/cluster/tailnet/controltest"
	"github.com/ahelme/comfyume/cluster/tailnet/networktest"
)

func TestZZ(t *testing.T) {
	c := control(t, controltest.Config{Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("who", "control")})
	cfg := func(name string) tailnet.TailnetConfig {
		return tailnet.TailnetConfig{Dir: t.TempDir(), Hostname: name, Tags: []string{cluster.TagCore}, AuthKey: c.NewKey(controltest.KeyOptions{}), ControlURL: c.URL()}
	}
	ca, cb := cfg("a"), cfg("b")
	if os.Getenv("ZZ") != "" {
		ca.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("who", "a")
		cb.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("who", "b")
	}
	a := joined(t, ca)
	for i := range 4 {
		b := joined(t, cb)
		networktest.Await(t, "there", func() bool {
			p, _ := a.Peers(t.Context())
			return len(p) == 1 && p[0].Online
		})
		ln, err := b.Listen(0)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				c.Write([]byte("hello"))
				c.Close()
			}
		}()
		fmt.Fprintln(os.Stderr, "DIAL", i, time.Now().Format("15:04:05.000"))
		begin := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
		x, err := a.Dial(ctx, ln.Addr().String())
		t.Log("dial", i, time.Since(begin), err)
		fmt.Fprintln(os.Stderr, "DIALED", i, time.Now().Format("15:04:05.000"), time.Since(begin))
		cancel()
		if x != nil {
			x.Read(make([]byte, 5))
			x.Close()
		}
		b.Close()
		fmt.Fprintln(os.Stderr, "CLOSED", i)
	}
}
