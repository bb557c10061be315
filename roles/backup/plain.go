package backup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/blob"
)

// Pick are the files of a backup that are asked for: of a user, or one path of
// theirs, or all.
func (m *Manifest) Pick(user cluster.User, path string) ([]File, error) {
	var out []File
	for _, f := range m.Files {
		if user != "" && !strings.HasPrefix(f.Path, string(user)+"/") {
			continue
		}
		if path != "" && f.Path != path && f.Path != string(user)+"/"+path && !strings.HasPrefix(f.Path, strings.TrimSuffix(path, "/")+"/") && !strings.HasPrefix(f.Path, string(user)+"/"+strings.TrimSuffix(path, "/")+"/") {
			continue
		}
		out = append(out, f)
	}
	if len(out) == 0 && (user != "" || path != "") {
		return nil, cluster.Errorf(cluster.NotFound, "backup %s has nothing of that (user %q, path %q): paths are USER/output/..., USER/input/... and USER/documents/...", m.Name, user, path)
	}
	return out, nil
}

// Tally says what a restore into a folder came to.
type Tally struct {
	Files      int      `json:"files"`
	Bytes      int64    `json:"bytes"`
	Restored   int      `json:"restored"`
	Mismatched []string `json:"mismatched"` // paths that could not be had as they were
}

// Plain writes files of a backup under their own names into a folder, each read
// back and compared. Files that are there with the right bytes stay; others of the
// same name are not written over.
func (v *Vault) Plain(ctx context.Context, m *Manifest, list []File, to string) (Tally, error) {
	size := map[cluster.Ref]int64{}
	for _, b := range m.Blobs {
		size[b.Ref] = b.Bytes
	}
	t := Tally{Files: len(list), Mismatched: []string{}}
	for _, f := range list {
		t.Bytes += size[f.Ref]
	}
	if err := os.MkdirAll(to, 0o700); err != nil {
		return t, cluster.Errorf(cluster.Invalid, "%s cannot be made: %v", to, err)
	}
	if free, _, err := blob.Space(to); err == nil && free-t.Bytes < spare {
		return t, cluster.Errorf(cluster.NoSpace, "%s has %d MB free and %d MB are to come: choose another folder. Nothing was written", to, free>>20, t.Bytes>>20)
	}
	shelf := folder{to}
	for _, f := range list {
		err := v.plainFile(ctx, shelf, f, size[f.Ref])
		switch {
		case ctx.Err() != nil:
			return t, context.Cause(ctx)
		case cluster.CodeOf(err) == cluster.NoSpace, cluster.CodeOf(err) == cluster.Unavailable:
			return t, err
		case err != nil:
			v.log.Warn("a file was not restored", "path", f.Path, "err", err)
			t.Mismatched = append(t.Mismatched, f.Path)
		default:
			t.Restored++
		}
	}
	return t, nil
}

func (v *Vault) plainFile(ctx context.Context, to folder, f File, size int64) error {
	same := func() (bool, error) {
		r, _, err := to.Open(ctx, f.Path)
		if err != nil {
			return false, err
		}
		s := newSum()
		_, err = io.Copy(s, &stoppable{ctx, r})
		return s.hex() == string(f.Ref), errors.Join(err, r.Close())
	}
	if is, err := same(); err == nil {
		if is {
			return nil
		}
		return cluster.Errorf(cluster.Conflict, "another file is there under that name")
	}
	r, n, err := v.OpenBlob(ctx, f.Ref)
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(to.path, unfinished+"*")
	if err != nil {
		return errors.Join(to.failed(f.Path, err), r.Close())
	}
	defer os.Remove(tmp.Name()) // it has another name when all went well
	_, err = io.Copy(tmp, &stoppable{ctx, r})
	if err = errors.Join(err, r.Close()); err == nil {
		err = tmp.Sync()
	}
	if err = errors.Join(err, tmp.Close()); err != nil {
		return to.failed(f.Path, err)
	}
	if n != size && size > 0 {
		return cluster.Errorf(cluster.Internal, "it has %d bytes and had %d", n, size)
	}
	if err := os.MkdirAll(filepath.Dir(to.at(f.Path)), 0o700); err != nil {
		return to.failed(f.Path, err)
	}
	if err := os.Rename(tmp.Name(), to.at(f.Path)); err != nil {
		return to.failed(f.Path, err)
	}
	if is, err := same(); err != nil || !is {
		return cluster.Errorf(cluster.Internal, "it did not come back from the disk as it was written (%v)", err)
	}
	return nil
}

// What a drill says of the machine's own files.
const (
	SameIdentity  = "same" // they would make this machine again
	OtherIdentity = "of-"  // they opened; they are another machine's, of that name
)

// Drill is the record of a proven restore.
type Drill struct {
	Schema     int       `json:"schema_version"`
	Made       time.Time `json:"made"`
	Node       string    `json:"node"`
	Backup     string    `json:"backup"`
	Files      int       `json:"files"`
	Bytes      int64     `json:"bytes"`
	Restored   int       `json:"restored"`
	Mismatched int       `json:"mismatched"`
	Identity   string    `json:"identity"` // SameIdentity, OtherIdentity with a name, or what is wrong
	Jobs       int       `json:"jobs"`
	Seconds    float64   `json:"seconds"`
}

// Proven reports whether all came back.
func (d *Drill) Proven() bool {
	return d.Mismatched == 0 && d.Restored == d.Files && (d.Identity == SameIdentity || strings.HasPrefix(d.Identity, OtherIdentity))
}

// String is the drill in one line.
func (d *Drill) String() string {
	return fmt.Sprintf("drill files=%d bytes=%d restored=%d mismatched=%d identity=%s jobs=%d seconds=%.1f backup=%s", d.Files, d.Bytes, d.Restored, d.Mismatched, d.Identity, d.Jobs, d.Seconds, d.Backup)
}

const drillFile = "drills/last.json"

// Record keeps the last drill where the backups are.
func (v *Vault) Record(ctx context.Context, d *Drill) error { return v.putSmall(ctx, drillFile, d) }

// LastDrill reads it; NotFound before the first.
func (v *Vault) LastDrill(ctx context.Context) (*Drill, error) {
	raw, err := small(ctx, v.shelf, drillFile)
	if err != nil {
		return nil, err
	}
	var d Drill
	if err := json.Unmarshal(raw, &d); err != nil {
		return nil, cluster.Errorf(cluster.Internal, "the record of the last drill cannot be read: run one, comfyume-agent backup drill")
	}
	return &d, nil
}
