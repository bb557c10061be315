package backup

import (
	"context"
	"errors"
	"io"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/ahelme/comfyume/cluster"
)

// staleUpload is how old the start of a large upload may be to be gone on with.
const staleUpload = 7 * 24 * time.Hour

// putParts sends a large object. What an earlier try left at the server is compared
// with what would be sent now, part by part, and not sent again.
func (b *bucket) putParts(ctx context.Context, name string, from io.ReaderAt, size int64, sum string) error {
	id, there, err := b.upload(ctx, name)
	if err != nil {
		return err
	}
	whole := newSum()
	var done []minio.CompletePart
	for i, off := 1, int64(0); off < size; i, off = i+1, off+b.t.part {
		n := min(b.t.part, size-off)
		m, s, got, err := sums(ctx, io.TeeReader(io.NewSectionReader(from, off, n), whole))
		if err != nil || got != n {
			return errors.Join(cluster.Errorf(cluster.Internal, "%s could not be read whole (%d of %d bytes at %d)", name, got, n, off), err)
		}
		if p, ok := there[i]; ok && p.Size == n && strings.Trim(p.ETag, `"`) == m {
			done = append(done, minio.CompletePart{PartNumber: i, ETag: p.ETag})
			continue
		}
		ctx, w := whileItMoves(ctx, b.t.still)
		p, err := b.core.PutObjectPart(ctx, b.t.bucket, b.at(name), id, i, w.reader(io.NewSectionReader(from, off, n)), n, minio.PutObjectPartOptions{Md5Base64: base64Of(m), Sha256Hex: s})
		why := w.why(err)
		w.stop()
		if err != nil {
			return b.failed("put a part of", name, why)
		}
		done = append(done, minio.CompletePart{PartNumber: i, ETag: p.ETag})
	}
	if whole.hex() != sum { // before it gets its name
		return errors.Join(cluster.Errorf(cluster.Internal, "%s was read as other bytes than it has: it was not stored", name), b.core.AbortMultipartUpload(ctx, b.t.bucket, b.at(name), id))
	}
	if _, err := b.core.CompleteMultipartUpload(ctx, b.t.bucket, b.at(name), id, done, minio.PutObjectOptions{}); err != nil {
		return b.failed("complete", name, err)
	}
	return nil
}

// upload finds the upload that an earlier try began, with its parts, or begins one.
// Old ones are given up.
func (b *bucket) upload(ctx context.Context, name string) (id string, parts map[int]minio.ObjectPart, err error) {
	var newest time.Time
	for u := range b.core.Client.ListIncompleteUploads(ctx, b.t.bucket, b.at(name), true) {
		if u.Err != nil {
			return "", nil, b.failed("list the uploads of", name, u.Err)
		}
		switch {
		case u.Key != b.at(name):
		case time.Since(u.Initiated) > staleUpload:
			if err := b.core.AbortMultipartUpload(ctx, b.t.bucket, u.Key, u.UploadID); err != nil {
				b.log.Debug("an old upload was not given up", "name", name, "err", err)
			}
		case u.Initiated.After(newest):
			id, newest = u.UploadID, u.Initiated
		}
	}
	parts = map[int]minio.ObjectPart{}
	if id == "" {
		id, err = b.core.NewMultipartUpload(ctx, b.t.bucket, b.at(name), minio.PutObjectOptions{})
		if err != nil {
			return "", nil, b.failed("begin", name, err)
		}
		return id, parts, nil
	}
	for marker := 0; ; {
		page, err := b.core.ListObjectParts(ctx, b.t.bucket, b.at(name), id, marker, 1000)
		if err != nil {
			return "", nil, b.failed("list the parts of", name, err)
		}
		for _, p := range page.ObjectParts {
			parts[p.PartNumber] = p
		}
		if !page.IsTruncated {
			break
		}
		marker = page.NextPartNumberMarker
	}
	b.log.Info("an upload goes on where it was broken off", "name", name, "parts", len(parts))
	return id, parts, nil
}
