// Package blob keeps bytes under their sha256. It promises that a blob whose
// Put returned is on the disk, that what Open hands out was verified against
// its name, and that space is reserved before bytes are taken. It refuses to
// hand out a blob that is not what its name says.
package blob

import (
	"context"
	"io"

	"github.com/ahelme/comfyume/cluster"
)

// Ref names a blob: lower-case hex sha256.
type Ref = cluster.Ref

// File is an open, verified blob. The reader must Close it.
type File interface {
	io.ReadSeekCloser
	io.ReaderAt
	Size() int64
}

// Store holds blobs. All methods are safe for concurrent use.
type Store interface {
	// Put takes a blob of size bytes (-1 = unknown) and returns its name and
	// size. When it returned without error the blob survives a power cut. The
	// same bytes again are stored once. NoSpace says that the disk has no room.
	Put(ctx context.Context, r io.Reader, size int64) (Ref, int64, error)
	// Open returns a blob whose bytes were checked against its name. NotFound:
	// it is not here; Internal: it is damaged and was set aside.
	Open(ctx context.Context, ref Ref) (File, error)
	// Has reports a blob's size if it is here, without reading it.
	Has(ctx context.Context, ref Ref) (int64, bool)
}

// Usage is what a page shows of a store.
type Usage struct {
	Blobs int64 `json:"blobs"`
	Bytes int64 `json:"bytes"`

	Partial int64 `json:"partial"` // being written now
	Damaged int64 `json:"damaged"` // set aside
	Trash   int64 `json:"trash"`   // discarded and still there

	Free  int64 `json:"free"`  // bytes of the volume
	Total int64 `json:"total"` // bytes of the volume
	// Coming is how many bytes are here of large blobs that are still on their way.
	Coming int64 `json:"coming"`
}
