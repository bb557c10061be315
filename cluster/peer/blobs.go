package peer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/blob"
	"github.com/ahelme/comfyume/cluster/jobs"
)

// verbBlob moves bytes: GET takes a blob, HEAD asks for it, PUT keeps one.
const verbBlob Verb = "blob"

// maxCaps bounds what a gpu-only node may store without a job: the description
// of what its ComfyUI can do, in bytes.
const maxCaps = 64 << 20

// ServeBlobs lets other nodes read this keeper's blobs and keep theirs here. Only
// what is here is served: two keepers that both lack a blob would else ask each
// other for it, and wait for each other.
// Core nodes may read any; a gpu-only node the inputs of a job that it holds,
// and may keep results of such a job, or its own description.
func ServeBlobs(s *Server, store *blob.Dir, table Table) {
	k := &keeper{store: store, table: table}
	s.add(verbBlob, verb{access: Workers, serve: func(w http.ResponseWriter, r *http.Request, who Who) error {
		switch r.Method {
		case http.MethodGet, http.MethodHead:
			return k.get(w, r, who)
		case http.MethodPut:
			return k.put(w, r, who)
		}
		return cluster.Errorf(cluster.Invalid, "blobs are read and kept, not %s", r.Method)
	}})
}

type keeper struct {
	store *blob.Dir
	table Table
}

// leaseOf reads the lease in a request's query; the zero one if there is none.
func leaseOf(q url.Values) (jobs.Lease, error) {
	if q.Get("job") == "" {
		return jobs.Lease{}, nil
	}
	epoch, err := strconv.ParseUint(q.Get("epoch"), 10, 64)
	if err != nil {
		return jobs.Lease{}, cluster.Errorf(cluster.Invalid, "the request names no lease")
	}
	return jobs.Lease{
		Job:    jobs.ID{User: cluster.User(q.Get("user")), Prompt: q.Get("job")},
		Worker: cluster.WorkerID(q.Get("worker")), Epoch: epoch,
	}, nil
}

func leaseQuery(l jobs.Lease) url.Values {
	if l.Worker == "" {
		return url.Values{}
	}
	return url.Values{"user": {string(l.Job.User)}, "job": {l.Job.Prompt}, "worker": {string(l.Worker)}, "epoch": {strconv.FormatUint(l.Epoch, 10)}}
}

// mayRead lets a gpu-only node have the inputs of a job that it holds, and ask
// whether something that it has the digest of was kept.
func (k *keeper) mayRead(who Who, l jobs.Lease, ref cluster.Ref, bytes bool) error {
	if who.Core {
		return nil
	}
	denied := cluster.Errorf(cluster.Forbidden, "node %s holds no job that needs this file", who.Name)
	if !who.Holds(l.Worker) {
		return denied
	}
	allowed := false
	k.table.Jobs(func(t *jobs.Table) {
		row, ok := t.Job(l.Job)
		if !ok || t.CheckLease(l) != nil {
			return
		}
		allowed = !bytes
		for _, in := range row.Inputs {
			allowed = allowed || in.Ref == ref
		}
	})
	if !allowed {
		return denied
	}
	return nil
}

func (k *keeper) get(w http.ResponseWriter, r *http.Request, who Who) error {
	q := r.URL.Query()
	ref := cluster.Ref(q.Get("ref"))
	l, err := leaseOf(q)
	if err != nil {
		return err
	}
	asks := r.Method == http.MethodHead || q.Has("part") // only what is here
	if err := k.mayRead(who, l, ref, !asks); err != nil {
		return err
	}
	switch size, _ := k.store.Has(r.Context(), ref); {
	case r.Method == http.MethodHead:
	case q.Has("part"):
		return k.part(r.Context(), w, ref, q)
	case q.Has("from"):
		return k.rest(w, ref, q)
	case q.Has("list") && blob.SumBytes(size) > 0:
		return k.list(w, r, ref, size)
	}
	if r.Method == http.MethodHead {
		size, ok := k.store.Has(r.Context(), ref)
		if !ok {
			return cluster.Errorf(cluster.NotFound, "the file is not here")
		}
		w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
		return nil
	}
	f, err := k.store.Open(r.Context(), ref)
	if err != nil {
		return err
	}
	defer f.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.FormatInt(f.Size(), 10))
	_, _ = io.Copy(w, f) // the reader checks the digest: a break is its to find
	return nil
}

func (k *keeper) put(w http.ResponseWriter, r *http.Request, who Who) error {
	l, err := leaseOf(r.URL.Query())
	if err != nil {
		return err
	}
	rest := r.URL.Query().Has("from")
	body := io.Reader(arriving{r.Body, http.NewResponseController(w)})
	switch {
	case who.Core:
	case l.Worker == "" && rest:
		return cluster.Errorf(cluster.Forbidden, "node %s holds no job that has made this file", who.Name)
	case l.Worker == "":
		body = http.MaxBytesReader(w, io.NopCloser(body), maxCaps)
	case !who.Holds(l.Worker):
		return cluster.Errorf(cluster.Forbidden, "worker %s is not one of node %s", l.Worker, who.Name)
	default:
		k.table.Jobs(func(t *jobs.Table) { err = t.CheckLease(l) })
		if err != nil {
			return err
		}
	}
	if rest {
		return k.putRest(w, r, body, who)
	}
	ref, size, err := k.store.Put(r.Context(), body, r.ContentLength)
	if err != nil {
		return err
	}
	return answerKept(w, kept{ref, size})
}

// kept is what a node says that it has; without a name it has only so much of it.

type kept struct {
	Ref  cluster.Ref `cbor:"1,keyasint"`
	Size int64       `cbor:"2,keyasint"`
}

// stillFor is how long a transfer may stand still: a machine that is gone says
// nothing, and another may have the bytes, or take them.
const stillFor = 20 * time.Second

var errStill = cluster.Errorf(cluster.Unavailable, "the machine at the other end of a transfer does not answer")

// moving ends a transfer that stands still.
type moving struct {
	io.Reader
	node  cluster.NodeID // that is read from; "": it is a file here
	timer *time.Timer
	end   context.CancelCauseFunc
	close func() error // of what is read; nil if that is not ours
	why   func() error // it was ended; nil while it was not
}

func whileMoving(ctx context.Context) (context.Context, *moving) {
	ctx, end := context.WithCancelCause(ctx)
	m := &moving{end: end, why: func() error { return context.Cause(ctx) }}
	m.timer = time.AfterFunc(stillFor, func() { end(errStill) })
	return ctx, m
}

func (m *moving) Read(p []byte) (int, error) {
	n, err := m.Reader.Read(p)
	if n > 0 {
		m.timer.Reset(stillFor)
	}
	if err == nil || errors.Is(err, io.EOF) {
		return n, err
	}
	if why := m.why(); why != nil {
		return n, why
	}
	if m.node == "" {
		return n, err
	}
	return n, &unreached{m.node, err}
}

func (m *moving) Close() (err error) {
	if m.close != nil {
		err = m.close()
	}
	m.timer.Stop()
	m.end(nil)
	return err
}

// getBlob asks another node for a blob, or about it, as params say: names and
// values by turns. The body must be closed; what it says must be checked.
func (c *Client) getBlob(ctx context.Context, node cluster.NodeID, ref cluster.Ref, l jobs.Lease, params ...string) (*http.Response, io.ReadCloser, error) {
	q := leaseQuery(l)
	q.Set("ref", string(ref))
	for i := 0; i+1 < len(params); i += 2 {
		q.Set(params[i], params[i+1])
	}
	ctx, m := whileMoving(ctx)
	r, err := c.send(ctx, node, http.MethodGet, verbBlob, "?"+q.Encode(), nil)
	if err != nil {
		return nil, nil, errors.Join(err, m.Close())
	}
	m.node, m.Reader, m.close = node, r.Body, r.Body.Close
	return r, m, nil
}

// hasBlob asks another node for a blob's size.
func (c *Client) hasBlob(ctx context.Context, node cluster.NodeID, ref cluster.Ref, l jobs.Lease) (int64, error) {
	q := leaseQuery(l)
	q.Set("ref", string(ref))
	ctx, cancel := context.WithTimeoutCause(ctx, answerWithin, errStill)
	defer cancel()
	r, err := c.send(ctx, node, http.MethodHead, verbBlob, "?"+q.Encode(), nil)
	if err != nil {
		return 0, err
	}
	return r.ContentLength, r.Body.Close()
}

// sendBlob has another node keep a blob, and returns what it kept. list is that
// of a large one.
func (c *Client) sendBlob(ctx context.Context, node cluster.NodeID, ref cluster.Ref, f blob.File, list blob.Chunks, l jobs.Lease) (cluster.Ref, error) {
	if list.Size > 0 {
		return c.sendLarge(ctx, node, ref, f, list, l)
	}
	return c.putBlob(ctx, node, leaseQuery(l), io.NewSectionReader(f, 0, f.Size()), f.Size())
}

func (c *Client) putBlob(ctx context.Context, node cluster.NodeID, q url.Values, body io.Reader, size int64) (cluster.Ref, error) {
	address := "http://" + string(node) + "/peer/" + string(verbBlob) + "?" + q.Encode()
	ctx, m := whileMoving(ctx)
	defer m.Close()
	m.Reader = body
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, address, io.NopCloser(m))
	if err != nil {
		return "", fmt.Errorf("write the request %s: %w", verbBlob, err)
	}
	req.ContentLength = size // the keeper sets that much aside
	r, err := c.do(req, node, verbBlob)
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(r.Body, maxHello))
	if err != nil {
		return "", broken(ctx, node, err)
	}
	var k kept
	if err := cluster.Unmarshal(raw, &k); err != nil {
		return "", fmt.Errorf("read %s's answer to a blob: %w", node, err)
	}
	return k.Ref, nil
}

// Keepers are the nodes that keep blobs for this one, the preferred one first.
type Keepers func() []cluster.NodeID

// errAway is not NotFound: the table names the blob, so some machine has it.
var errAway = cluster.Errorf(cluster.Unavailable, "no machine that is there has this file's bytes; they come back with the machine that has")

// Depot brings bytes between a node whose disk does not count and those that
// keep them. It is the gpu role's Depot.
type Depot struct {
	Client  *Client
	Local   *blob.Dir
	Keepers Keepers
}

var errNoKeeper = cluster.Errorf(cluster.Unavailable, "no machine that keeps files answers; the result waits on the GPU machine")

// Keep copies a blob to the first keeper that takes it, then to a second one
// if it answers, and drops it here. It returns without error only when a
// keeper has named it by its digest.
func (d *Depot) Keep(ctx context.Context, l jobs.Lease, ref cluster.Ref) error {
	f, err := d.Local.Open(ctx, ref)
	if err != nil {
		if _, kept := d.Kept(ctx, l, ref); kept {
			return nil // it was kept before, and dropped here
		}
		return err
	}
	defer f.Close()
	var list blob.Chunks
	if blob.SumBytes(f.Size()) > 0 {
		if list, err = d.Local.Chunks(ctx, ref, nil); err != nil {
			return err
		}
	}
	err = errNoKeeper
	copies, full := 0, error(nil)
	for _, node := range d.Keepers() {
		if copies == 2 || ctx.Err() != nil {
			break
		}
		got, serr := d.Client.sendBlob(ctx, node, ref, f, list, l)
		switch code := cluster.CodeOf(serr); {
		case serr == nil && got == ref:
			copies++
		case serr == nil:
			err = cluster.Errorf(cluster.Unavailable, "node %s kept other bytes than were sent", node)
		case code == cluster.Stale && copies == 0, code == cluster.NotFound && copies == 0, code == cluster.Forbidden && copies == 0:
			err = serr // the job may not be ours any more; another keeper may know better
		case code == cluster.NoSpace:
			full = serr
		}
	}
	switch {
	case copies > 0:
		return d.Local.Remove(ref)
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case full != nil:
		return full
	}
	return err
}

// Fetch brings a blob here from a keeper.
func (d *Depot) Fetch(ctx context.Context, l jobs.Lease, ref cluster.Ref) error {
	f, err := d.Local.Open(ctx, ref)
	if err == nil {
		return f.Close()
	}
	if code := cluster.CodeOf(err); code != cluster.NotFound && code != cluster.Internal {
		return err
	}
	return d.Client.fetchInto(ctx, d.Local, d.Keepers(), ref, l)
}

// Kept reports whether a keeper has a blob.
func (d *Depot) Kept(ctx context.Context, l jobs.Lease, ref cluster.Ref) (int64, bool) {
	for _, node := range d.Keepers() {
		if size, err := d.Client.hasBlob(ctx, node, ref, l); err == nil {
			return size, true
		}
	}
	return 0, false
}
