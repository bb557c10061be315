package backup

import (
	"bytes"
	"context"
	"crypto/md5" //nolint:gosec // S3 checks parts by it; sha256 goes with it
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/ahelme/comfyume/cluster"
)

// bucket is a shelf in S3-compatible storage. Every request carries the digests of
// its bytes, which the server compares; a large object goes in parts, and those that
// are there are not sent again.
type bucket struct {
	t    Target
	core *minio.Core
	log  *slog.Logger
}

var _ shelf = (*bucket)(nil)

// partSize of a large object, in bytes.
const partSize = 64 << 20

// bucketTries is how often a request is made.
const bucketTries = 4

func newBucket(t Target, log *slog.Logger) (*bucket, error) {
	if t.keys.ID == "" || t.keys.Secret == "" {
		return nil, cluster.Errorf(cluster.Invalid, "%s needs keys: set R2_ACCESS_KEY_ID and R2_SECRET_ACCESS_KEY (or their _FILE forms) and start again", t)
	}
	carrier, err := t.carrier()
	if err != nil {
		return nil, err
	}
	core, err := minio.NewCore(t.host, &minio.Options{
		Creds: credentials.NewStaticV4(t.keys.ID, t.keys.Secret, ""), Secure: !t.plain, Region: t.region,
		BucketLookup: minio.BucketLookupPath, MaxRetries: bucketTries, Transport: carrier,
	})
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", t, err)
	}
	return &bucket{t: t, core: core, log: log}, nil
}

// carrier makes the connections.
func (t Target) carrier() (*http.Transport, error) {
	c, err := minio.DefaultTransport(!t.plain)
	if err != nil || t.keys.CA == "" || t.plain {
		return c, err
	}
	raw, err := os.ReadFile(t.keys.CA)
	roots := x509.NewCertPool()
	if err != nil || !roots.AppendCertsFromPEM(raw) {
		return nil, cluster.Errorf(cluster.Invalid, "--keep-ca=%s holds no certificate that can be read (%v)", t.keys.CA, err)
	}
	c.TLSClientConfig.RootCAs = roots
	return c, nil
}

func (b *bucket) at(name string) string { return b.t.prefix + name }

// failed says what a bucket answered, so that a wrong key or name is seen for what
// it is.
func (b *bucket) failed(do, name string, err error) error {
	var known *cluster.Error
	if errors.As(err, &known) {
		return err
	}
	r := minio.ToErrorResponse(err)
	switch r.Code {
	case "NoSuchKey":
		return cluster.Errorf(cluster.NotFound, "%s is not in %s", name, b.t)
	case "NoSuchBucket":
		return cluster.Errorf(cluster.Unavailable, "there is no bucket %s at %s: make it, or mend --keep", b.t.bucket, b.t.host)
	case "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch":
		return cluster.Errorf(cluster.Forbidden, "%s refuses the keys (%s: %s): check R2_ACCESS_KEY_ID and R2_SECRET_ACCESS_KEY, and that they may read and write this bucket", b.t, r.Code, r.Message)
	case "PreconditionFailed":
		return cluster.Errorf(cluster.Conflict, "%s is there already", name)
	case "":
		return cluster.Errorf(cluster.Unavailable, "%s does not answer (%s %s: %v)", b.t, do, name, err)
	}
	return cluster.Errorf(cluster.Unavailable, "%s answered %s to %s %s: %s", b.t, r.Code, do, name, r.Message)
}

// sums are the digests of a piece, as S3 wants them.
func sums(ctx context.Context, from io.Reader) (md5Hex, sha256Hex string, n int64, err error) {
	m, s := md5.New(), sha256.New() //nolint:gosec // see the import
	n, err = io.Copy(io.MultiWriter(m, s), &stoppable{ctx, from})
	return hex.EncodeToString(m.Sum(nil)), hex.EncodeToString(s.Sum(nil)), n, err
}

func base64Of(hexed string) string {
	raw, err := hex.DecodeString(hexed)
	if err != nil {
		return ""
	}
	return base64.StdEncoding.EncodeToString(raw)
}

func (b *bucket) Put(ctx context.Context, name string, from io.ReaderAt, size int64, sum string) error {
	var err error
	if size > b.t.part {
		err = b.putParts(ctx, name, from, size, sum)
	} else {
		err = b.putWhole(ctx, name, from, size, sum, minio.PutObjectOptions{})
	}
	if err != nil {
		return err
	}
	info, err := b.core.StatObject(ctx, b.t.bucket, b.at(name), minio.StatObjectOptions{})
	switch {
	case err != nil:
		return b.failed("look at", name, err)
	case info.Size != size:
		return cluster.Errorf(cluster.Internal, "%s has %d bytes of %s after %d were sent", b.t, info.Size, name, size)
	}
	return nil
}

func (b *bucket) putWhole(ctx context.Context, name string, from io.ReaderAt, size int64, sum string, o minio.PutObjectOptions) error {
	m, s, n, err := sums(ctx, io.NewSectionReader(from, 0, size))
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	if n != size || s != sum {
		return cluster.Errorf(cluster.Internal, "%s was read as other bytes than it has: it was not stored", name)
	}
	ctx, w := whileItMoves(ctx, b.t.still)
	defer w.stop()
	_, err = b.core.PutObject(ctx, b.t.bucket, b.at(name), w.reader(io.NewSectionReader(from, 0, size)), size, base64Of(m), s, o)
	if err != nil {
		return b.failed("put", name, w.why(err))
	}
	return nil
}

func (b *bucket) Create(ctx context.Context, name string, data []byte) error {
	sum := sha256.Sum256(data)
	var o minio.PutObjectOptions
	o.SetMatchETagExcept("*")
	return b.putWhole(ctx, name, bytes.NewReader(data), int64(len(data)), hex.EncodeToString(sum[:]), o)
}

func (b *bucket) Open(ctx context.Context, name string) (io.ReadCloser, int64, error) {
	ctx, w := whileItMoves(ctx, b.t.still)
	body, info, _, err := b.core.GetObject(ctx, b.t.bucket, b.at(name), minio.GetObjectOptions{})
	if err != nil {
		err = b.failed("get", name, w.why(err))
		w.stop()
		return nil, 0, err
	}
	return &watched{Reader: w.reader(body), w: w, body: body}, info.Size, nil
}

// watched is an object that is being read.
type watched struct {
	io.Reader
	w    *watch
	body io.Closer
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = w.w.why(err)
	}
	return n, err
}

func (w *watched) Close() error {
	defer w.w.stop()
	return w.body.Close()
}

func (b *bucket) List(ctx context.Context, prefix string) (map[string]int64, error) {
	out := map[string]int64{}
	for o := range b.core.Client.ListObjects(ctx, b.t.bucket, minio.ListObjectsOptions{Prefix: b.at(prefix), Recursive: true}) {
		if o.Err != nil {
			return nil, b.failed("list", prefix, o.Err)
		}
		if !strings.HasSuffix(o.Key, "/") { // some servers keep folders as objects
			out[strings.TrimPrefix(o.Key, b.t.prefix)] = o.Size
		}
	}
	return out, context.Cause(ctx)
}

func (b *bucket) Move(ctx context.Context, from, to string) error {
	_, err := b.core.Client.CopyObject(ctx, minio.CopyDestOptions{Bucket: b.t.bucket, Object: b.at(to)}, minio.CopySrcOptions{Bucket: b.t.bucket, Object: b.at(from)})
	if err != nil {
		return b.failed("move", from, err)
	}
	return b.Remove(ctx, from)
}

func (b *bucket) Remove(ctx context.Context, name string) error {
	if err := b.core.Client.RemoveObject(ctx, b.t.bucket, b.at(name), minio.RemoveObjectOptions{}); err != nil {
		return b.failed("remove", name, err)
	}
	return nil
}

// stillFor is how long a transfer with a bucket may stand still.
const stillFor = 30 * time.Second

var errStill = cluster.Errorf(cluster.Unavailable, "the transfer stood still: the other end does not answer; it is tried again with the next backup")

// watch ends a transfer that stands still.
type watch struct {
	still time.Duration
	timer *time.Timer
	end   context.CancelCauseFunc
	cause func() error
}

func whileItMoves(ctx context.Context, still time.Duration) (context.Context, *watch) {
	ctx, end := context.WithCancelCause(ctx)
	return ctx, &watch{still: still, timer: time.AfterFunc(still, func() { end(errStill) }), end: end, cause: func() error { return context.Cause(ctx) }}
}

func (w *watch) stop() {
	w.timer.Stop()
	w.end(nil)
}

// why is the reason of an end that a watch made, else the error itself.
func (w *watch) why(err error) error {
	if c := w.cause(); c != nil {
		return c
	}
	return err
}

// reader counts each read as movement. It can be read again from its start.
func (w *watch) reader(r io.Reader) io.Reader {
	s, seeks := r.(io.Seeker)
	if !seeks {
		return &moving{r, w}
	}
	return &struct {
		*moving
		io.Seeker
	}{&moving{r, w}, s}
}

type moving struct {
	r io.Reader
	w *watch
}

func (m *moving) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	if n > 0 {
		m.w.timer.Reset(m.w.still)
	}
	return n, err
}
