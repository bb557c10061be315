package consensus

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/wal"
)

// Names in a log's own folder.
const (
	entriesFolder = "entries"
	stableFile    = "votes.json"
	boltFile      = "raft.db" // of builds before this store
)

// store keeps raft's entries in a write-ahead log, and its term and vote, which
// change with elections only, in a small file.
type store struct {
	log  *wal.Log
	lock io.Closer
	path string // of the small file

	mu   sync.Mutex
	kept map[string][]byte
}

// openStore opens the store of a log's folder.
func openStore(dir string) (_ *store, err error) {
	if exists(filepath.Join(dir, boltFile)) {
		return nil, earlyBuild(dir)
	}
	if err := os.MkdirAll(filepath.Join(dir, entriesFolder), 0o700); err != nil {
		return nil, fmt.Errorf("create the log's folder: %w", err)
	}
	lock, err := LockFolder(dir)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = lock.Close()
		}
	}()
	s := &store{lock: lock, path: filepath.Join(dir, stableFile), kept: map[string][]byte{}}
	raw, err := os.ReadFile(s.path)
	switch {
	case err == nil:
		if err := json.Unmarshal(raw, &s.kept); err != nil {
			return nil, damaged(dir, fmt.Errorf("%s: %w", s.path, err))
		}
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("open the log's store: %w", err)
	}
	s.log, err = wal.Open(wal.Dir(filepath.Join(dir, entriesFolder)))
	if hurt := (*wal.DamagedError)(nil); errors.As(err, &hurt) {
		return nil, damaged(dir, err)
	}
	if err != nil {
		return nil, err
	}
	return s, nil
}

// earlyBuild refuses a folder rather than begin an empty history over it.
func earlyBuild(dir string) error {
	return cluster.Errorf(cluster.Invalid, "%s holds the log of an early build (%s), which this one cannot read; nothing was changed. Start that build, or move the folder away and let this node join anew.", dir, boltFile)
}

// damaged says what to do when the disk lost what this node had promised to keep.
func damaged(dir string, err error) error {
	return cluster.Errorf(cluster.Internal, "%v: this node must not go on from it. While other nodes hold the table, move the folder %s away and start again: the node joins anew and gets everything from them. If it was the only one, restore a snapshot or a backup.", err, filepath.Dir(dir))
}

// FirstIndex is the first entry's number, 0 = there is none.
func (s *store) FirstIndex() (uint64, error) { first, _ := s.log.Bounds(); return first, nil }

// LastIndex is the last entry's number, 0 = there is none.
func (s *store) LastIndex() (uint64, error) { _, last := s.log.Bounds(); return last, nil }

// IsMonotonic says that entries have no gaps: raft empties the log when a
// snapshot goes beyond it.
func (s *store) IsMonotonic() bool { return true }

// GetLog reads an entry.
func (s *store) GetLog(index uint64, out *raft.Log) error {
	raw, err := s.log.Read(index)
	if errors.Is(err, wal.ErrNotFound) {
		return raft.ErrLogNotFound
	}
	if err != nil {
		return err
	}
	return decodeLog(index, raw, out)
}

// StoreLog appends an entry.
func (s *store) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

// StoreLogs appends entries in one flush.
func (s *store) StoreLogs(ls []*raft.Log) error {
	entries := make([]wal.Entry, len(ls))
	for i, l := range ls {
		entries[i] = wal.Entry{Index: l.Index, Data: encodeLog(l)}
	}
	return s.log.Append(entries...)
}

// DeleteRange cuts the log at one of its ends; raft asks for nothing else.
func (s *store) DeleteRange(from, to uint64) error {
	first, last := s.log.Bounds()
	switch {
	case first == 0 || to < first || from > last:
		return nil
	case to >= last:
		return s.log.CutBack(from)
	case from <= first:
		return s.log.CutFront(to + 1)
	}
	return fmt.Errorf("cut entries %d to %d out of %d to %d", from, to, first, last)
}

// errNoKey is recognised by its text: raft compares that.
var errNoKey = errors.New("not found")

// Get returns a value that was kept, or an error that says "not found".
func (s *store) Get(k []byte) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.kept[string(k)]
	if !ok {
		return nil, errNoKey
	}
	return v, nil
}

// Set keeps a value, flushed.
func (s *store) Set(k, v []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	kept := maps.Clone(s.kept)
	kept[string(k)] = append([]byte{}, v...)
	raw, err := json.Marshal(kept)
	if err != nil {
		return fmt.Errorf("keep raft's vote: %w", err)
	}
	if err := replaceFile(s.path, raw); err != nil {
		return fmt.Errorf("keep raft's vote: %w", err)
	}
	s.kept = kept
	return nil
}

// GetUint64 returns a number that was kept.
func (s *store) GetUint64(k []byte) (uint64, error) {
	v, err := s.Get(k)
	if err != nil {
		return 0, err
	}
	if len(v) != 8 {
		return 0, fmt.Errorf("%s holds %d bytes for %q", s.path, len(v), k)
	}
	return binary.BigEndian.Uint64(v), nil
}

// SetUint64 keeps a number, flushed.
func (s *store) SetUint64(k []byte, v uint64) error {
	return s.Set(k, binary.BigEndian.AppendUint64(nil, v))
}

// Close closes the files.
func (s *store) Close() error { return errors.Join(s.log.Close(), s.lock.Close()) }

// Layout of an entry, big-endian: u64 term, u8 type, i64 nanoseconds since 1970
// at which it was appended, u32 length of the extensions, those, the data.
const logHead = 21

func encodeLog(l *raft.Log) []byte {
	b := make([]byte, 0, logHead+len(l.Extensions)+len(l.Data))
	b = binary.BigEndian.AppendUint64(b, l.Term)
	b = append(b, byte(l.Type))
	var at int64
	if !l.AppendedAt.IsZero() {
		at = l.AppendedAt.UnixNano()
	}
	b = binary.BigEndian.AppendUint64(b, uint64(at)) //nolint:gosec // and back
	b = binary.BigEndian.AppendUint32(b, uint32(len(l.Extensions)))
	return append(append(b, l.Extensions...), l.Data...)
}

func decodeLog(index uint64, b []byte, out *raft.Log) error {
	if len(b) < logHead || uint64(len(b)-logHead) < uint64(binary.BigEndian.Uint32(b[17:])) {
		return fmt.Errorf("entry %d of the log has %d bytes, which is no entry", index, len(b))
	}
	*out = raft.Log{Index: index, Term: binary.BigEndian.Uint64(b), Type: raft.LogType(b[8])}
	if at := int64(binary.BigEndian.Uint64(b[9:])); at != 0 { //nolint:gosec // as it was written
		out.AppendedAt = time.Unix(0, at)
	}
	n := int(binary.BigEndian.Uint32(b[17:]))
	if rest := b[logHead:]; n > 0 {
		out.Extensions, out.Data = rest[:n:n], rest[n:]
	} else {
		out.Data = rest
	}
	return nil
}
