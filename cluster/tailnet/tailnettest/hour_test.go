package tailnettest_test

import (
	"context"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/tailnet"
	"github.com/ahelme/comfyume/cluster/tailnet/tailnettest"
)

// TestAnHour keeps three machines talking through cuts for an hour of
// virtual time.
func TestAnHour(t *testing.T) {
	begin := time.Now()
	synctest.Test(t, func(t *testing.T) {
		f := tailnettest.New()
		f.Delay(5 * time.Millisecond)
		ids := []string{"a", "b", "c"}
		var rounds int
		served := make(chan struct{})
		server := f.Join("a", "a", cluster.TagCore)
		ln, err := server.Listen(7100)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			defer close(served)
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				go func() { _, _ = io.Copy(c, c); _ = c.Close() }()
			}
		}()
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		done := make(chan int, 2)
		for _, id := range ids[1:] {
			n := f.Join(id, id, cluster.TagCore)
			defer func() { _ = n.Close() }()
			go func() { done <- echo(ctx, n, ln.Addr().String()) }()
		}
		for i := 0; ctx.Err() == nil; i++ {
			f.Cut("a", ids[1+i%2])
			pause(ctx, 20*time.Second)
			f.HealAll()
			pause(ctx, 40*time.Second)
		}
		rounds = <-done + <-done
		_ = server.Close()
		<-served
		if rounds < 4000 {
			t.Errorf("only %d echoes in an hour", rounds)
		}
	})
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("an hour took %v", took)
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// echo sends a word a second, over one stream after the other.
func echo(ctx context.Context, n tailnet.Network, addr string) (rounds int) {
	for ctx.Err() == nil {
		c, err := n.Dial(ctx, addr)
		if err != nil {
			continue
		}
		for ctx.Err() == nil {
			if c.SetDeadline(time.Now().Add(5*time.Second)) != nil {
				break
			}
			if _, err := c.Write([]byte("hello")); err != nil {
				break
			}
			if _, err := io.ReadFull(c, make([]byte, 5)); err != nil {
				break
			}
			rounds++
			pause(ctx, time.Second)
		}
		_ = c.Close()
	}
	return rounds
}
