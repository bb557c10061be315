package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/ahelme/comfyume/cluster"
)

// openFolder makes the state folder ours, 0700, and proves that it can be
// written to: better one sentence now than a failed upload in class.
func openFolder(dir string) error {
	cure := func(err error) error {
		reason := "cannot be used"
		switch {
		case errors.Is(err, fs.ErrPermission):
			reason = "may not be written to"
		case errors.Is(err, syscall.EROFS):
			reason = "is on a read-only disk"
		case errors.Is(err, syscall.ENOSPC):
			reason = "is on a full disk"
		case errors.Is(err, syscall.ENOTDIR), errors.Is(err, fs.ErrExist):
			reason = "is not a folder"
		}
		return cluster.Errorf(cluster.Unavailable, "the state folder %s %s: give it to this user (chown), or choose another with --state-dir (%v)", dir, reason, err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return cure(err)
	}
	if err := os.Chmod(dir, 0o700); err != nil { //nolint:gosec // a folder needs its x bit
		return cure(err)
	}
	probe, err := os.CreateTemp(dir, ".probe-*")
	if err != nil {
		return cure(err)
	}
	_, err = probe.WriteString("may I write here")
	if err := errors.Join(err, probe.Close(), os.Remove(probe.Name())); err != nil {
		return cure(err)
	}
	return nil
}

// writeSecret makes a 0600 file that is whole or not there.
func writeSecret(path string, data []byte) error {
	tmp := path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("flush the folder of %s: %w", filepath.Base(path), err)
	}
	return errors.Join(d.Sync(), d.Close())
}
