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
	d     *Dir
	until int64 // NewUntil or RefuseAt
	held  int64
}

// keep is how many bytes of the volume stay free below a use of it.
func (d *Dir) keep(total, until int64) int64 {
	if d.cfg.MinFree > 0 {
		return d.cfg.MinFree * (100 - until) / (100 - RefuseAt)
	}
	return total / 100 * (100 - until)
}

// Room refuses, with NoSpace, what is new and may need n more bytes. What is
// under way is not asked for: its room is what this keeps free.
func (d *Dir) Room(n int64) error {
	free, total, err := d.cfg.Space(d.cfg.Path)
	if err != nil {
		return fmt.Errorf("ask for the free space: %w", err)
	}
	left := free - d.reserved.Load() - d.keep(total, NewUntil)
	switch {
	case left < 0:
		return errNothingNew(free, total)
	case left < n:
		return errNoSpace(n)
	}
	return nil
}

func errNothingNew(free, total int64) error {
	return cluster.Errorf(cluster.NoSpace, "The workshop's disk is %d %% full, so it takes no new jobs and no uploads. Nothing is lost: what runs is finished, and you can go on editing and downloading. Tell the instructor.", Percent(free, total))
}

// Percent is how much of a volume is used.
func Percent(free, total int64) int {
	if total <= 0 {
		return 0
	}
	return int((total - free) / 1024 * 100 / max(total/1024, 1)) // kilobytes: bytes of a large volume times 100 run over
}

// want sets n more bytes aside or refuses.
func (r *reservation) want(n int64) error {
	free, total, err := r.d.cfg.Space(r.d.cfg.Path)
	if err != nil {
		return fmt.Errorf("ask for the free space: %w", err)
	}
	if free-r.d.reserved.Add(n) < r.d.keep(total, r.until) {
		r.d.reserved.Add(-n)
		if r.until == NewUntil && free < r.d.keep(total, r.until) {
			return errNothingNew(free, total)
		}
		return errNoSpace(n)
	}
	r.held += n
	return nil
}

// Fits says NoSpace if n bytes of what is under way have no room now.
func (d *Dir) Fits(n int64) error {
	r := reservation{d: d, until: RefuseAt}
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

// Space asks the system what an ordinary user may still take of a volume, and
// what they could have of it in all: what is kept back for root is in neither.
func Space(path string) (free, total int64, err error) {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return 0, 0, err
	}
	block := int64(s.Bsize)
	free = int64(s.Bavail) * block
	return free, int64(s.Blocks-s.Bfree)*block + free, nil
}

func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
