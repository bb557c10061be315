package backup_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/blob"
	"github.com/ahelme/comfyume/roles/backup"
)

// shop is a workshop of a table and some files.
type shop struct {
	t     *testing.T
	store *blob.Dir
	table string
	image backup.Image
}

func newShop(t *testing.T) *shop {
	t.Helper()
	store, err := blob.OpenDir(blob.DirConfig{Path: t.TempDir(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return &shop{t: t, store: store, table: "the table", image: backup.Image{Workshop: "w1", Node: "mello", Index: 7, Made: time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)}}
}

func (s *shop) add(text string) cluster.Ref {
	s.t.Helper()
	ref, _, err := s.store.Put(s.t.Context(), strings.NewReader(text), int64(len(text)))
	if err != nil {
		s.t.Fatal(err)
	}
	s.image.Refs = append(s.image.Refs, ref)
	s.image.Index++
	return ref
}

func (s *shop) Write(_ context.Context, w io.Writer) (backup.Image, error) {
	_, err := io.WriteString(w, s.table)
	return s.image, err
}

func (s *shop) Open(ctx context.Context, ref cluster.Ref) (blob.File, error) {
	return s.store.Open(ctx, ref)
}

func folder(t *testing.T) (*backup.Dir, string) {
	t.Helper()
	path := t.TempDir()
	d := backup.New(path, slog.New(slog.DiscardHandler))
	if err := d.Prepare("w1"); err != nil {
		t.Fatal(err)
	}
	return d, path
}

func code(t *testing.T, err error, want cluster.Code, says string) {
	t.Helper()
	if cluster.CodeOf(err) != want || !strings.Contains(cluster.MessageOf(err), says) {
		t.Errorf("got %v (%s), want %s with %q", err, cluster.CodeOf(err), want, says)
	}
}

func TestWhatIsBackedUpComesBack(t *testing.T) {
	s := newShop(t)
	d, path := folder(t)
	a, b := s.add("a picture"), s.add(strings.Repeat("a film ", 100_000))
	m, err := d.Run(t.Context(), s)
	if err != nil || len(m.Blobs) != 2 || len(m.Missing) != 0 {
		t.Fatalf("%+v, %v", m, err)
	}
	again, err := backup.New(path, slog.New(slog.DiscardHandler)).Find("")
	if err != nil || again.Name != m.Name || again.Index != 9 || again.Bytes() != int64(len("the table")+len("a picture")+700_000) {
		t.Fatalf("%+v, %v", again, err)
	}
	f, err := d.OpenTable(again)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(f)
	if f.Close(); err != nil || string(raw) != "the table" {
		t.Errorf("the table is %q, %v", raw, err)
	}
	for _, ref := range []cluster.Ref{a, b} {
		f, err := d.OpenBlob(t.Context(), ref)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := io.ReadAll(f)
		if sum := sha256.Sum256(raw); f.Close() != nil || err != nil || hex.EncodeToString(sum[:]) != string(ref) {
			t.Errorf("%s came back as %x, %v", ref, sum, err)
		}
	}
	if bad, err := d.Verify(t.Context(), again); err != nil || len(bad) != 0 {
		t.Errorf("damaged: %v, %v", bad, err)
	}
}

// TestBackupWithHalfTheFilesSaidDone (predecessor 43's kin): a file that is not
// to be had is named, and the backup is not called whole.
func TestBackupWithHalfTheFilesSaidDone(t *testing.T) {
	s := newShop(t)
	d, _ := folder(t)
	s.add("here")
	gone := s.add("gone")
	if err := s.store.Remove(gone); err != nil {
		t.Fatal(err)
	}
	m, err := d.Run(t.Context(), s)
	code(t, err, cluster.Internal, "1 of 2 files were not to be had")
	if m == nil || len(m.Missing) != 1 || m.Missing[0] != gone || len(m.Blobs) != 1 {
		t.Fatalf("%+v", m)
	}
	if _, _, err := s.store.Put(t.Context(), strings.NewReader("gone"), 4); err != nil {
		t.Fatal(err)
	}
	s.image.Index++
	if m, err = d.Run(t.Context(), s); err != nil || len(m.Missing) != 0 {
		t.Errorf("once it is back: %+v, %v", m, err)
	}
}

// TestFlippedByteInTheBackup: verify finds it, nobody is given it, and the next
// run copies it anew.
func TestFlippedByteInTheBackup(t *testing.T) {
	s := newShop(t)
	d, path := folder(t)
	ref := s.add("precious")
	m, err := d.Run(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(path, "blobs", string(ref[:2]), string(ref))
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	raw[3] ^= 1
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(file, info.ModTime(), info.ModTime()); err != nil { // as if nothing had been
		t.Fatal(err)
	}
	if bad, err := d.Verify(t.Context(), m); err != nil || len(bad) != 1 || bad[0] != ref {
		t.Fatalf("verify found %v, %v", bad, err)
	}
	if _, err := d.OpenBlob(t.Context(), ref); cluster.CodeOf(err) != cluster.NotFound {
		t.Errorf("a damaged file: %v", err)
	}
	s.image.Index++
	if m, err = d.Run(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if bad, err := d.Verify(t.Context(), m); err != nil || len(bad) != 0 {
		t.Errorf("after another run: %v, %v", bad, err)
	}
	table := filepath.Join(path, "tables", m.Table.File)
	if err := os.WriteFile(table, []byte("teh table"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = d.Verify(t.Context(), m)
	code(t, err, cluster.Internal, "is damaged: take another")
}

// TestTheWrongFolderGetsNothing: one that is not mounted, one that is gone, one of
// another workshop, one with other things in it.
func TestTheWrongFolderGetsNothing(t *testing.T) {
	s := newShop(t)
	s.add("x")
	quiet := slog.New(slog.DiscardHandler)
	empty := t.TempDir()
	_, err := backup.New(empty, quiet).Run(t.Context(), s)
	code(t, err, cluster.NotFound, "may not be mounted")
	if left, _ := os.ReadDir(empty); len(left) > 0 {
		t.Errorf("it holds %v", left)
	}
	_, err = backup.New(filepath.Join(empty, "away"), quiet).Run(t.Context(), s)
	code(t, err, cluster.Unavailable, "is not there")
	err = backup.New(filepath.Join(empty, "away"), quiet).Prepare("w1")
	code(t, err, cluster.Unavailable, "is not there")

	d, path := folder(t)
	s.image.Workshop = "w2"
	_, err = d.Run(t.Context(), s)
	code(t, err, cluster.Conflict, "another workshop (w1)")
	if all, _ := d.List(); len(all) > 0 {
		t.Errorf("a backup was made: %+v", all)
	}
	if left, _ := os.ReadDir(filepath.Join(path, "tables")); len(left) > 0 {
		t.Errorf("a table was left: %v", left)
	}
	if err := d.Prepare("w2"); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Run(t.Context(), s); err != nil {
		t.Errorf("once it was said that it is right: %v", err)
	}

	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "holiday.jpg"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	code(t, backup.New(full, quiet).Prepare("w1"), cluster.Conflict, "is not empty")
}

// TestHalfAManifest is named, and hides no other.
func TestHalfAManifest(t *testing.T) {
	s := newShop(t)
	d, path := folder(t)
	s.add("x")
	m, err := d.Run(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(path, "manifests", "20990101T000000Z-9.json"), []byte(`{"schema_ver`), 0o600); err != nil {
		t.Fatal(err)
	}
	all, err := d.List()
	code(t, err, cluster.Internal, "20990101T000000Z-9.json")
	if len(all) != 1 || all[0].Name != m.Name {
		t.Errorf("%+v", all)
	}
	if newest, err := d.Find(""); err != nil || newest.Name != m.Name {
		t.Errorf("%+v, %v", newest, err)
	}
	if err := d.Thin(time.Now()); err == nil {
		t.Error("backups were thinned out although one could not be read")
	}
}

func TestOldBackupsAreThinnedOut(t *testing.T) {
	s := newShop(t)
	d, path := folder(t)
	ref := s.add("x")
	begin := s.image.Made
	now := begin.Add(30 * 24 * time.Hour)
	for at := begin; !at.After(now); at = at.Add(37 * time.Minute) {
		s.image.Made = at
		s.image.Index++
		s.table = fmt.Sprint("table ", s.image.Index)
		if _, err := d.Run(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Thin(now); err != nil {
		t.Fatal(err)
	}
	all, err := d.List()
	if err != nil {
		t.Fatal(err)
	}
	var recent, hours, days int
	for _, m := range all {
		switch age := now.Sub(m.Made); {
		case age <= 2*time.Hour:
			recent++
		case age <= 48*time.Hour:
			hours++
		default:
			days++
		}
		if bad, err := d.Verify(t.Context(), &m); err != nil || len(bad) > 0 {
			t.Errorf("%s: %v, %v", m.Name, bad, err)
		}
	}
	if recent < 3 || recent > 4 || hours < 45 || hours > 47 || days < 28 || days > 30 {
		t.Errorf("kept %d of the last two hours, %d of two days, %d older", recent, hours, days)
	}
	if tables, err := os.ReadDir(filepath.Join(path, "tables")); err != nil || len(tables) != len(all) {
		t.Errorf("%d tables for %d backups, %v", len(tables), len(all), err)
	}
	if f, err := d.OpenBlob(t.Context(), ref); err != nil {
		t.Error(err)
	} else {
		f.Close()
	}
}

// TestKilledInTheMiddle: what a killed run leaves is no backup, and the next run
// does not copy again what was there.
func TestKilledInTheMiddle(t *testing.T) {
	s := newShop(t)
	d, path := folder(t)
	for i := range 20 {
		s.add(strings.Repeat(fmt.Sprint(i), 10_000))
	}
	ctx, kill := context.WithCancel(t.Context())
	n := 0
	dying := &mortal{shop: s, opened: func() {
		if n++; n == 12 {
			kill()
		}
	}}
	if _, err := d.Run(ctx, dying); err == nil {
		t.Fatal("it went on")
	}
	if all, err := d.List(); err != nil || len(all) != 0 {
		t.Fatalf("half a backup is listed: %+v, %v", all, err)
	}
	again := backup.New(path, slog.New(slog.DiscardHandler))
	n = 0
	m, err := again.Run(t.Context(), dying)
	if err != nil || len(m.Blobs) != 20 || n > 9 {
		t.Errorf("%d files in the backup, %d were copied again, %v", len(m.Blobs), n, err)
	}
	if bad, err := again.Verify(t.Context(), m); err != nil || len(bad) > 0 {
		t.Errorf("%v, %v", bad, err)
	}
}

type mortal struct {
	*shop
	opened func()
}

func (m *mortal) Open(ctx context.Context, ref cluster.Ref) (blob.File, error) {
	m.opened()
	return m.shop.Open(ctx, ref)
}

func FuzzManifest(f *testing.F) {
	f.Add([]byte(`{"schema_version":1,"name":"20260101T000000Z-1","table":{"file":"../../etc/passwd"}}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		d, path := folder(t)
		if err := os.WriteFile(filepath.Join(path, "manifests", "20260101T000000Z-1.json"), raw, 0o600); err != nil {
			t.Fatal(err)
		}
		all, err := d.List()
		if len(all) > 1 || len(all) == 0 && err == nil {
			t.Fatalf("%d manifests, %v", len(all), err)
		}
		for i := range all {
			if f, err := d.OpenTable(&all[i]); err == nil {
				outside := !bytes.HasPrefix([]byte(f.Name()), []byte(filepath.Join(path, "tables")))
				if f.Close(); outside {
					t.Fatalf("a table outside the folder: %s", f.Name())
				}
			}
		}
	})
}
