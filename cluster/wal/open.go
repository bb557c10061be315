package wal

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
)

// Open reads what is in a folder. A DamagedError means that the disk has lost
// what was appended; nothing is changed then.
func Open(files Files) (*Log, error) {
	names, err := files.List()
	if err != nil {
		return nil, fmt.Errorf("open the log: %w", err)
	}
	l := &Log{files: files}
	var segs []*segment
	for _, name := range names {
		if s, ok := parseName(name); ok {
			segs = append(segs, s)
		}
	}
	slices.SortFunc(segs, func(a, b *segment) int { return cmp.Compare(a.sequence, b.sequence) })
	var old []*segment
	for _, s := range segs {
		gone, err := l.take(s)
		if err != nil {
			for _, s := range segs {
				if s.file != nil {
					_ = s.file.Close()
				}
			}
			return nil, fmt.Errorf("open the log: %w", err)
		}
		old = append(old, gone...)
	}
	l.discard(old)
	return l, nil
}

// take reads one more segment and returns those that are no part of the log.
func (l *Log) take(s *segment) (old []*segment, err error) {
	if s.file, err = l.files.Open(s.name); err != nil {
		return nil, err
	}
	l.sequence = s.sequence
	flush, err := s.load()
	if err != nil {
		return nil, err
	}
	l.flush = max(l.flush, flush)
	switch {
	case len(s.at) == 0:
		return []*segment{s}, nil // its first flush was interrupted
	case !s.fresh && len(l.segs) > 0 && s.first > l.end:
		last := l.segs[len(l.segs)-1]
		return nil, &DamagedError{File: last.name, Offset: last.end, Entry: l.end}
	}
	old = l.join(s)
	l.end = s.next()
	return old, nil
}

// load finds the segment's entries. It returns the highest number of a flush
// that anything in the file carries.
func (s *segment) load() (flush uint64, err error) {
	if s.size, err = s.file.Size(); err != nil {
		return 0, err
	}
	b := make([]byte, s.size)
	if n, err := s.file.ReadAt(b, 0); err != nil && (!errors.Is(err, io.EOF) || n < len(b)) {
		return 0, err
	}
	for {
		at, size, last := wholeFlush(b[s.end:], s.next(), flush)
		if size == 0 {
			break
		}
		for _, a := range at {
			s.at = append(s.at, s.end+a)
		}
		s.end += size
		flush = last
	}
	// Behind the end may be what is left of the flush that was interrupted, and of
	// attempts at it that failed before. All of those began with the same entry.
	kept := flush
	for at := s.end; at+recordHead <= s.size; at += 8 {
		r, _, _, ok := parseRecord(b[at:])
		if !ok {
			continue
		}
		if r.flush > kept && r.begin() > s.next() {
			return 0, &DamagedError{File: s.name, Offset: s.end, Entry: s.next()}
		}
		flush = max(flush, r.flush)
	}
	return flush, nil
}

// wholeFlush reads the records of one flush, which begins with entry index and
// is later than flush after. Size 0: there is no whole one.
func wholeFlush(b []byte, index, after uint64) (at []int64, size int64, flush uint64) {
	for n := uint32(0); ; n++ {
		r, _, took, ok := parseRecord(b[size:])
		if !ok || r.index != index+uint64(n) || r.before != n || (n == 0 && r.flush <= after) || (n > 0 && r.flush != flush) {
			return nil, 0, 0
		}
		at = append(at, size)
		size, flush = size+int64(took), r.flush
		if r.left == 0 {
			return at, size, flush
		}
	}
}
