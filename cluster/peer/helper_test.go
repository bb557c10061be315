package peer_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/blob"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/cluster/peer"
)

// A helper is this test's own program run again as one node: it is killed with
// SIGKILL while a large file goes to it or comes from it, and started anew.
const (
	helperRole = "TRANSFER_HELPER" // "fetch", "send", "keep" or "tailnet"; "" = it runs tests
	helperDir  = "TRANSFER_DIR"
	helperRef  = "TRANSFER_REF"
	helperAddr = "TRANSFER_ADDR" // of the keeper
)

func TestMain(m *testing.M) {
	if os.Getenv(helperRole) == "" {
		os.Exit(m.Run())
	}
	if err := help(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "helper:", err)
		os.Exit(1)
	}
}

func help(ctx context.Context) error {
	if os.Getenv(helperRole) == "tailnet" {
		return helpOnTailnet(ctx)
	}
	d, err := blob.OpenDir(blob.DirConfig{Path: os.Getenv(helperDir)})
	if err != nil {
		return err
	}
	ref := cluster.Ref(os.Getenv(helperRef))
	depot := plainDepot(d, os.Getenv(helperAddr), nil)
	switch os.Getenv(helperRole) {
	case "fetch":
		return depot.Fetch(ctx, jobs.Lease{}, ref)
	case "send":
		return depot.Keep(ctx, jobs.Lease{}, ref)
	}
	ln, err := net.Listen("tcp", os.Getenv(helperAddr))
	if err != nil {
		return err
	}
	return serveKeeper(d, narrowed{ln})
}

func oneLineage() cluster.Lineage {
	return cluster.Lineage{Cluster: "c", Generation: cluster.Generation{Number: 1, Mark: "ab"}}
}

// plainDepot reaches its one keeper by TCP.
func plainDepot(d *blob.Dir, keeper string, wrap func(net.Conn) net.Conn) *peer.Depot {
	gate := peer.NewGate(peer.GateConfig{Self: "me", Lineage: oneLineage, Dial: func(ctx context.Context, _ cluster.NodeID, _ uint16) (net.Conn, error) {
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", keeper)
		if err != nil {
			return nil, err
		}
		narrow(c)
		if wrap != nil {
			c = wrap(c)
		}
		return c, nil
	}})
	return &peer.Depot{Client: peer.NewClient(gate), Local: d, Keepers: func() []cluster.NodeID { return []cluster.NodeID{"keeper"} }}
}

// buffers of a connection, in bytes: what a link of 100 Mbit/s to another town
// holds. Loopback's own take several MB that are lost with the process.
const buffers = 256 << 10

func narrow(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		_, _ = tcp.SetReadBuffer(buffers), tcp.SetWriteBuffer(buffers)
	}
}

type narrowed struct{ net.Listener }

func (l narrowed) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		narrow(c)
	}
	return c, err
}

func serveKeeper(d *blob.Dir, ln net.Listener) error {
	gate := peer.NewGate(peer.GateConfig{Self: "keeper", Lineage: oneLineage, WhoIs: func(context.Context, string) (peer.Who, error) { return core(), nil }})
	server := peer.NewServer(gate, func() cluster.NodeID { return "" }, slog.New(slog.DiscardHandler))
	peer.ServeBlobs(server, d, nil)
	mux := http.NewServeMux()
	mux.Handle("/peer/", server)
	return (&http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}).Serve(ln)
}
