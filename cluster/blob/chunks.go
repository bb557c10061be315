package blob

import (
	"bytes"
	"context"
	"crypto/sha256"
	"hash"
	"io/fs"

	"github.com/ahelme/comfyume/cluster"
)

const (
	// Chunk is how much of a large blob is checked at a time while it travels, in
	// bytes.
	Chunk = 16 << 20
	// Large is the size in bytes over which a blob travels in chunks.
	Large = 64 << 20
	// maxLarge bounds the list of a blob's chunks (to 8 MiB), in bytes of the blob.
	maxLarge = 4 << 40
	// maxListed bounds how many lists are remembered.
	maxListed = 256
)

// Chunks says what a large blob is made of. It is somebody's word for it until
// the whole has been checked against its name.
type Chunks struct {
	Size int64          `cbor:"1,keyasint"`
	Sums []byte         `cbor:"2,keyasint"` // the sha256 of each chunk, one after the other
	From cluster.NodeID `cbor:"3,keyasint"` // whose word it is; "" = not known
}

// SumBytes is how long the sums of a blob of size bytes are; 0 says that such a
// blob does not travel in chunks.
func SumBytes(size int64) int64 {
	if size <= Large || size > maxLarge {
		return 0
	}
	return (size + Chunk - 1) / Chunk * sha256.Size
}

func (c Chunks) valid() bool { return SumBytes(c.Size) > 0 && int64(len(c.Sums)) == SumBytes(c.Size) }

// sum of the chunk that begins at a byte.
func (c Chunks) sum(from int64) []byte { return c.Sums[from/Chunk*sha256.Size:][:sha256.Size] }

func (c Chunks) same(o Chunks) bool { return c.Size == o.Size && bytes.Equal(c.Sums, o.Sums) }

// listed is a list that is remembered for as long as the file does not change.
type listed struct {
	of   stamp
	list Chunks
}

// Chunks lists the chunks of a large blob. It reads the whole once, and checks
// it against its name with that: a damaged one is set aside. each, which may be
// nil, is told sums as they become known, so that whoever waits for the list of
// a very large blob hears something; the last ones come when the whole is known
// to be right.
func (d *Dir) Chunks(ctx context.Context, ref Ref, each func(sums []byte) error) (Chunks, error) {
	f, info, err := d.open(ref)
	if err != nil {
		return Chunks{}, err
	}
	defer f.Close()
	if SumBytes(info.Size()) == 0 {
		return Chunks{}, cluster.Errorf(cluster.Invalid, "a file of %d bytes has no list of chunks", info.Size())
	}
	if each == nil {
		each = func([]byte) error { return nil }
	}
	d.mu.Lock()
	known := d.listed[ref]
	d.mu.Unlock()
	if known.of == stampOf(info) {
		return known.list, each(known.list.Sums)
	}
	parts := newSummer(info.Size(), each)
	done, err := d.check(ctx, ref, f, info, parts)
	switch {
	case err != nil:
		return Chunks{}, err
	case !done:
		return Chunks{}, context.Cause(ctx)
	}
	told := len(parts.sums)
	list := parts.list()
	if !list.valid() {
		return Chunks{}, cluster.Errorf(cluster.Unavailable, "file %s has changed while it was read", ref.Short())
	}
	d.rememberList(ref, info, list)
	return list, each(list.Sums[told:])
}

// summer is written a blob and sums its chunks.
type summer struct {
	part hash.Hash
	size int64 // of the blob
	n    int64 // have been written
	sums []byte
	each func(sum []byte) error // is told each sum but the last; may be nil
}

func newSummer(size int64, each func(sum []byte) error) *summer {
	return &summer{part: sha256.New(), size: size, each: each}
}

func (s *summer) Write(b []byte) (int, error) {
	all := len(b)
	for len(b) > 0 {
		k := min(int64(len(b)), Chunk-s.n%Chunk)
		_, _ = s.part.Write(b[:k]) // a hash takes everything
		s.n, b = s.n+k, b[k:]
		if s.n%Chunk > 0 || s.n == s.size {
			continue
		}
		s.sums = s.part.Sum(s.sums)
		s.part.Reset()
		if s.each != nil {
			if err := s.each(s.sums[len(s.sums)-sha256.Size:]); err != nil {
				return 0, err
			}
		}
	}
	return all, nil
}

// list ends the last chunk.
func (s *summer) list() Chunks { return Chunks{Size: s.n, Sums: s.part.Sum(s.sums)} }

// rememberList keeps the list of a blob whose bytes have been checked.
func (d *Dir) rememberList(ref Ref, info fs.FileInfo, l Chunks) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.listed) >= maxListed {
		clear(d.listed)
	}
	d.listed[ref] = listed{stampOf(info), l}
}

// OpenAt opens a blob at a byte for a reader who checks what it gets by a list
// of chunks. It is not read whole before that: of a large one which has not been
// read since the start, that takes longer than anybody waits.
func (d *Dir) OpenAt(ref Ref, from int64) (File, error) {
	f, info, err := d.open(ref)
	if err != nil {
		return nil, err
	}
	if from < 0 || from > info.Size() {
		_ = f.Close() // nothing was written to it
		return nil, cluster.Errorf(cluster.Invalid, "file %s has no byte %d", ref.Short(), from)
	}
	if _, err := f.Seek(from, 0); err != nil {
		_ = f.Close()
		return nil, err
	}
	return file{f, info.Size()}, nil
}
