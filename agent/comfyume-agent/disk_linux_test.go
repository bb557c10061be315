package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestSyncSucceedsOntoAFullDisk: a script that asks first is told by the exit code,
// with no agent running. TestDiskBlockMeasuresWithoutAnAgent tries what needs no
// disk of its own.
func TestSyncSucceedsOntoAFullDisk(t *testing.T) { // predecessor 43
	root := t.TempDir()
	if err := unix.Mount("tmpfs", root, "tmpfs", 0, "size=16m,mode=0700"); err != nil {
		t.Skipf("no small disk can be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(root, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	for _, c := range []struct {
		used, code int
		says       string
	}{{50, exitOK, "50 % used, 8.4 MB of 17 MB free: "}, {89, exitOK, "89 % used"}, {91, exitFailed, "the disk is full: 91 % used"}, {100, exitFailed, "100 % used"}, {10, exitOK, "10 % used"}} {
		if err := os.WriteFile(filepath.Join(root, "ballast"), make([]byte, (16<<20)*c.used/100), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{{"disk", "--block", root}, {"disk", "--block", "--state-dir", root}} {
			var out bytes.Buffer
			got := command(&terminal{args: args, out: &out, err: &out})
			if got != c.code || !strings.Contains(out.String(), c.says) || strings.Count(out.String(), "\n") != 1 {
				t.Errorf("%v at %d %%: exit %d, %q", args, c.used, got, out.String())
			}
		}
	}
}
