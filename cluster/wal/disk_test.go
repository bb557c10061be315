package wal_test

import (
	"errors"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"slices"

	"github.com/ahelme/comfyume/cluster/wal"
)

// disk is a wal.Files that forgets in a crash what was not flushed: any sector
// of a write may have reached it or not, as may a name that was made or removed.
type disk struct {
	names  map[string]*platter // as programs see them
	synced map[string]*platter // as they are after a crash, for certain
	left   int                 // writes and flushes before the crash, -1 = never
	full   int                 // bytes that still fit, -1 = endless
	syncs  int
}

var (
	errCrash = errors.New("the machine has crashed")
	errFull  = errors.New("no space left on device")
)

// platter is a file's bytes.
type platter struct {
	d       *disk
	data    []byte
	synced  []byte
	pending []extent
}

type extent struct {
	at int64
	b  []byte
}

const sector = 512

func newDisk() *disk {
	return &disk{names: map[string]*platter{}, synced: map[string]*platter{}, left: -1, full: -1}
}

// step counts one operation towards the crash.
func (d *disk) step() error {
	if d.left == 0 {
		return errCrash
	}
	if d.left > 0 {
		d.left--
	}
	return nil
}

func (d *disk) Open(name string) (wal.File, error) {
	if err := d.step(); err != nil {
		return nil, err
	}
	p := d.names[name]
	if p == nil {
		p = &platter{d: d}
		d.names[name] = p
	}
	return p, nil
}

func (d *disk) Remove(name string) error {
	if err := d.step(); err != nil {
		return err
	}
	if d.names[name] == nil {
		return fs.ErrNotExist
	}
	delete(d.names, name)
	return nil
}

func (d *disk) List() ([]string, error) { return slices.Sorted(maps.Keys(d.names)), nil }

func (d *disk) Sync() error {
	if err := d.step(); err != nil {
		return err
	}
	d.synced = maps.Clone(d.names)
	return nil
}

// crash is the disk after one.
func (d *disk) crash(r *rand.Rand) *disk {
	after := newDisk()
	for _, name := range slices.Sorted(maps.Keys(d.synced)) {
		if _, removed := d.names[name]; !removed && r.IntN(2) == 0 {
			continue
		}
		after.names[name] = d.synced[name].crash(after, r)
	}
	for _, name := range slices.Sorted(maps.Keys(d.names)) {
		if d.synced[name] != d.names[name] && r.IntN(2) == 0 {
			after.names[name] = d.names[name].crash(after, r)
		}
	}
	after.synced = maps.Clone(after.names)
	return after
}

func (p *platter) crash(d *disk, r *rand.Rand) *platter {
	out := &platter{d: d, synced: slices.Clone(p.synced)}
	for _, w := range p.pending {
		for from := w.at; from < w.at+int64(len(w.b)); {
			to := min((from/sector+1)*sector, w.at+int64(len(w.b)))
			if r.IntN(2) == 0 {
				out.synced = overlay(out.synced, from, w.b[from-w.at:to-w.at])
			}
			from = to
		}
	}
	out.data = slices.Clone(out.synced)
	return out
}

func overlay(b []byte, at int64, with []byte) []byte {
	if need := int(at) + len(with); need > len(b) { // what Grow adds was never written to: zeros
		b = slices.Grow(b, need-len(b))[:need]
	}
	copy(b[at:], with)
	return b
}

func (p *platter) ReadAt(b []byte, at int64) (int, error) {
	if at >= int64(len(p.data)) {
		return 0, io.EOF
	}
	n := copy(b, p.data[at:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (p *platter) WriteAt(b []byte, at int64) (int, error) {
	err := p.d.step()
	if grown := int(at) + len(b) - len(p.data); p.d.full >= 0 && grown > p.d.full {
		b, err = b[:max(0, len(b)-grown+p.d.full)], errFull // what fits is written
	}
	if p.d.full >= 0 {
		p.d.full -= max(0, int(at)+len(b)-len(p.data))
	}
	p.data = overlay(p.data, at, b)
	p.pending = append(p.pending, extent{at, slices.Clone(b)})
	return len(b), err
}

func (p *platter) Sync() error {
	if err := p.d.step(); err != nil {
		return err
	}
	p.d.syncs++
	for _, w := range p.pending {
		p.synced = overlay(p.synced, w.at, w.b)
	}
	p.pending = nil
	return nil
}

func (p *platter) Size() (int64, error) { return int64(len(p.data)), nil }

func (p *platter) Close() error { return nil }
