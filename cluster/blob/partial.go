package blob

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/ahelme/comfyume/cluster"
)

// What a Partial says of bytes that are not what they should be. The wrong ones
// are gone by then, and Size is where to go on.
var (
	// ErrChunk: who sent the last bytes sent a chunk that is not what the list says.
	ErrChunk error = cluster.Errorf(cluster.Unavailable, "a part of the file came wrong")
	// ErrTail: a chunk is wrong of which a part was here before: it is nobody's fault.
	ErrTail error = cluster.Errorf(cluster.Unavailable, "a part of the file that was here from before was wrong")
	// ErrList: every chunk is what the list says, and the whole is not what its
	// name says: the list is false. It has been dropped.
	ErrList error = cluster.Errorf(cluster.Unavailable, "the list of the file's parts was false")
)

// Partial is a large blob of which a part is here: partial/abcdef... are its
// bytes from the first on, partial/abcdef....list says what its chunks must be.
// Both outlive the process; the next one reads what is there again before it
// counts. The blob gets its name when the whole is what the name says.
type Partial struct {
	d     *Dir
	ref   Ref
	turn  chan struct{} // holds one token while somebody works on it
	users int           // who have it or wait for it; d.mu guards it

	f      *os.File // nil: there is none yet
	list   Chunks
	n      int64     // so many bytes are in the sums
	whole  hash.Hash // of all of them
	before hash.Hash // of those before the chunk in which n lies
	part   hash.Hash // of those in it
}

func (d *Dir) partial(ref Ref) string { return filepath.Join(d.cfg.Path, "partial", string(ref)) }

const listName = ".list"

// Partial returns what is here of a large blob, which may be nothing, and checks
// it. Others who ask for the same wait until Close.
func (d *Dir) Partial(ctx context.Context, ref Ref) (*Partial, error) {
	if !ref.Valid() {
		return nil, cluster.Errorf(cluster.NotFound, "no such file")
	}
	d.mu.Lock()
	p := d.partials[ref]
	if p == nil {
		p = &Partial{d: d, ref: ref, turn: make(chan struct{}, 1)}
		p.reset()
		d.partials[ref] = p
	}
	p.users++
	d.mu.Unlock()
	select {
	case p.turn <- struct{}{}:
	case <-ctx.Done():
		p.leave()
		return nil, context.Cause(ctx)
	}
	if err := p.open(ctx); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// Close lets the next one have it. What is here stays.
func (p *Partial) Close() (err error) {
	if p.f != nil {
		err = p.f.Close()
		p.f = nil
	}
	<-p.turn
	p.leave()
	return err
}

func (p *Partial) leave() {
	p.d.mu.Lock()
	defer p.d.mu.Unlock()
	if p.users--; p.users == 0 && p.n == 0 {
		delete(p.d.partials, p.ref)
	}
}

// Chunks is the list by which bytes are checked; Size 0: there is none yet.
func (p *Partial) Chunks() Chunks { return p.list }

// Size is how many bytes are here.
func (p *Partial) Size() int64 { return p.n }

func (p *Partial) reset() {
	p.n, p.whole, p.before, p.part = 0, sha256.New(), sha256.New(), sha256.New()
}

func (p *Partial) open(ctx context.Context) (err error) {
	p.f, err = os.OpenFile(p.d.partial(p.ref), os.O_RDWR, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		p.list = Chunks{}
		p.reset()
		return nil
	}
	if err != nil {
		return storeError(err)
	}
	if !p.list.valid() {
		raw, err := os.ReadFile(p.d.partial(p.ref) + listName)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return storeError(err)
		}
		var l Chunks
		if err == nil && cluster.Unmarshal(raw, &l) == nil && l.valid() {
			p.list = l
		}
		p.reset()
	}
	return p.check(ctx)
}

// check reads what is in the file and not yet in the sums, up to the first chunk
// that is wrong. If ctx ends first, the next one goes on from there.
func (p *Partial) check(ctx context.Context) error {
	if !p.list.valid() {
		return nil
	}
	info, err := p.f.Stat()
	if err != nil {
		return storeError(err)
	}
	if info.Size() < p.n { // somebody has cut it
		p.reset()
	}
	buf := copyBuffers.Get().(*[256 << 10]byte)
	defer copyBuffers.Put(buf)
	for p.n < min(info.Size(), p.list.Size) {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		k, err := p.f.ReadAt(buf[:min(int64(len(buf)), p.end()-p.n, info.Size()-p.n)], p.n)
		if k == 0 {
			return storeError(err)
		}
		if !p.feed(buf[:k]) {
			p.d.cfg.Logger.Warn("a part of a file that was here from before is wrong and comes again", "ref", p.ref.Short(), "from", p.n, "bytes", info.Size()-p.n)
			return p.cut()
		}
	}
	if info.Size() > p.n {
		return p.cut()
	}
	return nil
}

// end of the chunk in which the next byte lies.
func (p *Partial) end() int64 { return min((p.n/Chunk+1)*Chunk, p.list.Size) }

// feed takes the next bytes, which end in the same chunk, into the sums. If they
// end a chunk that is wrong, n is its beginning again.
func (p *Partial) feed(b []byte) bool {
	from, end := p.n/Chunk*Chunk, p.end()
	_, _ = p.part.Write(b) // a hash takes everything
	_, _ = p.whole.Write(b)
	if p.n += int64(len(b)); p.n < end {
		return true
	}
	right := bytes.Equal(p.part.Sum(nil), p.list.sum(from))
	p.part.Reset()
	if right {
		p.before = clone(p.whole)
		return true
	}
	p.n, p.whole = from, clone(p.before)
	return false
}

func clone(h hash.Hash) hash.Hash {
	c, err := h.(hash.Cloner).Clone() //nolint:forcetypeassert // crypto/sha256 promises it
	if err != nil {
		panic(err)
	}
	return c
}

// cut drops what is in the file behind n.
func (p *Partial) cut() error {
	if err := p.f.Truncate(p.n); err != nil {
		return storeError(err)
	}
	return nil
}

// Adopt takes a list. What is here is checked against it.
func (p *Partial) Adopt(ctx context.Context, l Chunks) (err error) {
	if !l.valid() {
		return cluster.Errorf(cluster.Invalid, "the list of a file's parts cannot be read")
	}
	if p.list.same(l) {
		return nil
	}
	p.d.expire()
	raw, err := cluster.Marshal(l)
	if err != nil {
		return fmt.Errorf("write a list of chunks: %w", err)
	}
	if p.f == nil {
		if p.f, err = os.OpenFile(p.d.partial(p.ref), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
			return storeError(err)
		}
	}
	// Whole or not there: it is not flushed, since it would be asked for again.
	tmp := filepath.Join(p.d.tmp(), string(p.ref)+listName)
	if err := os.WriteFile(tmp, raw, 0o600); err != nil {
		return storeError(errors.Join(err, os.Remove(tmp)))
	}
	if err := os.Rename(tmp, p.d.partial(p.ref)+listName); err != nil {
		return storeError(err)
	}
	p.list = l
	p.reset()
	return p.check(ctx)
}

// Drop drops the list, which is false or in doubt. The bytes stay for the next.
func (p *Partial) Drop() error {
	p.list = Chunks{}
	p.reset()
	if err := remove(p.d.partial(p.ref) + listName); err != nil {
		return storeError(err)
	}
	return nil
}

// Take appends bytes from where the last ones ended, and checks each chunk as it
// ends. Space for all that is missing is set aside first. It returns nil when the
// whole is right, on the disk and has its name; at any error, what has come so
// far stays. r is not read when nothing is missing.
func (p *Partial) Take(ctx context.Context, r io.Reader) (err error) {
	if p.f == nil || !p.list.valid() {
		return cluster.Errorf(cluster.Invalid, "nobody has said yet what the parts of file %s are", p.ref.Short())
	}
	space := &reservation{d: p.d, until: RefuseAt}
	defer space.release()
	if err := space.want(p.list.Size - p.n); err != nil {
		return err
	}
	disk := flusher{f: p.f}
	err = p.take(ctx, r, space, &disk)
	if err = errors.Join(err, disk.wait()); err != nil {
		return storeError(err)
	}
	return p.finish()
}

func (p *Partial) take(ctx context.Context, r io.Reader, space *reservation, disk *flusher) error {
	buf := copyBuffers.Get().(*[256 << 10]byte)
	defer copyBuffers.Put(buf)
	older := p.n%Chunk > 0 // some of the chunk was here before
	for p.n < p.list.Size {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		k, err := r.Read(buf[:min(int64(len(buf)), p.end()-p.n)])
		if k > 0 {
			if _, err := p.f.WriteAt(buf[:k], p.n); err != nil {
				return errors.Join(err, p.cut())
			}
			space.wrote(int64(k))
			if !p.feed(buf[:k]) {
				if older {
					return errors.Join(ErrTail, p.cut())
				}
				return errors.Join(ErrChunk, p.cut())
			}
			if p.n%Chunk == 0 {
				older = false
				if err := disk.kick(); err != nil {
					return err
				}
			}
		}
		if errors.Is(err, io.EOF) && p.n < p.list.Size {
			return cluster.Errorf(cluster.Unavailable, "the transfer ended after %d of %d bytes; what has come is kept", p.n, p.list.Size)
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
	}
	return nil
}

// finish gives the blob its name if it is what the name says.
func (p *Partial) finish() error {
	if hex.EncodeToString(p.whole.Sum(nil)) != string(p.ref) {
		return errors.Join(ErrList, p.Drop())
	}
	if err := p.f.Sync(); err != nil {
		return storeError(err)
	}
	if err := p.d.enter(p.d.partial(p.ref), p.ref, p.list.Size, p.list); err != nil {
		return err
	}
	return p.Drop()
}

// flusher brings a file to the disk while more of it comes: the last flush would
// else take as long as all the rest, and whoever waits for it would give up.
type flusher struct {
	f    *os.File
	done chan error // one send; nil: nothing is under way
}

func (d *flusher) kick() error {
	if d.done != nil {
		select {
		case err := <-d.done:
			d.done = nil
			if err != nil {
				return err
			}
		default:
			return nil
		}
	}
	done := make(chan error, 1)
	d.done = done
	go func() { done <- d.f.Sync() }()
	return nil
}

func (d *flusher) wait() error {
	if d.done == nil {
		return nil
	}
	return <-d.done
}
