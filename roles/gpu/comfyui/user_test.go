package comfyui_test

import (
	"errors"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/ahelme/comfyume/roles/gpu/comfyui"
)

// open is a folder that every user of this machine may go through.
func openFolder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/var/tmp", "comfyui-user-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestComfyUIOfAnotherUserStarts: an agent that runs as root starts ComfyUI as
// somebody else on a fresh machine, whatever its umask, and gives away nothing
// that this user points to.
func TestComfyUIOfAnotherUserStarts(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can start ComfyUI as another user")
	}
	account, err := comfyui.FindAccount("nobody")
	if err != nil {
		t.Skip(err)
	}
	nobody, err := user.Lookup("nobody")
	if err != nil {
		t.Fatal(err)
	}
	uid, err := strconv.Atoi(nobody.Uid)
	if err != nil {
		t.Fatal(err)
	}
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	dir := openFolder(t)
	python := filepath.Join(dir, "python")
	self, err := os.ReadFile(selfPath(t))
	if err != nil {
		t.Fatal(err)
	}
	main := filepath.Join(dir, "main.py")
	for path, data := range map[string][]byte{python: self, main: nil} {
		if err := errors.Join(os.WriteFile(path, data, 0o600), os.Chmod(path, 0o755)); err != nil { //nolint:gosec // another user runs it
			t.Fatal(err)
		}
	}
	// What a custom node could have left: a link in place of a folder of its own.
	work, secret := filepath.Join(dir, "s-comfyui", "0"), filepath.Join(dir, "secret")
	if err := errors.Join(os.MkdirAll(work, 0o750), os.Mkdir(secret, 0o700), os.Symlink(secret, filepath.Join(work, "temp"))); err != nil {
		t.Fatal(err)
	}
	p := start(t, "writes", func(c *comfyui.Config) {
		c.Dir, c.Python, c.Account, c.Work = dir, python, account, work
	})
	until(t, p, "ready as nobody", ready)
	owner := func(path string) int {
		t.Helper()
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return int(info.Sys().(*syscall.Stat_t).Uid)
	}
	if got := owner(filepath.Join(work, "output", "probe")); got != uid {
		t.Errorf("what ComfyUI wrote belongs to %d, want %d", got, uid)
	}
	if got := owner(secret); got != 0 {
		t.Errorf("the agent gave a folder of root's to %d: ComfyUI's user had put a link to it", got)
	}
}

func selfPath(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return self
}
