package blob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/ahelme/comfyume/cluster"
)

// step is how much an upload of unknown size reserves at a time, in bytes.
const step = 16 << 20

// reservation is space set aside for one Put, so that two large uploads cannot
// both be promised the last gigabyte. It holds what is still to be written: the
// bytes that are on the disk are missing from the volume's free space already.
type reservation struct {
	d    *Dir
	held int64
}

// want sets n more bytes aside or refuses.
func (r *reservation) want(n int64) error {
	free, total, err := r.d.cfg.Space(r.d.cfg.Path)
	if err != nil {
		return fmt.Errorf("ask for the free space: %w", err)
	}
	keep := r.d.cfg.MinFree
	if keep == 0 {
		keep = total / 100 * (100 - refuseAt)
	}
	if free-r.d.reserved.Add(n) < keep {
		r.d.reserved.Add(-n)
		return errNoSpace(n)
	}
	r.held += n
	return nil
}

// Room says NoSpace if n bytes have no room now.
func (d *Dir) Room(n int64) error {
	r := reservation{d: d}
	defer r.release()
	return r.want(n)
}

// wrote notes that n of the bytes are on the disk now.
func (r *reservation) wrote(n int64) {
	r.held -= n
	r.d.reserved.Add(-n)
}

func (r *reservation) release() { r.wrote(r.held) }

func errNoSpace(n int64) error {
	if n < 1<<20 {
		return cluster.Errorf(cluster.NoSpace, "The workshop's disk is too full to store this file. Nothing was changed. Tell the instructor.")
	}
	return cluster.Errorf(cluster.NoSpace, "The workshop's disk has no room for %d MB more. Nothing was changed. Tell the instructor.", n>>20)
}

// copyBuffers are used again: most files are smaller than one of them.
var copyBuffers = sync.Pool{New: func() any { return new([256 << 10]byte) }}

// copyReserved copies r to w. Space for size bytes is set aside already; an
// unknown size (-1) sets it aside ahead of the bytes, and more bytes than were
// announced are refused when they come, not when they end.
func copyReserved(ctx context.Context, w io.Writer, r io.Reader, size int64, space *reservation) (int64, error) {
	buf := copyBuffers.Get().(*[256 << 10]byte)
	defer copyBuffers.Put(buf)
	var n int64
	for {
		if err := context.Cause(ctx); err != nil {
			return n, err
		}
		k, err := r.Read(buf[:])
		if k > 0 {
			if size >= 0 && n+int64(k) > size {
				return n, cluster.Errorf(cluster.Invalid, "the upload is longer than the %d bytes it announced", size)
			}
			if int64(k) > space.held {
				if err := space.want(step); err != nil {
					return n, err
				}
			}
			if _, err := w.Write(buf[:k]); err != nil {
				return n, err
			}
			space.wrote(int64(k))
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
