package backup_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ahelme/comfyume/cluster"
)

// TestTmpWasFullAndTheSyncSaidDone (predecessor 43): a disk that fills up is a
// sentence, before and while it is written to, and nothing half is under a final name.
func TestTmpWasFullAndTheSyncSaidDone(t *testing.T) {
	path := t.TempDir()
	if err := unix.Mount("tmpfs", path, "tmpfs", 0, "size=80m"); err != nil {
		t.Skipf("a small disk cannot be made here: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(path, unix.MNT_DETACH) })
	p := place{target: target(t, "dir:"+path), path: path}
	s := newShop(t)
	v, _ := prepared(t, p)
	s.add(strings.Repeat("x", 5<<20))
	if _, err := v.Run(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	big := s.add(strings.Repeat("y", 30<<20))
	_, err := v.Run(t.Context(), s)
	code(t, err, cluster.NoSpace, "free some")
	if _, err := os.Stat(p.file("blobs/" + string(big[:2]) + "/" + string(big))); !os.IsNotExist(err) {
		t.Errorf("the large file is there: %v", err)
	}
	if all, err := v.List(t.Context()); err != nil || len(all) != 1 {
		t.Errorf("%d backups, %v", len(all), err)
	}
	if left, _ := filepath.Glob(filepath.Join(path, "blobs", "*", ".new-*")); len(left) > 0 {
		t.Errorf("unfinished files are left: %v", left)
	}
}
