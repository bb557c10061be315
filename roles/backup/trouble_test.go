package backup_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/roles/backup"
	"github.com/ahelme/comfyume/roles/backup/s3test"
)

// part is the size of parts in these tests; S3 takes no smaller ones than 5 MiB.
const part = 5 << 20

// wire stands between a vault and its server: it counts what goes up, breaks after so
// many bytes, or stands still.
type wire struct {
	addr string

	mu    sync.Mutex
	up    int64 // bytes sent to the server
	cut   int64 // break every connection when so many were sent; 0 = never
	still bool
}

func newWire(t *testing.T, to string) *wire {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{addr: l.Addr().String()}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				_ = in.Close()
				continue
			}
			go func() { _, _ = io.Copy(in, out); _ = in.Close() }()
			go func() { _, _ = io.Copy(out, &tap{in, w}); _ = in.Close(); _ = out.Close() }()
		}
	}()
	return w
}

var errCut = errors.New("the wire was cut")

type tap struct {
	io.Reader
	w *wire
}

func (p *tap) Read(b []byte) (int, error) {
	n, err := p.Reader.Read(b)
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	p.w.up += int64(n)
	if p.w.cut > 0 && p.w.up >= p.w.cut {
		return 0, errCut
	}
	for p.w.still {
		p.w.mu.Unlock()
		time.Sleep(10 * time.Millisecond) // the far end of a wire, no wait of the test's
		p.w.mu.Lock()
	}
	return n, err
}

func (w *wire) set(cut int64, still bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.up, w.cut, w.still = 0, cut, still
}

func (w *wire) sent() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.up
}

// wired is a bucket behind a wire.
func wired(t *testing.T) (place, *wire) {
	t.Helper()
	s := s3test.Start(t)
	host := strings.TrimSuffix(strings.TrimPrefix(s.Spec, "s3:https://"), "/films")
	w := newWire(t, host)
	to := target(t, strings.Replace(s.Spec, host, w.addr, 1)).With(backup.Keys{ID: s.ID, Secret: s.Secret, CA: s.CA}).Small(time.Second, part)
	return place{target: to, path: s.Bucket, server: s, owner: "mello"}, w
}

// A large upload that breaks goes on where it was: what is there is not sent again,
// nothing is there under its name before all of it is, and what is there then is right.
func TestLargeUploadGoesOnWhereItBroke(t *testing.T) {
	const size = 4*part + 12345
	p, w := wired(t)
	s := newShop(t)
	raw := make([]byte, size)
	seed := [32]byte{7}
	_, _ = rand.NewChaCha8(seed).Read(raw)
	ref := s.add(string(raw))
	v, _ := prepared(t, p)
	name := p.file("blobs/" + string(ref[:2]) + "/" + string(ref))
	points := rand.New(rand.NewChaCha8(seed))
	var all int64
	breaks := 0
	for ; breaks < 3; breaks++ {
		offset := int64(part) + points.Int64N(part)
		w.set(offset, false)
		_, err := v.Run(t.Context(), s)
		all += w.sent()
		if err == nil {
			break
		}
		code(t, err, cluster.Unavailable, "does not answer")
		fmt.Printf("upload seed=%d broken_after=%d\n", seed[0], offset)
		if _, err := os.Stat(name); !os.IsNotExist(err) {
			t.Fatalf("half a file has its name: %v", err)
		}
		v = p.vault(t) // as after a restart
	}
	w.set(0, false)
	m, err := v.Run(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	if all += w.sent(); all > size+int64(breaks)*(part+3<<20) || breaks == 0 {
		t.Errorf("%d bytes were sent for %d after %d breaks", all, size, breaks)
	}
	fmt.Printf("upload bytes=%d breaks=%d sent=%d again_percent=%.1f\n", size, breaks, all, 100*float64(all-size)/size/float64(max(breaks, 1)))
	if bad, err := v.Verify(t.Context(), m); err != nil || len(bad) > 0 {
		t.Errorf("%v, %v", bad, err)
	}
}

// A server that stands still ends the run with a reason, and the next one goes on.
func TestStalledBucket(t *testing.T) {
	p, w := wired(t)
	s := newShop(t)
	s.add("x")
	v, _ := prepared(t, p)
	w.set(0, true)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if _, err := v.Run(ctx, s); err == nil || ctx.Err() != nil {
		t.Fatalf("%v, %v", err, ctx.Err())
	} else {
		code(t, err, cluster.Unavailable, "")
	}
	w.set(0, false)
	if _, err := v.Run(t.Context(), s); err != nil {
		t.Errorf("once it answers: %v", err)
	}
}

// A bucket whose server changes bytes on their way is found out: the file is not
// given out for whole, and its restore names it.
func TestLyingBucketIsNamed(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		s := newShop(t)
		v, _ := prepared(t, p)
		ref := s.add("a film of mine")
		s.image.Files = []backup.File{{Path: "user001/output/film.mp4", Ref: ref}}
		m, err := v.Run(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		if err := spoil(p.file("blobs/"+string(ref[:2])+"/"+string(ref)), func(b []byte) []byte { return []byte("a film of someo") }); err != nil {
			t.Fatal(err)
		}
		to := t.TempDir()
		tally, err := v.Plain(t.Context(), m, m.Files, to)
		if err != nil || tally.Restored != 0 || len(tally.Mismatched) != 1 || tally.Mismatched[0] != "user001/output/film.mp4" {
			t.Errorf("%+v, %v", tally, err)
		}
		if left, _ := filepath.Glob(filepath.Join(to, "user001/output/*")); len(left) > 0 {
			t.Errorf("%v is there", left)
		}
	})
}
