package blob_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/blob"
	"github.com/ahelme/comfyume/cluster/blob/blobtest"
)

// TestDiskFillsUpWhileAFilmIsRendered is TestNothingNewIsTakenBefore90Percent on a
// real disk of 64 MiB, where this machine lets us mount one.
func TestDiskFillsUpWhileAFilmIsRendered(t *testing.T) { // predecessor 43, 61
	root := t.TempDir()
	if err := unix.Mount("tmpfs", root, "tmpfs", 0, "size=64m,mode=0700"); err != nil {
		t.Skipf("no small disk can be mounted here (%v): TestNothingNewIsTakenBefore90Percent tries the same", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(root, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	d := openDir(t, filepath.Join(root, "blobs"), nil)
	ballast := filepath.Join(root, "ballast")
	fill := func(percent int) {
		t.Helper()
		_ = os.Remove(ballast) // not there at first
		free, total, err := blob.Space(root)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(ballast, make([]byte, max(0, total*int64(percent)/100-(total-free))), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	fill(80)
	if err := d.Room(0); err != nil {
		t.Errorf("at 80 %%: %v", err)
	}
	if err := d.Room(8 * mib); cluster.CodeOf(err) != cluster.NoSpace {
		t.Errorf("8 MiB at 80 %% of 64 MiB: %v", err)
	}
	fill(87)
	if err := d.Room(0); cluster.CodeOf(err) != cluster.NoSpace {
		t.Errorf("a new job at 87 %%: %v", err)
	}
	if _, _, err := d.Take(t.Context(), &zeros{left: 10}, 10); cluster.CodeOf(err) != cluster.NoSpace {
		t.Errorf("an upload at 87 %%: %v", err)
	}
	result := put(t, d, blobtest.Noise(1, mib)) // of a job that runs
	fill(91)
	if _, _, err := d.Put(t.Context(), &zeros{left: 10}, 10); cluster.CodeOf(err) != cluster.NoSpace {
		t.Errorf("a result at 91 %%: %v", err)
	}
	blobtest.Expect(t, d, result, blobtest.Noise(1, mib)) // what is kept can be had
	fill(50)
	if _, _, err := d.Take(t.Context(), &zeros{left: 10}, 10); err != nil {
		t.Errorf("after space was made: %v", err)
	}
	if left, err := os.ReadDir(filepath.Join(root, "blobs", "tmp")); err != nil || len(left) != 0 {
		t.Errorf("refusals left %v, %v", left, err)
	}
	var s unix.Statfs_t
	if err := unix.Statfs(root, &s); err != nil || s.Type != unix.TMPFS_MAGIC {
		t.Error(fmt.Errorf("this was no disk of its own: type %x, %w", s.Type, err))
	}
}
