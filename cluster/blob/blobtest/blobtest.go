// Package blobtest is the conformance suite of blob.Store: what every store
// promises, whatever it keeps its bytes in. It refuses to look inside; what is
// special to one store is tested beside it.
package blobtest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/blob"
)

// Run checks a kind of store; open returns a new, empty one at each call.
func Run(t *testing.T, open func() blob.Store) {
	t.Helper()
	for _, c := range []struct {
		name string
		test func(*testing.T, blob.Store)
	}{
		{"what went in comes out", roundTrip},
		{"the same bytes twice", twice},
		{"what is not there", absent},
		{"a reader that ends early", truncated},
		{"a reader that fails", failing},
		{"the same content at once", together},
		{"different contents at once", apart},
		{"cancelled", cancelled},
		{"an open blob", handle},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, open()) })
	}
}

// Digest is the name that bytes must get.
func Digest(raw []byte) blob.Ref {
	sum := sha256.Sum256(raw)
	return blob.Ref(hex.EncodeToString(sum[:]))
}

// Noise makes n bytes that no compressor shortens, the same for one seed.
func Noise(seed uint64, n int) []byte {
	raw := make([]byte, n)
	r := rand.New(rand.NewPCG(seed, 1))
	for i := range raw {
		raw[i] = byte(r.Uint32())
	}
	return raw
}

// Large makes a large blob of n bytes, and what its chunks are.
func Large(seed uint64, n int) (raw []byte, ref blob.Ref, list blob.Chunks) {
	raw = make([]byte, n)
	noise := Noise(seed, 1<<20)
	for i := 0; i < n; i += len(noise) { // each MiB is another one
		binary.LittleEndian.PutUint64(noise, uint64(i)) //nolint:gosec // it is not negative
		copy(raw[i:], noise)
	}
	list.Size = int64(n)
	for part := range slices.Chunk(raw, blob.Chunk) {
		sum := sha256.Sum256(part)
		list.Sums = append(list.Sums, sum[:]...)
	}
	return raw, Digest(raw), list
}

// Expect opens a blob and compares it whole.
func Expect(t *testing.T, s blob.Store, ref blob.Ref, want []byte) {
	t.Helper()
	f, err := s.Open(context.WithoutCancel(t.Context()), ref)
	if err != nil {
		t.Errorf("open %s: %v", ref.Short(), err)
		return
	}
	got, err := io.ReadAll(f)
	if err = errors.Join(err, f.Close()); err != nil || !bytes.Equal(got, want) {
		t.Errorf("read %s: %d bytes, want %d the same, %v", ref.Short(), len(got), len(want), err)
	}
}

// Missing reports an error unless the store has nothing of that name.
func Missing(t *testing.T, s blob.Store, ref blob.Ref) {
	t.Helper()
	if n, ok := s.Has(t.Context(), ref); ok {
		t.Errorf("has %.12q of %d bytes", ref, n)
	}
	f, err := s.Open(t.Context(), ref)
	if err == nil {
		_ = f.Close()
	}
	if cluster.CodeOf(err) != cluster.NotFound {
		t.Errorf("open %.12q: %v", ref, err)
	}
}

func roundTrip(t *testing.T, s blob.Store) {
	for _, n := range []int{0, 1, 255, 256 << 10, 256<<10 + 1, 3 << 20} {
		for _, known := range []bool{true, false} {
			raw, size := Noise(uint64(n), n), int64(-1)
			if known {
				size, raw = int64(n), Noise(uint64(n)+1, n)
			}
			ref, got, err := s.Put(t.Context(), bytes.NewReader(raw), size)
			if err != nil || ref != Digest(raw) || got != int64(n) {
				t.Errorf("%d bytes, size known %v: %q, %d, %v", n, known, ref.Short(), got, err)
				continue
			}
			if h, ok := s.Has(t.Context(), ref); !ok || h != int64(n) {
				t.Errorf("%d bytes: has %d, %v", n, h, ok)
			}
			Expect(t, s, ref, raw)
		}
	}
	// One byte at a time is how a slow network hands bytes over.
	ref, _, err := s.Put(t.Context(), iotest.OneByteReader(strings.NewReader("slow")), -1)
	if err != nil {
		t.Fatal(err)
	}
	Expect(t, s, ref, []byte("slow"))
}

func twice(t *testing.T, s blob.Store) {
	raw := Noise(2, 1000)
	first, _, err := s.Put(t.Context(), bytes.NewReader(raw), -1)
	if err != nil {
		t.Fatal(err)
	}
	second, n, err := s.Put(t.Context(), bytes.NewReader(raw), 1000)
	if err != nil || second != first || n != 1000 {
		t.Errorf("again: %q, %d, %v; first %q", second.Short(), n, err, first.Short())
	}
	Expect(t, s, first, raw)
}

func absent(t *testing.T, s blob.Store) {
	Missing(t, s, Digest([]byte("never put")))
	// A name that is no digest must not reach a file or an object.
	for _, ref := range []blob.Ref{"", "a", "..", "../../../../etc/passwd", blob.Ref(strings.Repeat("/", 64)), blob.Ref(strings.Repeat("A", 64))} {
		Missing(t, s, ref)
	}
}

func truncated(t *testing.T, s blob.Store) {
	raw := Noise(3, 5000)
	for _, size := range []int64{5001, 4999, 0} {
		if ref, _, err := s.Put(t.Context(), bytes.NewReader(raw), size); cluster.CodeOf(err) != cluster.Invalid || ref != "" {
			t.Errorf("5000 bytes announced as %d: %q, %v", size, ref, err)
		}
	}
	Missing(t, s, Digest(raw))
}

func failing(t *testing.T, s blob.Store) {
	gone, raw := errors.New("the sender is gone"), Noise(4, 5000)
	r := io.MultiReader(bytes.NewReader(raw), iotest.ErrReader(gone))
	if ref, _, err := s.Put(t.Context(), r, -1); !errors.Is(err, gone) || ref != "" {
		t.Errorf("got %q, %v", ref, err)
	}
	Missing(t, s, Digest(raw))
	if _, _, err := s.Put(t.Context(), bytes.NewReader(raw), 5000); err != nil {
		t.Errorf("the next attempt: %v", err)
	}
}

func together(t *testing.T, s blob.Store) {
	raw := Noise(5, 300_000)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			ref, n, err := s.Put(t.Context(), bytes.NewReader(raw), -1)
			if err != nil || ref != Digest(raw) || n != int64(len(raw)) {
				t.Errorf("%q, %d, %v", ref.Short(), n, err)
				return
			}
			Expect(t, s, ref, raw)
		})
	}
	wg.Wait()
}

func apart(t *testing.T, s blob.Store) {
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			raw := Noise(100+uint64(i), 50_000+i)
			ref, _, err := s.Put(t.Context(), bytes.NewReader(raw), int64(len(raw)))
			if err != nil {
				t.Error(err)
				return
			}
			Expect(t, s, ref, raw)
		})
	}
	wg.Wait()
}

// stopping cancels with its first bytes and goes on for 16 MiB: enough to see a
// store that does not listen, too little to fill a disk.
type stopping struct {
	cancel context.CancelCauseFunc
	n      int
}

var errStopped = errors.New("the tab was closed")

func (s *stopping) Read(p []byte) (int, error) {
	s.cancel(errStopped)
	if s.n += len(p); s.n > 16<<20 {
		return 0, io.EOF
	}
	return len(p), nil
}

func cancelled(t *testing.T, s blob.Store) {
	ctx, cancel := context.WithCancelCause(t.Context())
	if ref, _, err := s.Put(ctx, &stopping{cancel: cancel}, -1); !errors.Is(err, errStopped) || ref != "" {
		t.Errorf("put: %q, %v", ref, err)
	}
	raw := Noise(6, 5000)
	if _, _, err := s.Put(ctx, bytes.NewReader(raw), 5000); !errors.Is(err, errStopped) {
		t.Errorf("put after the end: %v", err)
	}
	Missing(t, s, Digest(raw))
}

func handle(t *testing.T, s blob.Store) {
	raw := Noise(7, 10_000)
	ref, _, err := s.Put(t.Context(), bytes.NewReader(raw), 10_000)
	if err != nil {
		t.Fatal(err)
	}
	f, err := s.Open(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if f.Size() != 10_000 {
		t.Errorf("size %d", f.Size())
	}
	// Range requests seek; previews read at an offset while another copy runs.
	part := make([]byte, 100)
	if _, err := f.ReadAt(part, 5000); err != nil || !bytes.Equal(part, raw[5000:5100]) {
		t.Errorf("read at 5000: %v", err)
	}
	if at, err := f.Seek(-100, io.SeekEnd); err != nil || at != 9900 {
		t.Errorf("seek: %d, %v", at, err)
	}
	if rest, err := io.ReadAll(f); err != nil || !bytes.Equal(rest, raw[9900:]) {
		t.Errorf("the rest: %d bytes, %v", len(rest), err)
	}
}
