package blob

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/ahelme/comfyume/cluster"
)

// Kept is a blob as it lies on the disk.
type Kept struct {
	Ref     Ref
	Size    int64
	Changed time.Time // of one in the trash: when it came there
}

func (d *Dir) trash() string      { return filepath.Join(d.cfg.Path, "trash") }
func (d *Dir) quarantine() string { return filepath.Join(d.cfg.Path, "quarantine") }

// List returns every blob, by name.
func (d *Dir) List() ([]Kept, error) { return filesIn(filepath.Join(d.cfg.Path, "blobs")) }

// Trash returns what was discarded and is still there.
func (d *Dir) Trash() ([]Kept, error) { return filesIn(d.trash()) }

func filesIn(root string) (out []Kept, err error) {
	err = filepath.WalkDir(root, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || !Ref(e.Name()).Valid() {
			return err
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it went while we looked
		}
		if err == nil {
			out = append(out, Kept{Ref(e.Name()), info.Size(), info.ModTime()})
		}
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	slices.SortFunc(out, func(a, b Kept) int { return cmp.Compare(a.Ref, b.Ref) })
	return out, err
}

// Discard moves a blob into the trash, unless it was stored again since a time. It
// reports whether it did. A blob that is open is read on.
func (d *Dir) Discard(ref Ref, since, now time.Time) (bool, error) {
	if !ref.Valid() {
		return false, nil
	}
	d.names.Lock()
	defer d.names.Unlock()
	path, to := d.path(ref), filepath.Join(d.trash(), string(ref))
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !info.ModTime().Before(since) {
		return false, nil
	}
	if err := errors.Join(err, os.MkdirAll(d.trash(), 0o700)); err != nil {
		return false, fmt.Errorf("discard a blob: %w", err)
	}
	// The time first: with an old one it might be purged at once.
	if err := errors.Join(os.Chtimes(path, now, now), os.Rename(path, to)); err != nil {
		return false, fmt.Errorf("discard a blob: %w", err)
	}
	d.blobs.Add(-1)
	d.bytes.Add(-info.Size())
	return true, nil
}

// BringBack takes a blob out of the trash. It reports whether the blob is in its
// place now; it is verified when it is opened.
func (d *Dir) BringBack(ref Ref) bool {
	if !ref.Valid() {
		return false
	}
	d.names.Lock()
	defer d.names.Unlock()
	if _, err := os.Stat(d.path(ref)); err == nil {
		return true
	}
	from := filepath.Join(d.trash(), string(ref))
	info, err := os.Stat(from)
	if err != nil || os.MkdirAll(filepath.Dir(d.path(ref)), 0o700) != nil || os.Rename(from, d.path(ref)) != nil {
		return false
	}
	if err := syncDir(filepath.Dir(d.path(ref))); err != nil {
		d.cfg.Logger.Warn("a file that was brought back is not flushed", "ref", ref.Short(), "err", err)
	}
	d.blobs.Add(1)
	d.bytes.Add(info.Size())
	return true
}

// Purge removes what has been in the trash since before a time, and is not to be
// kept, for good.
func (d *Dir) Purge(before time.Time, keep func(Ref) bool) (n int, err error) {
	all, err := d.Trash()
	for _, k := range all {
		if !k.Changed.Before(before) || keep(k.Ref) {
			continue
		}
		err = errors.Join(err, os.Remove(filepath.Join(d.trash(), string(k.Ref))))
		n++
	}
	return n, err
}

// PurgeDamaged removes what was set aside before a time, if a whole one is here. The
// only copy that there is stays, damaged as it is.
func (d *Dir) PurgeDamaged(ctx context.Context, before time.Time) (n int, err error) {
	all, err := filesIn(d.quarantine())
	for _, k := range all {
		if _, whole := d.Has(ctx, k.Ref); !whole || !k.Changed.Before(before) {
			continue
		}
		err = errors.Join(err, os.Remove(filepath.Join(d.quarantine(), string(k.Ref))))
		n++
	}
	return n, err
}

// Scrub is Reread at a pace: pause is told of bytes as they are read. One that
// cannot be read is set aside as well.
func (d *Dir) Scrub(ctx context.Context, ref Ref, pause func(n int64)) error {
	f, err := os.Open(d.path(ref))
	if err != nil {
		return cluster.Errorf(cluster.NotFound, "file %s is not here", ref.Short())
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("read a blob again: %w", err)
	}
	done, err := d.checkAt(ctx, ref, f, info, nil, pause)
	var known *cluster.Error
	switch {
	case err == nil && !done:
		return context.Cause(ctx)
	case err != nil && !errors.As(err, &known):
		if aside := d.setAside(ref, f.Name(), info); aside != nil {
			return errors.Join(err, aside)
		}
		return cluster.Errorf(cluster.Internal, "file %s cannot be read and was set aside: %v", ref.Short(), err)
	}
	return err
}
