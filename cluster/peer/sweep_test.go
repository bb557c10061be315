package peer_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/blob"
	"github.com/ahelme/comfyume/cluster/peer"
)

// broom is a sweep at a time of our own, of a table that is a list.
type broom struct {
	*peer.Sweep
	t      *testing.T
	root   string
	dir    *blob.Dir
	mirror *peer.Mirror
	now    time.Time
	named  map[cluster.Ref]bool
	asked  int
	ask    func(n int) error // at the nth question to the leader
	why    string
}

func newBroom(t *testing.T) *broom {
	t.Helper()
	b := &broom{t: t, root: t.TempDir(), now: time.Unix(1_800_000_000, 0), named: map[cluster.Ref]bool{}}
	log := slog.New(slog.DiscardHandler)
	var err error
	if b.dir, err = blob.OpenDir(blob.DirConfig{Path: b.root, Logger: log}); err != nil {
		t.Fatal(err)
	}
	b.mirror = peer.NewMirror(peer.MirrorConfig{Local: b.dir, Others: func() []cluster.NodeID { return nil }, Logger: log})
	b.Sweep = peer.NewSweep(peer.SweepConfig{
		Local: b.dir, Mirror: b.mirror, Against: func() (string, error) { return b.why, nil }, Now: func() time.Time { return b.now }, Logger: log,
		Named: func(context.Context) (map[cluster.Ref]bool, error) {
			b.asked++
			if b.ask != nil {
				if err := b.ask(b.asked); err != nil {
					return nil, err
				}
			}
			out := map[cluster.Ref]bool{}
			for ref, is := range b.named {
				if is {
					out[ref] = true
				}
			}
			return out, nil
		},
	})
	return b
}

// put stores a text so long ago.
func (b *broom) put(text string, ago time.Duration) cluster.Ref {
	b.t.Helper()
	ref, _, err := b.dir.Put(b.t.Context(), strings.NewReader(text), int64(len(text)))
	if err != nil {
		b.t.Fatal(err)
	}
	at := b.now.Add(-ago)
	if err := os.Chtimes(filepath.Join(b.root, "blobs", string(ref[:2]), string(ref)), at, at); err != nil {
		b.t.Fatal(err)
	}
	return ref
}

func (b *broom) look(want cluster.Code) {
	b.t.Helper()
	if err := b.Look(b.t.Context()); cluster.CodeOf(err) != want {
		b.t.Errorf("look: %v, want %q", err, want)
	}
}

// is says where a blob lies: here, trash or gone.
func (b *broom) is(ref cluster.Ref, want string) {
	b.t.Helper()
	got := "gone"
	if _, ok := b.dir.Has(b.t.Context(), ref); ok {
		got = "here"
	} else if _, err := os.Stat(filepath.Join(b.root, "trash", string(ref))); err == nil {
		got = "trash"
	}
	if got != want {
		b.t.Errorf("%s is %s, want %s", ref.Short(), got, want)
	}
}

func TestWhatNothingNamesGoesInTwoDays(t *testing.T) {
	b := newBroom(t)
	kept, left, young := b.put("named", 90*24*time.Hour), b.put("left", 25*time.Hour), b.put("young", 23*time.Hour)
	b.named[kept] = true
	b.look("")
	b.is(kept, "here")
	b.is(left, "trash")
	b.is(young, "here")
	if u, err := b.dir.Usage(); err != nil || u.Blobs != 2 || u.Trash != 1 || u.Bytes != 10 {
		t.Errorf("usage %+v, %v", u, err)
	}
	b.now = b.now.Add(23 * time.Hour)
	b.look("")
	b.is(left, "trash")
	b.is(young, "trash")
	b.now = b.now.Add(2 * time.Hour)
	b.look("")
	b.is(left, "gone")
	b.is(young, "trash")
	b.is(kept, "here")
	// The same bytes again are a file like any other.
	b.is(b.put("left", 0), "here")
}

// TestFileIsNamedWhileItIsSweptAway: a row that appears at any moment has its bytes.
func TestFileIsNamedWhileItIsSweptAway(t *testing.T) {
	b := newBroom(t)
	b.named[b.put("other", 0)] = true
	ref := b.put("used again", 48*time.Hour)
	b.ask = func(n int) error { b.named[ref] = n == 2; return nil } // between look and rename
	b.look("")
	b.is(ref, "here")

	b = newBroom(t)
	b.named[b.put("other", 0)] = true
	ref = b.put("used again", 48*time.Hour)
	b.look("")
	b.is(ref, "trash")
	b.now = b.now.Add(48 * time.Hour)                               // due to be removed
	b.ask = func(n int) error { b.named[ref] = n == 4; return nil } // at the last question before
	b.look("")
	b.is(ref, "here")
	f, err := b.dir.Open(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	_ = f.Close()

	// Asked for before the next look, it comes out of the trash at once.
	b = newBroom(t)
	b.named[b.put("other", 0)] = true
	ref = b.put("used again", 48*time.Hour)
	b.look("")
	f, err = b.mirror.Open(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	b.is(ref, "here")
}

// TestFileIsStoredAgainWhileItIsSweptAway: an upload of the same bytes is new.
func TestFileIsStoredAgainWhileItIsSweptAway(t *testing.T) {
	b := newBroom(t)
	b.named[b.put("other", 0)] = true
	ref := b.put("again", 48*time.Hour)
	b.ask = func(n int) error {
		if n == 1 {
			b.put("again", 0) // its row comes later
		}
		return nil
	}
	b.look("")
	b.is(ref, "here")
}

func TestNoQuorumNoDeletion(t *testing.T) {
	away := cluster.Errorf(cluster.NoLeader, "no leader")
	for failing := 1; failing <= 2; failing++ {
		b := newBroom(t)
		b.named[b.put("other", 0)] = true
		ref := b.put("left", 48*time.Hour)
		b.ask = func(n int) error {
			if n >= failing {
				return away
			}
			return nil
		}
		b.look(cluster.NoLeader)
		b.is(ref, "here")
	}
	b := newBroom(t)
	b.named[b.put("other", 0)] = true
	ref := b.put("left", 48*time.Hour)
	b.look("")
	b.now = b.now.Add(100 * time.Hour)
	b.ask = func(int) error { return away }
	b.look(cluster.NoLeader)
	b.is(ref, "trash")
}

// TestTableIsNewAndTheFilesAreOld: an empty table, another workshop's folder and a
// history that can be brought back delete nothing.
func TestTableIsNewAndTheFilesAreOld(t *testing.T) { // predecessor 48
	b := newBroom(t)
	ref := b.put("all that there is", 48*time.Hour)
	b.look("")
	b.is(ref, "here")
	b.named[b.put("other", 0)] = true
	b.why = "left behind"
	b.look(cluster.Conflict)
	b.is(ref, "here")
	b.why = ""
	b.look("")
	b.is(ref, "trash")
}

func TestDamagedCopyStaysWhileItIsTheOnlyOne(t *testing.T) {
	b := newBroom(t)
	b.named[b.put("other", 0)] = true
	ref := b.put("a film", 0)
	b.named[ref] = true
	path := filepath.Join(b.root, "blobs", string(ref[:2]), string(ref))
	if err := os.WriteFile(path, []byte("a filn"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := b.dir.Reread(t.Context(), ref); cluster.CodeOf(err) != cluster.Internal {
		t.Fatal(err)
	}
	aside := filepath.Join(b.root, "quarantine", string(ref))
	old := b.now.Add(-40 * 24 * time.Hour)
	if err := os.Chtimes(aside, old, old); err != nil {
		t.Fatal(err)
	}
	b.look("")
	if _, err := os.Stat(aside); err != nil {
		t.Errorf("the only copy is gone: %v", err)
	}
	b.put("a film", 0)
	b.look("")
	if _, err := os.Stat(aside); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a damaged copy beside a whole one stays: %v", err)
	}
}

// forgetful are two stores with the same three files of 5 MB, of which the first has
// a damaged one.
func forgetful(t *testing.T) (root string, here, there *blob.Dir, refs []cluster.Ref, named map[cluster.Ref]bool) {
	t.Helper()
	root, named = t.TempDir(), map[cluster.Ref]bool{}
	open := func(name string) *blob.Dir {
		d, err := blob.OpenDir(blob.DirConfig{Path: filepath.Join(root, name), Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	here, there = open("here"), open("there")
	for _, sign := range "abc" {
		for _, d := range []*blob.Dir{there, here} {
			ref, _, err := d.Put(t.Context(), strings.NewReader(strings.Repeat(string(sign), 5_000_000)), -1)
			if err != nil {
				t.Fatal(err)
			}
			named[ref] = true
			if d == here {
				refs = append(refs, ref)
			}
		}
	}
	path := filepath.Join(root, "here", "blobs", string(refs[1][:2]), string(refs[1]))
	if err := os.WriteFile(path, []byte(strings.Repeat("b", 4_999_999)+"c"), 0o600); err != nil {
		t.Fatal(err)
	}
	return root, here, there, refs, named
}

// TestDiskForgetsAndNobodyReads: each file is read again within a week, at a pace,
// and what is damaged is had from elsewhere.
func TestDiskForgetsAndNobodyReads(t *testing.T) { // predecessor 44
	log := slog.New(slog.DiscardHandler)
	root, here, there, refs, named := forgetful(t)
	synctest.Test(t, func(t *testing.T) {
		mirror := peer.NewMirror(peer.MirrorConfig{
			Local: here, Others: func() []cluster.NodeID { return nil }, Last: func(ctx context.Context, ref cluster.Ref) (io.ReadCloser, int64, error) {
				f, err := there.Open(ctx, ref)
				if err != nil {
					return nil, 0, err
				}
				return f, f.Size(), nil
			}, Logger: log,
			Refs: func(cluster.Change) []cluster.Ref { return refs }, Watch: func() peer.Changes { return still{} },
		})
		scrub := func() *peer.Scrub {
			return peer.NewScrub(peer.ScrubConfig{Local: here, Mirror: mirror, Named: func() map[cluster.Ref]bool { return named }, State: filepath.Join(root, "state"), Rate: 1_000_000, Logger: log})
		}
		s := scrub()
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 2)
		go func() { ended <- mirror.Run(ctx) }()
		go func() { ended <- s.Run(ctx) }()
		time.Sleep(10*time.Minute + 14*time.Second)
		if at := s.Status(); at.Done || at.Read == 0 {
			t.Errorf("15 MB at 1 MB/s after 14 s: %+v", at)
		}
		time.Sleep(5 * time.Second)
		at := s.Status()
		if !at.Done || at.Damaged != 1 || at.Read != 15_000_000 || at.Finished != at.Began+15_000 {
			t.Errorf("after 19 s: %+v", at)
		}
		if size, ok := here.Has(t.Context(), refs[1]); !ok || size != 5_000_000 || mirror.Missing() != 0 {
			t.Errorf("the damaged one: %d bytes, %v; %d are missing", size, ok, mirror.Missing())
		}
		if _, err := here.Reread(t.Context(), refs[1]); err != nil {
			t.Error(err)
		}
		cancel()
		for range 2 {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
		// Another process goes on with it: nothing is due before the sixth day.
		s = scrub()
		if s.Status() != at {
			t.Errorf("it has forgotten: %+v", s.Status())
		}
		ctx, cancel = context.WithCancel(t.Context())
		go func() { ended <- s.Run(ctx) }()
		time.Sleep(5 * 24 * time.Hour)
		if got := s.Status(); got != at {
			t.Errorf("on the fifth day: %+v", got)
		}
		time.Sleep(2 * 24 * time.Hour)
		if got := s.Status(); !got.Done || got.Began == at.Began || got.Damaged != 1 {
			t.Errorf("after a week: %+v", got)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// still is a table in which nothing moves.
type still struct{}

func (still) Next(ctx context.Context) (cluster.Change, error) {
	<-ctx.Done()
	return cluster.Change{}, ctx.Err()
}

func (still) Close() {}
