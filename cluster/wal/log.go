package wal

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sort"
	"sync"
)

// DamagedError says that the disk no longer holds what had been appended.
type DamagedError struct {
	File   string
	Offset int64
	Entry  uint64 // the first that cannot be read
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("the log is damaged: entry %d (%s at byte %d) cannot be read", e.Entry, e.File, e.Offset)
}

// ErrNotFound is returned for an entry that is not there.
var ErrNotFound = errors.New("no such entry")

// Entry is one numbered entry.
type Entry struct {
	Index uint64 // from 1
	Data  []byte // at most 64 MiB
}

// segmentSize is where a file is full, in bytes; its last flush may go beyond.
const segmentSize = 16 << 20

// Log is an open log. Its methods are safe for concurrent use; reads do not
// wait for flushes.
type Log struct {
	files Files

	write    sync.Mutex // held by whoever changes files
	buf      []byte
	flush    uint64   // the last one's number
	sequence uint64   // the last segment's
	doomed   []string // files to be removed, in this order

	mu    sync.RWMutex // guards what readers see
	segs  []*segment   // oldest first, each with entries; the last is written to
	first uint64       // the log's first entry, 0 = empty
	end   uint64       // the number behind the last entry
}

// Bounds returns the first and the last entry's number, 0 and 0 while the log
// is empty.
func (l *Log) Bounds() (first, last uint64) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.first == 0 {
		return 0, 0
	}
	return l.first, l.end - 1
}

// Read returns an entry's data, ErrNotFound, or a DamagedError.
func (l *Log) Read(index uint64) ([]byte, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.first == 0 || index < l.first || index >= l.end {
		return nil, fmt.Errorf("entry %d: %w", index, ErrNotFound)
	}
	i := sort.Search(len(l.segs), func(i int) bool { return l.segs[i].first > index })
	return l.segs[i-1].read(index)
}

// Append appends entries with consecutive numbers in one flush. They follow the
// last one; a number further ahead begins the log anew. On an error none of them
// is there, and the call may be repeated.
func (l *Log) Append(entries ...Entry) error {
	if len(entries) == 0 {
		return nil
	}
	l.write.Lock()
	defer l.write.Unlock()
	begin := entries[0].Index
	l.mu.RLock()
	empty, behind := l.first == 0, l.end
	l.mu.RUnlock()
	if begin == 0 || !empty && begin < behind {
		return fmt.Errorf("append entry %d: the log goes up to %d", begin, behind-1)
	}
	fresh := empty || begin > behind
	seg := l.tail()
	if fresh || seg == nil || seg.next() != begin || seg.end >= segmentSize {
		seg = newSegment(l.sequence+1, begin, fresh)
	}
	b, at, err := l.encode(entries, seg.end)
	if err != nil {
		return err
	}
	end, err := l.put(seg, b)
	if err != nil {
		return fmt.Errorf("append entry %d: %w", begin, err)
	}
	l.mu.Lock()
	seg.at, seg.end = append(seg.at, at...), end
	var old []*segment
	if len(l.segs) == 0 || l.segs[len(l.segs)-1] != seg {
		old = l.join(seg)
	}
	l.end = seg.next()
	l.mu.Unlock()
	l.discard(old)
	return nil
}

// join puts a segment behind the others, which end where it begins from then
// on, and returns those of which nothing is left, newest first. Both locks are held.
func (l *Log) join(seg *segment) (old []*segment) {
	keep := 0
	if !seg.fresh {
		keep = sort.Search(len(l.segs), func(i int) bool { return l.segs[i].first >= seg.first })
	}
	old, l.segs = slices.Clone(l.segs[keep:]), l.segs[:keep]
	slices.Reverse(old)
	if keep == 0 {
		l.first = seg.first
	} else {
		last := l.segs[keep-1]
		last.at = last.at[:min(uint64(len(last.at)), seg.first-last.first)]
	}
	l.segs = append(l.segs, seg)
	return old
}

// tail is the segment that is written to, nil if there is none. The write lock is held.
func (l *Log) tail() *segment {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if len(l.segs) == 0 {
		return nil
	}
	return l.segs[len(l.segs)-1]
}

// encode lays entries out for one flush and says where each will stand.
func (l *Log) encode(entries []Entry, start int64) (b []byte, at []int64, err error) {
	l.flush++ // never used again, whatever becomes of this one
	b = l.buf[:0]
	n := uint64(len(entries))
	for i, e := range entries {
		if e.Index != entries[0].Index+uint64(i) || len(e.Data) > maxData {
			return nil, nil, fmt.Errorf("append: entry %d with %d bytes is out of line", e.Index, len(e.Data))
		}
		at = append(at, start+int64(len(b)))
		r := record{index: e.Index, flush: l.flush, before: uint32(i), left: uint32(n - 1 - uint64(i))} //nolint:gosec // few
		b = appendRecord(b, r, e.Data)
	}
	l.buf = b
	if cap(b) > 4*bigWrite {
		l.buf = nil
	}
	return b, at, nil
}

// put writes b to a segment, which is made if it is new, and returns where it
// ends there. The write lock is held.
func (l *Log) put(s *segment, b []byte) (end int64, err error) {
	if s.file != nil {
		return s.write(b)
	}
	l.sequence = s.sequence
	if s.file, err = l.files.Open(s.name); err != nil {
		return 0, err
	}
	end, err = s.write(b)
	if err = errors.Join(err, l.files.Sync()); err != nil {
		l.discard([]*segment{s})
		return 0, err
	}
	return end, nil
}

// discard removes segments that no reader sees any more, each for certain before
// the next: one that came back alone would stand where the others had cut it.
// What cannot be removed now comes first the next time. The write lock is held.
func (l *Log) discard(segs []*segment) {
	for _, s := range segs {
		_ = s.file.Close()
		l.doomed = append(l.doomed, s.name)
	}
	for len(l.doomed) > 0 {
		err := l.files.Remove(l.doomed[0])
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			err = l.files.Sync()
		}
		if err != nil {
			return
		}
		l.doomed = l.doomed[1:]
	}
}

// CutFront forgets every entry before first.
func (l *Log) CutFront(first uint64) error {
	l.write.Lock()
	defer l.write.Unlock()
	l.mu.Lock()
	if l.first == 0 || first <= l.first {
		l.mu.Unlock()
		return nil
	}
	if first >= l.end {
		l.mu.Unlock()
		return fmt.Errorf("cut the log's front at %d: it goes up to %d", first, l.end-1)
	}
	n := sort.Search(len(l.segs), func(i int) bool { return l.segs[i].first > first }) - 1
	old := l.segs[:n:n]
	l.segs, l.first = l.segs[n:], first
	l.mu.Unlock()
	l.discard(old)
	return nil
}

// CutBack forgets entry from and all after it. Unless nothing is left, the cut
// is kept with the next Append: after a crash before that they are there again.
func (l *Log) CutBack(from uint64) error {
	l.write.Lock()
	defer l.write.Unlock()
	l.mu.Lock()
	if l.first == 0 || from >= l.end {
		l.mu.Unlock()
		return nil
	}
	if from > l.first {
		l.end = from
		l.mu.Unlock()
		return nil
	}
	old := l.segs
	l.segs, l.first, l.end = nil, 0, 0
	l.mu.Unlock()
	slices.Reverse(old)
	l.discard(old)
	return nil
}

// Close closes the files.
func (l *Log) Close() error {
	l.write.Lock()
	defer l.write.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	var err error
	for _, s := range l.segs {
		err = errors.Join(err, s.file.Close())
	}
	l.segs, l.first, l.end = nil, 0, 0
	return err
}
