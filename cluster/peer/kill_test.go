package peer_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/blob"
	"github.com/ahelme/comfyume/cluster/jobs"
)

// metered counts what goes into connections: what their other end did not live to
// read is counted as well.
type metered struct {
	net.Conn
	n *atomic.Int64
}

func (m metered) Write(p []byte) (int, error) {
	n, err := m.Conn.Write(p)
	m.n.Add(int64(n))
	return n, err
}

type meteredListener struct {
	net.Listener
	n *atomic.Int64
}

func (l meteredListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return metered{c, l.n}, nil
}

// deadly is a transfer that is killed again and again.
type deadly struct {
	t     *testing.T
	seed  uint64
	size  int64
	kills int
	store string // of the one who receives
	ref   cluster.Ref
	sent  atomic.Int64 // into connections, by the one who sends
}

// noise is a file of its own for each seed, which fits no memory: it is read.
func noise(seed uint64, size int64) io.Reader {
	var key [32]byte
	copy(key[:], fmt.Sprint(seed))
	return io.LimitReader(rand.NewChaCha8(key), size)
}

// here is how much has come.
func (d *deadly) here() int64 {
	for _, path := range []string{"partial/" + string(d.ref), "blobs/" + string(d.ref[:2]) + "/" + string(d.ref)} {
		if info, err := os.Stat(filepath.Join(d.store, path)); err == nil {
			return info.Size()
		}
	}
	return 0
}

// wrong counts files whose final name is not what they are.
func (d *deadly) wrong() (wrong, right int) {
	paths, err := filepath.Glob(filepath.Join(d.store, "blobs", "*", "*"))
	if err != nil {
		d.t.Fatal(err)
	}
	for _, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			d.t.Fatal(err)
		}
		sum := sha256.New()
		_, err = io.Copy(sum, f)
		if err = errors.Join(err, f.Close()); err != nil {
			d.t.Fatal(err)
		}
		if hex.EncodeToString(sum.Sum(nil)) == filepath.Base(path) {
			right++
		} else {
			wrong++
		}
	}
	return wrong, right
}

// process is a helper that runs.
type process struct {
	cmd    *exec.Cmd
	output *bytes.Buffer
	ended  chan error // one send
}

func (d *deadly) start(role, dir, addr string) *process {
	d.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		d.t.Fatal(err)
	}
	p := &process{exec.Command(exe), &bytes.Buffer{}, make(chan error, 1)}
	p.cmd.Env = append(os.Environ(), helperRole+"="+role, helperDir+"="+dir, helperRef+"="+string(d.ref), helperAddr+"="+addr)
	p.cmd.Stdout, p.cmd.Stderr = p.output, p.output
	if err := p.cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	go func() { p.ended <- p.cmd.Wait() }()
	return p
}

// run has start start the process that dies, kills it at random bytes of the
// file, and waits for the end of the last one, which done tells.
func (d *deadly) run(what string, start func() *process, done func(p *process) error) {
	d.t.Helper()
	roll := rand.New(rand.NewPCG(d.seed, 1))
	at := make([]int64, d.kills)
	for i := range at {
		at[i] = roll.Int64N(d.size)
	}
	slices.Sort(at)
	begin, kills := time.Now(), 0
	p := start()
	for i, byteAt := range at {
		had := d.here()
		for d.here() < byteAt {
			select {
			case err := <-p.ended:
				d.t.Fatalf("before byte %d the process ended: %v\n%s", byteAt, err, p.output)
			case <-time.After(200 * time.Microsecond):
			}
			if time.Since(begin) > 10*time.Minute {
				_ = p.cmd.Process.Kill()
				d.t.Fatalf("byte %d does not come\n%s", byteAt, p.output)
			}
		}
		_ = p.cmd.Process.Kill()
		<-p.ended
		kills++
		wrong, _ := d.wrong()
		d.t.Logf("kill %d of %d seed=%d offset=%d here_before=%d here=%d sent_so_far=%d wrong=%d", i+1, d.kills, d.seed, byteAt, had, d.here(), d.sent.Load(), wrong)
		if wrong > 0 {
			d.t.Errorf("%d wrong files have a final name", wrong)
		}
		p = start()
	}
	if err := done(p); err != nil {
		d.t.Fatalf("at last: %v\n%s", err, p.output)
	}
	wrong, right := d.wrong()
	again := max(0, d.sent.Load()-d.size)
	saved := 100 * (1 - float64(again)/float64(d.size))
	fmt.Printf("killed what=%s seed=%d size_mb=%d kills=%d wrong=%d right=%d sent_again_mb=%.1f not_sent_again_percent=%.2f seconds=%.1f\n",
		what, d.seed, d.size>>20, kills, wrong, right, float64(again)/mib, saved, time.Since(begin).Seconds())
	if wrong != 0 || right != 1 || saved < 95 {
		d.t.Errorf("%d wrong, %d right, %.2f %% of the bytes were not sent again", wrong, right, saved)
	}
	left, err := os.ReadDir(filepath.Join(d.store, "partial"))
	if err != nil || len(left) > 0 {
		d.t.Errorf("left %v, %v", left, err)
	}
}

func newDeadly(t *testing.T, seed uint64) *deadly {
	t.Helper()
	d := &deadly{t: t, seed: seed, size: 200<<20 + 12345, kills: 5, store: filepath.Join(t.TempDir(), "receives")}
	if os.Getenv("COMFYUME_BENCH") != "" {
		d.size, d.kills = 2<<30, 20
	}
	return d
}

// source makes the store of the one who sends.
func (d *deadly) source() (*blob.Dir, string) {
	d.t.Helper()
	path := filepath.Join(d.t.TempDir(), "sends")
	s, err := blob.OpenDir(blob.DirConfig{Path: path, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		d.t.Fatal(err)
	}
	if d.ref, _, err = s.Put(d.t.Context(), noise(d.seed, d.size), d.size); err != nil {
		d.t.Fatal(err)
	}
	return s, path
}

// serve keeps blobs in this process, and counts what it sends.
func (d *deadly) serve(s *blob.Dir) string {
	d.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		d.t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { _ = serveKeeper(s, meteredListener{narrowed{ln}, &d.sent}) })
	d.t.Cleanup(func() { _ = ln.Close(); wg.Wait() })
	return ln.Addr().String()
}

// TestKilledReceiver kills a real process that fetches a large file.
func TestKilledReceiver(t *testing.T) {
	d := newDeadly(t, 101)
	s, _ := d.source()
	addr := d.serve(s)
	d.sent.Store(0)
	d.run("receiver", func() *process { return d.start("fetch", d.store, addr) }, func(p *process) error { return <-p.ended })
}

// TestKilledKeeper kills a real process that a large result is sent to.
func TestKilledKeeper(t *testing.T) {
	d := newDeadly(t, 102)
	s, _ := d.source()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	depot := plainDepot(s, addr, func(c net.Conn) net.Conn { return metered{c, &d.sent} })
	sent := make(chan error, 1)
	said := map[string]int{}
	pause := time.NewTicker(20 * time.Millisecond)
	defer pause.Stop()
	go func() { // as a worker insists
		for {
			err := depot.Keep(t.Context(), jobs.Lease{}, d.ref)
			if code := cluster.CodeOf(err); code != cluster.Unavailable {
				sent <- err
				return
			}
			said[cluster.MessageOf(err)]++
			<-pause.C
		}
	}()
	d.run("keeper", func() *process { return d.start("keep", d.store, addr) }, func(p *process) error {
		err := <-sent
		_ = p.cmd.Process.Kill()
		<-p.ended
		return err
	})
	t.Logf("the sender was told: %v", said)
}

// TestKilledSender kills a real process that sends a large result; what it has
// sent is counted on its way.
func TestKilledSender(t *testing.T) {
	d := newDeadly(t, 103)
	_, path := d.source()
	keeper, err := blob.OpenDir(blob.DirConfig{Path: d.store, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	addr := d.relay(d.serve(keeper))
	d.sent.Store(0)
	d.run("sender", func() *process { return d.start("send", path, addr) }, func(p *process) error { return <-p.ended })
	if left, err := filepath.Glob(filepath.Join(path, "blobs", "*", "*")); err != nil || len(left) > 0 {
		t.Errorf("the sender still has %s: %v", strings.Join(left, " "), err)
	}
}

// relay counts what is sent through it.
func (d *deadly) relay(to string) string {
	d.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			in, err := ln.Accept()
			if err != nil {
				return
			}
			narrow(in)
			out, err := net.Dial("tcp", to)
			if err != nil {
				_ = in.Close()
				continue
			}
			narrow(out)
			go func() { _, _ = io.Copy(in, out); _ = in.Close(); _ = out.Close() }()
			go func() { _, _ = io.Copy(metered{out, &d.sent}, in); _ = in.Close(); _ = out.Close() }()
		}
	}()
	return ln.Addr().String()
}
