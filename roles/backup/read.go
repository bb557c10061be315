package backup

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/blob"
)

// List reads all manifests, the newest first. One that cannot be read is an
// error beside the others.
func (d *Dir) List() ([]Manifest, error) {
	if _, err := d.marker(); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(filepath.Join(d.path, manifests))
	if err != nil {
		return nil, fmt.Errorf("list the backups: %w", err)
	}
	var out []Manifest
	var bad []string
	for _, e := range slices.Backward(entries) {
		if !strings.HasSuffix(e.Name(), ".json") || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		raw, err := os.ReadFile(filepath.Join(d.path, manifests, e.Name()))
		var m Manifest
		if err == nil {
			err = json.Unmarshal(raw, &m)
		}
		if err != nil || m.Schema != schema || m.Name+".json" != e.Name() || m.Table.File == "" || filepath.Base(m.Table.File) != m.Table.File {
			bad = append(bad, e.Name())
			continue
		}
		out = append(out, m)
	}
	slices.SortStableFunc(out, func(a, b Manifest) int { return b.Made.Compare(a.Made) })
	if len(bad) > 0 {
		return out, cluster.Errorf(cluster.Internal, "these manifests cannot be read: %s", strings.Join(bad, ", "))
	}
	return out, nil
}

// Find is the backup of a name, or the newest one for "".
func (d *Dir) Find(name string) (*Manifest, error) {
	all, err := d.List()
	if len(all) == 0 && err != nil {
		return nil, err
	}
	for i := range all {
		if all[i].Name == name || name == "" {
			return &all[i], nil
		}
	}
	if name == "" {
		return nil, cluster.Errorf(cluster.NotFound, "there is no backup in %s yet", d.path)
	}
	return nil, cluster.Errorf(cluster.NotFound, "there is no backup %q in %s: see comfyume-agent backup ls", name, d.path)
}

// OpenTable opens a backup's table, read and compared with its digest.
func (d *Dir) OpenTable(m *Manifest) (*os.File, error) {
	f, err := os.Open(d.tablePath(m))
	if err != nil {
		return nil, cluster.Errorf(cluster.NotFound, "the table of backup %s is not there: take another (%v)", m.Name, err)
	}
	sum := sha256.New()
	if _, err = io.Copy(sum, f); err == nil && hex.EncodeToString(sum.Sum(nil)) != m.Table.SHA256 {
		err = cluster.Errorf(cluster.Internal, "the table of backup %s is damaged: take another", m.Name)
	}
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// OpenBlob returns a verified file of any backup.
func (d *Dir) OpenBlob(ctx context.Context, ref cluster.Ref) (blob.File, error) {
	d.mu.Lock()
	b, err := d.store()
	d.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return b.Open(ctx, ref)
}

// Verify reads every byte of a backup and returns the files that are damaged or
// gone. A damaged one is set aside: the next run copies it again.
func (d *Dir) Verify(ctx context.Context, m *Manifest) (bad []cluster.Ref, err error) {
	f, err := d.OpenTable(m)
	if err != nil {
		return nil, err
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	d.mu.Lock()
	b, err := d.store()
	d.mu.Unlock()
	if err != nil {
		return nil, err
	}
	for _, want := range m.Blobs {
		n, err := b.Reread(ctx, want.Ref)
		switch {
		case ctx.Err() != nil:
			return bad, context.Cause(ctx)
		case err != nil, n != want.Bytes:
			bad = append(bad, want.Ref)
		}
	}
	return bad, nil
}
