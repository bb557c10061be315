package peer_test

import (
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/blob"
	"github.com/ahelme/comfyume/cluster/blob/blobtest"
	"github.com/ahelme/comfyume/cluster/jobs"
)

// harmed is what a source does, and what may come of it.
type harmed struct {
	what string
	harm harm
	// what it alone brings that does not come again, and what it is called; "" = it is no failure
	had    int64
	code   cluster.Code
	says   string
	named  bool  // as one who has other bytes
	resent int64 // how much the other one sends in vain at most
	within time.Duration
}

// harms of a source that has a large file, about one byte of it.
func harms(raw []byte, list blob.Chunks, byteAt int64) []harmed {
	size, chunk := int64(len(raw)), byteAt/blob.Chunk*blob.Chunk
	other, _, otherList := blobtest.Large(2, len(raw))
	falseList := blob.Chunks{Size: list.Size, Sums: slices.Clone(list.Sums)}
	falseList.Sums[byteAt/blob.Chunk*32] ^= 1
	return []harmed{
		{"right", nil, size, "", "", false, 0, time.Second},
		{"lies about a byte", flips(byteAt), chunk, cluster.Internal, "node s0 has other bytes", true, 0, time.Second},
		{"stalls", stalls(byteAt), byteAt, cluster.Unavailable, "does not answer", false, 0, 41 * time.Second},
		{"stalls before its first byte", answers("from", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }), 0, cluster.Unavailable, "does not answer", false, 0, 21 * time.Second},
		{"stalls at the list", answers("list", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }), 0, cluster.Unavailable, "does not answer", false, 0, 21 * time.Second},
		{"truncates", breaks(func() int64 { return byteAt }), byteAt, cluster.Unavailable, "node s0 does not answer", false, 0, time.Second},
		{"breaks again and again", changing(func(r *http.Request, at int64, body []byte) (int, error) {
			if at >= from(r)+20*mib {
				return 0, io.ErrClosedPipe
			}
			return len(body), nil
		}), size, "", "", false, 0, time.Second},
		{"gives a false list", lists(falseList), chunk, cluster.Internal, "node s0 has other bytes", true, blob.Chunk, time.Second},
		{"lies about the whole", both(lists(otherList), changing(func(_ *http.Request, at int64, body []byte) (int, error) {
			copy(body, other[at:])
			return len(body), nil
		})), 0, cluster.Internal, "its list of the parts is false", true, 0, time.Second},
		{"gives a list that is no list", lists(blob.Chunks{Size: list.Size, Sums: []byte("short")}), 0, cluster.Unavailable, "cannot list", false, 0, time.Second},
		{"claims a size that is none", lists(blob.Chunks{Size: -5}), 0, cluster.Internal, "says that file", false, 0, time.Second},
		{"does not have it", func(*source, http.Handler) http.Handler { return http.NotFoundHandler() }, 0, cluster.Unavailable, "", false, 0, time.Second},
		{"is of an older version", old, size, "", "", false, 0, time.Second},
	}
}

// TestSources is the conformance suite of fetching: each harm alone, then with a
// good source behind it.
func TestSources(t *testing.T) {
	const seed = 13
	roll := rand.New(rand.NewPCG(seed, 1))
	raw, ref, list := blobtest.Large(1, 66*mib+5)
	size := int64(len(raw))
	byteAt := blob.Chunk + roll.Int64N(size-blob.Chunk-2)
	t.Logf("seed %d, harm at byte %d of %d", seed, byteAt, size)
	for _, c := range harms(raw, list, byteAt) {
		t.Run(c.what, func(t *testing.T) {
			at(t, fair{stock: raw, harms: []harm{c.harm, nil}}, func(t *testing.T, m *market) {
				begin := time.Now()
				err := m.depot.Client.Fetch(t.Context(), m.local, []cluster.NodeID{"s0"}, ref)
				if code := cluster.CodeOf(err); code != c.code || !strings.Contains(cluster.MessageOf(err), c.says) {
					t.Errorf("alone: %s: %v", code, err)
				}
				if took := time.Since(begin); took > c.within {
					t.Errorf("alone it took %s", took)
				}
				if err != nil {
					t.Logf("%s after %s: %s", c.what, time.Since(begin), cluster.MessageOf(err))
					blobtest.Missing(t, m.local, ref)
				}
				if n := named(t, m.root, ref); n > 0 != (err == nil) {
					t.Errorf("%d files have a name: %v", n, err)
				}
				before := m.sources[1].sent.Load()
				begin = time.Now()
				if err := m.depot.Fetch(t.Context(), jobs.Lease{}, ref); err != nil || time.Since(begin) > 21*time.Second {
					t.Errorf("with another source, after %s: %v", time.Since(begin), err)
				}
				blobtest.Expect(t, m.local, ref, raw)
				named(t, m.root, ref)
				if c.named && !m.said.has("level=ERROR", "node=s0") && !m.said.has("level=ERROR", "node s0 has other bytes") {
					t.Errorf("it is not named: %s", m.said.lines.String())
				}
				if m.said.has("level=ERROR", "s1") {
					t.Errorf("the honest one is blamed: %s", m.said.lines.String())
				}
				got := m.sources[1].sent.Load() - before
				t.Logf("source harm=%q at=%d here=%d then_of_the_other=%d of=%d", c.what, byteAt, c.had, got, size)
				if over := got - (size - c.had); over > c.resent+64<<10 {
					t.Errorf("%d bytes came from the other one; %d were here", got, c.had)
				}
			})
		})
	}
}

// TestSourceThatIsFull: nobody else is asked when there is no room here.
func TestSourceThatIsFull(t *testing.T) {
	raw, ref, _ := blobtest.Large(3, 66*mib)
	var free atomic.Int64
	free.Store(120 * mib)
	at(t, fair{space: func(string) (int64, int64, error) { return free.Load(), 1000 * mib, nil }, stock: raw, harms: make([]harm, 2)}, func(t *testing.T, m *market) {
		err := m.depot.Fetch(t.Context(), jobs.Lease{}, ref)
		if cluster.CodeOf(err) != cluster.NoSpace || !strings.Contains(cluster.MessageOf(err), "no room for 66 MB more") || m.sent() > mib {
			t.Errorf("%d bytes were sent: %v", m.sent(), err)
		}
		t.Logf("full disk: %s", cluster.MessageOf(err))
		free.Store(500 * mib)
		if err := m.depot.Fetch(t.Context(), jobs.Lease{}, ref); err != nil {
			t.Error(err)
		}
		blobtest.Expect(t, m.local, ref, raw)
	})
}

// TestSmallBlobsComeInOneRequest as before there were chunks.
func TestSmallBlobsComeInOneRequest(t *testing.T) {
	raw := blobtest.Noise(4, 100_000)
	asked := 0
	at(t, fair{harms: []harm{func(_ *source, next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { asked++; next.ServeHTTP(w, r) })
	}}}, func(t *testing.T, m *market) {
		keep(t, m.sources[0].store, raw)
		if err := m.depot.Fetch(t.Context(), jobs.Lease{}, blobtest.Digest(raw)); err != nil || asked != 1 {
			t.Errorf("%d requests: %v", asked, err)
		}
		blobtest.Expect(t, m.local, blobtest.Digest(raw), raw)
		other := blobtest.Noise(5, 100_000)
		keep(t, m.local, other)
		if err := m.depot.Keep(t.Context(), jobs.Lease{}, blobtest.Digest(other)); err != nil || asked != 2 {
			t.Errorf("%d requests: %v", asked, err)
		}
	})
}
