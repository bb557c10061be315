package blob

import (
	"context"
	"errors"
	"io"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/ahelme/comfyume/cluster"
)

// step is how much an upload of unknown size reserves at a time, in bytes.
const step = 16 << 20

// reservation is space set aside for one Put, so that two large uploads cannot
// both be promised the last gigabyte.
type reservation struct {
	d    *Dir
	held int64
}

// want raises the reservation to n bytes or refuses.
func (r *reservation) want(n int64) error {
	if n <= r.held {
		return nil
	}
	more := n - r.held
	free, total, err := r.d.cfg.Space(r.d.cfg.Path)
	if err != nil {
		return err
	}
	keep := total / 100 * (100 - refuseAt)
	if free-r.d.reserved.Add(more) < keep {
		r.d.reserved.Add(-more)
		return errNoSpace(n)
	}
	r.held = n
	return nil
}

func (r *reservation) release() {
	r.d.reserved.Add(-r.held)
	r.held = 0
}

func errNoSpace(n int64) error {
	if n == 0 {
		return cluster.Errorf(cluster.NoSpace, "The workshop's disk is too full to store this file. Nothing was changed. Tell the instructor.")
	}
	return cluster.Errorf(cluster.NoSpace, "The workshop's disk has no room for this file of %d MB. Nothing was changed. Tell the instructor.", n>>20)
}

// copyReserved copies r to w and grows the reservation ahead of the bytes.
func copyReserved(ctx context.Context, w io.Writer, r io.Reader, space *reservation) (int64, error) {
	buf := make([]byte, 256<<10)
	var n int64
	for {
		if err := context.Cause(ctx); err != nil {
			return n, err
		}
		k, err := r.Read(buf)
		if k > 0 {
			if n+int64(k) > space.held {
				if err := space.want(n + step); err != nil {
					return n, err
				}
			}
			if _, err := w.Write(buf[:k]); err != nil {
				return n, err
			}
			n += int64(k)
		}
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

// volumeSpace asks the system; free is what an ordinary user may still take.
func volumeSpace(path string) (free, total int64, err error) {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return 0, 0, err
	}
	block := int64(s.Bsize)
	return int64(s.Bavail) * block, int64(s.Blocks) * block, nil
}

func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
