package blob

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/ahelme/comfyume/cluster"
)

// maxVerified bounds what is remembered as verified; over it, old ones are
// simply verified again.
const maxVerified = 100_000

func stampOf(info fs.FileInfo) stamp { return stamp{info.Size(), info.ModTime().UnixNano()} }

func (d *Dir) remember(ref Ref, info fs.FileInfo) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.verified) >= maxVerified {
		clear(d.verified)
	}
	d.verified[ref] = stampOf(info)
}

// verify reads the whole blob once per process, and again when the file's size
// or time has changed. A damaged one is set aside, never handed out. It reads
// the handle that will be handed out: under the path another file may stand by
// now, and what is true of that one says nothing about this one.
func (d *Dir) verify(ctx context.Context, ref Ref, f *os.File, info fs.FileInfo) error {
	key := fmt.Sprint(ref, stampOf(info))
	for {
		d.mu.Lock()
		known := d.verified[ref] == stampOf(info)
		d.mu.Unlock()
		if known {
			return nil
		}
		done, err, _ := d.checks.Do(key, func() (any, error) { return d.check(ctx, ref, f, info, nil) })
		if done == true || err != nil {
			return err
		}
		// Whoever was reading gave up; that is not our caller's wish unless it was.
		if err := context.Cause(ctx); err != nil {
			return err
		}
	}
}

// Reread reads a whole blob whatever is remembered of it, and returns its size. A
// damaged one is set aside.
func (d *Dir) Reread(ctx context.Context, ref Ref) (int64, error) {
	if !ref.Valid() {
		return 0, cluster.Errorf(cluster.NotFound, "no such file")
	}
	f, err := os.Open(d.path(ref))
	if err != nil {
		return 0, cluster.Errorf(cluster.NotFound, "file %s is not here", ref.Short())
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return 0, fmt.Errorf("read a blob again: %w", err)
	}
	done, err := d.check(ctx, ref, f, info, nil)
	if err == nil && !done {
		err = context.Cause(ctx)
	}
	return info.Size(), err
}

// check hashes a blob; false without an error says that ctx ended first. parts,
// which may be nil, is given the bytes as well.
func (d *Dir) check(ctx context.Context, ref Ref, f *os.File, info fs.FileInfo, parts *summer) (bool, error) {
	return d.checkAt(ctx, ref, f, info, parts, func(int64) {})
}

// checkAt tells pause of bytes as they are read.
func (d *Dir) checkAt(ctx context.Context, ref Ref, f *os.File, info fs.FileInfo, parts *summer, pause func(n int64)) (bool, error) {
	sum, r := sha256.New(), io.NewSectionReader(f, 0, info.Size())
	to := io.Writer(sum)
	if parts != nil {
		to = io.MultiWriter(sum, parts)
	}
	for {
		if ctx.Err() != nil {
			return false, nil
		}
		n, err := io.CopyN(to, r, 4<<20)
		pause(n)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return true, fmt.Errorf("verify a blob: %w", err)
		}
	}
	if hex.EncodeToString(sum.Sum(nil)) == string(ref) {
		d.remember(ref, info)
		return true, nil
	}
	if err := d.setAside(ref, f.Name(), info); err != nil {
		return true, fmt.Errorf("set a damaged blob aside: %w", err)
	}
	return true, cluster.Errorf(cluster.Internal, "this file's stored copy is damaged and was set aside; tell the instructor (digest %s)", ref.Short())
}

// setAside moves a damaged file out of the way, unless a whole one has taken
// its place already.
func (d *Dir) setAside(ref Ref, path string, info fs.FileInfo) error {
	d.names.Lock()
	defer d.names.Unlock()
	now, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !os.SameFile(info, now) {
		return nil
	}
	aside := filepath.Join(d.quarantine(), string(ref))
	if err := errors.Join(err, os.Rename(path, aside)); err != nil {
		return err
	}
	d.blobs.Add(-1)
	d.bytes.Add(-now.Size())
	d.cfg.Logger.Error("a stored file is damaged and was set aside", "ref", ref.Short(), "bytes", now.Size(), "moved_to", aside)
	return nil
}
