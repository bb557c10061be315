package backup

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ahelme/comfyume/cluster"
)

// Run makes a backup. When files are missing it is made all the same, with what
// there is, and Run says so with an error beside it. While another machine makes
// one in the same place it is Conflict.
func (v *Vault) Run(ctx context.Context, from Source) (*Manifest, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	known, err := v.marker(ctx)
	if err != nil {
		return nil, err
	}
	if known.Lock == "" {
		return nil, cluster.Errorf(cluster.NotFound, "%s has no lock for what is secret yet: comfyume-agent backup init", v.Place())
	}
	if err := v.locked(known); err != nil {
		return nil, err
	}
	v.cfg.Lock = known.Lock // from here on another one does not count
	ctx, release, err := v.alone(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	m, im, err := v.table(ctx, from, known)
	if err != nil {
		return nil, err
	}
	if m.Secrets, err = v.secrets(ctx, from, known.Lock); err != nil {
		return nil, err
	}
	if err := v.files(ctx, m, im, from); err != nil {
		return nil, err
	}
	if err := v.putSmall(ctx, manifests+m.Name+".json", m); err != nil {
		return nil, err
	}
	if n := len(m.Missing); n > 0 {
		return m, cluster.Errorf(cluster.Internal, "%d of %d files were not to be had and are not in backup %s", n, len(im.Refs), m.Name)
	}
	return m, nil
}

// table stores the table, encrypted, and says what it names.
func (v *Vault) table(ctx context.Context, from Source, known marker) (*Manifest, *Image, error) {
	var raw bytes.Buffer // a table is some megabytes
	w, err := seal(&raw, known.Lock)
	if err != nil {
		return nil, nil, err
	}
	im, err := from.Write(ctx, w)
	if err = errors.Join(err, w.Close()); err != nil {
		return nil, nil, fmt.Errorf("back up the table: %w", err)
	}
	if !slices.Contains(known.Workshops, im.Workshop) {
		return nil, nil, cluster.Errorf(cluster.Conflict, "%s holds the backups of another workshop (%s): nothing was written there. If this one is new because the old one was lost: comfyume-agent backup restore. To keep both there: comfyume-agent backup init", v.Place(), strings.Join(known.Workshops, ", "))
	}
	o, err := v.object(ctx, fmt.Sprintf("%s%d-", tables, im.Index), raw.Bytes())
	if err != nil {
		return nil, nil, err
	}
	made := im.Made.UTC()
	return &Manifest{
		Schema: schema, Name: fmt.Sprintf("%s-%d", made.Format("20060102T150405Z"), im.Index), Workshop: im.Workshop, Node: im.Node, Made: made, Index: im.Index,
		Jobs: im.Jobs, Table: *o, Blobs: []Blob{}, Files: slices.Clone(im.Files),
	}, &im, nil
}

// object stores an encrypted file under a name with its digest.
func (v *Vault) object(ctx context.Context, prefix string, raw []byte) (*Object, error) {
	sum := sha256.Sum256(raw)
	digest := hex.EncodeToString(sum[:])
	o := &Object{File: prefix + digest[:16] + sealedEnd, SHA256: digest, Bytes: int64(len(raw))}
	return o, v.shelf.Put(ctx, o.File, bytes.NewReader(raw), o.Bytes, digest)
}

// secrets stores a machine's own files, unless they are those that it stored before.
func (v *Vault) secrets(ctx context.Context, from Source, lock string) (*Object, error) {
	all, err := from.Secrets()
	if err != nil {
		return nil, fmt.Errorf("back up this machine's own files: %w", err)
	}
	plain, err := json.Marshal(all)
	if err != nil {
		return nil, fmt.Errorf("back up this machine's own files: %w", err)
	}
	sum := sha256.Sum256(plain)
	digest := hex.EncodeToString(sum[:])
	if digest == v.sealed.sum {
		return v.sealed.object, nil
	}
	var raw bytes.Buffer
	w, err := seal(&raw, lock)
	if err != nil {
		return nil, err
	}
	_, err = w.Write(plain)
	if err = errors.Join(err, w.Close()); err != nil {
		return nil, fmt.Errorf("back up this machine's own files: %w", err)
	}
	o, err := v.object(ctx, secrets, raw.Bytes())
	if err == nil {
		v.sealed.sum, v.sealed.object = digest, o
	}
	return o, err
}

// atOnce is how many files are copied at the same time: to a bucket most of the time
// goes into waiting.
func (t Target) atOnce() int {
	if t.Bucket() {
		return 8
	}
	return 2
}

// files copies what is not there yet.
func (v *Vault) files(ctx context.Context, m *Manifest, im *Image, from Source) error {
	have, err := v.shelf.List(ctx, blobs)
	if err != nil {
		return err
	}
	v.read.Lock()
	for name := range v.read.damaged { // are copied anew, in their place
		delete(have, name)
	}
	v.read.Unlock()
	var mu sync.Mutex
	group, all := errgroup.WithContext(ctx)
	group.SetLimit(v.cfg.Target.atOnce())
	seen := map[cluster.Ref]bool{}
	add := func(ref cluster.Ref, copy func(context.Context) (int64, error)) {
		if seen[ref] || !ref.Valid() {
			return
		}
		seen[ref] = true
		if n, ok := have[blobName(ref)]; ok {
			mu.Lock()
			m.Blobs = append(m.Blobs, Blob{ref, n})
			mu.Unlock()
			return
		}
		group.Go(func() error {
			n, err := copy(all)
			mu.Lock()
			defer mu.Unlock()
			switch code := cluster.CodeOf(err); {
			case err == nil:
				m.Blobs = append(m.Blobs, Blob{ref, n})
				v.found(blobName(ref), true)
			case all.Err() != nil:
				return context.Cause(all)
			case code == cluster.NotFound, code == cluster.Internal:
				v.log.Warn("a file is not in the backup", "ref", ref.Short(), "err", err)
				m.Missing = append(m.Missing, ref)
			default:
				return fmt.Errorf("back up file %s: %w", ref.Short(), err)
			}
			return nil
		})
	}
	for _, doc := range im.Docs {
		digest := sha256.Sum256(doc.Data)
		ref := cluster.Ref(hex.EncodeToString(digest[:]))
		m.Files = append(m.Files, File{doc.Path, ref})
		add(ref, func(ctx context.Context) (int64, error) {
			n := int64(len(doc.Data))
			return n, v.shelf.Put(ctx, blobName(ref), bytes.NewReader(doc.Data), n, string(ref))
		})
	}
	for _, ref := range im.Refs {
		add(ref, func(ctx context.Context) (int64, error) { return v.copyBlob(ctx, from, ref) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	slices.SortFunc(m.Files, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	slices.SortFunc(m.Blobs, func(a, b Blob) int { return strings.Compare(string(a.Ref), string(b.Ref)) })
	slices.Sort(m.Missing)
	return nil
}

func (v *Vault) copyBlob(ctx context.Context, from Source, ref cluster.Ref) (int64, error) {
	f, err := from.Open(ctx, ref)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return f.Size(), v.shelf.Put(ctx, blobName(ref), f, f.Size(), string(ref))
}

// runningFile says who makes a backup.
const runningFile = "running.json"

// One that has not been written again for so long is a dead machine's.
const (
	runningFor  = 3 * time.Minute
	runningBeat = 30 * time.Second
)

type running struct {
	Owner string    `json:"owner"` // the machine
	Mark  string    `json:"mark"`
	At    time.Time `json:"at"`
}

// alone keeps other machines from the place until it is released. The context ends
// when the place was taken over.
func (v *Vault) alone(ctx context.Context) (context.Context, func(), error) {
	me := running{Owner: v.cfg.Owner, Mark: rand.Text(), At: time.Now().UTC()}
	raw, err := json.Marshal(me)
	if err != nil {
		return nil, nil, fmt.Errorf("begin a backup: %w", err)
	}
	err = v.shelf.Create(ctx, runningFile, raw)
	if cluster.CodeOf(err) == cluster.Conflict {
		var other running
		old, rerr := small(ctx, v.shelf, runningFile)
		if rerr == nil && json.Unmarshal(old, &other) == nil && time.Since(other.At) < runningFor && (other.Owner == "" || other.Owner != me.Owner) {
			return nil, nil, cluster.Errorf(cluster.Conflict, "another machine is making a backup in %s just now: wait for it", v.Place())
		}
		if err = v.shelf.Remove(ctx, runningFile); err == nil {
			err = v.shelf.Create(ctx, runningFile, raw)
		}
	}
	if err != nil {
		return nil, nil, err
	}
	held, end := context.WithCancelCause(ctx)
	var beat sync.WaitGroup
	beat.Go(func() {
		tick := time.NewTicker(runningBeat)
		defer tick.Stop()
		for {
			select {
			case <-held.Done():
				return
			case <-tick.C:
			}
			if err := v.stillMine(held, &me); err != nil && held.Err() == nil {
				end(err)
			}
		}
	})
	return held, func() {
		end(nil)
		beat.Wait()
		v.leave(context.WithoutCancel(ctx), me.Mark)
	}, nil
}

// leave takes our sign away, never that of one who has taken over.
func (v *Vault) leave(ctx context.Context, mark string) {
	var now running
	raw, err := small(ctx, v.shelf, runningFile)
	if err == nil && json.Unmarshal(raw, &now) == nil && now.Mark != mark {
		return
	}
	if err == nil {
		err = v.shelf.Remove(ctx, runningFile)
	}
	if err != nil {
		v.log.Debug("the sign of a running backup was not taken away", "err", err)
	}
}

// stillMine renews the sign, unless another has put up its own.
func (v *Vault) stillMine(ctx context.Context, me *running) error {
	var now running
	old, err := small(ctx, v.shelf, runningFile)
	if err == nil && json.Unmarshal(old, &now) == nil && now.Mark != me.Mark {
		return cluster.Errorf(cluster.Conflict, "another machine has taken over the backups in %s", v.Place())
	}
	if err != nil {
		return nil //nolint:nilerr // the place is away: the copying itself finds that out
	}
	me.At = time.Now().UTC()
	raw, err := json.Marshal(me)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(raw)
	_ = v.shelf.Put(ctx, runningFile, bytes.NewReader(raw), int64(len(raw)), hex.EncodeToString(sum[:])) // tried again at the next beat
	return nil
}
