package wal

import (
	"fmt"
	"strconv"
	"strings"
)

// Names: SEQUENCE-FIRST.wal, or SEQUENCE-FIRST-fresh.wal, both in 16 hex digits.
const (
	suffix      = ".wal"
	freshSuffix = "-fresh" + suffix
)

// segment is one file. Its entries are first, first+1, ...
type segment struct {
	file     File
	name     string
	sequence uint64
	first    uint64
	fresh    bool
	at       []int64 // where each entry's record begins
	end      int64   // where the next record goes
	size     int64   // of the file; up to here a write changes no metadata
}

func newSegment(sequence, first uint64, fresh bool) *segment {
	end := suffix
	if fresh {
		end = freshSuffix
	}
	return &segment{name: fmt.Sprintf("%016x-%016x%s", sequence, first, end), sequence: sequence, first: first, fresh: fresh}
}

// parseName is the other way round; false for other files.
func parseName(name string) (*segment, bool) {
	base, fresh := strings.CutSuffix(name, freshSuffix)
	base, _ = strings.CutSuffix(base, suffix)
	a, b, _ := strings.Cut(base, "-")
	sequence, err1 := strconv.ParseUint(a, 16, 64)
	first, err2 := strconv.ParseUint(b, 16, 64)
	if err1 != nil || err2 != nil || first == 0 {
		return nil, false
	}
	s := newSegment(sequence, first, fresh)
	return s, s.name == name
}

// next is the number of the entry that would be appended.
func (s *segment) next() uint64 { return s.first + uint64(len(s.at)) }

// grow is how far beyond what is needed a file is made to reach; a write of
// bigWrite or more is not worth it.
const (
	grow     = 1 << 20
	bigWrite = 256 << 10
)

var zeros [grow]byte

// write puts b where the next record goes, flushes it and returns where it ends,
// which the segment does only once readers may see what was written. On an error
// nothing counts as written.
func (s *segment) write(b []byte) (end int64, err error) {
	if _, err := s.file.WriteAt(b, s.end); err != nil {
		return 0, err
	}
	end = s.end + int64(len(b))
	size := max(s.size, end)
	if size > s.size && len(b) < bigWrite {
		if _, err := s.file.WriteAt(zeros[:], size); err != nil {
			return 0, err
		}
		size += grow
	}
	if err := s.file.Sync(); err != nil {
		return 0, err
	}
	s.size = size
	return end, nil
}

// read returns an entry's data. The bytes are the caller's.
func (s *segment) read(index uint64) ([]byte, error) {
	i := index - s.first
	to := s.end
	if i+1 < uint64(len(s.at)) {
		to = s.at[i+1]
	}
	b := make([]byte, to-s.at[i])
	if _, err := s.file.ReadAt(b, s.at[i]); err != nil {
		return nil, fmt.Errorf("read entry %d: %w", index, err)
	}
	r, data, _, ok := parseRecord(b)
	if !ok || r.index != index {
		return nil, &DamagedError{File: s.name, Offset: s.at[i], Entry: index}
	}
	return data, nil
}
