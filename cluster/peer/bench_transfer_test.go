package peer_test

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/blob"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/cluster/peer"
	"github.com/ahelme/comfyume/cluster/tailnet"
	"github.com/ahelme/comfyume/cluster/tailnet/controltest"
)

// What a helper on a tailnet is told beside the rest. Its address is the keeper's.
const (
	helperControl = "TRANSFER_CONTROL"
	helperKey     = "TRANSFER_KEY"
	helperSSH     = "TRANSFER_SSH" // to where it hands connections of sshPort on; "" = nowhere
	sshPort       = 2222
)

func joinTailnet(ctx context.Context, control, key, dir, name string) (tailnet.Network, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return tailnet.Tailnet(ctx, tailnet.Config{
		Dir: dir, Hostname: name, Tags: []string{cluster.TagCore}, ControlURL: control, AuthKey: key, Logger: slog.New(slog.DiscardHandler),
	})
}

// helpOnTailnet is a second keeper: it joins, says its address, and fetches when
// it is told to.
func helpOnTailnet(ctx context.Context) (err error) {
	dir := os.Getenv(helperDir)
	network, err := joinTailnet(ctx, os.Getenv(helperControl), os.Getenv(helperKey), filepath.Join(dir, "tailnet"), "second")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, network.Close()) }()
	d, err := blob.OpenDir(blob.DirConfig{Path: filepath.Join(dir, "blobs")})
	if err != nil {
		return err
	}
	if to := os.Getenv(helperSSH); to != "" {
		ln, err := network.Listen(sshPort)
		if err != nil {
			return err
		}
		go join(ln, func() (net.Conn, error) { return net.Dial("tcp", to) })
	}
	gate := peer.NewGate(peer.GateConfig{Self: "second", Lineage: oneLineage, Dial: func(ctx context.Context, _ cluster.NodeID, _ uint16) (net.Conn, error) {
		return network.Dial(ctx, os.Getenv(helperAddr))
	}})
	depot := &peer.Depot{Client: peer.NewClient(gate), Local: d, Keepers: func() []cluster.NodeID { return []cluster.NodeID{"keeper"} }}
	fmt.Println(network.Self().Addr)
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		begin := time.Now()
		if err := depot.Fetch(ctx, jobs.Lease{}, cluster.Ref(os.Getenv(helperRef))); err != nil {
			return err
		}
		fmt.Println(time.Since(begin).Seconds())
	}
	return nil
}

// join hands connections on until the listener ends.
func join(ln net.Listener, dial func() (net.Conn, error)) {
	for {
		in, err := ln.Accept()
		if err != nil {
			return
		}
		out, err := dial()
		if err != nil {
			_ = in.Close()
			continue
		}
		for _, way := range [][2]net.Conn{{in, out}, {out, in}} {
			go func() {
				_, _ = io.Copy(way[0], way[1])
				_, _ = in.Close(), out.Close()
			}()
		}
	}
}

// TestBenchTransfer brings a file of 2 GB to a second keeper, a process of its
// own, over a real tailnet on this machine, and measures scp of the same file: on
// loopback, and through the same tailnet. $SSHD names the server if it is not in
// its usual place; without one scp's figures are "na".
func TestBenchTransfer(t *testing.T) {
	if os.Getenv("COMFYUME_BENCH") == "" {
		t.Skip("a measurement, not a test: `make bench` runs it")
	}
	const size = int64(2 << 30)
	first := t.TempDir()
	store, err := blob.OpenDir(blob.DirConfig{Path: first, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ref, _, err := store.Put(t.Context(), noise(7, size), size)
	if err != nil {
		t.Fatal(err)
	}
	control, network := benchTailnet(t)
	ln, err := network.Listen(cluster.PortSite)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = serveKeeper(store, ln) }()
	ssh := startSSH(t)
	second := startSecond(t, helperControl+"="+control.URL(), helperKey+"="+control.NewKey(controltest.KeyOptions{}), helperAddr+"="+ln.Addr().String(), helperRef+"="+string(ref), helperSSH+"="+ssh.addr)

	idle := second.memory("VmRSS")
	took, err := strconv.ParseFloat(second.ask("fetch"), 64)
	if err != nil {
		t.Fatal(err)
	}
	rss := second.memory("VmHWM")
	path := filepath.Join(second.dir, "blobs", "blobs", string(ref[:2]), string(ref))
	if info, err := os.Stat(path); err != nil || info.Size() != size {
		t.Fatalf("it did not arrive: %v", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	rate := func(seconds float64) string {
		if seconds == 0 {
			return "na"
		}
		return fmt.Sprintf("%.0f", float64(size)/1e6/seconds)
	}
	from := filepath.Join(first, "blobs", string(ref[:2]), string(ref))
	direct, through := ssh.figures(from, func() (net.Conn, error) {
		return network.Dial(t.Context(), net.JoinHostPort(second.addr, strconv.Itoa(sshPort)))
	})
	load, _ := os.ReadFile("/proc/loadavg")
	fmt.Printf("transfer ours_mb_s=%s rss_mb=%.0f scp_mb_s=%s scp_same_tailnet_mb_s=%s rss_before_mb=%.0f size_mb=%d load=%.4s\n", rate(took), rss, rate(direct), rate(through), idle, size/1e6, load)
}

// benchTailnet is a tailnet of this test, and this process on it.
func benchTailnet(t *testing.T) (*controltest.Control, tailnet.Network) {
	t.Helper()
	control, err := controltest.Start(controltest.Config{IP: netip.MustParseAddr("127.0.0.1")})
	if err != nil {
		t.Fatal(err)
	}
	network, err := joinTailnet(t.Context(), control.URL(), control.NewKey(controltest.KeyOptions{}), t.TempDir(), "first")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(network.Close(), control.Close()); err != nil {
			t.Error(err)
		}
	})
	return control, network
}

// secondKeeper is the process that receives.
type secondKeeper struct {
	t    *testing.T
	cmd  *exec.Cmd
	in   io.Writer
	out  *bufio.Scanner
	dir  string
	addr string // on the tailnet
}

func startSecond(t *testing.T, env ...string) *secondKeeper {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	s := &secondKeeper{t: t, cmd: exec.Command(exe), dir: t.TempDir()}
	s.cmd.Env = append(append(os.Environ(), helperRole+"=tailnet", helperDir+"="+s.dir), env...)
	s.cmd.Stderr = os.Stderr
	s.in, err = s.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	s.out = bufio.NewScanner(out)
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.cmd.Process.Kill(); _ = s.cmd.Wait() })
	s.addr = s.line()
	return s
}

func (s *secondKeeper) line() string {
	s.t.Helper()
	if !s.out.Scan() {
		s.t.Fatalf("the second keeper has ended: %v", s.out.Err())
	}
	return s.out.Text()
}

func (s *secondKeeper) ask(what string) string {
	s.t.Helper()
	if _, err := fmt.Fprintln(s.in, what); err != nil {
		s.t.Fatal(err)
	}
	return s.line()
}

// memory of the process in MB, as the kernel counts it.
func (s *secondKeeper) memory(what string) float64 {
	s.t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		s.t.Skipf("no /proc here: %v", err)
	}
	for line := range strings.Lines(string(raw)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == what+":" {
			kb, err := strconv.ParseFloat(f[1], 64)
			if err != nil {
				s.t.Fatal(err)
			}
			return kb / 1024
		}
	}
	s.t.Fatalf("no %s", what)
	return 0
}

// sshServer takes files by scp.
type sshServer struct {
	t    *testing.T
	dir  string
	addr string
}

// figures are the seconds that a file takes by scp: directly, and by the way that
// dial opens. Zero: there is no server.
func (s *sshServer) figures(file string, dial func() (net.Conn, error)) (direct, through float64) {
	s.t.Helper()
	if s.addr == "" {
		return 0, 0
	}
	way, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	defer way.Close()
	go join(way, dial)
	return s.copy(file, s.addr), s.copy(file, way.Addr().String())
}

// startSSH starts a server with throw-away keys; its address is "" if there is
// none here.
func startSSH(t *testing.T) *sshServer {
	t.Helper()
	exe, err := exec.LookPath(cmp.Or(os.Getenv("SSHD"), "/usr/sbin/sshd"))
	if _, serr := exec.LookPath("scp"); err != nil || serr != nil {
		t.Logf("scp is not measured: %v", errors.Join(err, serr))
		return &sshServer{t: t}
	}
	s := &sshServer{t: t, dir: t.TempDir()}
	for _, name := range []string{"host", "user"} {
		if out, err := exec.CommandContext(t.Context(), "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(s.dir, name)).CombinedOutput(); err != nil {
			t.Fatalf("%v %s", err, out)
		}
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr = ln.Addr().String()
	_ = ln.Close()
	_, port, _ := net.SplitHostPort(s.addr)
	conf := filepath.Join(s.dir, "conf")
	text := fmt.Sprintf("ListenAddress 127.0.0.1\nPort %s\nHostKey %s/host\nAuthorizedKeysFile %s/user.pub\nStrictModes no\nUsePAM no\nPermitRootLogin prohibit-password\nPidFile none\nSubsystem sftp internal-sftp\n", port, s.dir, s.dir)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, "-D", "-e", "-f", conf)
	var said strings.Builder
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	for limit := time.Now().Add(10 * time.Second); ; {
		c, err := net.Dial("tcp", s.addr)
		if err == nil {
			_ = c.Close()
			return s
		}
		if time.Now().After(limit) {
			_, _ = cmd.Process.Kill(), cmd.Wait()
			t.Fatalf("sshd does not answer: %v\n%s", err, said.String())
		}
		<-time.After(20 * time.Millisecond)
	}
}

// copy copies a file by scp to where addr leads, and returns the seconds.
func (s *sshServer) copy(from, addr string) float64 {
	s.t.Helper()
	me, err := user.Current()
	if err != nil {
		s.t.Fatal(err)
	}
	host, port, _ := net.SplitHostPort(addr)
	to := filepath.Join(s.dir, "copy")
	begin := time.Now()
	out, err := exec.CommandContext(s.t.Context(), "scp", "-q", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR",
		"-i", filepath.Join(s.dir, "user"), "-P", port, from, me.Username+"@"+host+":"+to).CombinedOutput()
	took := time.Since(begin).Seconds()
	if err != nil {
		s.t.Fatalf("scp: %v %s", err, out)
	}
	a, aerr := os.Stat(from)
	b, berr := os.Stat(to)
	if err := errors.Join(aerr, berr, os.Remove(to)); err != nil || a.Size() != b.Size() {
		s.t.Fatalf("scp did not bring all: %v", err)
	}
	return took
}
