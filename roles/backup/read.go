package backup

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/ahelme/comfyume/cluster"
)

// Head is what is shown of a backup.
type Head struct {
	Name, Node string
	Made       time.Time
	Index      uint64
	Files      int
	Bytes      int64
	Missing    int

	encrypted []string // objects that only its kind has
}

// Head of the backup.
func (m *Manifest) Head() Head {
	h := Head{Name: m.Name, Node: m.Node, Made: m.Made, Index: m.Index, Files: len(m.Blobs), Bytes: m.Bytes(), Missing: len(m.Missing), encrypted: []string{m.Table.File}}
	if m.Secrets != nil {
		h.encrypted = append(h.encrypted, m.Secrets.File)
	}
	return h
}

// List reads all manifests, the newest first. One that cannot be read is an
// error beside the others.
func (v *Vault) List(ctx context.Context) ([]Head, error) {
	if _, err := v.marker(ctx); err != nil {
		return nil, err
	}
	names, err := v.shelf.List(ctx, manifests)
	if err != nil {
		return nil, err
	}
	var out []Head
	var bad []string
	for name := range names {
		base, isJSON := strings.CutSuffix(strings.TrimPrefix(name, manifests), ".json")
		if !isJSON || strings.ContainsRune(base, '/') {
			continue
		}
		h, err := v.headOf(ctx, base)
		switch code := cluster.CodeOf(err); {
		case err == nil:
			out = append(out, h)
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case code == cluster.Unavailable, code == cluster.Forbidden:
			return nil, err
		case code != cluster.NotFound: // else it was thinned out meanwhile
			bad = append(bad, base)
		}
	}
	slices.SortFunc(out, func(a, b Head) int { return cmp.Or(b.Made.Compare(a.Made), cmp.Compare(b.Index, a.Index)) })
	if len(bad) > 0 {
		slices.Sort(bad)
		return out, cluster.Errorf(cluster.Internal, "these manifests cannot be read: %s", strings.Join(bad, ", "))
	}
	return out, nil
}

// headOf reads a manifest once: they never change.
func (v *Vault) headOf(ctx context.Context, name string) (Head, error) {
	v.read.Lock()
	h, ok := v.read.heads[name]
	v.read.Unlock()
	if ok {
		return h, nil
	}
	m, err := v.manifest(ctx, name)
	if err != nil {
		return Head{}, err
	}
	h = m.Head()
	v.read.Lock()
	v.read.heads[name] = h
	v.read.Unlock()
	return h, nil
}

// manifest reads one. Names in it lead nowhere but into the place.
func (v *Vault) manifest(ctx context.Context, name string) (*Manifest, error) {
	raw, err := small(ctx, v.shelf, manifests+name+".json")
	if err != nil {
		return nil, err
	}
	var m Manifest
	err = json.Unmarshal(raw, &m)
	if m.Schema == 1 && m.Table.File == path.Base(m.Table.File) { // made before tables were encrypted
		m.Schema, m.Table.File = schema, tables+m.Table.File
	}
	if err != nil || !m.sound() || m.Name != name {
		return nil, cluster.Errorf(cluster.Invalid, "the manifest %s cannot be read", name)
	}
	return &m, nil
}

func (m *Manifest) sound() bool {
	in := func(o *Object, folder string) bool {
		return o == nil || strings.HasPrefix(o.File, folder) && path.Clean(o.File) == o.File && path.Dir(o.File)+"/" == folder
	}
	if m.Schema != schema || m.Table.File == "" || !in(&m.Table, tables) || !in(m.Secrets, secrets) {
		return false
	}
	for _, b := range m.Blobs {
		if !b.Ref.Valid() || b.Bytes < 0 {
			return false
		}
	}
	for _, f := range m.Files {
		if !f.Ref.Valid() || f.Path == "" || path.Clean("/"+f.Path) != "/"+f.Path {
			return false
		}
	}
	return true
}

// Find is the backup of a name, or the newest one for "". A time, in RFC 3339 or
// as "2006-01-02 15:04" of this machine's clock, means the newest one made before it.
func (v *Vault) Find(ctx context.Context, name string) (*Manifest, error) {
	all, err := v.List(ctx)
	if len(all) == 0 && err != nil {
		return nil, err
	}
	at, isTime := timeOf(name)
	for i := range all {
		if all[i].Name == name || name == "" || isTime && !all[i].Made.After(at) {
			return v.manifest(ctx, all[i].Name)
		}
	}
	switch {
	case name == "":
		return nil, cluster.Errorf(cluster.NotFound, "there is no backup in %s yet", v.Place())
	case isTime:
		return nil, cluster.Errorf(cluster.NotFound, "no backup in %s is as old as %s: see comfyume-agent backup ls", v.Place(), at.Local().Format(time.DateTime))
	}
	return nil, cluster.Errorf(cluster.NotFound, "there is no backup %q in %s: see comfyume-agent backup ls", name, v.Place())
}

func timeOf(text string) (time.Time, bool) {
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return t, true
	}
	for _, form := range []string{time.DateTime, "2006-01-02 15:04", "2006-01-02T15:04", time.DateOnly} {
		if t, err := time.ParseInLocation(form, text, time.Local); err == nil {
			return t, true
		}
	}
	return time.Time{}, false
}

// open reads an encrypted object, compared with its digest, and opens it.
func (v *Vault) open(ctx context.Context, what string, o *Object, k Key) ([]byte, error) {
	raw, err := small(ctx, v.shelf, o.File)
	if err != nil {
		return nil, err
	}
	if sum := sha256.Sum256(raw); hex.EncodeToString(sum[:]) != o.SHA256 {
		return nil, cluster.Errorf(cluster.Internal, "%s is damaged: take another backup (backup ls)", what)
	}
	if !strings.HasSuffix(o.File, sealedEnd) {
		return raw, nil
	}
	r, err := unseal(bytes.NewReader(raw), k)
	if err != nil {
		return nil, err
	}
	plain, err := io.ReadAll(r)
	if err != nil {
		return nil, cluster.Errorf(cluster.Internal, "%s cannot be decrypted: take another backup (%v)", what, err)
	}
	return plain, nil
}

// OpenTable returns a backup's table, compared with its digest.
func (v *Vault) OpenTable(ctx context.Context, m *Manifest, k Key) ([]byte, error) {
	return v.open(ctx, "the table of backup "+m.Name, &m.Table, k)
}

// OpenSecrets returns the own files of the machine that made a backup, by name.
func (v *Vault) OpenSecrets(ctx context.Context, m *Manifest, k Key) (map[string][]byte, error) {
	if m.Secrets == nil {
		return nil, cluster.Errorf(cluster.NotFound, "backup %s has no machine's own files", m.Name)
	}
	raw, err := v.open(ctx, "what backup "+m.Name+" has of its machine", m.Secrets, k)
	if err != nil {
		return nil, err
	}
	var out map[string][]byte
	if err := json.Unmarshal(raw, &out); err != nil {
		return nil, cluster.Errorf(cluster.Internal, "what backup %s has of its machine cannot be read: take another backup", m.Name)
	}
	return out, nil
}

// OpenBlob reads a file of any backup. At its end wrong bytes are an error: whoever
// stores them has to read to there.
func (v *Vault) OpenBlob(ctx context.Context, ref cluster.Ref) (io.ReadCloser, int64, error) {
	if !ref.Valid() {
		return nil, 0, cluster.Errorf(cluster.NotFound, "no such file")
	}
	r, n, err := v.shelf.Open(ctx, blobName(ref))
	if err != nil {
		return nil, 0, err
	}
	return &checked{r: r, sum: newSum(), ref: ref, v: v}, n, nil
}

// checked compares what was read with its name.
type checked struct {
	r   io.ReadCloser
	sum sum
	ref cluster.Ref
	v   *Vault
}

func (c *checked) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	_, _ = c.sum.Write(p[:n]) // a hash never fails
	if errors.Is(err, io.EOF) && c.sum.hex() != string(c.ref) {
		c.v.found(blobName(c.ref), false)
		return n, cluster.Errorf(cluster.Internal, "file %s is damaged in %s", c.ref.Short(), c.v.Place())
	}
	return n, err
}

func (c *checked) Close() error { return c.r.Close() }

// found notes how an object was when it was read.
func (v *Vault) found(name string, whole bool) {
	v.read.Lock()
	defer v.read.Unlock()
	if whole {
		v.read.at[name] = time.Now()
		delete(v.read.damaged, name)
		return
	}
	delete(v.read.at, name)
	v.read.damaged[name] = true
}

// look reads an object and compares it with its digest. A damaged one is set aside;
// the next run copies it again.
func (v *Vault) look(ctx context.Context, name, digest string) (n int64, err error) {
	r, _, err := v.shelf.Open(ctx, name)
	if err == nil {
		s := newSum()
		n, err = io.Copy(s, &stoppable{ctx, r})
		if err = errors.Join(err, r.Close()); err == nil && s.hex() != digest {
			err = cluster.Errorf(cluster.Internal, "%s is damaged in %s", name, v.Place())
			if merr := v.shelf.Move(ctx, name, aside+path.Base(name)); merr != nil {
				v.log.Warn("a damaged file was not set aside", "name", name, "err", merr)
			}
			v.log.Error("a file of the backups is damaged and was set aside; the next backup copies it again", "name", name)
		}
	}
	if code := cluster.CodeOf(err); err == nil || code == cluster.Internal || code == cluster.NotFound {
		v.found(name, err == nil)
	}
	return n, err
}

// Verify reads every byte of a backup and returns the files that are damaged or
// gone. An error says that not all was read.
func (v *Vault) Verify(ctx context.Context, m *Manifest) (bad []cluster.Ref, err error) {
	for _, o := range []*Object{&m.Table, m.Secrets} {
		if o == nil {
			continue
		}
		if _, err := v.look(ctx, o.File, o.SHA256); err != nil {
			return nil, err
		}
	}
	for _, b := range m.Blobs {
		n, err := v.look(ctx, blobName(b.Ref), string(b.Ref))
		switch code := cluster.CodeOf(err); {
		case ctx.Err() != nil:
			return bad, context.Cause(ctx)
		case code == cluster.Unavailable, code == cluster.Forbidden:
			return bad, err
		case err != nil, n != b.Bytes:
			bad = append(bad, b.Ref)
		}
	}
	return bad, nil
}

// Reread reads some of a backup's files again, those first that were not read for
// the longest time, until about that many bytes are read. It returns those that are
// damaged or gone.
func (v *Vault) Reread(ctx context.Context, m *Manifest, budget int64) (bad []cluster.Ref, err error) {
	order := slices.Clone(m.Blobs)
	v.read.Lock()
	slices.SortStableFunc(order, func(a, b Blob) int { return v.read.at[blobName(a.Ref)].Compare(v.read.at[blobName(b.Ref)]) })
	v.read.Unlock()
	for _, b := range order {
		if budget <= 0 || ctx.Err() != nil {
			return bad, context.Cause(ctx)
		}
		budget -= b.Bytes + 4096 // many small ones take their time as well
		_, err := v.look(ctx, blobName(b.Ref), string(b.Ref))
		switch code := cluster.CodeOf(err); {
		case code == cluster.Internal, code == cluster.NotFound:
			bad = append(bad, b.Ref)
		case err != nil:
			return bad, err
		}
	}
	return bad, nil
}
