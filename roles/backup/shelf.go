package backup

import (
	"context"
	"io"
)

// shelf holds objects by name ("blobs/ab/abcdef..."). All methods are safe for
// concurrent use. What is not there is NotFound; a shelf that is out of reach
// Unavailable.
type shelf interface {
	// Put stores size bytes, whole or not at all, in the place of what is there. Sum
	// is their sha256; other bytes are refused. What Put returned from without error
	// survives a power cut.
	Put(ctx context.Context, name string, from io.ReaderAt, size int64, sum string) error
	// Create stores a small object unless the name is taken, which is Conflict.
	Create(ctx context.Context, name string, data []byte) error
	// Open reads an object. Its bytes are not checked.
	Open(ctx context.Context, name string) (io.ReadCloser, int64, error)
	// List returns the sizes of all objects whose names begin so.
	List(ctx context.Context, prefix string) (map[string]int64, error)
	// Move gives an object another name.
	Move(ctx context.Context, from, to string) error
	// Remove drops one; one that is not there is no error.
	Remove(ctx context.Context, name string) error
}

// maxSmall bounds an object that is read as a whole (a manifest, a marker), in bytes.
const maxSmall = 256 << 20

// small reads a whole object.
func small(ctx context.Context, s shelf, name string) ([]byte, error) {
	r, _, err := s.Open(ctx, name)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(io.LimitReader(r, maxSmall))
}
