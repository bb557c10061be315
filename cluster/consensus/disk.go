package consensus

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/raft"

	"github.com/ahelme/comfyume/cluster"
)

// ballastFile holds space that is given back when the disk is full: raft has
// to write a few more things to hand over, and panics when it cannot.
const ballastFile = "ballast"

// guard is the store as raft sees it. When the disk is full it gives the
// ballast back, tries once more and says so: the node then hands over and
// stops its raft, which never sees an error that it would panic at.
type guard struct {
	*store
	ballast string
	full    func() // may be called often and from any goroutine

	mu      sync.Mutex
	closing chan struct{} // closed by close
	closed  bool
}

func newGuard(s *store, ballast string, full func()) *guard {
	return &guard{store: s, ballast: ballast, full: full, closing: make(chan struct{})}
}

// StoreLog stores one entry.
func (g *guard) StoreLog(l *raft.Log) error { return g.StoreLogs([]*raft.Log{l}) }

// StoreLogs stores entries, flushed.
func (g *guard) StoreLogs(ls []*raft.Log) error {
	return g.retry(func() error { return g.store.StoreLogs(ls) })
}

// DeleteRange cuts the log.
func (g *guard) DeleteRange(from, to uint64) error {
	return g.retry(func() error { return g.store.DeleteRange(from, to) })
}

// Set keeps a value. See persist.
func (g *guard) Set(k, v []byte) error {
	g.persist(func() error { return g.store.Set(k, v) })
	return nil
}

// SetUint64 keeps a number. See persist.
func (g *guard) SetUint64(k []byte, v uint64) error {
	g.persist(func() error { return g.store.SetUint64(k, v) })
	return nil
}

// retry does f, and again with the ballast's space when the disk was full.
func (g *guard) retry(f func() error) error {
	err := f()
	if err == nil || !isFull(err) {
		return err
	}
	g.full()
	if os.Remove(g.ballast) == nil {
		return f()
	}
	return err
}

// persist does what raft may not go on without: terms and votes. It panics
// when it is told that one was not kept, so it is not told: it waits until
// there is space, and if the log is closed before that, its goroutine ends
// here, as if the process had.
func (g *guard) persist(f func() error) {
	for {
		err := g.retry(f)
		if err == nil {
			return
		}
		g.full()
		select {
		case <-g.closing:
			runtime.Goexit()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// release lets those go who wait in persist. The store is closed later, when
// raft has ended.
func (g *guard) release() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closed {
		g.closed = true
		close(g.closing)
	}
}

func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// fillBallast makes the ballast if it is not there. Real bytes are written: a
// hole would hold no space.
func fillBallast(dir string, size int64) error {
	path := filepath.Join(dir, ballastFile)
	if info, err := os.Stat(path); err == nil && info.Size() == size {
		return nil
	}
	f, err := os.OpenFile(path+".tmp", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("set space aside for the log: %w", err)
	}
	chunk := make([]byte, 1<<20)
	for rest := size; rest > 0 && err == nil; rest -= int64(len(chunk)) {
		_, err = f.Write(chunk[:min(rest, int64(len(chunk)))])
	}
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		_ = os.Remove(path + ".tmp") // the error that matters is err
		return fmt.Errorf("set space aside for the log: %w", err)
	}
	return os.Rename(path+".tmp", path)
}

// freeSpace is how many bytes this user may still write where dir is.
func freeSpace(dir string) (int64, error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return 0, fmt.Errorf("measure the log's disk: %w", err)
	}
	return int64(s.Bavail) * int64(s.Bsize), nil //nolint:gosec,unconvert // types differ between systems
}

// exists reports whether there is something at path.
func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// LockFolder makes a folder this process's own until the lock is closed.
func LockFolder(dir string) (lock io.Closer, err error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the folder %s: %w", dir, err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(cluster.Errorf(cluster.Conflict, "%s is in use: another comfyume-agent runs with this state folder. Stop it, or give this one its own --state-dir.", dir), f.Close())
	}
	return f, nil
}

// replaceFile puts raw in the place of what a file held: whole or not at all.
func replaceFile(path string, raw []byte) error {
	f, err := os.OpenFile(path+".tmp", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(raw)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(path))
}

func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
