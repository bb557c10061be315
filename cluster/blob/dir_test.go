package blob_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/blob"
	"github.com/ahelme/comfyume/cluster/blob/blobtest"
)

func roomy(string) (int64, int64, error) { return 90 << 30, 100 << 30, nil }

func openDir(t *testing.T, path string, space func(string) (int64, int64, error)) *blob.Dir {
	t.Helper()
	d, err := blob.OpenDir(blob.DirConfig{Path: path, Logger: slog.New(slog.DiscardHandler), Space: space})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func put(t *testing.T, d *blob.Dir, raw []byte) blob.Ref {
	t.Helper()
	ref, _, err := d.Put(t.Context(), bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

func at(root string, ref blob.Ref) string {
	return filepath.Join(root, "blobs", string(ref[:2]), string(ref))
}

// files lists what lies under a folder.
func files(t *testing.T, root string) (out []string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			out = append(out, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// spoil changes one byte and keeps the size; the time moves on by itself or is
// moved, as a file system with coarse times would hide the change.
func spoil(t *testing.T, path string) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	raw[len(raw)/2] ^= 1
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	later := time.Now().Add(time.Hour)
	if err := os.Chtimes(path, later, later); err != nil {
		t.Fatal(err)
	}
}

func usage(t *testing.T, d *blob.Dir, blobs, bytes int64) {
	t.Helper()
	got, err := d.Usage()
	if err != nil || got.Blobs != blobs || got.Bytes != bytes {
		t.Errorf("usage %+v, %v; want %d blobs of %d bytes", got, err, blobs, bytes)
	}
}

func TestDirIsAStore(t *testing.T) {
	blobtest.Run(t, func() blob.Store { return openDir(t, t.TempDir(), nil) })
}

func TestLayoutAndCounts(t *testing.T) {
	root := t.TempDir()
	d := openDir(t, root, roomy)
	ref := put(t, d, []byte("one"))
	put(t, d, []byte("one"))
	put(t, d, []byte("four"))
	usage(t, d, 2, 7)
	info, err := os.Stat(at(root, ref))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if got := files(t, root); len(got) != 2 {
		t.Errorf("files %v", got)
	}
	if u, _ := d.Usage(); u.Free != 90<<30 || u.Total != 100<<30 {
		t.Errorf("volume %+v", u)
	}
	again := openDir(t, root, roomy)
	usage(t, again, 2, 7)
	blobtest.Expect(t, again, ref, []byte("one"))
}

func TestKilledBetweenWriteAndRename(t *testing.T) {
	root := t.TempDir()
	d := openDir(t, root, roomy)
	kept := put(t, d, []byte("kept"))
	left := filepath.Join(root, "tmp", "put-123")
	if err := os.WriteFile(left, []byte("half a picture"), 0o600); err != nil {
		t.Fatal(err)
	}
	d = openDir(t, root, roomy)
	if _, err := os.Stat(left); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the leftover stays: %v", err)
	}
	usage(t, d, 1, 4)
	blobtest.Expect(t, d, kept, []byte("kept"))
	blobtest.Missing(t, d, blobtest.Digest([]byte("half a picture")))
}

func TestFailedPutsLeaveNothing(t *testing.T) {
	root := t.TempDir()
	d := openDir(t, root, roomy)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, size := range []int64{-1, 9, 3} {
		if _, _, err := d.Put(ctx, strings.NewReader("bytes"), size); err == nil {
			t.Errorf("size %d was taken", size)
		}
		if _, _, err := d.Put(t.Context(), io.MultiReader(strings.NewReader("b"), broken{}), size); err == nil {
			t.Errorf("size %d was taken from a broken reader", size)
		}
	}
	if got := files(t, root); len(got) != 0 {
		t.Errorf("left %v", got)
	}
	usage(t, d, 0, 0)
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestDamagedBlobIsSetAsideAndReplaced(t *testing.T) {
	for _, c := range []struct {
		what  string
		harm  func(t *testing.T, path string)
		fresh bool // a restart between the damage and the reader
	}{
		{"a byte flipped", spoil, true},
		{"a byte flipped under a running store", spoil, false},
		{"cut short", func(t *testing.T, path string) {
			t.Helper()
			if err := os.Truncate(path, 10); err != nil {
				t.Fatal(err)
			}
		}, true}, // a running store would count the bytes that somebody cut off until its restart
	} {
		t.Run(c.what, func(t *testing.T) {
			root := t.TempDir()
			d := openDir(t, root, roomy)
			raw := blobtest.Noise(1, 1000)
			ref := put(t, d, raw)
			blobtest.Expect(t, d, ref, raw)
			c.harm(t, at(root, ref))
			if c.fresh {
				d = openDir(t, root, roomy)
			}
			_, err := d.Open(t.Context(), ref)
			if cluster.CodeOf(err) != cluster.Internal || !strings.Contains(cluster.MessageOf(err), "damaged") {
				t.Errorf("open: %v", err)
			}
			blobtest.Missing(t, d, ref)
			if got := files(t, filepath.Join(root, "quarantine")); len(got) != 1 {
				t.Errorf("quarantine holds %v", got)
			}
			if u, _ := d.Usage(); u.Blobs != 0 {
				t.Errorf("still counted: %+v", u)
			}
			put(t, d, raw)
			usage(t, d, 1, 1000)
			blobtest.Expect(t, d, ref, raw)
		})
	}
}

func TestPutOverADamagedBlobHealsIt(t *testing.T) {
	for _, c := range []struct {
		what string
		harm func(string) error
	}{
		{"same size", func(path string) error { return os.WriteFile(path, make([]byte, 1000), 0o600) }},
		{"shorter", func(path string) error { return os.Truncate(path, 10) }},
	} {
		t.Run(c.what, func(t *testing.T) {
			root := t.TempDir()
			raw := blobtest.Noise(1, 1000)
			ref := put(t, openDir(t, root, roomy), raw)
			if err := c.harm(at(root, ref)); err != nil {
				t.Fatal(err)
			}
			d := openDir(t, root, roomy)
			put(t, d, raw)
			blobtest.Expect(t, d, ref, raw)
			usage(t, d, 1, 1000)
		})
	}
}

// TestDamagedHandleIsNotServedWhileItIsReplaced lets readers and a healing Put
// meet: whoever gets a handle must read the right bytes.
func TestDamagedHandleIsNotServedWhileItIsReplaced(t *testing.T) {
	raw := blobtest.Noise(1, 200_000)
	for range 30 {
		root := t.TempDir()
		ref := put(t, openDir(t, root, roomy), raw)
		spoil(t, at(root, ref))
		d := openDir(t, root, roomy)
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				if i%2 == 0 {
					if _, _, err := d.Put(t.Context(), bytes.NewReader(raw), -1); err != nil {
						t.Error(err)
					}
					return
				}
				f, err := d.Open(t.Context(), ref)
				if err != nil {
					return // damaged or set aside: both are honest
				}
				got, err := io.ReadAll(f)
				if err = errors.Join(err, f.Close()); err != nil || !bytes.Equal(got, raw) {
					t.Errorf("damaged bytes were handed out: %v", err)
				}
			})
		}
		wg.Wait()
		blobtest.Expect(t, d, ref, raw)
		usage(t, d, 1, 200_000)
	}
}

// TestOneReaderGivesUpWhileAnotherWaits: the check of a blob is shared, the
// patience of those who wait for it is not.
func TestOneReaderGivesUpWhileAnotherWaits(t *testing.T) {
	root := t.TempDir()
	raw := blobtest.Noise(1, 1000)
	ref := put(t, openDir(t, root, roomy), raw)
	d := openDir(t, root, roomy)
	ctx, cancel := context.WithCancelCause(t.Context())
	closed := errors.New("the tab was closed")
	cancel(closed)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			if i%2 == 0 {
				blobtest.Expect(t, d, ref, raw)
				return
			}
			f, err := d.Open(ctx, ref)
			if err == nil { // it was verified by then: nothing to wait for
				err = f.Close()
			} else if errors.Is(err, closed) {
				err = nil
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}
