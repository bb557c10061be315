package backup_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/blob"
	"github.com/ahelme/comfyume/roles/backup"
	"github.com/ahelme/comfyume/roles/backup/s3test"
)

// shop is a workshop of a table and some files.
type shop struct {
	t     *testing.T
	store *blob.Dir
	table string
	image backup.Image

	secrets   map[string][]byte
	noSecrets error
}

func newShop(t *testing.T) *shop {
	t.Helper()
	store, err := blob.OpenDir(blob.DirConfig{Path: t.TempDir(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return &shop{t: t, store: store, table: "the table", secrets: map[string][]byte{"tailnet/state": []byte("the identity")}, image: backup.Image{Workshop: "w1", Node: "mello", Index: 7, Made: time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)}}
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

func (s *shop) Secrets() (map[string][]byte, error) { return s.secrets, s.noSecrets }

// place is a target that tests can spoil: its objects lie as files in path.
type place struct {
	target backup.Target
	path   string
	server *s3test.Server // of a bucket
	owner  string
}

func (p place) vault(t *testing.T) *backup.Vault {
	t.Helper()
	v, err := backup.New(backup.Config{Target: p.target, Owner: p.owner, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func (p place) file(name string) string { return filepath.Join(p.path, filepath.FromSlash(name)) }

func target(t *testing.T, spec string) backup.Target {
	t.Helper()
	to, err := backup.ParseTarget(spec, backup.LegacyBuckets())
	if err != nil {
		t.Fatal(err)
	}
	return to
}

// everywhere runs a test with a folder and with a bucket of a real S3 server.
func everywhere(t *testing.T, f func(t *testing.T, p place)) {
	t.Run("folder", func(t *testing.T) {
		path := t.TempDir()
		f(t, place{target: target(t, "dir:"+path), path: path})
	})
	t.Run("bucket", func(t *testing.T) {
		s := s3test.Start(t)
		f(t, place{target: target(t, s.Spec).With(backup.Keys{ID: s.ID, Secret: s.Secret, CA: s.CA}), path: s.Bucket, server: s})
	})
}

// prepared is a vault for workshop w1, and its key.
func prepared(t *testing.T, p place) (*backup.Vault, backup.Key) {
	t.Helper()
	key, err := backup.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	v := p.vault(t)
	if lock, err := v.Prepare(t.Context(), "w1", key.Lock()); err != nil || lock == "" {
		t.Fatal(lock, err)
	}
	return v, key
}

func code(t *testing.T, err error, want cluster.Code, says string) {
	t.Helper()
	if cluster.CodeOf(err) != want || !strings.Contains(cluster.MessageOf(err), says) {
		t.Errorf("got %v (%s), want %s with %q", err, cluster.CodeOf(err), want, says)
	}
}

func TestWhatIsBackedUpComesBack(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		s := newShop(t)
		v, key := prepared(t, p)
		a, b := s.add("a picture"), s.add(strings.Repeat("a film ", 100_000))
		s.image.Files = []backup.File{{Path: "user001/output/a.png", Ref: a}}
		s.image.Docs = []backup.Doc{{Path: "user001/documents/workflows/film.json", Data: []byte("{}")}}
		m, err := v.Run(t.Context(), s)
		if err != nil || len(m.Blobs) != 3 || len(m.Missing) != 0 || len(m.Files) != 2 {
			t.Fatalf("%+v, %v", m, err)
		}
		other := p.vault(t)
		again, err := other.Find(t.Context(), "")
		if err != nil || again.Name != m.Name || again.Index != 9 {
			t.Fatalf("%+v, %v", again, err)
		}
		if raw, err := other.OpenTable(t.Context(), again, key); err != nil || string(raw) != "the table" {
			t.Errorf("the table is %q, %v", raw, err)
		}
		if all, err := other.OpenSecrets(t.Context(), again, key); err != nil || string(all["tailnet/state"]) != "the identity" {
			t.Errorf("the machine's own files are %v, %v", all, err)
		}
		for _, ref := range []cluster.Ref{a, b} {
			if raw := all(t, v, ref); sha(raw) != string(ref) {
				t.Errorf("%s came back as %s", ref, sha(raw))
			}
		}
		if bad, err := v.Verify(t.Context(), again); err != nil || len(bad) != 0 {
			t.Errorf("damaged: %v, %v", bad, err)
		}
	})
}

// all reads a file of the backups.
func all(t *testing.T, v *backup.Vault, ref cluster.Ref) []byte {
	t.Helper()
	r, _, err := v.OpenBlob(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	raw, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func sha(raw []byte) string {
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])
}

// What is secret is encrypted: nothing of it stands in the place, and another key
// does not open it.
func TestSecretsLeaveTheMachineEncrypted(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		s := newShop(t)
		v, key := prepared(t, p)
		s.table, s.secrets["credentials"] = "$2a$10$HASHOFAPASSWORD", []byte("hunter2-in-a-file")
		m, err := v.Run(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		err = filepath.WalkDir(p.path, func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			raw, err := os.ReadFile(path)
			for _, secret := range []string{"HASHOFAPASSWORD", "hunter2", "the identity", key.Text()} {
				if bytes.Contains(raw, []byte(secret)) {
					t.Errorf("%s holds %q", path, secret)
				}
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		wrong, err := backup.NewKey()
		if err != nil {
			t.Fatal(err)
		}
		_, err = v.OpenTable(t.Context(), m, wrong)
		code(t, err, cluster.Forbidden, "is not that of these backups")
		_, err = v.OpenSecrets(t.Context(), m, backup.Key{})
		code(t, err, cluster.Forbidden, "COMFYUME_RECOVERY_KEY")
	})
}

// A backup of the first form, with a table that is not encrypted, is still read, and
// the folder goes on with encrypted ones once it has a lock.
func TestFirstFormIsStillRead(t *testing.T) {
	path := t.TempDir()
	p := place{target: target(t, "dir:"+path), path: path}
	film := "a film"
	ref := sha([]byte(film))
	for name, text := range map[string]string{
		"comfyume-backup.json":         `{"schema_version":1,"workshops":["w1"]}`,
		"blobs/" + ref[:2] + "/" + ref: film,
		"tables/7-0123.table":          "the table",
		"manifests/20260101T000000Z-7.json": fmt.Sprintf(`{"schema_version":1,"name":"20260101T000000Z-7","workshop":"w1","node":"mello","made":"2026-01-01T00:00:00Z","index":7,
			"table":{"file":"7-0123.table","sha256":%q,"bytes":9},"blobs":[{"sha256":%q,"bytes":6}],"files":[{"path":"user001/output/a.mp4","sha256":%q}]}`, sha([]byte("the table")), ref, ref),
	} {
		if err := os.MkdirAll(filepath.Dir(p.file(name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p.file(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	_, err := p.vault(t).Run(t.Context(), newShop(t))
	code(t, err, cluster.NotFound, "backup init")
	v, key := prepared(t, p)
	m, err := v.Find(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	if raw, err := v.OpenTable(t.Context(), m, backup.Key{}); err != nil || string(raw) != "the table" {
		t.Errorf("%q, %v", raw, err)
	}
	if bad, err := v.Verify(t.Context(), m); err != nil || len(bad) > 0 {
		t.Errorf("%v, %v", bad, err)
	}
	if m, err = v.Run(t.Context(), newShop(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := v.OpenTable(t.Context(), m, key); err != nil {
		t.Error(err)
	}
	if all, err := v.List(t.Context()); err != nil || len(all) != 2 {
		t.Errorf("%d backups, %v", len(all), err)
	}
}

// A lock that somebody else put into the place gets nothing.
func TestForeignLockGetsNothing(t *testing.T) {
	s := newShop(t)
	path := t.TempDir()
	p := place{target: target(t, "dir:"+path), path: path}
	_, key := prepared(t, p)
	mine, err := backup.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	v, err := backup.New(backup.Config{Target: p.target, Lock: mine.Lock(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	_, err = v.Run(t.Context(), s)
	code(t, err, cluster.Conflict, "locked with another key")
	if err := v.Relock(t.Context(), mine.Lock()); err != nil {
		t.Fatal(err)
	}
	m, err := v.Run(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.OpenTable(t.Context(), m, key); cluster.CodeOf(err) != cluster.Forbidden {
		t.Errorf("the old key opens what was stored under the new lock: %v", err)
	}
	if _, err := v.OpenTable(t.Context(), m, mine); err != nil {
		t.Error(err)
	}
}

// TestModelSyncSucceededWithHalfTheFiles (predecessor 43): a file that is not to be
// had is named, and the backup is not called whole.
func TestModelSyncSucceededWithHalfTheFiles(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		s := newShop(t)
		v, _ := prepared(t, p)
		s.add("here")
		gone := s.add("gone")
		if err := s.store.Remove(gone); err != nil {
			t.Fatal(err)
		}
		m, err := v.Run(t.Context(), s)
		code(t, err, cluster.Internal, "1 of 2 files were not to be had")
		if m == nil || len(m.Missing) != 1 || m.Missing[0] != gone || len(m.Blobs) != 1 {
			t.Fatalf("%+v", m)
		}
		if _, _, err := s.store.Put(t.Context(), strings.NewReader("gone"), 4); err != nil {
			t.Fatal(err)
		}
		s.image.Index++
		if m, err = v.Run(t.Context(), s); err != nil || len(m.Missing) != 0 {
			t.Errorf("once it is back: %+v, %v", m, err)
		}
	})
}

// TestBackupsWereAssumedToBeThere (predecessor 44): a flipped byte, a truncated file
// and one that is gone are found by verify and by the reading that goes on beside the
// runs, and nobody is given one for whole; the next run copies them anew.
func TestBackupsWereAssumedToBeThere(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		for what, spoil := range map[string]func(file string) error{
			"flipped":   func(file string) error { return spoil(file, func(raw []byte) []byte { raw[3] ^= 1; return raw }) },
			"truncated": func(file string) error { return spoil(file, func(raw []byte) []byte { return raw[:len(raw)-2] }) },
			"gone":      os.Remove,
		} {
			t.Run(what, func(t *testing.T) {
				s := newShop(t)
				v, _ := prepared(t, p)
				ref := s.add("precious " + what)
				s.add("another " + what)
				m, err := v.Run(t.Context(), s)
				if err != nil {
					t.Fatal(err)
				}
				if err := spoil(p.file("blobs/" + string(ref[:2]) + "/" + string(ref))); err != nil {
					t.Fatal(err)
				}
				fresh := p.vault(t)
				if bad, err := fresh.Reread(t.Context(), m, 1<<20); err != nil || len(bad) != 1 || bad[0] != ref {
					t.Fatalf("reading on found %v, %v", bad, err)
				}
				if bad, err := v.Verify(t.Context(), m); err != nil || len(bad) != 1 || bad[0] != ref {
					t.Fatalf("verify found %v, %v", bad, err)
				}
				if r, _, err := v.OpenBlob(t.Context(), ref); err == nil {
					_, err = io.ReadAll(r)
					if r.Close(); err == nil {
						t.Error("the damaged file is given out for whole")
					}
				}
				s.image.Index++
				if _, err := v.Run(t.Context(), s); err != nil {
					t.Fatal(err)
				}
				if bad, err := v.Verify(t.Context(), m); err != nil || len(bad) != 0 {
					t.Errorf("after another run: %v, %v", bad, err)
				}
			})
		}
		s := newShop(t)
		s.image.Index += 100
		v, key := prepared(t, p)
		m, err := v.Run(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		if err := spoil(p.file(m.Table.File), func(raw []byte) []byte { raw[len(raw)/2] ^= 1; return raw }); err != nil {
			t.Fatal(err)
		}
		_, err = v.OpenTable(t.Context(), m, key)
		code(t, err, cluster.Internal, "is damaged: take another")
		if _, err = v.Verify(t.Context(), m); err == nil {
			t.Error("the damaged table is called whole")
		}
	})
}

func spoil(file string, how func([]byte) []byte) error {
	raw, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_TRUNC, 0) // the same file: a server keeps what it knows beside it
	if err != nil {
		return err
	}
	_, err = f.Write(how(raw))
	return errors.Join(err, f.Close())
}

// TestBackupOfAWipedDisk (predecessor 48 and 49): one that is not mounted, one that
// is gone, one of another workshop, one with other things in it get nothing, and an
// empty workshop in the place of a lost one does not go over its backups.
func TestBackupOfAWipedDisk(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		s := newShop(t)
		s.add("x")
		_, err := p.vault(t).Run(t.Context(), s)
		code(t, err, cluster.NotFound, "may not be mounted")
		if left, _ := os.ReadDir(p.path); len(left) > 0 {
			t.Errorf("it holds %v", left)
		}
		v, key := prepared(t, p)
		s.image.Workshop = "w2"
		_, err = v.Run(t.Context(), s)
		code(t, err, cluster.Conflict, "another workshop (w1)")
		if all, _ := v.List(t.Context()); len(all) > 0 {
			t.Errorf("a backup was made: %+v", all)
		}
		if left, _ := os.ReadDir(p.file("tables")); len(left) > 0 {
			t.Errorf("a table was left: %v", left)
		}
		if lock, err := v.Prepare(t.Context(), "w2", "age1other"); err != nil || lock != key.Lock() {
			t.Fatal(lock, err)
		}
		if _, err := v.Run(t.Context(), s); err != nil {
			t.Errorf("once it was said that it is right: %v", err)
		}
	})
	away := target(t, "dir:"+filepath.Join(t.TempDir(), "away"))
	v := place{target: away}.vault(t)
	_, err := v.Run(t.Context(), newShop(t))
	code(t, err, cluster.Unavailable, "is not there")
	_, err = v.Prepare(t.Context(), "w1", "age1x")
	code(t, err, cluster.Unavailable, "is not there")
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "holiday.jpg"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = place{target: target(t, "dir:"+full)}.vault(t).Prepare(t.Context(), "w1", "age1x")
	code(t, err, cluster.Conflict, "is not empty")
}

// TestHalfAManifest is named, and hides no other.
func TestHalfAManifest(t *testing.T) {
	path := t.TempDir()
	p := place{target: target(t, "dir:"+path), path: path}
	s := newShop(t)
	v, _ := prepared(t, p)
	s.add("x")
	m, err := v.Run(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p.file("manifests/20990101T000000Z-9.json"), []byte(`{"schema_ver`), 0o600); err != nil {
		t.Fatal(err)
	}
	all, err := v.List(t.Context())
	code(t, err, cluster.Internal, "20990101T000000Z-9")
	if len(all) != 1 || all[0].Name != m.Name {
		t.Errorf("%+v", all)
	}
	if newest, err := v.Find(t.Context(), ""); err != nil || newest.Name != m.Name {
		t.Errorf("%+v, %v", newest, err)
	}
	if err := v.Thin(t.Context(), time.Now()); err == nil {
		t.Error("backups were thinned out although one could not be read")
	}
}

func TestOldBackupsAreThinnedOut(t *testing.T) {
	path := t.TempDir()
	p := place{target: target(t, "dir:"+path), path: path}
	s := newShop(t)
	v, _ := prepared(t, p)
	ref := s.add("x")
	begin := s.image.Made
	now := begin.Add(10 * 24 * time.Hour)
	for at := begin; !at.After(now); at = at.Add(37 * time.Minute) {
		s.image.Made = at
		s.image.Index++
		s.table = fmt.Sprint("table ", s.image.Index)
		if _, err := v.Run(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	if err := v.Thin(t.Context(), now); err != nil {
		t.Fatal(err)
	}
	list, err := v.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var recent, hours, days int
	for _, h := range list {
		switch age := now.Sub(h.Made); {
		case age <= 2*time.Hour:
			recent++
		case age <= 48*time.Hour:
			hours++
		default:
			days++
		}
		m, err := v.Find(t.Context(), h.Name)
		if err != nil {
			t.Fatal(err)
		}
		if bad, err := v.Verify(t.Context(), m); err != nil || len(bad) > 0 {
			t.Errorf("%s: %v, %v", m.Name, bad, err)
		}
	}
	if recent < 3 || recent > 4 || hours < 45 || hours > 47 || days < 8 || days > 10 {
		t.Errorf("kept %d of the last two hours, %d of two days, %d older", recent, hours, days)
	}
	if tables, err := os.ReadDir(p.file("tables")); err != nil || len(tables) != len(list) {
		t.Errorf("%d tables for %d backups, %v", len(tables), len(list), err)
	}
	if raw := all(t, v, ref); string(raw) != "x" {
		t.Errorf("the file is %q", raw)
	}
	at := now.Add(-36 * time.Hour)
	if m, err := v.Find(t.Context(), at.Format(time.RFC3339)); err != nil || m.Made.After(at) || at.Sub(m.Made) > time.Hour+37*time.Minute {
		t.Errorf("the newest before %s is %v, %v", at, m, err)
	}
}

// TestKilledInTheMiddle: what a killed run leaves is no backup, and the next run
// does not copy again what was there. Another machine waits for the dead one's sign
// to go out.
func TestKilledInTheMiddle(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		s := newShop(t)
		v, _ := prepared(t, p)
		for i := range 20 {
			s.add(strings.Repeat(fmt.Sprint(i), 10_000))
		}
		ctx, kill := context.WithCancel(t.Context())
		var n atomic.Int64
		dying := &mortal{shop: s, opened: func() {
			if n.Add(1) == 15 {
				kill()
			}
		}}
		if _, err := v.Run(ctx, dying); err == nil {
			t.Fatal("it went on")
		}
		if all, err := v.List(t.Context()); err != nil || len(all) != 0 {
			t.Fatalf("half a backup is listed: %+v, %v", all, err)
		}
		again := p.vault(t)
		n.Store(0)
		m, err := again.Run(t.Context(), &mortal{shop: s, opened: func() { n.Add(1) }})
		if err != nil || len(m.Blobs) != 20 || n.Load() > 14 {
			t.Errorf("%d files in the backup, %d were copied again, %v", len(m.Blobs), n.Load(), err)
		}
		if bad, err := again.Verify(t.Context(), m); err != nil || len(bad) > 0 {
			t.Errorf("%v, %v", bad, err)
		}
	})
}

// Two machines never write one place at a time: the later one waits, and takes over
// from one whose sign is old.
func TestOneRunnerAtATime(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		s := newShop(t)
		v, _ := prepared(t, p)
		s.add("x")
		other := p.vault(t)
		met := false
		_, err := v.Run(t.Context(), &mortal{shop: s, opened: func() {
			_, err := other.Run(t.Context(), s)
			code(t, err, cluster.Conflict, "another machine is making a backup")
			met = true
		}})
		if err != nil || !met {
			t.Fatal(err, met)
		}
		dead := fmt.Sprintf(`{"mark":"gone","at":%q}`, time.Now().Add(-time.Hour).UTC().Format(time.RFC3339))
		if err := os.WriteFile(p.file("running.json"), []byte(dead), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := other.Run(t.Context(), s); err != nil {
			t.Errorf("after a dead machine's: %v", err)
		}
	})
}

// A machine that was taken over leaves the other's sign where it is.
func TestSignOfAnotherStays(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		s := newShop(t)
		v, _ := prepared(t, p)
		s.add("x")
		other := fmt.Sprintf(`{"owner":"annex","mark":"other","at":%q}`, time.Now().UTC().Format(time.RFC3339))
		_, err := v.Run(t.Context(), &mortal{shop: s, opened: func() {
			if err := os.WriteFile(p.file("running.json"), []byte(other), 0o600); err != nil {
				t.Error(err)
			}
		}})
		if err != nil {
			t.Fatal(err)
		}
		if raw, err := os.ReadFile(p.file("running.json")); err != nil || string(raw) != other {
			t.Errorf("the sign is %q, %v", raw, err)
		}
	})
}

// A lock that is put into the place while a machine runs counts as little as one that
// was there when it started.
func TestLockThatIsExchangedMeanwhile(t *testing.T) {
	path := t.TempDir()
	p := place{target: target(t, "dir:"+path), path: path}
	v, _ := prepared(t, p)
	thief, err := backup.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.vault(t).Relock(t.Context(), thief.Lock()); err != nil {
		t.Fatal(err)
	}
	_, err = v.Run(t.Context(), newShop(t))
	code(t, err, cluster.Conflict, "locked with another key")
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
	f.Add([]byte(`{"schema_version":2,"name":"20260101T000000Z-1","table":{"file":"../../etc/passwd"}}`))
	f.Add([]byte(`{"schema_version":2,"name":"20260101T000000Z-1","table":{"file":"tables/1-x.age"},"files":[{"path":"../x","sha256":"` + strings.Repeat("0", 64) + `"}]}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		path := t.TempDir()
		p := place{target: target(t, "dir:"+path), path: path}
		v, _ := prepared(t, p)
		if err := os.MkdirAll(p.file("manifests"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p.file("manifests/20260101T000000Z-1.json"), raw, 0o600); err != nil {
			t.Fatal(err)
		}
		list, err := v.List(t.Context())
		if len(list) > 1 || len(list) == 0 && err == nil {
			t.Fatalf("%d manifests, %v", len(list), err)
		}
		if len(list) == 0 {
			return
		}
		m, err := v.Find(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		to := filepath.Join(path, "plain")
		for _, f := range m.Files {
			if !strings.HasPrefix(filepath.Join(to, f.Path), to+"/") {
				t.Fatalf("a file outside the folder: %s", f.Path)
			}
		}
		if !strings.HasPrefix(filepath.Join(path, m.Table.File), filepath.Join(path, "tables")+"/") {
			t.Fatalf("a table outside the place: %s", m.Table.File)
		}
	})
}
