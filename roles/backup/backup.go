// Package backup keeps copies of a workshop in a folder outside it: the table as
// it was at a moment, and every file that it names. It promises that a manifest
// stands for copies that are whole, that a folder which is not the one that was
// prepared gets nothing, and that copying deletes no file. It refuses to know
// the log, and to decide when.
//
//	comfyume-backup.json   which workshops the folder is for
//	blobs/ab/abcdef...     files, each named by the sha256 of its bytes
//	tables/N-DIGEST.table  tables, N is the last entry of the log that is in one
//	manifests/TIME-N.json  what belongs together; written last
package backup

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/blob"
)

// Manifest is one backup.
type Manifest struct {
	Schema   int       `json:"schema_version"`
	Name     string    `json:"name"` // its file without .json
	Workshop string    `json:"workshop"`
	Node     string    `json:"node"` // that made it
	Made     time.Time `json:"made"`
	Index    uint64    `json:"index"` // last entry of the log that is in the table
	Table    Table     `json:"table"`
	Blobs    []Blob    `json:"blobs"`
	// Files are people's own names for them, USER/output/..., USER/input/... and
	// USER/documents/..., so that a backup can be read without this program.
	Files   []File        `json:"files"`
	Missing []cluster.Ref `json:"missing,omitempty"` // named by the table, and not to be had when it was made
}

// Table is the table's file below tables/.
type Table struct {
	File   string `json:"file"`
	SHA256 string `json:"sha256"`
	Bytes  int64  `json:"bytes"`
}

// Blob is a file below blobs/.
type Blob struct {
	Ref   cluster.Ref `json:"sha256"`
	Bytes int64       `json:"bytes"`
}

// File is a person's file.
type File struct {
	Path string      `json:"path"`
	Ref  cluster.Ref `json:"sha256"`
}

// Doc is a person's document that is a row of the table.
type Doc struct {
	Path string
	Data []byte
}

// Bytes is the size of all that belongs to the backup.
func (m *Manifest) Bytes() (n int64) {
	n = m.Table.Bytes
	for _, b := range m.Blobs {
		n += b.Bytes
	}
	return n
}

// Source is the workshop that is copied.
type Source interface {
	// Write writes the table as it is now and says what is in it.
	Write(ctx context.Context, w io.Writer) (Image, error)
	// Open returns a file of the workshop's; NotFound if nobody has it.
	Open(ctx context.Context, ref cluster.Ref) (blob.File, error)
}

// Image says what a table holds.
type Image struct {
	Workshop string
	Node     string
	Index    uint64
	Made     time.Time
	Refs     []cluster.Ref
	Files    []File
	Docs     []Doc
}

// marker says which workshops a folder is for.
type marker struct {
	Schema    int      `json:"schema_version"`
	Workshops []string `json:"workshops"`
}

const (
	markerFile = "comfyume-backup.json"
	tables     = "tables"
	manifests  = "manifests"
	schema     = 1
)

// Dir is a folder of backups. All methods are safe for concurrent use.
type Dir struct {
	path  string
	log   *slog.Logger
	mu    sync.Mutex // one run at a time
	blobs *blob.Dir  // opened with the first use, mu held
}

// New names a folder; it looks at nothing yet.
func New(path string, log *slog.Logger) *Dir {
	return &Dir{path: path, log: log.With("component", "backup")}
}

// Path of the folder.
func (d *Dir) Path() string { return d.path }

// Prepare makes an empty folder, or one that has backups, one for the workshop's.
func (d *Dir) Prepare(workshop string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return d.absent(err)
	}
	m, err := d.marker()
	switch {
	case err == nil && slices.Contains(m.Workshops, workshop):
		return nil
	case err != nil && cluster.CodeOf(err) != cluster.NotFound:
		return err
	case err != nil && slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() != "lost+found" }):
		return cluster.Errorf(cluster.Conflict, "%s is not empty and holds no backups: name a folder that does, or an empty one", d.path)
	}
	m.Schema, m.Workshops = schema, append(m.Workshops, workshop)
	raw, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return fmt.Errorf("prepare %s: %w", d.path, err)
	}
	for _, sub := range []string{tables, manifests} {
		if err := os.MkdirAll(filepath.Join(d.path, sub), 0o700); err != nil {
			return fmt.Errorf("prepare %s: %w", d.path, err)
		}
	}
	return writeWhole(filepath.Join(d.path, markerFile), append(raw, '\n'))
}

func (d *Dir) absent(err error) error {
	return cluster.Errorf(cluster.Unavailable, "the folder %s is not there (%v): mount it, or make it", d.path, errors.Unwrap(err))
}

// marker reads whom the folder is for.
func (d *Dir) marker() (marker, error) {
	var m marker
	if _, err := os.Stat(d.path); err != nil {
		return m, d.absent(err)
	}
	raw, err := os.ReadFile(filepath.Join(d.path, markerFile))
	if errors.Is(err, fs.ErrNotExist) {
		return m, cluster.Errorf(cluster.NotFound, "%s holds no backups: if it is the right folder, comfyume-agent backup init; if backups were there, it may not be mounted", d.path)
	}
	if err == nil {
		err = json.Unmarshal(raw, &m)
	}
	if err != nil || m.Schema != schema {
		return m, cluster.Errorf(cluster.Conflict, "%s in %s cannot be read (%v): nothing was written there", markerFile, d.path, err)
	}
	return m, nil
}

// store opens the folder's files. The lock is held.
func (d *Dir) store() (*blob.Dir, error) {
	if _, err := d.marker(); err != nil {
		return nil, err
	}
	if d.blobs == nil {
		b, err := blob.OpenDir(blob.DirConfig{Path: d.path, Logger: d.log})
		if err != nil {
			return nil, fmt.Errorf("open %s: %w", d.path, err)
		}
		d.blobs = b
	}
	return d.blobs, nil
}

// Run makes a backup. When files are missing it is made all the same, with what
// there is, and Run says so with an error beside it.
func (d *Dir) Run(ctx context.Context, from Source) (*Manifest, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	to, err := d.store()
	if err != nil {
		return nil, err
	}
	m, im, err := d.table(ctx, from)
	if err != nil {
		return nil, err
	}
	if err := m.documents(ctx, to, im.Docs); err != nil {
		return nil, err
	}
	for _, ref := range im.Refs {
		n, err := copyBlob(ctx, to, from, ref)
		switch code := cluster.CodeOf(err); {
		case err == nil:
			m.Blobs = append(m.Blobs, Blob{ref, n})
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case code == cluster.NotFound, code == cluster.Internal:
			d.log.Warn("a file is not in the backup", "ref", ref.Short(), "err", err)
			m.Missing = append(m.Missing, ref)
		default:
			return nil, fmt.Errorf("back up file %s: %w", ref.Short(), err)
		}
	}
	if err := d.enter(m); err != nil {
		return nil, err
	}
	if n := len(m.Missing); n > 0 {
		return m, cluster.Errorf(cluster.Internal, "%d of %d files were not to be had and are not in backup %s", n, len(im.Refs), m.Name)
	}
	return m, nil
}

// table writes the table and says what it names.
func (d *Dir) table(ctx context.Context, from Source) (*Manifest, *Image, error) {
	f, err := os.CreateTemp(filepath.Join(d.path, tables), ".table-*")
	if err != nil {
		return nil, nil, fmt.Errorf("back up the table: %w", err)
	}
	defer os.Remove(f.Name()) // it has another name when all went well
	sum := sha256.New()
	count := &counter{to: io.MultiWriter(f, sum)}
	im, err := from.Write(ctx, count)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, nil, fmt.Errorf("back up the table: %w", err)
	}
	known, err := d.marker()
	if err != nil {
		return nil, nil, err
	}
	if !slices.Contains(known.Workshops, im.Workshop) {
		return nil, nil, cluster.Errorf(cluster.Conflict, "%s holds the backups of another workshop (%s): nothing was written there. For this one too: comfyume-agent backup init", d.path, strings.Join(known.Workshops, ", "))
	}
	digest := hex.EncodeToString(sum.Sum(nil))
	m := &Manifest{
		Schema: schema, Name: fmt.Sprintf("%s-%d", im.Made.UTC().Format("20060102T150405Z"), im.Index), Workshop: im.Workshop, Node: im.Node, Made: im.Made.UTC(), Index: im.Index,
		Table: Table{File: fmt.Sprintf("%d-%s.table", im.Index, digest[:16]), SHA256: digest, Bytes: count.n}, Blobs: []Blob{}, Files: im.Files,
	}
	return m, &im, moveIn(f.Name(), d.tablePath(m))
}

// documents copies what are rows of the table as files too.
func (m *Manifest) documents(ctx context.Context, to *blob.Dir, docs []Doc) error {
	known := map[cluster.Ref]bool{}
	for _, doc := range docs {
		sum := sha256.Sum256(doc.Data)
		ref := cluster.Ref(hex.EncodeToString(sum[:]))
		if _, there := to.Has(ctx, ref); !there {
			if _, _, err := to.Put(ctx, bytes.NewReader(doc.Data), int64(len(doc.Data))); err != nil {
				return fmt.Errorf("back up %s: %w", doc.Path, err)
			}
		}
		if !known[ref] {
			known[ref] = true
			m.Blobs = append(m.Blobs, Blob{ref, int64(len(doc.Data))})
		}
		m.Files = append(m.Files, File{doc.Path, ref})
	}
	slices.SortFunc(m.Files, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	return nil
}

func (d *Dir) tablePath(m *Manifest) string { return filepath.Join(d.path, tables, m.Table.File) }

// copyBlob copies a file unless it is there.
func copyBlob(ctx context.Context, to *blob.Dir, from Source, ref cluster.Ref) (int64, error) {
	if n, ok := to.Has(ctx, ref); ok {
		return n, nil
	}
	f, err := from.Open(ctx, ref)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	got, n, err := to.Put(ctx, f, f.Size())
	if err == nil && got != ref {
		err = cluster.Errorf(cluster.Internal, "file %s came as %s", ref.Short(), got.Short())
	}
	return n, err
}

// enter writes the manifest and reads it back.
func (d *Dir) enter(m *Manifest) error {
	raw, err := json.MarshalIndent(m, "", " ")
	if err != nil {
		return fmt.Errorf("write the manifest: %w", err)
	}
	path := filepath.Join(d.path, manifests, m.Name+".json")
	if err := writeWhole(path, append(raw, '\n')); err != nil {
		return err
	}
	again, err := os.ReadFile(path)
	if err != nil || string(again) != string(raw)+"\n" {
		return cluster.Errorf(cluster.Internal, "the manifest %s did not come back as it was written (%v)", m.Name, err)
	}
	return nil
}

type counter struct {
	to io.Writer
	n  int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.to.Write(p)
	c.n += int64(n)
	return n, err
}
