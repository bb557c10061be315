package peer_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/blob"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/cluster/peer"
)

// wires connects in memory: dialling "gone" reaches a machine that takes all and
// says nothing, "there" a server.
type wires struct{ conns chan net.Conn }

func (w wires) dial(_ context.Context, node cluster.NodeID, _ uint16) (net.Conn, error) {
	here, there := net.Pipe()
	if node == "gone" {
		go func() { _, _ = io.Copy(io.Discard, there) }()
		return here, nil
	}
	w.conns <- there
	return here, nil
}

func (w wires) Accept() (net.Conn, error) {
	c, ok := <-w.conns
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}

func (w wires) Close() error { return nil }

func (wires) Addr() net.Addr { return &net.TCPAddr{} }

// aside is a machine "there" that keeps blobs, in a bubble of virtual time, and
// one that wants some.
func aside(t *testing.T, f func(t *testing.T, d *peer.Depot, kept *blob.Dir)) {
	t.Helper()
	open := func() *blob.Dir {
		d, err := blob.OpenDir(blob.DirConfig{Path: t.TempDir(), Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	local, kept := open(), open()
	synctest.Test(t, func(t *testing.T) {
		lineage := func() cluster.Lineage {
			return cluster.Lineage{Cluster: "c", Generation: cluster.Generation{Number: 1, Mark: "ab"}}
		}
		w := wires{conns: make(chan net.Conn)}
		gate := peer.NewGate(peer.GateConfig{Self: "g", Lineage: lineage, Dial: w.dial, WhoIs: func(context.Context, string) (peer.Who, error) {
			return peer.Who{Node: "g", Name: "g", Core: true}, nil
		}})
		server := peer.NewServer(gate, func() cluster.NodeID { return "" }, slog.New(slog.DiscardHandler))
		peer.ServeBlobs(server, kept, nil)
		mux := http.NewServeMux()
		mux.Handle("/peer/", server)
		web := &http.Server{Handler: mux}
		go func() { _ = web.Serve(w) }()
		client := peer.NewClient(gate)
		f(t, &peer.Depot{Client: client, Local: local, Keepers: func() []cluster.NodeID { return []cluster.NodeID{"gone", "there"} }}, kept)
		client.Close()
		close(w.conns)
		_ = web.Close() // its connections are pipes
		synctest.Wait()
	})
}

// TestResultGoesToAnotherKeeperWhenOneIsGone: a machine that is gone says
// nothing, and a GPU must not wait for its connection to be given up.
func TestResultGoesToAnotherKeeperWhenOneIsGone(t *testing.T) {
	aside(t, func(t *testing.T, d *peer.Depot, kept *blob.Dir) {
		ref, _, err := d.Local.Put(t.Context(), strings.NewReader("a picture"), 9)
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		if err := d.Keep(t.Context(), jobs.Lease{}, ref); err != nil || time.Since(begin) > 30*time.Second {
			t.Errorf("%v after %s", err, time.Since(begin))
		}
		if _, ok := kept.Has(t.Context(), ref); !ok {
			t.Error("the keeper that is there does not have it")
		}
	})
}

// TestInputAtAMachineThatIsAwayIsNotGone: that another machine does not have it
// must not end the job that needs it.
func TestInputAtAMachineThatIsAwayIsNotGone(t *testing.T) {
	aside(t, func(t *testing.T, d *peer.Depot, _ *blob.Dir) {
		err := d.Fetch(t.Context(), jobs.Lease{}, cluster.Ref(strings.Repeat("ab", 32)))
		if code := cluster.CodeOf(err); code != cluster.Unavailable {
			t.Errorf("%s: %v", code, err)
		}
	})
}
