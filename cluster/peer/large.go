package peer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/blob"
	"github.com/ahelme/comfyume/cluster/jobs"
)

// A large blob travels in chunks, by the same verb and with the same rights:
//
//	GET ?ref&list        its size (a header) and the sums of its chunks; of a small
//	                     blob, its bytes
//	GET ?ref&from=BYTE   its bytes from there on, 206
//	GET ?ref&part&size   how much of it is there, if there is room for the rest
//	PUT ?ref&from&size   the sums, and then the bytes from there on
//
// Whoever receives checks each chunk as it ends, and goes on after a break where
// the last one ended.
const sizeHeader = "Comfyume-Size"

// number reads a number of bytes in a request.
func number(q url.Values, name string) (int64, error) {
	n, err := strconv.ParseInt(q.Get(name), 10, 64)
	if err != nil || n < 0 {
		return 0, cluster.Errorf(cluster.Invalid, "the request names no %s", name)
	}
	return n, nil
}

// list answers with the sums of a blob's chunks as they become known.
func (k *keeper) list(w http.ResponseWriter, r *http.Request, ref cluster.Ref, size int64) error {
	w.Header().Set(sizeHeader, strconv.FormatInt(size, 10))
	w.Header().Set("Content-Length", strconv.FormatInt(blob.SumBytes(size), 10))
	flush := http.NewResponseController(w)
	begun := false
	_, err := k.store.Chunks(r.Context(), ref, func(sums []byte) error {
		begun = true
		_, err := w.Write(sums)
		return errors.Join(err, flush.Flush())
	})
	if err == nil || begun {
		return nil // a list that is too short says that something went wrong
	}
	w.Header().Del(sizeHeader)
	w.Header().Del("Content-Length")
	return err
}

// rest answers with the bytes from some place on.
func (k *keeper) rest(w http.ResponseWriter, ref cluster.Ref, q url.Values) error {
	from, err := number(q, "from")
	if err != nil {
		return err
	}
	f, err := k.store.OpenAt(ref, from)
	if err != nil {
		return err
	}
	defer f.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.FormatInt(f.Size()-from, 10))
	w.WriteHeader(http.StatusPartialContent)
	_, _ = io.Copy(w, f) // the reader checks each chunk: a break is its to find
	return nil
}

// part answers how much of a blob is here, whole or not, so that the rest can be
// sent. It refuses when there is no room for it: a refusal in the middle of an
// upload may get lost.
func (k *keeper) part(ctx context.Context, w http.ResponseWriter, ref cluster.Ref, q url.Values) error {
	size, err := number(q, "size")
	if err != nil {
		return err
	}
	p, err := k.store.Partial(ctx, ref)
	if err != nil {
		return err
	}
	defer p.Close()
	if n, ok := k.whole(ctx, ref); ok {
		return answerKept(w, kept{ref, n})
	}
	if err := k.store.Fits(size - p.Size()); err != nil {
		return err
	}
	return answerKept(w, kept{Size: p.Size()})
}

// whole reports a blob that is here and undamaged: who is told so drops its own.
// The look at it goes on when who asked has given up: it is known the next time.
func (k *keeper) whole(ctx context.Context, ref cluster.Ref) (int64, bool) {
	f, err := k.store.Open(context.WithoutCancel(ctx), ref)
	if err != nil {
		return 0, false
	}
	defer f.Close()
	return f.Size(), true
}

func answerKept(w http.ResponseWriter, what kept) error {
	raw, err := cluster.Marshal(what)
	if err != nil {
		return fmt.Errorf("write the answer: %w", err)
	}
	_, _ = w.Write(raw) // the sender asks again when it does not hear
	return nil
}

// putRest keeps the rest of a large blob.
func (k *keeper) putRest(w http.ResponseWriter, r *http.Request, body io.Reader, who Who) error {
	q := r.URL.Query()
	ref := cluster.Ref(q.Get("ref"))
	size, err := number(q, "size")
	if err != nil {
		return err
	}
	from, err := number(q, "from")
	if err != nil {
		return err
	}
	list := blob.Chunks{Size: size, Sums: make([]byte, blob.SumBytes(size)), From: who.Node}
	if _, err := io.ReadFull(body, list.Sums); err != nil {
		return cluster.Errorf(cluster.Unavailable, "the transfer ended before its first byte")
	}
	p, err := k.store.Partial(r.Context(), ref)
	if err != nil {
		return err
	}
	defer p.Close()
	if n, ok := k.whole(r.Context(), ref); ok {
		return answerKept(w, kept{ref, n})
	}
	if err := p.Adopt(r.Context(), list); err != nil {
		return err
	}
	if p.Size() != from {
		return cluster.Errorf(cluster.Unavailable, "here are %d bytes of the file, not %d: go on from there", p.Size(), from)
	}
	if err := p.Take(r.Context(), body); err != nil {
		return err
	}
	return answerKept(w, kept{ref, size})
}

// arriving is the body of an upload, which may not stand still: who has gone
// would else hold the file, and the space for it, for many minutes.
type arriving struct {
	io.Reader
	conn *http.ResponseController
}

func (a arriving) Read(p []byte) (int, error) {
	_ = a.conn.SetReadDeadline(time.Now().Add(stillFor)) // where that cannot be set, the network gives up some day
	n, err := a.Reader.Read(p)
	if err != nil {
		_ = a.conn.SetReadDeadline(time.Time{}) // it is the next request's as well
	}
	switch {
	case err == nil, errors.Is(err, io.EOF), cluster.CodeOf(err) != cluster.Internal:
		return n, err
	case errors.Is(err, os.ErrDeadlineExceeded):
		return n, errStill
	}
	return n, errors.Join(errBroke, err)
}

var errBroke = cluster.Errorf(cluster.Unavailable, "the connection broke in the middle of a transfer; it goes on from there when it is made again")

// fetching is the way of one blob into a store.
type fetching struct {
	c     *Client
	to    *blob.Dir
	part  *blob.Partial
	ref   cluster.Ref
	lease jobs.Lease
	wrong map[cluster.NodeID]bool // sent a chunk that is not what the list says
	false map[cluster.NodeID]bool // gave a list that was false, or that nobody could serve
	giver cluster.NodeID          // of the list that is gone by
}

// fetchInto copies a blob from those that keep it into a store, which checks its
// digest before it gets its name. What comes of a large one is kept, whoever it
// came from: the next source, or the next call, goes on from there.
func (c *Client) fetchInto(ctx context.Context, to *blob.Dir, from []cluster.NodeID, ref cluster.Ref, l jobs.Lease) error {
	part, err := to.Partial(ctx, ref)
	if err != nil {
		return err
	}
	defer part.Close()
	if _, here := to.Has(ctx, ref); here {
		return nil // somebody else has fetched it meanwhile
	}
	f := &fetching{c: c, to: to, part: part, ref: ref, lease: l, wrong: map[cluster.NodeID]bool{}, false: map[cluster.NodeID]bool{}}
	err = errAway
	for again := true; again; {
		again = false
		for _, node := range from {
		sources:
			for tail := true; tail && !f.wrong[node] && !f.false[node]; {
				had := part.Size()
				ferr := f.from(ctx, node)
				switch code := cluster.CodeOf(ferr); {
				case ferr == nil:
					f.done()
					return nil
				case code == cluster.NoSpace:
					return ferr // no other source makes room here
				case ctx.Err() != nil:
					return context.Cause(ctx)
				case code == cluster.NotFound:
					break sources // not there: what another says of it counts
				}
				err = f.judge(node, ferr)
				tail = errors.Is(ferr, blob.ErrTail)
				again = again || errors.Is(ferr, blob.ErrList) || part.Size() >= had+blob.Chunk
			}
		}
		if !again {
			again = f.doubt()
		}
	}
	return err
}

// judge says what is wrong with a source, and whose fault that is.
func (f *fetching) judge(node cluster.NodeID, err error) error {
	log := f.c.gate.cfg.Logger.With("ref", f.ref.Short(), "node", node, "bytes_here", f.part.Size())
	switch {
	case errors.Is(err, blob.ErrTail):
		log.Warn("a part of a file that was here from before was wrong and comes again")
	case errors.Is(err, blob.ErrChunk) && node == f.giver:
		f.wrong[node] = true
		err = f.accuse(node, "a part is not what its own list says")
	case errors.Is(err, blob.ErrChunk): // who of the two is right is known when the whole is
		f.wrong[node] = true
		err = cluster.Errorf(cluster.Internal, "node %s or node %s has other bytes under the name %s: a part of the one is not what the other lists", node, f.giver, f.ref.Short())
		log.Warn("a machine's part of a file is not what another lists; others are asked", "lists", f.giver)
	case errors.Is(err, blob.ErrList):
		f.false[f.giver] = true
		clear(f.wrong) // that they do not agree with it says nothing against them
		err = f.accuse(f.giver, "its list of the parts is false")
	default:
		log.Info("a transfer broke off; it goes on from there", "err", err)
		err = fmt.Errorf("fetch a blob from %s: %w", node, err)
	}
	return err
}

// accuse names a node that lies, or whose disk does.
func (f *fetching) accuse(node cluster.NodeID, why string) error {
	f.c.gate.cfg.Logger.Error("another machine has other bytes under a file's name; it is not believed, others are asked", "ref", f.ref.Short(), "node", node, "why", why)
	return cluster.Errorf(cluster.Internal, "node %s has other bytes under the name %s: %s", node, f.ref.Short(), why)
}

// done names those that a list disagreed with which has turned out to be true.
func (f *fetching) done() {
	for node := range f.wrong {
		if node != f.giver {
			_ = f.accuse(node, "a part is not what it must be")
		}
	}
}

// doubt drops a list by which somebody's part was wrong and nobody's was right:
// another is asked for.
func (f *fetching) doubt() bool {
	if len(f.wrong) == 0 || f.false[f.giver] {
		return false
	}
	f.c.gate.cfg.Logger.Warn("nobody who is there has the parts of a file that a list names; another list is asked for", "ref", f.ref.Short(), "node", f.giver)
	f.false[f.giver] = true
	clear(f.wrong)
	return f.part.Drop() == nil
}

// from fetches what is missing from one node.
func (f *fetching) from(ctx context.Context, node cluster.NodeID) error {
	if f.part.Chunks().Size == 0 {
		whole, err := f.list(ctx, node)
		if err != nil || whole {
			return err
		}
	}
	f.giver = f.part.Chunks().From
	if f.part.Size() == f.part.Chunks().Size {
		return f.part.Take(ctx, nil)
	}
	r, body, err := f.c.getBlob(ctx, node, f.ref, f.lease, "from", strconv.FormatInt(f.part.Size(), 10))
	if err != nil {
		return err
	}
	if r.StatusCode != http.StatusPartialContent {
		return errors.Join(cluster.Errorf(cluster.Unavailable, "node %s cannot send a part of a file: it is of an older version", node), body.Close())
	}
	err = f.part.Take(ctx, body)
	if cerr := body.Close(); err == nil {
		err = cerr
	}
	return err
}

// list asks a node for the list of a blob's chunks. A small blob comes itself.
func (f *fetching) list(ctx context.Context, node cluster.NodeID) (whole bool, err error) {
	r, body, err := f.c.getBlob(ctx, node, f.ref, f.lease, "list", "1")
	if err != nil {
		return false, err
	}
	defer body.Close()
	if r.Header.Get(sizeHeader) == "" {
		got, _, err := f.to.Put(ctx, body, r.ContentLength)
		if err == nil && got != f.ref {
			err = cluster.Errorf(cluster.Internal, "node %s has other bytes under the name %s", node, f.ref.Short())
		}
		return err == nil, err
	}
	size, err := strconv.ParseInt(r.Header.Get(sizeHeader), 10, 64)
	if err != nil || blob.SumBytes(size) == 0 {
		return false, cluster.Errorf(cluster.Internal, "node %s says that file %s has %.20q bytes", node, f.ref.Short(), r.Header.Get(sizeHeader))
	}
	sums := make([]byte, blob.SumBytes(size))
	if _, err := io.ReadFull(body, sums); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
			err = cluster.Errorf(cluster.Unavailable, "node %s cannot list the parts of file %s", node, f.ref.Short())
		}
		return false, err
	}
	return false, f.part.Adopt(ctx, blob.Chunks{Size: size, Sums: sums, From: node})
}

// hasPart asks another node how much of a large blob it has; with its name if it
// has all of it.
func (c *Client) hasPart(ctx context.Context, node cluster.NodeID, ref cluster.Ref, size int64, l jobs.Lease) (k kept, err error) {
	_, body, err := c.getBlob(ctx, node, ref, l, "part", "1", "size", strconv.FormatInt(size, 10))
	if err != nil {
		return k, err
	}
	defer body.Close()
	raw, err := io.ReadAll(io.LimitReader(body, maxHello))
	if err != nil {
		return k, err
	}
	if cluster.Unmarshal(raw, &k) != nil {
		return kept{}, cluster.Errorf(cluster.NotFound, "node %s does not say what it has of a file: it is of an older version", node)
	}
	return k, nil
}

// maxStuck is how often a transfer is begun that brings next to nothing there.
const maxStuck = 2

// sendLarge has another node keep a large blob. What is there is not sent again;
// after a break it goes on for as long as that brings more of it there.
func (c *Client) sendLarge(ctx context.Context, node cluster.NodeID, ref cluster.Ref, f blob.File, list blob.Chunks, l jobs.Lease) (cluster.Ref, error) {
	var last error
	stuck := 0
	for had := int64(0); ; {
		there, err := c.hasPart(ctx, node, ref, list.Size, l)
		if stuck++; there.Size >= had+blob.Chunk {
			stuck = 0
		}
		switch code := cluster.CodeOf(err); {
		case code == cluster.NotFound, code == cluster.Forbidden: // it may be of an older version
			return c.putBlob(ctx, node, leaseQuery(l), io.NewSectionReader(f, 0, list.Size), list.Size)
		case err != nil:
			return "", err
		case there.Ref != "":
			return there.Ref, nil
		case stuck > maxStuck:
			return "", last
		}
		had = min(there.Size, list.Size)
		q := leaseQuery(l)
		q.Set("ref", string(ref))
		q.Set("from", strconv.FormatInt(had, 10))
		q.Set("size", strconv.FormatInt(list.Size, 10))
		rest := list.Size - had
		got, err := c.putBlob(ctx, node, q, io.MultiReader(bytes.NewReader(list.Sums), io.NewSectionReader(f, had, rest)), int64(len(list.Sums))+rest)
		if cluster.CodeOf(err) != cluster.Unavailable || ctx.Err() != nil {
			return got, err
		}
		last = err
		c.gate.cfg.Logger.Info("a transfer broke off; it goes on from there", "ref", ref.Short(), "node", node, "err", err)
	}
}
