package blob

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"strings"
	"time"
)

// partialFor is how long a part of a blob waits for the rest.
const partialFor = 7 * 24 * time.Hour

// expire removes partial blobs that nobody has gone on with for a week, and what
// is left over of those that are whole.
func (d *Dir) expire() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for ref, info := range d.partialFiles() {
		if _, here := d.Has(context.Background(), ref); !here && time.Since(info.ModTime()) < partialFor {
			continue
		}
		if p := d.partials[ref]; p != nil && p.users > 0 {
			continue
		}
		delete(d.partials, ref)
		err := errors.Join(remove(d.partial(ref)+listName), remove(d.partial(ref)))
		d.cfg.Logger.Info("a part of a file is removed, the rest of which did not come or came otherwise", "ref", ref.Short(), "bytes", info.Size(), "since", info.ModTime(), "err", err)
	}
}

// remove removes a file that need not be there.
func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// partialFiles lists the bytes that are here of each partial blob.
func (d *Dir) partialFiles() map[Ref]fs.FileInfo {
	entries, err := os.ReadDir(d.partial(""))
	if err != nil {
		d.cfg.Logger.Error("the partial files cannot be listed", "err", err)
	}
	out := map[Ref]fs.FileInfo{}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			continue // it has just got its name
		}
		ref := Ref(e.Name())
		if base, list := strings.CutSuffix(e.Name(), listName); list {
			if _, bytes := out[Ref(base)]; bytes {
				continue // of which the bytes say how old it is
			}
			ref = Ref(base)
		}
		if ref.Valid() {
			out[ref] = info
		}
	}
	return out
}

func (d *Dir) partialBytes() (sum int64) {
	for _, info := range d.partialFiles() {
		sum += info.Size()
	}
	return sum
}
