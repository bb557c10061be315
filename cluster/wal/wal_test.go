package wal_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/ahelme/comfyume/cluster/wal"
)

func open(t *testing.T, f wal.Files) *wal.Log {
	t.Helper()
	l, err := wal.Open(f)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// entries makes n entries from first on, which say in what generation they were made.
func entries(first uint64, n, size int, generation string) []wal.Entry {
	var out []wal.Entry
	for i := range uint64(n) {
		b := bytes.Repeat([]byte{byte(first + i)}, size)
		out = append(out, wal.Entry{Index: first + i, Data: append(b, fmt.Sprintf("%s-%d", generation, first+i)...)})
	}
	return out
}

func wantBounds(t *testing.T, l *wal.Log, first, last uint64) {
	t.Helper()
	if a, b := l.Bounds(); a != first || b != last {
		t.Fatalf("the log goes from %d to %d, want %d to %d", a, b, first, last)
	}
}

func wantEntries(t *testing.T, l *wal.Log, want ...wal.Entry) {
	t.Helper()
	for _, e := range want {
		if got, err := l.Read(e.Index); err != nil || !bytes.Equal(got, e.Data) {
			t.Fatalf("entry %d: %q, %v; want %q", e.Index, got, err, e.Data)
		}
	}
}

func TestAppendReadCutAndOpenAgain(t *testing.T) {
	dir := wal.Dir(t.TempDir())
	l := open(t, dir)
	wantBounds(t, l, 0, 0)
	a := entries(1, 10, 3, "a")
	if err := errors.Join(l.Append(a[:4]...), l.Append(a[4:]...)); err != nil {
		t.Fatal(err)
	}
	wantBounds(t, l, 1, 10)
	if _, err := l.Read(11); !errors.Is(err, wal.ErrNotFound) {
		t.Errorf("entry 11: %v", err)
	}
	if err := l.Append(entries(10, 1, 0, "x")...); err == nil {
		t.Error("entry 10 was appended twice")
	}
	b := entries(8, 2, 5, "b")
	if err := errors.Join(l.CutBack(8), l.Append(b...), l.CutFront(3)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		_, last := l.Bounds()
		if last != 9 {
			t.Fatalf("last is %d", last)
		}
		wantEntries(t, l, a[2:7]...)
		wantEntries(t, l, b...)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		l = open(t, dir)
	}
	far := entries(1000, 2, 1, "far")
	if err := l.Append(far...); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = open(t, dir)
	wantBounds(t, l, 1000, 1001)
	if err := l.CutBack(1000); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = open(t, dir)
	wantBounds(t, l, 0, 0)
}

func TestSegmentsGoWhenTheirEntriesDo(t *testing.T) {
	path := t.TempDir()
	l := open(t, wal.Dir(path))
	for i := range uint64(5) {
		if err := l.Append(entries(1+i*10, 10, 1<<20, "big")...); err != nil {
			t.Fatal(err)
		}
	}
	files := func() int { names, _ := os.ReadDir(path); return len(names) }
	if files() < 3 {
		t.Fatalf("50 MB in %d files", files())
	}
	before := files()
	if err := l.CutFront(45); err != nil {
		t.Fatal(err)
	}
	if files() >= before {
		t.Errorf("%d files before the cut, %d after", before, files())
	}
	wantBounds(t, l, 45, 50)
}

// held is what a log holds.
type held map[uint64][]byte

func (h held) with(batch []wal.Entry) held {
	h = maps.Clone(h)
	for _, e := range batch {
		h[e.Index] = e.Data
	}
	return h
}

func (h held) bounds() (first, last uint64) {
	if len(h) == 0 {
		return 0, 0
	}
	keys := slices.Sorted(maps.Keys(h))
	return keys[0], keys[len(keys)-1]
}

// is reports whether the log holds just that, or also what a cut of its front
// took: such a cut may be forgotten.
func (h held) is(l *wal.Log, ever held) error {
	first, last := l.Bounds()
	f, b := h.bounds()
	if last != b || first > f || (first == 0) != (f == 0) {
		return fmt.Errorf("it goes from %d to %d, want %d to %d", first, last, f, b)
	}
	if first == 0 {
		return nil
	}
	for i := first; i <= last; i++ {
		want := h[i]
		if i < f {
			want = ever[i]
		}
		if got, err := l.Read(i); err != nil || !bytes.Equal(got, want) {
			return fmt.Errorf("entry %d is %.20q, %w, want %.20q", i, got, err, want)
		}
	}
	return nil
}

// TestCrashes lets the machine crash at every kind of moment, thousands of
// times, and looks at what is left: all that Append returned from, and what was
// being appended either whole or not at all.
func TestCrashes(t *testing.T) {
	t.Parallel()
	runs := uint64(16)
	if os.Getenv("COMFYUME_LONG") != "" {
		runs = 10_000
	}
	crashes, torn := 0, 0
	for seed := range runs {
		r := rand.New(rand.NewPCG(seed, 1))
		d := newDisk()
		may := []held{{}} // one of those
		ever := held{}    // behind the front that was cut
		for life := range 5 {
			l, err := wal.Open(d)
			if err != nil {
				t.Fatalf("seed %d, life %d: %v", seed, life, err)
			}
			var is held
			var whys []error
			for i, h := range may {
				why := h.is(l, ever)
				if why == nil {
					is = h
					torn += i
					break
				}
				whys = append(whys, why)
			}
			if is == nil {
				t.Fatalf("seed %d, life %d: %v", seed, life, errors.Join(whys...))
			}
			first, last := l.Bounds()
			for i := first; i <= last && i > 0; i++ {
				if is[i] == nil {
					is[i] = ever[i]
				}
			}
			d.left = r.IntN(60)
			may = live(t, l, r, is, ever, fmt.Sprintf("%d.%d", seed, life))
			crashes++
			d = d.crash(r)
		}
	}
	if torn == 0 || torn > crashes*9/10 {
		t.Errorf("%d of %d crashes kept the older state: the disk does not forget as it should", torn, crashes)
	}
}

// live works until the machine crashes and returns what may be there then.
func live(t *testing.T, l *wal.Log, r *rand.Rand, durable, ever held, name string) []held {
	t.Helper()
	now := maps.Clone(durable) // with cuts that the next append keeps
	for step := 0; ; step++ {
		first, last := now.bounds()
		begin := last + 1
		switch k := r.IntN(12); {
		case k == 0 && last > first:
			to := first + 1 + r.Uint64N(last-first)
			if err := l.CutFront(to); err != nil {
				t.Fatal(err)
			}
			for i := first; i < to; i++ {
				ever[i] = now[i]
				delete(now, i)
				delete(durable, i)
			}
			continue
		case k <= 2 && last > first:
			from := first + 1 + r.Uint64N(last-first)
			if err := l.CutBack(from); err != nil {
				t.Fatal(err)
			}
			for i := from; i <= last; i++ {
				delete(now, i)
			}
			continue
		case k == 3 && last > 0:
			begin, now = last+2+r.Uint64N(5), held{}
		}
		batch := entries(begin, 1+r.IntN(4), r.IntN(1500), fmt.Sprintf("%s.%d", name, step))
		after := now.with(batch)
		switch err := l.Append(batch...); {
		case errors.Is(err, errCrash):
			return []held{after, durable}
		case err != nil:
			t.Fatal(err)
		}
		durable, now = after, maps.Clone(after)
	}
}

func TestFullDiskLosesNothingAndGoesOn(t *testing.T) {
	t.Parallel()
	for seed := range uint64(6) {
		r := rand.New(rand.NewPCG(seed, 2))
		d := newDisk()
		d.full = 1<<20 + r.IntN(3<<20)
		l := open(t, d)
		var all []wal.Entry
		refused := 0
		for i := uint64(1); len(all) < 60; {
			batch := entries(i, 1+r.IntN(3), r.IntN(200<<10), "full")
			if err := l.Append(batch...); err != nil {
				if !errors.Is(err, errFull) {
					t.Fatal(err)
				}
				refused++
				d.full += 2 << 20
				continue
			}
			all = append(all, batch...)
			i += uint64(len(batch))
		}
		if refused == 0 {
			t.Fatalf("seed %d: the disk was never full", seed)
		}
		again := open(t, d.crash(r))
		wantBounds(t, again, 1, uint64(len(all)))
		wantEntries(t, again, all...)
	}
}

// TestFlippedBits flips one bit anywhere. What was appended is there, or is said
// to be damaged; only the very last flush cannot be told from an interrupted one.
func TestFlippedBits(t *testing.T) {
	path := t.TempDir()
	l := open(t, wal.Dir(path))
	var all []wal.Entry
	for i := range uint64(30) {
		batch := entries(1+i*2, 2, int(i)*7, "bits")
		if err := l.Append(batch...); err != nil {
			t.Fatal(err)
		}
		all = append(all, batch...)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	names, err := filepath.Glob(filepath.Join(path, "*.wal"))
	if err != nil || len(names) != 1 {
		t.Fatal(names, err)
	}
	whole, err := os.ReadFile(names[0])
	if err != nil {
		t.Fatal(err)
	}
	end := bytes.LastIndexFunc(whole, func(r rune) bool { return r != 0 }) + 1
	found := 0
	for bit := range end * 8 {
		d := newDisk()
		b := bytes.Clone(whole[:end+100])
		b[bit/8] ^= 1 << (bit % 8)
		d.names[filepath.Base(names[0])] = &platter{d: d, data: b}
		l, err := wal.Open(d)
		var damaged *wal.DamagedError
		if errors.As(err, &damaged) {
			found++
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, last := l.Bounds(); last != 58 && last != 60 {
			t.Fatalf("bit %d: the log ends at %d", bit, last)
		}
		for _, e := range all[:58] {
			if got, err := l.Read(e.Index); err != nil || !bytes.Equal(got, e.Data) {
				t.Fatalf("bit %d: entry %d is %q, %v", bit, e.Index, got, err)
			}
		}
	}
	if found < end*8*8/10 {
		t.Errorf("%d of %d flipped bits were found", found, end*8)
	}
}

// TestDamageWhileOpen: a reader is told as well.
func TestDamageWhileOpen(t *testing.T) {
	d := newDisk()
	l := open(t, d)
	if err := l.Append(entries(1, 3, 100, "open")...); err != nil {
		t.Fatal(err)
	}
	for _, p := range d.names {
		p.data[200] ^= 1
	}
	var damaged *wal.DamagedError
	if _, err := l.Read(2); !errors.As(err, &damaged) || damaged.Entry != 2 {
		t.Errorf("entry 2: %v", err)
	}
}

// TestOneFlushForEachAppend counts what the whole package exists for.
func TestOneFlushForEachAppend(t *testing.T) {
	d := newDisk()
	l := open(t, d)
	before := d.syncs
	for i := range uint64(100) {
		if err := l.Append(entries(1+i, 1, 1000, "x")...); err != nil {
			t.Fatal(err)
		}
	}
	if n := d.syncs - before; n != 100 {
		t.Errorf("%d flushes for 100 calls", n)
	}
}

func FuzzOpen(f *testing.F) {
	d := newDisk()
	l, err := wal.Open(d)
	if err != nil {
		f.Fatal(err)
	}
	if err := errors.Join(l.Append(entries(1, 2, 9, "a")...), l.Append(entries(3, 1, 0, "b")...)); err != nil {
		f.Fatal(err)
	}
	for _, p := range d.names {
		f.Add(p.data[:300], uint64(1), false)
	}
	f.Add([]byte{}, uint64(7), true)
	f.Fuzz(func(t *testing.T, b []byte, first uint64, fresh bool) {
		d := newDisk()
		name := fmt.Sprintf("%016x-%016x", 1, first)
		if fresh {
			name += "-fresh"
		}
		d.names[name+".wal"] = &platter{d: d, data: b}
		l, err := wal.Open(d)
		if err != nil {
			return
		}
		first, last := l.Bounds()
		for i := first; i != 0 && i <= last; i++ {
			if _, err := l.Read(i); err != nil {
				t.Fatalf("entry %d of %d to %d: %v", i, first, last, err)
			}
		}
		if err := l.Append(wal.Entry{Index: last + 1, Data: []byte("next")}); err != nil {
			t.Fatal(err)
		}
		if got, err := l.Read(last + 1); err != nil || string(got) != "next" {
			t.Fatalf("%q, %v", got, err)
		}
	})
}
