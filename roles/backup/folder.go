package backup

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
	"strings"
	"syscall"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/blob"
)

// folder is a shelf in a directory: one file an object.
type folder struct{ path string }

var _ shelf = folder{}

// unfinished is how files begin that are still being written.
const unfinished = ".new-"

// spare is what stays free on the volume of a folder of backups, in bytes.
const spare = 64 << 20

func (f folder) at(name string) string { return filepath.Join(f.path, filepath.FromSlash(name)) }

// there refuses a folder that is not mounted or was not made: nobody meant the
// empty place below a mount point.
func (f folder) there() error {
	info, err := os.Stat(f.path)
	if err == nil && !info.IsDir() {
		err = &fs.PathError{Op: "open", Path: f.path, Err: syscall.ENOTDIR}
	}
	if err != nil {
		return cluster.Errorf(cluster.Unavailable, "the folder %s is not there (%v): mount it, or make it", f.path, errors.Unwrap(err))
	}
	return nil
}

func (f folder) Create(_ context.Context, name string, data []byte) error {
	if err := f.there(); err != nil {
		return err
	}
	file, err := os.OpenFile(f.at(name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return cluster.Errorf(cluster.Conflict, "%s is there already", name)
	}
	if err != nil {
		return f.failed(name, err)
	}
	_, err = file.Write(data)
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return f.failed(name, err)
	}
	return nil
}

// Put hashes while it writes, flushes, and gives the file its name then.
func (f folder) Put(ctx context.Context, name string, from io.ReaderAt, size int64, sum string) (err error) {
	if err := f.there(); err != nil {
		return err
	}
	if free, _, err := blob.Space(f.path); err != nil {
		return fmt.Errorf("ask for the free space of %s: %w", f.path, err)
	} else if free-size < spare {
		return cluster.Errorf(cluster.NoSpace, "%s has no room for %d MB more: free some, or keep backups elsewhere. Nothing was changed there", f.path, size>>20)
	}
	path := f.at(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return f.failed(name, err)
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), unfinished+"*")
	if err != nil {
		return f.failed(name, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, ignoreGone(os.Remove(tmp.Name())))
		}
	}()
	digest := sha256.New()
	n, err := io.Copy(io.MultiWriter(tmp, digest), &stoppable{ctx, io.NewSectionReader(from, 0, size)})
	if err == nil && (n != size || hex.EncodeToString(digest.Sum(nil)) != sum) {
		err = cluster.Errorf(cluster.Internal, "%s was read as other bytes than it has: it was not stored", name)
	}
	if err == nil {
		err = tmp.Sync()
	}
	if err = errors.Join(err, tmp.Close()); err != nil {
		return f.failed(name, err)
	}
	if err = os.Rename(tmp.Name(), path); err != nil {
		return f.failed(name, err)
	}
	return f.flush(filepath.Dir(path))
}

func (f folder) failed(name string, err error) error {
	var known *cluster.Error
	switch {
	case errors.As(err, &known):
		return err
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return cluster.Errorf(cluster.NoSpace, "%s is full: free some space, or keep backups elsewhere", f.path)
	}
	return fmt.Errorf("write %s in %s: %w", name, f.path, err)
}

// flush keeps names over a power cut, up to the folder itself.
func (f folder) flush(dir string) error {
	for {
		d, err := os.Open(dir)
		if err == nil {
			err = errors.Join(d.Sync(), d.Close())
		}
		if err != nil {
			return fmt.Errorf("flush %s: %w", dir, err)
		}
		if dir == f.path || len(dir) <= len(f.path) {
			return nil
		}
		dir = filepath.Dir(dir)
	}
}

func (f folder) Open(_ context.Context, name string) (io.ReadCloser, int64, error) {
	if err := f.there(); err != nil {
		return nil, 0, err
	}
	file, err := os.Open(f.at(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, cluster.Errorf(cluster.NotFound, "%s is not in %s", name, f.path)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("read %s: %w", name, err)
	}
	info, err := file.Stat()
	if err != nil {
		return nil, 0, errors.Join(fmt.Errorf("read %s: %w", name, err), file.Close())
	}
	return file, info.Size(), nil
}

func (f folder) List(_ context.Context, prefix string) (map[string]int64, error) {
	if err := f.there(); err != nil {
		return nil, err
	}
	out := map[string]int64{}
	from := f.path
	if i := strings.LastIndexByte(prefix, '/'); i >= 0 {
		from = f.at(prefix[:i])
	}
	err := filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case e.IsDir(), strings.HasPrefix(e.Name(), unfinished):
			return nil
		}
		rel, err := filepath.Rel(f.path, path)
		if err != nil {
			return err
		}
		name := filepath.ToSlash(rel)
		if !strings.HasPrefix(name, prefix) {
			return nil
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil {
			out[name] = info.Size()
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", f.path, err)
	}
	return out, nil
}

func (f folder) Move(_ context.Context, from, to string) error {
	if err := os.MkdirAll(filepath.Dir(f.at(to)), 0o700); err != nil {
		return fmt.Errorf("move %s: %w", from, err)
	}
	if err := os.Rename(f.at(from), f.at(to)); err != nil {
		return fmt.Errorf("move %s: %w", from, err)
	}
	return nil
}

func (f folder) Remove(_ context.Context, name string) error {
	return ignoreGone(os.Remove(f.at(name)))
}

func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// stoppable ends a copy when ctx ends.
type stoppable struct {
	ctx context.Context
	r   io.Reader
}

func (s *stoppable) Read(p []byte) (int, error) {
	if err := context.Cause(s.ctx); err != nil {
		return 0, err
	}
	return s.r.Read(p)
}
