package peer_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/blob/blobtest"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/cluster/peer"
)

// hears lets a keeper hear so much of an upload, and then harms it.
func hears(limit func() int64, then func(r *http.Request) error) harm {
	return func(_ *source, next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPut {
				r.Body = &deaf{r.Body, limit(), func() error { return then(r) }}
			}
			next.ServeHTTP(w, r)
		})
	}
}

type deaf struct {
	io.ReadCloser
	left int64
	then func() error
}

func (d *deaf) Read(p []byte) (int, error) {
	if d.left == 0 {
		return 0, d.then()
	}
	n, err := d.ReadCloser.Read(p[:min(int64(len(p)), d.left)])
	d.left -= int64(n)
	return n, err
}

// TestSendingGoesOn: a result goes to the keeper that has a part of it from where
// that part ends, after a break and after a new start of either side.
func TestSendingGoesOn(t *testing.T) {
	const seed = 14
	roll := rand.New(rand.NewPCG(seed, 1))
	raw, ref, list := blobtest.Large(5, 100*mib)
	size := int64(len(raw))
	for _, c := range []struct {
		what  string
		limit func() int64
		then  func(r *http.Request) error
		tries int // of Keep
	}{
		{"nothing happens", func() int64 { return 1 << 40 }, nil, 1},
		{"the connection breaks", func() int64 { return roll.Int64N(20*mib) + 20*mib }, func(*http.Request) error { return io.ErrUnexpectedEOF }, 1},
		{"the keeper stands still", func() int64 { return roll.Int64N(20*mib) + 40*mib }, func(*http.Request) error { time.Sleep(time.Minute); return io.ErrUnexpectedEOF }, 8},
		{"it breaks before much has come", func() int64 { return roll.Int64N(10 * mib) }, func(*http.Request) error { return io.ErrUnexpectedEOF }, 60},
	} {
		t.Run(c.what, func(t *testing.T) {
			at(t, fair{harms: []harm{hears(c.limit, c.then)}}, func(t *testing.T, m *market) {
				keep(t, m.local, raw)
				err, tries, begin := error(nil), 0, time.Now()
				for tries < c.tries {
					tries++
					if err = m.depot.Keep(t.Context(), jobs.Lease{}, ref); err == nil {
						break
					}
					if cluster.CodeOf(err) != cluster.Unavailable {
						break
					}
				}
				if err != nil {
					t.Errorf("after %d tries: %v", tries, err)
					return
				}
				blobtest.Expect(t, m.sources[0].store, ref, raw)
				blobtest.Missing(t, m.local, ref)
				got := m.sources[0].taken.Load()
				t.Logf("sending seed=%d harm=%q tries=%d taken=%d size=%d took=%s", seed, c.what, tries, got, size, time.Since(begin))
				if over := got - size; over > int64(len(list.Sums))*100 {
					t.Errorf("%d bytes were sent for %d", got, size)
				}
			})
		})
	}
}

// TestSenderThatIsGoneHoldsNothing: its machine has lost the network in the middle
// of an upload. Who goes on for it, or itself, is not kept waiting.
func TestSenderThatIsGoneHoldsNothing(t *testing.T) {
	raw, ref, list := blobtest.Large(5, 66*mib)
	at(t, fair{harms: make([]harm, 1)}, func(t *testing.T, m *market) {
		body, end := io.Pipe()
		defer end.Close()
		go func() {
			_, _ = end.Write(list.Sums)
			_, _ = end.Write(raw[:20*mib])
		}() // and nothing more
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodPut, fmt.Sprintf("http://s0/peer/blob?ref=%s&from=0&size=%d", ref, len(raw)), body)
		if err != nil {
			t.Error(err)
			return
		}
		req.ContentLength = int64(len(list.Sums) + len(raw))
		req.Header.Set("Comfyume-Cluster", "c")
		req.Header.Set("Comfyume-Generation", cluster.Generation{Number: 1, Mark: "ab"}.String())
		web := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return m.sources[0].dial(ctx) }}}
		defer web.CloseIdleConnections()
		go func() {
			if r, err := web.Do(req); err == nil {
				_ = r.Body.Close()
			}
		}()
		time.Sleep(time.Second)
		begin := time.Now()
		p, err := m.sources[0].store.Partial(t.Context(), ref)
		if err != nil || p.Size() != 20*mib || time.Since(begin) > 21*time.Second {
			t.Errorf("after %s: %v", time.Since(begin), err)
		}
		_ = p.Close()
		keep(t, m.local, raw)
		before := m.sources[0].taken.Load()
		if err := m.depot.Keep(t.Context(), jobs.Lease{}, ref); err != nil || m.sources[0].taken.Load()-before > 47*mib {
			t.Errorf("%d bytes were sent then: %v", m.sources[0].taken.Load()-before, err)
		}
	})
}

// TestKeeperThatIsFullIsNotSentAnything: the next one is, and who has all of it
// already is not sent it again.
func TestKeeperThatIsFullIsNotSentAnything(t *testing.T) {
	raw, ref, _ := blobtest.Large(6, 66*mib)
	at(t, fair{harms: []harm{answers("part", func(w http.ResponseWriter, _ *http.Request) {
		raw, _ := cluster.Marshal(cluster.Errorf(cluster.NoSpace, "The workshop's disk has no room for 66 MB more."))
		w.WriteHeader(http.StatusInsufficientStorage)
		_, _ = w.Write(raw)
	}), nil, nil}}, func(t *testing.T, m *market) {
		keep(t, m.local, raw)
		keep(t, m.sources[1].store, raw)
		if err := m.depot.Keep(t.Context(), jobs.Lease{}, ref); err != nil {
			t.Fatal(err)
		}
		for i, want := range []int64{0, 0, 66 * mib} {
			if got := m.sources[i].taken.Load(); got < want || got > want+1000 {
				t.Errorf("s%d was sent %d bytes, want %d", i, got, want)
			}
		}
		blobtest.Expect(t, m.sources[2].store, ref, raw)
	})
}

// TestDamagedCopyIsSentAgain: who sends drops its own, so a keeper may not take a
// copy for good that it has not read.
func TestDamagedCopyIsSentAgain(t *testing.T) {
	raw, ref, _ := blobtest.Large(9, 66*mib)
	at(t, fair{stock: raw, harms: make([]harm, 1)}, func(t *testing.T, m *market) {
		path := filepath.Join(m.sources[0].root, "blobs", string(ref[:2]), string(ref))
		wrong := bytes.Clone(raw)
		wrong[30*mib] ^= 1
		if err := os.WriteFile(path, wrong, 0o600); err != nil {
			t.Error(err)
		}
		keep(t, m.local, raw)
		if err := m.depot.Keep(t.Context(), jobs.Lease{}, ref); err != nil {
			t.Error(err)
		}
		blobtest.Expect(t, m.sources[0].store, ref, raw)
	})
}

// TestOldKeepersAreSentTheWhole: a machine that knows nothing of parts still gets
// results.
func TestOldKeepersAreSentTheWhole(t *testing.T) {
	raw, ref, _ := blobtest.Large(7, 66*mib)
	at(t, fair{harms: []harm{old}}, func(t *testing.T, m *market) {
		keep(t, m.local, raw)
		if err := m.depot.Keep(t.Context(), jobs.Lease{}, ref); err != nil {
			t.Fatal(err)
		}
		blobtest.Expect(t, m.sources[0].store, ref, raw)
	})
}

// nobody holds any job.
type nobody struct{}

func (nobody) Jobs(f func(*jobs.Table)) { f(&jobs.Table{}) }

// TestPartsAreAsPrivateAsTheWhole: who may not read a large file gets neither its
// list, nor a part, nor how much of it there is, and leaves nothing of its own.
func TestPartsAreAsPrivateAsTheWhole(t *testing.T) {
	raw, ref, list := blobtest.Large(8, 66*mib)
	stranger := func() peer.Who { return peer.Who{Node: "me", Name: "me", GPU: true} }
	at(t, fair{who: stranger, table: nobody{}, stock: raw, harms: make([]harm, 1)}, func(t *testing.T, m *market) {
		keep(t, m.local, raw)
		web := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return m.sources[0].dial(ctx) }}}
		defer web.CloseIdleConnections()
		for _, lease := range []string{"", "&user=ann&job=p1&worker=me/0&epoch=1", "&user=ann&job=p1&worker=you/0&epoch=1"} {
			for _, what := range []string{"", "&list=1", "&from=5", fmt.Sprint("&part=1&size=", len(raw))} {
				for _, method := range []string{http.MethodGet, http.MethodPut} {
					if method == http.MethodPut && (what != "&from=5" || lease == "") {
						continue
					}
					req, err := http.NewRequestWithContext(t.Context(), method, "http://s0/peer/blob?ref="+string(ref)+what+lease+"&size=1", bytes.NewReader(list.Sums))
					if err != nil {
						t.Fatal(err)
					}
					req.Header.Set("Comfyume-Cluster", "c")
					req.Header.Set("Comfyume-Generation", cluster.Generation{Number: 1, Mark: "ab"}.String())
					r, err := web.Do(req)
					if err != nil {
						t.Fatal(err)
					}
					body, err := io.ReadAll(r.Body)
					if r.Body.Close(); r.StatusCode < 400 || len(body) > 500 {
						t.Errorf("%s %q with %q: %d and %d bytes, %v", method, what, lease, r.StatusCode, len(body), err)
					}
				}
			}
		}
		if err := m.depot.Keep(t.Context(), jobs.Lease{}, ref); cluster.CodeOf(err) != cluster.Forbidden && cluster.CodeOf(err) != cluster.Unavailable {
			t.Errorf("a large file without a job is kept: %v", err)
		}
	})
}
