package blob_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/blob"
	"github.com/ahelme/comfyume/cluster/blob/blobtest"
)

// dice are rolled the same way again with the seed that is printed.
func dice(t *testing.T) *rand.Rand {
	t.Helper()
	const seed = 6
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 1))
}

func partial(t *testing.T, d *blob.Dir, ref blob.Ref) *blob.Partial {
	t.Helper()
	p, err := d.Partial(context.WithoutCancel(t.Context()), ref)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func adopt(t *testing.T, p *blob.Partial, list blob.Chunks) {
	t.Helper()
	if err := p.Adopt(t.Context(), list); err != nil {
		t.Fatal(err)
	}
}

// some takes bytes and expects that more are missing.
func some(t *testing.T, p *blob.Partial, raw []byte) {
	t.Helper()
	err := p.Take(t.Context(), bytes.NewReader(raw))
	if cluster.CodeOf(err) != cluster.Unavailable || !strings.Contains(cluster.MessageOf(err), "what has come is kept") {
		t.Fatalf("take: %v", err)
	}
}

func closed(t *testing.T, p *blob.Partial) {
	t.Helper()
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestFlippedByteIsFound offers a hundred sources that each flip one bit of one
// chunk, and then the right one: nothing wrong stays, and the file gets its name.
func TestFlippedByteIsFound(t *testing.T) {
	roll := dice(t)
	root := t.TempDir()
	d := openDir(t, root, roomy)
	raw, ref, list := blobtest.Large(2, 66*mib+5)
	p := partial(t, d, ref)
	adopt(t, p, list)
	found := 0
	for i := range 100 {
		if i > 0 && i%4 == 0 && p.Size() < 64*mib { // a chunk further: the last one is small
			some(t, p, raw[p.Size():][:blob.Chunk])
		}
		from, wrong := p.Size(), slices.Clone(raw[p.Size():])
		at := roll.IntN(min(len(wrong), blob.Chunk))
		wrong[at] ^= 1 << roll.IntN(8)
		err := p.Take(t.Context(), bytes.NewReader(wrong))
		if errors.Is(err, blob.ErrChunk) && p.Size() == from {
			found++
		} else {
			t.Errorf("byte %d is flipped: %v, %d bytes are here", from+int64(at), err, p.Size())
		}
		blobtest.Missing(t, d, ref)
	}
	t.Logf("flipped found=%d of=100", found)
	if err := p.Take(t.Context(), bytes.NewReader(raw[p.Size():])); err != nil {
		t.Fatal(err)
	}
	closed(t, p)
	blobtest.Expect(t, d, ref, raw)
	usage(t, d, 1, int64(len(raw)))
	if got := files(t, root); len(got) != 1 {
		t.Errorf("left %v", got)
	}
}

// TestTruncatedTransferGoesOn breaks one off at random bytes; the store is opened
// anew after each.
func TestTruncatedTransferGoesOn(t *testing.T) {
	roll := dice(t)
	root := t.TempDir()
	raw, ref, list := blobtest.Large(3, 70*mib)
	had := int64(0)
	for range 12 {
		d := openDir(t, root, roomy)
		p := partial(t, d, ref)
		if p.Size() != had {
			t.Fatalf("%d bytes are here, %d have come", p.Size(), had)
		}
		adopt(t, p, list)
		n := roll.Int64N(10 * mib)
		if had+n >= list.Size {
			break
		}
		some(t, p, raw[had:had+n])
		had += n
		closed(t, p)
		if u, err := d.Usage(); err != nil || u.Coming < had || u.Blobs != 0 {
			t.Errorf("%d bytes are here, counted as %+v, %v", had, u, err)
		}
		blobtest.Missing(t, d, ref)
	}
	d := openDir(t, root, roomy)
	p := partial(t, d, ref)
	if err := p.Take(t.Context(), iotest.ErrReader(io.ErrUnexpectedEOF)); !errors.Is(err, io.ErrUnexpectedEOF) || p.Size() != had {
		t.Errorf("%v, %d bytes are here", err, p.Size())
	}
	if err := p.Take(t.Context(), bytes.NewReader(raw[had:])); err != nil {
		t.Fatal(err)
	}
	closed(t, p)
	blobtest.Expect(t, d, ref, raw)
}

// TestWhatIsHereIsReadAgain spoils a partial file between two runs, in a whole
// chunk, in the last one, and by more bytes than there are.
func TestWhatIsHereIsReadAgain(t *testing.T) {
	raw, ref, list := blobtest.Large(4, 70*mib)
	for _, c := range []struct {
		what string
		harm func(f *os.File) error
		want int64
		last error
	}{
		{"in a whole chunk", func(f *os.File) error { _, err := f.WriteAt([]byte("x"), 20*mib); return err }, blob.Chunk, nil},
		{"in the chunk that was not whole", func(f *os.File) error { _, err := f.WriteAt([]byte("xyz"), 36*mib); return err }, 40 * mib, blob.ErrTail},
		{"cut", func(f *os.File) error { return f.Truncate(17 * mib) }, 17 * mib, nil},
		{"longer than it may be", func(f *os.File) error { return f.Truncate(200 * mib) }, 2 * blob.Chunk, nil},
	} {
		t.Run(c.what, func(t *testing.T) {
			root := t.TempDir()
			d := openDir(t, root, roomy)
			p := partial(t, d, ref)
			adopt(t, p, list)
			some(t, p, raw[:40*mib])
			closed(t, p)
			f, err := os.OpenFile(filepath.Join(root, "partial", string(ref)), os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(c.harm(f), f.Close()); err != nil {
				t.Fatal(err)
			}
			d = openDir(t, root, roomy)
			p = partial(t, d, ref)
			if p.Size() != c.want {
				t.Errorf("%d bytes count, want %d", p.Size(), c.want)
			}
			err = p.Take(t.Context(), bytes.NewReader(raw[p.Size():]))
			if c.last != nil {
				if !errors.Is(err, c.last) || p.Size()%blob.Chunk != 0 {
					t.Errorf("%v, %d bytes count", err, p.Size())
				}
				err = p.Take(t.Context(), bytes.NewReader(raw[p.Size():]))
			}
			if err != nil {
				t.Fatal(err)
			}
			closed(t, p)
			blobtest.Expect(t, d, ref, raw)
		})
	}
}

// TestFalseList: all chunks are what the list says and the file is not. What
// another list agrees with stays.
func TestFalseList(t *testing.T) {
	d := openDir(t, t.TempDir(), roomy)
	raw, ref, list := blobtest.Large(5, 70*mib)
	wrong := slices.Clone(raw)
	wrong[50*mib] ^= 1
	_, _, lie := blobtest.Large(5, 70*mib)
	sum := blobtest.Digest(wrong[48*mib : 64*mib])
	copy(lie.Sums[3*32:], unhex(t, string(sum)))
	p := partial(t, d, ref)
	adopt(t, p, lie)
	if err := p.Take(t.Context(), bytes.NewReader(wrong)); !errors.Is(err, blob.ErrList) || p.Chunks().Size != 0 {
		t.Fatalf("%v, list of %d", err, p.Chunks().Size)
	}
	blobtest.Missing(t, d, ref)
	adopt(t, p, list)
	if p.Size() != 48*mib {
		t.Errorf("%d bytes agree with the true list, want %d", p.Size(), 48*mib)
	}
	if err := p.Take(t.Context(), bytes.NewReader(raw[p.Size():])); err != nil {
		t.Fatal(err)
	}
	closed(t, p)
	blobtest.Expect(t, d, ref, raw)
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	out := make([]byte, len(s)/2)
	for i := range out {
		out[i] = byte(strings.IndexByte("0123456789abcdef", s[2*i])<<4 | strings.IndexByte("0123456789abcdef", s[2*i+1]))
	}
	return out
}

// TestSpaceForTheRestIsSetAsideFirst: what is here already needs no room again.
func TestSpaceForTheRestIsSetAsideFirst(t *testing.T) {
	free := int64(150 * mib)
	d := openDir(t, t.TempDir(), func(string) (int64, int64, error) { return free, 1000 * mib, nil })
	raw, ref, list := blobtest.Large(6, 80*mib)
	p := partial(t, d, ref)
	adopt(t, p, list)
	r := bytes.NewReader(raw)
	if err := p.Take(t.Context(), r); cluster.CodeOf(err) != cluster.NoSpace || r.Len() != len(raw) || !strings.Contains(cluster.MessageOf(err), "no room for 80 MB more") {
		t.Errorf("80 of 50 MiB, %d bytes read: %v", len(raw)-r.Len(), err)
	}
	free = 190 * mib
	some(t, p, raw[:40*mib])
	free = 150 * mib
	if err := p.Take(t.Context(), bytes.NewReader(raw[40*mib:])); err != nil {
		t.Errorf("the other 40 of 50 MiB: %v", err)
	}
	closed(t, p)
	blobtest.Expect(t, d, ref, raw)
	if err := d.Fits(50 * mib); err != nil {
		t.Errorf("space is held that nobody needs: %v", err)
	}
}

// TestVolumeThatIsFull is a small file system of its own that fills up although
// there seemed to be room; when somebody has made some, the transfer goes on.
func TestVolumeThatIsFull(t *testing.T) {
	root := t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "mount", "-t", "tmpfs", "-o", "size=60m", "tmpfs", root).CombinedOutput(); err != nil {
		t.Skipf("no file system can be mounted here: %v %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", "-l", root).CombinedOutput(); err != nil {
			t.Errorf("umount: %v %s", err, out)
		}
	})
	d := openDir(t, root, roomy) // it asks a volume that has room
	raw, ref, list := blobtest.Large(7, 80*mib)
	p := partial(t, d, ref)
	adopt(t, p, list)
	err := p.Take(t.Context(), bytes.NewReader(raw))
	had := p.Size()
	if cluster.CodeOf(err) != cluster.NoSpace || had < 50*mib {
		t.Errorf("%d bytes are here: %v", had, err)
	}
	t.Logf("full disk at byte %d of %d: %s", had, len(raw), cluster.MessageOf(err))
	closed(t, p)
	blobtest.Missing(t, d, ref)
	if out, err := exec.CommandContext(t.Context(), "mount", "-o", "remount,size=100m", root).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	p = partial(t, d, ref)
	if p.Size() != had {
		t.Errorf("%d bytes are here, %d had come", p.Size(), had)
	}
	if err := p.Take(t.Context(), bytes.NewReader(raw[p.Size():])); err != nil {
		t.Error(err)
	}
	closed(t, p)
	blobtest.Expect(t, d, ref, raw)
	// A store that asks this volume refuses before a byte has come.
	d = openDir(t, root, nil)
	_, other, list := blobtest.Large(8, 90*mib)
	p = partial(t, d, other)
	adopt(t, p, list)
	if err := p.Take(t.Context(), iotest.ErrReader(errors.New("it was read"))); cluster.CodeOf(err) != cluster.NoSpace {
		t.Errorf("90 MiB on a volume of 100: %v", err)
	}
	closed(t, p)
}

// TestPartialBlobsExpire: after a week nobody comes back for them, and what came
// otherwise needs no part.
func TestPartialBlobsExpire(t *testing.T) {
	root := t.TempDir()
	d := openDir(t, root, roomy)
	var raws [][]byte
	for i := range 3 {
		raw, ref, list := blobtest.Large(uint64(10+i), 65*mib)
		p := partial(t, d, ref)
		adopt(t, p, list)
		some(t, p, raw[:1000+i])
		closed(t, p)
		raws = append(raws, raw)
	}
	old := time.Now().Add(-8 * 24 * time.Hour)
	path := func(i int) string { return filepath.Join(root, "partial", string(blobtest.Digest(raws[i]))) }
	for _, name := range []string{path(0), path(0) + ".list", path(1) + ".list"} { // the second was gone on with
		if err := os.Chtimes(name, old, old); err != nil {
			t.Fatal(err)
		}
	}
	put(t, d, raws[2])
	d = openDir(t, root, roomy)
	if got, want := files(t, filepath.Join(root, "partial")), []string{path(1), path(1) + ".list"}; !slices.Equal(got, want) {
		t.Errorf("left %v, want %v", got, want)
	}
	if u, _ := d.Usage(); u.Coming < 1001 || u.Coming > 2000 {
		t.Errorf("usage %+v", u)
	}
	p := partial(t, d, blobtest.Digest(raws[1]))
	if p.Size() != 1001 {
		t.Errorf("%d bytes are here", p.Size())
	}
	closed(t, p)
}

// TestOneAtATime: two who bring the same blob would write over each other.
func TestOneAtATime(t *testing.T) {
	d := openDir(t, t.TempDir(), roomy)
	raw, ref, list := blobtest.Large(20, 65*mib)
	p := partial(t, d, ref)
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("the connection is gone")
	cancel(gone)
	if _, err := d.Partial(ctx, ref); !errors.Is(err, gone) {
		t.Errorf("a second one: %v", err)
	}
	second := make(chan error, 1)
	go func() {
		p, err := d.Partial(t.Context(), ref)
		if err == nil {
			if _, here := d.Has(t.Context(), ref); !here {
				err = errors.New("it is not whole")
			}
			err = errors.Join(err, p.Close())
		}
		second <- err
	}()
	adopt(t, p, list)
	if err := p.Take(t.Context(), bytes.NewReader(raw)); err != nil {
		t.Fatal(err)
	}
	closed(t, p)
	if err := <-second; err != nil {
		t.Errorf("who waited: %v", err)
	}
}
