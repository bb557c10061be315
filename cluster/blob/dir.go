package blob

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/singleflight"

	"github.com/ahelme/comfyume/cluster"
)

// DirConfig of a Dir.
type DirConfig struct {
	Path string // created 0700
	// MinFree is how many bytes of the volume stay free; 0 = a tenth of it. Half as
	// many more stay free of what is new.
	MinFree int64
	Logger  *slog.Logger
	// Space reports the free and total bytes of the volume; nil asks the system.
	Space func(path string) (free, total int64, err error)
}

// The use of the volume, in per cent, at which blobs are refused. What is new is
// refused earlier: the room between the two is for what is under way.
const (
	NewUntil = 85 // Take and Room
	RefuseAt = 90 // Put
)

// Dir is a Store in a local folder: blobs/ab/abcdef..., tmp/, partial/, quarantine/, trash/.
type Dir struct {
	cfg      DirConfig
	reserved atomic.Int64
	blobs    atomic.Int64
	bytes    atomic.Int64
	checks   singleflight.Group
	mu       sync.Mutex
	verified map[Ref]stamp
	listed   map[Ref]listed
	partials map[Ref]*Partial // those that are worked on or remembered; mu guards it
	names    sync.Mutex       // held while a blob's file gets or loses its name
	shelves  map[string]bool  // folders whose names are on the disk; names guards it
}

// stamp is what a file looked like when it was verified.
type stamp struct {
	size    int64
	modTime int64
}

var _ Store = (*Dir)(nil)

// OpenDir opens or makes a store. What an interrupted Put left behind is removed;
// a large blob of which a part has come is kept for a week, see Partial.
func OpenDir(cfg DirConfig) (*Dir, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	cfg.Logger = cfg.Logger.With("component", "blob")
	if cfg.Space == nil {
		cfg.Space = Space
	}
	d := &Dir{cfg: cfg, verified: map[Ref]stamp{}, listed: map[Ref]listed{}, partials: map[Ref]*Partial{}, shelves: map[string]bool{}}
	if err := os.RemoveAll(d.tmp()); err != nil {
		return nil, fmt.Errorf("clear unfinished blobs: %w", err)
	}
	for _, dir := range []string{cfg.Path, d.tmp(), d.partial(""), filepath.Join(cfg.Path, "blobs"), filepath.Join(cfg.Path, "quarantine")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("create the blob store: %w", err)
		}
	}
	err := filepath.WalkDir(filepath.Join(cfg.Path, "blobs"), func(_ string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		if err == nil {
			d.blobs.Add(1)
			d.bytes.Add(info.Size())
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("count the blobs: %w", err)
	}
	d.expire()
	return d, nil
}

func (d *Dir) tmp() string { return filepath.Join(d.cfg.Path, "tmp") }

func (d *Dir) path(ref Ref) string {
	return filepath.Join(d.cfg.Path, "blobs", string(ref[:2]), string(ref))
}

// Usage of this store and its volume.
func (d *Dir) Usage() (Usage, error) {
	u := Usage{Blobs: d.blobs.Load(), Bytes: d.bytes.Load(), Coming: d.partialBytes()}
	var err error
	u.Free, u.Total, err = d.cfg.Space(d.cfg.Path)
	for dir, n := range map[string]*int64{d.tmp(): &u.Partial, d.quarantine(): &u.Damaged, d.trash(): &u.Trash} {
		list, rerr := os.ReadDir(dir)
		if *n = int64(len(list)); !errors.Is(rerr, fs.ErrNotExist) {
			err = errors.Join(err, rerr)
		}
	}
	return u, err
}

// Left is how many bytes may be stored before new blobs are refused.
func (d *Dir) Left() (int64, error) {
	free, total, err := d.cfg.Space(d.cfg.Path)
	if err != nil {
		return 0, fmt.Errorf("ask for the free space: %w", err)
	}
	return max(0, free-d.reserved.Load()-d.keep(total, NewUntil)), nil
}

// Has reports a blob's size if it is here.
func (d *Dir) Has(_ context.Context, ref Ref) (int64, bool) {
	if !ref.Valid() {
		return 0, false
	}
	info, err := os.Stat(d.path(ref))
	if err != nil {
		return 0, false
	}
	return info.Size(), true
}

// Put stores a blob: hash while writing, fsync, rename, fsync the folder.
func (d *Dir) Put(ctx context.Context, r io.Reader, size int64) (ref Ref, n int64, err error) {
	return d.put(ctx, r, size, RefuseAt)
}

// Take is Put for what is new: it leaves the room that work under way needs.
func (d *Dir) Take(ctx context.Context, r io.Reader, size int64) (ref Ref, n int64, err error) {
	return d.put(ctx, r, size, NewUntil)
}

func (d *Dir) put(ctx context.Context, r io.Reader, size int64, until int64) (ref Ref, n int64, err error) {
	space := &reservation{d: d, until: until}
	defer space.release()
	if err := space.want(max(size, 0)); err != nil {
		return "", 0, err
	}
	f, err := os.CreateTemp(d.tmp(), "put-*")
	if err != nil {
		return "", 0, fmt.Errorf("store a blob: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	sum := sha256.New()
	to, parts := io.MultiWriter(f, sum), (*summer)(nil)
	if SumBytes(size) > 0 { // it will travel soon: it need not be read again then
		parts = newSummer(size, nil)
		to = io.MultiWriter(f, sum, parts)
	}
	n, err = copyReserved(ctx, to, r, size, space)
	if err == nil && size >= 0 && n != size {
		err = cluster.Errorf(cluster.Invalid, "the upload ended after %d of %d bytes", n, size)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return "", 0, storeError(err)
	}
	ref = Ref(hex.EncodeToString(sum.Sum(nil)))
	var list Chunks
	if parts != nil {
		list = parts.list()
	}
	return ref, n, d.enter(f.Name(), ref, n, list)
}

// enter gives a finished file its name. It takes the place of an existing one:
// that keeps one copy, heals a damaged one, and lets this Put sync the folder
// itself instead of trusting that another, still running one did. list is that of
// a large one.
func (d *Dir) enter(tmp string, ref Ref, n int64, list Chunks) error {
	path := d.path(ref)
	dir := filepath.Dir(path)
	if err := d.shelf(dir); err != nil {
		return storeError(err)
	}
	if err := d.rename(tmp, path, ref, n, list); err != nil {
		return storeError(err)
	}
	if err := syncDir(dir); err != nil {
		return storeError(err)
	}
	return nil
}

// shelf makes the folder of a blob and sees to it, once, that its own name is on
// the disk.
func (d *Dir) shelf(dir string) error {
	d.names.Lock()
	defer d.names.Unlock()
	if d.shelves[dir] {
		if _, err := os.Stat(dir); err == nil {
			return nil
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := syncDir(filepath.Dir(dir)); err != nil {
		return err
	}
	d.shelves[dir] = true
	return nil
}

func (d *Dir) rename(tmp, path string, ref Ref, n int64, list Chunks) error {
	d.names.Lock()
	defer d.names.Unlock()
	blobs, bytes := int64(1), n
	if old, err := os.Stat(path); err == nil {
		blobs, bytes = 0, n-old.Size()
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	d.blobs.Add(blobs)
	d.bytes.Add(bytes)
	if info, err := os.Stat(path); err == nil {
		d.remember(ref, info) // these bytes were hashed on their way in
		if list.valid() {
			d.rememberList(ref, info, list)
		}
	}
	return nil
}

// Remove drops a blob. One that is not here is no error; whoever has it open
// reads on.
func (d *Dir) Remove(ref Ref) error {
	if !ref.Valid() {
		return cluster.Errorf(cluster.NotFound, "no such file")
	}
	d.names.Lock()
	defer d.names.Unlock()
	info, err := os.Stat(d.path(ref))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := errors.Join(err, os.Remove(d.path(ref))); err != nil {
		return fmt.Errorf("remove a blob: %w", err)
	}
	d.blobs.Add(-1)
	d.bytes.Add(-info.Size())
	return nil
}

// Open returns a verified blob.
func (d *Dir) Open(ctx context.Context, ref Ref) (File, error) {
	f, info, err := d.open(ref)
	if err != nil {
		return nil, err
	}
	if err := d.verify(ctx, ref, f, info); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return file{f, info.Size()}, nil
}

// open opens a blob that has not been verified.
func (d *Dir) open(ref Ref) (*os.File, fs.FileInfo, error) {
	if !ref.Valid() {
		return nil, nil, cluster.Errorf(cluster.NotFound, "no such file")
	}
	f, err := os.Open(d.path(ref))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, cluster.Errorf(cluster.NotFound, "the file's bytes are not on this machine")
	}
	if err != nil {
		return nil, nil, fmt.Errorf("open a blob: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("open a blob: %w", err), f.Close())
	}
	return f, info, nil
}

type file struct {
	*os.File
	size int64
}

func (f file) Size() int64 { return f.size }

func storeError(err error) error {
	var known *cluster.Error
	if errors.As(err, &known) {
		return err
	}
	if isFull(err) {
		return errNoSpace(0)
	}
	return fmt.Errorf("store a blob: %w", err)
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
