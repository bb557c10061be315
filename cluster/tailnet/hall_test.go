package tailnet_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/tailnet"
	"github.com/ahelme/comfyume/cluster/tailnet/networktest"
)

// TestMain runs a node instead of the tests when a test asks for a process.
func TestMain(m *testing.M) {
	if dir := os.Getenv("TAILNET_TEST_NODE"); dir != "" {
		if err := child(dir, os.Getenv("TAILNET_TEST_HALL")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// child is a node that echoes on a port and ends cleanly when its input ends.
func child(dir, hall string) error {
	n, err := tailnet.Loopback(tailnet.LoopbackConfig{Dir: dir, Name: "child", Tag: cluster.TagGPU, Hall: hall})
	if err != nil {
		return err
	}
	ln, err := n.Listen(0)
	if err != nil {
		return err
	}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c) }()
		}
	}()
	fmt.Println(n.Self().ID, ln.Addr())
	_, _ = io.Copy(io.Discard, os.Stdin)
	return n.Close()
}

// process is a node in a process of its own.
type process struct {
	cmd  *exec.Cmd
	stop io.Closer
	id   cluster.NodeID
	addr string
}

func spawn(t *testing.T, dir, hall string) *process {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "TAILNET_TEST_NODE="+dir, "TAILNET_TEST_HALL="+hall)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the child says nothing: %v", err)
	}
	id, addr, _ := strings.Cut(strings.TrimSpace(line), " ")
	return &process{cmd, in, cluster.NodeID(id), addr}
}

func (p *process) end(t *testing.T, kill bool) {
	t.Helper()
	if kill {
		if err := p.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.stop.Close(); err != nil {
		t.Error(err)
	}
	if err := p.cmd.Wait(); (err == nil) == kill {
		t.Errorf("the child ended with %v", err)
	}
}

// building is a workshop on one machine.
type building struct {
	hall string
	dirs map[string]string
	open func(tailnet.LoopbackConfig) (tailnet.Network, error)
}

func newBuilding(t *testing.T) *building {
	return &building{filepath.Join(t.TempDir(), "hall"), map[string]string{}, tailnet.Loopback}
}

func (b *building) Open(t *testing.T, host, tag string) tailnet.Network {
	t.Helper()
	if b.dirs[host] == "" {
		b.dirs[host] = t.TempDir()
	}
	n, err := b.open(tailnet.LoopbackConfig{Dir: b.dirs[host], Name: hostname(host), Tag: tag, Hall: b.hall})
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

func TestHallConforms(t *testing.T) {
	for _, c := range networktest.Checks() {
		t.Run(c.Name, func(t *testing.T) { c.Run(t, newBuilding(t)) })
	}
}

func TestHallOnAMacConforms(t *testing.T) {
	for _, c := range networktest.Checks() {
		t.Run(c.Name, func(t *testing.T) {
			b := newBuilding(t)
			b.open = tailnet.LoopbackUnbound
			c.Run(t, b)
		})
	}
}

func find(t *testing.T, n tailnet.Network, id cluster.NodeID) (tailnet.Peer, bool) {
	t.Helper()
	all, err := n.Peers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(all, func(p tailnet.Peer) bool { return p.ID == id })
	if i < 0 {
		return tailnet.Peer{}, false
	}
	return all[i], true
}

func TestAKilledNodeStaysListedOffline(t *testing.T) {
	b := newBuilding(t)
	n := b.Open(t, "mello", cluster.TagCore)
	dir := t.TempDir()
	p := spawn(t, dir, b.hall)
	c, err := n.Dial(t.Context(), p.addr)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	if who, err := n.WhoIs(t.Context(), p.addr); err != nil || who.Node != p.id || !slices.Equal(who.Tags, []string{cluster.TagGPU}) {
		t.Errorf("WhoIs = %+v, %v", who, err)
	}
	if got, ok := find(t, n, p.id); !ok || !got.Online {
		t.Errorf("a living node is listed as %+v, %v", got, ok)
	}
	if err := n.(tailnet.Forgetter).Forget(p.id); cluster.CodeOf(err) != cluster.Conflict {
		t.Errorf("a living node was forgotten: %v", err)
	}

	p.end(t, true)
	if got, ok := find(t, n, p.id); !ok || got.Online {
		t.Errorf("a killed node is listed as %+v, %v", got, ok)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("the connection to a killed node lives")
	}
	_ = c.Close()
	if _, err := n.Dial(t.Context(), p.addr); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dial a killed node = %v", err)
	}
}

func TestAKilledNodeComesBackOrIsForgotten(t *testing.T) {
	b := newBuilding(t)
	n := b.Open(t, "mello", cluster.TagCore)
	dir := t.TempDir()
	p := spawn(t, dir, b.hall)
	p.end(t, true)
	again := spawn(t, dir, b.hall)
	if again.id != p.id {
		t.Errorf("after a restart it is %s, it was %s", again.id, p.id)
	}
	if got, ok := find(t, n, p.id); !ok || !got.Online {
		t.Errorf("a restarted node is listed as %+v, %v", got, ok)
	}
	// A clean end leaves nothing.
	again.end(t, false)
	if got, ok := find(t, n, p.id); ok {
		t.Errorf("a node that left is listed as %+v", got)
	}
	// One that was killed for good is forgotten by hand.
	last := spawn(t, dir, b.hall)
	last.end(t, true)
	for _, want := range []cluster.Code{"", cluster.NotFound} {
		if err := n.(tailnet.Forgetter).Forget(p.id); cluster.CodeOf(err) != want {
			t.Errorf("Forget = %v, want %q", err, want)
		}
	}
	if got, ok := find(t, n, p.id); ok {
		t.Errorf("a forgotten node is listed as %+v", got)
	}
}

func TestAStoppedNodeIsSilent(t *testing.T) {
	b := newBuilding(t)
	n := b.Open(t, "mello", cluster.TagCore)
	p := spawn(t, t.TempDir(), b.hall)
	if err := p.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	var is syscall.WaitStatus // the signal takes its time
	if _, err := syscall.Wait4(p.cmd.Process.Pid, &is, syscall.WUNTRACED, nil); err != nil || !is.Stopped() {
		t.Fatalf("the child is not stopped: %v, %v", is, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := n.Dial(ctx, p.addr); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("dial a stopped node = %v", err)
	}
	if got, ok := find(t, n, p.id); !ok || !got.Online {
		t.Errorf("a stopped node is listed as %+v, %v", got, ok)
	}
	p.end(t, true)
}

func TestOneNodeRunsOnce(t *testing.T) {
	b := newBuilding(t)
	b.Open(t, "mello", cluster.TagCore)
	_, err := tailnet.Loopback(tailnet.LoopbackConfig{Dir: b.dirs["mello"], Name: "mello", Hall: b.hall})
	if cluster.CodeOf(err) != cluster.Conflict {
		t.Errorf("the same node runs twice: %v", err)
	}
}

func TestNamesStayWithTheirNodes(t *testing.T) {
	b := newBuilding(t)
	first, second := b.Open(t, "mello", cluster.TagCore), b.Open(t, "mello/b", cluster.TagCore)
	if got := []string{first.Self().Name, second.Self().Name}; !slices.Equal(got, []string{"comfyume-mello", "comfyume-mello-2"}) {
		t.Fatalf("names are %v", got)
	}
	for _, n := range []tailnet.Network{first, second} {
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
	}
	again := b.Open(t, "mello/b", cluster.TagCore) // the other one first
	if got := again.Self(); got.Name != "comfyume-mello-2" || got.Addr != second.Self().Addr {
		t.Errorf("after a restart it is %+v", got)
	}
	if got := b.Open(t, "mello", cluster.TagCore).Self(); got.Name != "comfyume-mello" || got.Addr != first.Self().Addr {
		t.Errorf("after a restart the first is %+v", got)
	}
}

func TestAddressesThatCollide(t *testing.T) {
	hall := filepath.Join(t.TempDir(), "hall")
	ids := []string{"n0123456789abcdef", "nfedcba9876543210"}
	var addrs []netip.Addr
	for i, id := range ids {
		dir := t.TempDir()
		for name, text := range map[string]string{"node-id": id, "hall-seat.json": `{"wanted":"mello","name":"mello","addr":"127.77.5.5"}`} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		n, err := tailnet.Loopback(tailnet.LoopbackConfig{Dir: dir, Name: "mello", Hall: hall})
		if err != nil {
			t.Fatal(i, err)
		}
		defer func() { _ = n.Close() }()
		addrs = append(addrs, n.Self().Addr)
	}
	if addrs[0] != netip.MustParseAddr("127.77.5.5") || addrs[1] == addrs[0] {
		t.Errorf("addresses are %v", addrs)
	}
}

func TestManyNodesEnterAtOnce(t *testing.T) {
	hall := filepath.Join(t.TempDir(), "hall")
	const count = 12
	type result struct {
		n   tailnet.Network
		err error
	}
	results := make(chan result, count)
	for range count {
		dir := t.TempDir()
		go func() {
			n, err := tailnet.Loopback(tailnet.LoopbackConfig{Dir: dir, Name: "mello", Hall: hall})
			results <- result{n, err}
		}()
	}
	names, addrs := map[string]bool{}, map[netip.Addr]bool{}
	for range count {
		r := <-results
		if r.err != nil {
			t.Fatal(r.err)
		}
		defer func() { _ = r.n.Close() }()
		names[r.n.Self().Name], addrs[r.n.Self().Addr] = true, true
	}
	if len(names) != count || len(addrs) != count {
		t.Errorf("%d names and %d addresses for %d nodes", len(names), len(addrs), count)
	}
}

func TestASmallPortOrATakenOneIsFoundAnyway(t *testing.T) {
	b := newBuilding(t)
	n, mac := b.Open(t, "mello", cluster.TagCore), b.Open(t, "mac", cluster.TagCore)
	// Another program has the port on all addresses.
	other, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Close() }()
	port := uint16(other.Addr().(*net.TCPAddr).Port)
	for _, p := range []uint16{port, cluster.PortSite} {
		ln, err := n.Listen(p)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := ln.Addr().String(), netip.AddrPortFrom(n.Self().Addr, p).String(); got != want {
			t.Errorf("the listener is at %s, want %s", got, want)
		}
		go func() {
			if c, err := ln.Accept(); err == nil {
				_ = c.Close()
			}
		}()
		c, err := mac.Dial(t.Context(), ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_ = c.Close()
	}
}
