package backup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// writeWhole gives a file its name when all of it is on the disk.
func writeWhole(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	return moveIn(f.Name(), path)
}

// moveIn renames, and keeps the name over a power cut.
func moveIn(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(to), err)
	}
	dir, err := os.Open(filepath.Dir(to))
	if err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(to), err)
	}
	return errors.Join(dir.Sync(), dir.Close())
}
