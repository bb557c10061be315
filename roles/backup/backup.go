// Package backup keeps copies of a workshop outside it, in a folder or an S3
// bucket: the table as it was at a moment, every file that it names, and what a
// machine needs to be itself again. It promises that a manifest stands for copies
// that are whole, that a place which is not the one that was prepared gets nothing,
// that copying deletes no file, and that what is secret leaves the machine
// encrypted. It refuses to know the log, and to decide when.
//
//	comfyume-backup.json    whose backups these are, and the lock of what is secret
//	blobs/ab/abcdef...      files, each named by the sha256 of its bytes
//	tables/N-DIGEST.age     tables, encrypted; N is the last entry of the log in one
//	secrets/DIGEST.age      a machine's own files, encrypted
//	manifests/TIME-N.json   what belongs together; written last
//	drills/last.json        the last proven restore
//	running.json            who makes a backup just now
package backup

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
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
	Jobs     int       `json:"jobs"`
	Table    Object    `json:"table"`
	Secrets  *Object   `json:"secrets,omitempty"`
	Blobs    []Blob    `json:"blobs"`
	// Files are people's own names for them, USER/output/..., USER/input/... and
	// USER/documents/..., so that a backup can be read without this program.
	Files   []File        `json:"files"`
	Missing []cluster.Ref `json:"missing,omitempty"` // named by the table, and not to be had when it was made
}

// Object is an encrypted file, as it is stored.
type Object struct {
	File   string `json:"file"` // "tables/7-0123.age"
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
	if m.Secrets != nil {
		n += m.Secrets.Bytes
	}
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
	// Secrets are files of this machine, by name, that a new machine needs to be it.
	Secrets() (map[string][]byte, error)
}

// Image says what a table holds.
type Image struct {
	Workshop string
	Node     string
	Index    uint64
	Made     time.Time
	Jobs     int
	Refs     []cluster.Ref
	Files    []File
	Docs     []Doc
}

// marker says whose backups a place holds.
type marker struct {
	Schema    int      `json:"schema_version"`
	Workshops []string `json:"workshops"`
	Lock      string   `json:"lock"` // age1..., of what is secret
}

// Names in a place of backups.
const (
	markerFile = "comfyume-backup.json"
	blobs      = "blobs/"
	tables     = "tables/"
	secrets    = "secrets/"
	manifests  = "manifests/"
	aside      = "quarantine/"
	schema     = 2
)

func blobName(ref cluster.Ref) string { return blobs + string(ref[:2]) + "/" + string(ref) }

// Config of a Vault.
type Config struct {
	Target Target
	// Lock that the place must have, if it is known: one that somebody else put there
	// would let them read what is secret.
	Lock string
	// Owner is this machine's id: what it left behind when it broke off keeps it from
	// nothing. One process of a machine at a time uses a place.
	Owner  string
	Logger *slog.Logger
}

// Vault is a place of backups. All methods are safe for concurrent use.
type Vault struct {
	cfg   Config
	log   *slog.Logger
	shelf shelf
	mu    sync.Mutex // one run at a time

	read struct {
		sync.Mutex
		at      map[string]time.Time // objects, when they were last read and found whole
		damaged map[string]bool
		heads   map[string]Head
	}
	sealed struct { // the secrets that were stored last, and as what
		sum    string
		object *Object
	}
}

// New names a place; it looks at nothing yet.
func New(cfg Config) (*Vault, error) {
	log := cfg.Logger.With("component", "backup")
	s, err := cfg.Target.shelf(log)
	if err != nil {
		return nil, err
	}
	v := &Vault{cfg: cfg, log: log, shelf: s}
	v.read.at, v.read.damaged, v.read.heads = map[string]time.Time{}, map[string]bool{}, map[string]Head{}
	return v, nil
}

// Place is where it is, for people.
func (v *Vault) Place() string { return v.cfg.Target.String() }

// Target is where it is.
func (v *Vault) Target() Target { return v.cfg.Target }

// Prepare makes an empty place, or one that has backups, one for the workshop's, to
// be locked with lock if it has none yet. It returns the lock that it has.
func (v *Vault) Prepare(ctx context.Context, workshop, lock string) (string, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	m, err := v.marker(ctx)
	switch code := cluster.CodeOf(err); {
	case err == nil:
	case code != cluster.NotFound:
		return "", err
	default:
		all, err := v.shelf.List(ctx, "")
		if err != nil {
			return "", err
		}
		for name := range all {
			if !strings.HasPrefix(name, "lost+found") {
				return "", cluster.Errorf(cluster.Conflict, "%s is not empty and holds no backups (%s lies there): name a place that does, or an empty one", v.Place(), name)
			}
		}
	}
	fresh := m.Lock == ""
	if fresh {
		m.Lock = lock
	}
	if err := v.locked(m); err != nil {
		return "", err
	}
	if known := slices.Contains(m.Workshops, workshop); !known || m.Schema != schema || fresh {
		m.Schema = schema
		if !known {
			m.Workshops = append(m.Workshops, workshop)
		}
		if err := v.putSmall(ctx, markerFile, m); err != nil {
			return "", err
		}
	}
	v.cfg.Lock = m.Lock
	return m.Lock, nil
}

// locked compares the lock of a place with the one that this machine knows.
func (v *Vault) locked(m marker) error {
	if v.cfg.Lock != "" && m.Lock != v.cfg.Lock {
		return cluster.Errorf(cluster.Conflict, "%s is locked with another key than this machine knows: nothing was written there. If you have prepared it anew on purpose: comfyume-agent backup init --new-kit", v.Place())
	}
	return nil
}

// Relock gives the place another lock: what is stored from now on needs its key.
func (v *Vault) Relock(ctx context.Context, lock string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	m, err := v.marker(ctx)
	if err != nil {
		return err
	}
	m.Lock = lock
	if err := v.putSmall(ctx, markerFile, m); err != nil {
		return err
	}
	v.cfg.Lock, v.sealed.sum = lock, ""
	return nil
}

// putSmall stores a value as JSON and reads it back.
func (v *Vault) putSmall(ctx context.Context, name string, value any) error {
	raw, err := json.MarshalIndent(value, "", " ")
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	raw = append(raw, '\n')
	sum := sha256.Sum256(raw)
	if err := v.shelf.Put(ctx, name, bytes.NewReader(raw), int64(len(raw)), hex.EncodeToString(sum[:])); err != nil {
		return err
	}
	again, err := small(ctx, v.shelf, name)
	if err != nil || !bytes.Equal(again, raw) {
		return cluster.Errorf(cluster.Internal, "%s did not come back from %s as it was written (%v)", name, v.Place(), err)
	}
	return nil
}

// marker reads whose place it is.
func (v *Vault) marker(ctx context.Context) (marker, error) {
	var m marker
	raw, err := small(ctx, v.shelf, markerFile)
	if cluster.CodeOf(err) == cluster.NotFound {
		return m, cluster.Errorf(cluster.NotFound, "%s holds no backups: if it is the right place, comfyume-agent backup init; if backups were there, it may not be mounted", v.Place())
	}
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(raw, &m); err != nil || m.Schema < 1 || m.Schema > schema {
		return m, cluster.Errorf(cluster.Conflict, "%s in %s cannot be read (%v): nothing was written there", markerFile, v.Place(), err)
	}
	return m, nil
}

// Lock is that of the place.
func (v *Vault) Lock(ctx context.Context) (string, error) {
	m, err := v.marker(ctx)
	return m.Lock, err
}
