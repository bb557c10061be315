package peer

import (
	"context"
	"io"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/singleflight"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/blob"
	"github.com/ahelme/comfyume/cluster/jobs"
)

// Changes tells what moved in the table; state.Watcher is one.
type Changes interface {
	Next(ctx context.Context) (cluster.Change, error)
	Close()
}

// MirrorConfig of a Mirror.
type MirrorConfig struct {
	Client *Client
	Local  *blob.Dir
	Others Keepers // the other nodes that keep blobs
	// Last is asked for what no other node has, as after the loss of all of them.
	// Nil: there is nobody.
	Last func(ctx context.Context, ref cluster.Ref) (io.ReadCloser, int64, error)
	// Refs lists what rows that moved refer to; all rows when Tables["all"] is set.
	Refs   func(cluster.Change) []cluster.Ref
	Watch  func() Changes
	Logger *slog.Logger
}

// Mirror is the blob store of a node that keeps blobs: everything that the
// table refers to is copied here as soon as another keeper has it, and what is
// asked for before that is fetched then.
type Mirror struct {
	cfg    MirrorConfig
	log    *slog.Logger
	flight singleflight.Group

	mu      sync.Mutex
	missing map[cluster.Ref]bool
	here    map[cluster.Ref]bool // seen here since the start: not looked for again
}

var _ blob.Store = (*Mirror)(nil)

// NewMirror returns one.
func NewMirror(cfg MirrorConfig) *Mirror {
	return &Mirror{cfg: cfg, log: cfg.Logger.With("component", "mirror"), missing: map[cluster.Ref]bool{}, here: map[cluster.Ref]bool{}}
}

// Put keeps a blob here; the other keepers fetch it once a row names it.
func (m *Mirror) Put(ctx context.Context, r io.Reader, size int64) (blob.Ref, int64, error) {
	return m.cfg.Local.Put(ctx, r, size)
}

// Has reports a blob that is here.
func (m *Mirror) Has(ctx context.Context, ref blob.Ref) (int64, bool) {
	return m.cfg.Local.Has(ctx, ref)
}

// Open returns a verified blob, fetched from another keeper if it is not here
// or damaged.
func (m *Mirror) Open(ctx context.Context, ref blob.Ref) (blob.File, error) {
	f, err := m.cfg.Local.Open(ctx, ref)
	if code := cluster.CodeOf(err); err == nil || !ref.Valid() || code != cluster.NotFound && code != cluster.Internal {
		return f, err
	}
	if ferr := m.fetch(ctx, ref); ferr != nil {
		if cluster.CodeOf(err) == cluster.Internal {
			return nil, err // damaged here, and nobody has another
		}
		return nil, ferr
	}
	return m.cfg.Local.Open(ctx, ref)
}

// fetch copies one blob here, once however many ask.
func (m *Mirror) fetch(ctx context.Context, ref cluster.Ref) error {
	_, err, _ := m.flight.Do(string(ref), func() (any, error) {
		ctx := context.WithoutCancel(ctx)
		if m.cfg.Local.BringBack(ref) {
			if f, err := m.cfg.Local.Open(ctx, ref); err == nil {
				return nil, f.Close()
			}
		}
		err := m.cfg.Client.fetchInto(ctx, m.cfg.Local, m.cfg.Others(), ref, jobs.Lease{})
		if err != nil && m.cfg.Last != nil && m.last(ctx, ref) == nil {
			err = nil
		}
		return nil, err
	})
	return err
}

// last copies one blob from where it was kept.
func (m *Mirror) last(ctx context.Context, ref cluster.Ref) error {
	r, size, err := m.cfg.Last(ctx, ref)
	if err != nil {
		return err
	}
	defer r.Close()
	got, _, err := m.cfg.Local.Put(ctx, r, size)
	if err == nil && got != ref {
		err = cluster.Errorf(cluster.Internal, "the copy of file %s that was kept is damaged", ref.Short())
	}
	return err
}

// Missing counts what the table refers to and is not here.
func (m *Mirror) Missing() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.missing)
}

// Lost notes that files which the table names are not here any more: they are had
// from elsewhere.
func (m *Mirror) Lost(refs ...cluster.Ref) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, ref := range refs {
		delete(m.here, ref)
		m.missing[ref] = true
	}
}

// Named tells what the table names: nothing else is missing. What was discarded is
// not here any more.
func (m *Mirror) Named(named map[cluster.Ref]bool, discarded ...cluster.Ref) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, ref := range discarded {
		delete(m.here, ref)
	}
	unnamed := func(ref cluster.Ref, _ bool) bool { return !named[ref] }
	maps.DeleteFunc(m.missing, unnamed)
	maps.DeleteFunc(m.here, unnamed)
}

// Here counts what the table names and is here.
func (m *Mirror) Here() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.here)
}

// MissingRefs are some of what Missing counts, at most n, each by its beginning.
func (m *Mirror) MissingRefs(n int) (out []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for ref := range m.missing {
		out = append(out, string(ref[:refBegin]))
	}
	slices.Sort(out)
	return out[:min(n, len(out))]
}

// refBegin is enough of a name to tell one file from another.
const refBegin = 16

// lookAgain is how often what is missing is tried to be had.
const lookAgain = 2 * time.Second

// Run copies until ctx ends.
func (m *Mirror) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	wake := make(chan struct{}, 1)
	w := m.cfg.Watch()
	defer w.Close()
	all := cluster.Change{Tables: map[string]uint64{"all": 1}}
	m.want(ctx, all)
	wg.Go(func() { m.copy(ctx, wake) })
	for {
		ch, err := w.Next(ctx)
		if err != nil {
			return ignoreEnd(ctx, err)
		}
		if m.want(ctx, ch) {
			select {
			case wake <- struct{}{}:
			default:
			}
		}
	}
}

func ignoreEnd(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// want notes what is not here of what moved.
func (m *Mirror) want(ctx context.Context, ch cluster.Change) bool {
	refs := m.cfg.Refs(ch)
	m.mu.Lock()
	defer m.mu.Unlock()
	if ch.Tables["all"] > 0 {
		clear(m.missing)
	}
	for _, ref := range refs {
		if m.here[ref] || !ref.Valid() {
			continue
		}
		if _, here := m.cfg.Local.Has(ctx, ref); here {
			m.here[ref] = true
			continue
		}
		m.missing[ref] = true
	}
	return len(m.missing) > 0
}

// backAtOnce is how many files are brought back from backups at the same time: with a
// bucket most of the time goes into waiting.
const backAtOnce = 6

// atOnce is how many files are copied at the same time. From another node it is one
// after the other: a link carries one transfer faster than two.
func (m *Mirror) atOnce() int {
	if m.cfg.Last != nil && len(m.cfg.Others()) == 0 {
		return backAtOnce
	}
	return 1
}

func (m *Mirror) copyOne(ctx context.Context, ref cluster.Ref) {
	if _, here := m.cfg.Local.Has(ctx, ref); !here {
		if err := m.fetch(ctx, ref); err != nil {
			m.log.Debug("a file cannot be copied here yet", "ref", ref.Short(), "err", err)
			return
		}
	}
	m.mu.Lock()
	delete(m.missing, ref)
	m.here[ref] = true
	m.mu.Unlock()
}

// copy fetches what is missing.
func (m *Mirror) copy(ctx context.Context, wake <-chan struct{}) {
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	for ctx.Err() == nil {
		m.mu.Lock()
		refs := make([]cluster.Ref, 0, len(m.missing))
		for ref := range m.missing {
			refs = append(refs, ref)
		}
		m.mu.Unlock()
		var group errgroup.Group
		group.SetLimit(m.atOnce())
		for _, ref := range refs {
			if ctx.Err() != nil {
				break
			}
			group.Go(func() error { m.copyOne(ctx, ref); return nil })
		}
		_ = group.Wait() // none of them fails
		select {
		case <-ctx.Done():
		case <-wake:
		case <-tick.C:
		}
	}
}
