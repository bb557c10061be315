package peer_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/blob"
	"github.com/ahelme/comfyume/cluster/blob/blobtest"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/cluster/peer"
)

const mib = 1 << 20

// A source under test is a keeper behind a handler that harms what it says. The
// suite is what fetching promises whatever the sources do: nothing wrong gets a
// name, the right file comes if somebody has it, who lies is named, and what has
// come does not come again.

// source is one machine that keeps blobs.
type source struct {
	name  cluster.NodeID
	store *blob.Dir
	harm  func(s *source, next http.Handler) http.Handler
	conns chan net.Conn
	sent  atomic.Int64 // bytes of bodies that it has sent
	taken atomic.Int64 // and that it was sent
}

// dial connects in memory; a source that is nil is a machine that is gone.
func (s *source) dial(ctx context.Context) (net.Conn, error) {
	here, there := net.Pipe()
	select {
	case s.conns <- there:
		return here, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (s *source) Accept() (net.Conn, error) {
	c, ok := <-s.conns
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}

func (*source) Close() error   { return nil }
func (*source) Addr() net.Addr { return &net.TCPAddr{} }

// counted counts what a handler sends and takes, and lets a test change the former.
type counted struct {
	http.ResponseWriter
	s      *source
	change func(body []byte) (n int, end error) // it may harm it, and cut it to n
}

func (c counted) Unwrap() http.ResponseWriter { return c.ResponseWriter }

func (c counted) Write(p []byte) (int, error) {
	p, n, end := bytes.Clone(p), len(p), error(nil)
	if c.change != nil {
		n, end = c.change(p)
	}
	n, err := c.ResponseWriter.Write(p[:n])
	c.s.sent.Add(int64(n))
	if end != nil {
		return n, end
	}
	return n, err
}

type countedBody struct {
	io.ReadCloser
	s *source
}

func (c countedBody) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.s.taken.Add(int64(n))
	return n, err
}

// from is the byte of the blob at which an answer begins; -1 for other answers.
func from(r *http.Request) int64 {
	n, err := strconv.ParseInt(r.URL.Query().Get("from"), 10, 64)
	if err != nil {
		return -1
	}
	return n
}

// changing is a harm to the bytes of a blob from some place on.
func changing(change func(r *http.Request, at int64, body []byte) (int, error)) func(*source, http.Handler) http.Handler {
	return func(s *source, next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			at := from(r)
			if at < 0 || r.Method != http.MethodGet {
				next.ServeHTTP(w, r)
				return
			}
			next.ServeHTTP(counted{w, s, func(body []byte) (int, error) {
				n, err := change(r, at, body)
				at += int64(len(body))
				return n, err
			}}, r)
		})
	}
}

// flips a bit of one byte, every time.
func flips(byteAt int64) func(*source, http.Handler) http.Handler {
	return changing(func(_ *http.Request, at int64, body []byte) (int, error) {
		if i := byteAt - at; i >= 0 && i < int64(len(body)) {
			body[i] ^= 1
		}
		return len(body), nil
	})
}

// stalls says nothing more from a byte on.
func stalls(byteAt int64) func(*source, http.Handler) http.Handler {
	return changing(func(r *http.Request, at int64, body []byte) (int, error) {
		if at+int64(len(body)) <= byteAt {
			return len(body), nil
		}
		<-r.Context().Done()
		return 0, io.ErrClosedPipe
	})
}

// breaks ends the connection at a byte, however much was asked for.
func breaks(byteAt func() int64) func(*source, http.Handler) http.Handler {
	return changing(func(_ *http.Request, at int64, body []byte) (int, error) {
		if end := byteAt(); at+int64(len(body)) > end {
			return int(max(0, end-at)), io.ErrClosedPipe
		}
		return len(body), nil
	})
}

// answers replaces the body of one kind of answer.
func answers(param string, with func(w http.ResponseWriter, r *http.Request)) func(*source, http.Handler) http.Handler {
	return func(_ *source, next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet && r.URL.Query().Has(param) {
				with(w, r)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

func both(a, b func(*source, http.Handler) http.Handler) func(*source, http.Handler) http.Handler {
	return func(s *source, next http.Handler) http.Handler { return a(s, b(s, next)) }
}

// lists gives a false list.
func lists(l blob.Chunks) func(*source, http.Handler) http.Handler {
	return answers("list", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Comfyume-Size", strconv.FormatInt(l.Size, 10))
		_, _ = w.Write(l.Sums)
	})
}

// old is a machine of a version that knows nothing of chunks.
func old(_ *source, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if q := r.URL.Query(); r.Method == http.MethodGet {
			q.Del("list")
			q.Del("from")
			q.Del("part")
			r.URL.RawQuery = q.Encode()
		}
		next.ServeHTTP(w, r)
	})
}

// market is some sources and one machine that fetches and sends.
type market struct {
	t       *testing.T
	root    string // of local
	local   *blob.Dir
	depot   *peer.Depot
	sources []*source
	said    *said
}

// said is what was logged.
type said struct {
	mu    sync.Mutex
	lines bytes.Buffer
}

func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lines.Write(p)
}

func (s *said) has(words ...string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for line := range strings.Lines(s.lines.String()) {
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
			return true
		}
	}
	return false
}

// at a market, f runs in virtual time; sources are s0, s1 and so on.
func at(t *testing.T, space func(string) (int64, int64, error), who func() peer.Who, table peer.Table, harms []func(*source, http.Handler) http.Handler, f func(t *testing.T, m *market)) {
	t.Helper()
	open := func(path string, space func(string) (int64, int64, error)) *blob.Dir {
		d, err := blob.OpenDir(blob.DirConfig{Path: path, Logger: slog.New(slog.DiscardHandler), Space: space})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	m := &market{t: t, root: t.TempDir(), said: &said{}}
	m.local = open(m.root, space)
	for i, harm := range harms {
		m.sources = append(m.sources, &source{name: cluster.NodeID(fmt.Sprintf("s%d", i)), store: open(t.TempDir(), nil), harm: harm})
	}
	synctest.Test(t, func(t *testing.T) {
		m.t = t
		lineage := func() cluster.Lineage {
			return cluster.Lineage{Cluster: "c", Generation: cluster.Generation{Number: 1, Mark: "ab"}}
		}
		log := slog.New(slog.NewTextHandler(m.said, nil))
		var webs []*http.Server
		for _, s := range m.sources {
			s.conns = make(chan net.Conn)
			gate := peer.NewGate(peer.GateConfig{Self: s.name, Lineage: lineage, WhoIs: func(context.Context, string) (peer.Who, error) { return who(), nil }})
			server := peer.NewServer(gate, func() cluster.NodeID { return "" }, slog.New(slog.DiscardHandler))
			peer.ServeBlobs(server, s.store, table)
			inner := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				r.Body = countedBody{r.Body, s}
				server.ServeHTTP(w, r)
			})
			h := http.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { inner.ServeHTTP(counted{w, s, nil}, r) }))
			if s.harm != nil {
				h = s.harm(s, h)
			}
			web := &http.Server{Handler: h}
			webs = append(webs, web)
			go func() { _ = web.Serve(s) }()
		}
		client := peer.NewClient(peer.NewGate(peer.GateConfig{Self: "me", Lineage: lineage, Logger: log, Dial: func(ctx context.Context, node cluster.NodeID, _ uint16) (net.Conn, error) {
			i := slices.IndexFunc(m.sources, func(s *source) bool { return s.name == node })
			return m.sources[i].dial(ctx)
		}}))
		m.depot = &peer.Depot{Client: client, Local: m.local, Keepers: func() (out []cluster.NodeID) {
			for _, s := range m.sources {
				out = append(out, s.name)
			}
			return out
		}}
		f(t, m)
		client.Close()
		for i, s := range m.sources {
			close(s.conns)
			_ = webs[i].Close() // its connections are pipes
		}
		time.Sleep(time.Second) // a server lingers over a connection that it closes
	})
}

func core() peer.Who { return peer.Who{Node: "me", Name: "me", Core: true} }

func (m *market) sent() (n int64) {
	for _, s := range m.sources {
		n += s.sent.Load()
	}
	return n
}

// named fails the test if anything has a final name but right.
func named(t *testing.T, root string, right cluster.Ref) (n int) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(root, "blobs"), func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			n++
			if e.Name() != string(right) {
				t.Errorf("a file that nobody asked for has a name: %s", path)
			}
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	return n
}

func keep(t *testing.T, d *blob.Dir, raw []byte) {
	t.Helper()
	if _, _, err := d.Put(t.Context(), bytes.NewReader(raw), int64(len(raw))); err != nil {
		t.Fatal(err)
	}
}

// TestSources is the conformance suite of fetching: each harm alone, then with a
// good source behind it.
func TestSources(t *testing.T) {
	const seed = 13
	roll := rand.New(rand.NewPCG(seed, 1))
	raw, ref, list := blobtest.Large(1, 66*mib+5)
	size := int64(len(raw))
	byteAt := roll.Int64N(size - 2)
	t.Logf("seed %d, harm at byte %d of %d", seed, byteAt, size)
	chunk := byteAt / blob.Chunk * blob.Chunk
	other, _, otherList := blobtest.Large(2, 66*mib+5)
	falseList := blob.Chunks{Size: list.Size, Sums: slices.Clone(list.Sums)}
	falseList.Sums[byteAt/blob.Chunk*32] ^= 1
	for _, c := range []struct {
		what string
		harm func(*source, http.Handler) http.Handler
		// what is here after it alone, and what it is called; "" = it is no failure
		had    int64
		code   cluster.Code
		says   string
		named  bool  // as one who has other bytes
		resent int64 // how much of the file comes twice at most
		within time.Duration
	}{
		{"right", nil, size, "", "", false, 0, time.Second},
		{"lies about a byte", flips(byteAt), chunk, cluster.Internal, "node s0 has other bytes", true, chunk, time.Second},
		{"stalls", stalls(byteAt), byteAt, cluster.Unavailable, "does not answer", false, 0, 21 * time.Second},
		{"stalls before its first byte", answers("from", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }), 0, cluster.Unavailable, "does not answer", false, 0, 21 * time.Second},
		{"stalls at the list", answers("list", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }), 0, cluster.Unavailable, "does not answer", false, 0, 21 * time.Second},
		{"truncates", breaks(func() int64 { return byteAt }), byteAt, cluster.Unavailable, "node s0 does not answer", false, 0, time.Second},
		{"breaks again and again", changing(func(r *http.Request, at int64, body []byte) (int, error) {
			if at >= from(r)+20*mib {
				return 0, io.ErrClosedPipe
			}
			return len(body), nil
		}), size, "", "", false, 0, time.Second},
		{"gives a false list", lists(falseList), chunk, cluster.Internal, "node s0 has other bytes", true, chunk + blob.Chunk, time.Second},
		{"lies about the whole", both(lists(otherList), changing(func(_ *http.Request, at int64, body []byte) (int, error) {
			copy(body, other[at:])
			return len(body), nil
		})), 0, cluster.Internal, "its list of the parts is false", true, size, time.Second},
		{"gives a list that is no list", lists(blob.Chunks{Size: list.Size, Sums: []byte("short")}), 0, cluster.Unavailable, "cannot list", false, 0, time.Second},
		{"claims a size that is none", lists(blob.Chunks{Size: -5}), 0, cluster.Internal, "says that file", false, 0, time.Second},
		{"does not have it", func(*source, http.Handler) http.Handler { return http.NotFoundHandler() }, 0, cluster.Unavailable, "", false, 0, time.Second},
		{"is of an older version", old, size, "", "", false, 0, time.Second},
	} {
		t.Run(c.what, func(t *testing.T) {
			at(t, nil, core, nil, []func(*source, http.Handler) http.Handler{c.harm, nil}, func(t *testing.T, m *market) {
				keep(t, m.sources[0].store, raw)
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
				had := size
				if p, perr := m.local.Partial(t.Context(), ref); err != nil && perr == nil {
					had = p.Size()
					_ = p.Close()
				}
				if had < c.had-64<<10 || had > c.had {
					t.Errorf("alone it brought %d bytes, want %d", had, c.had)
				}
				if n := named(t, m.root, ref); n > 0 != (err == nil) {
					t.Errorf("%d files have a name: %v", n, err)
				}
				// The good one comes back, and so does somebody who is right.
				keep(t, m.sources[1].store, raw)
				before := m.sources[1].sent.Load()
				if err := m.depot.Fetch(t.Context(), jobs.Lease{}, ref); err != nil {
					t.Errorf("with another source: %v", err)
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
				t.Logf("source harm=%q at=%d here=%d then=%d of=%d", c.what, byteAt, had, got, size)
				if over := got - (size - had); over > c.resent+4096 {
					t.Errorf("%d bytes came from the good one; %d were here", got, had)
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
	at(t, func(string) (int64, int64, error) { return free.Load(), 1000 * mib, nil }, core, nil, make([]func(*source, http.Handler) http.Handler, 2), func(t *testing.T, m *market) {
		for _, s := range m.sources {
			keep(t, s.store, raw)
		}
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
	at(t, nil, core, nil, []func(*source, http.Handler) http.Handler{func(_ *source, next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { asked++; next.ServeHTTP(w, r) })
	}}, func(t *testing.T, m *market) {
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

// hears lets a keeper hear so much of an upload, and then harms it.
func hears(limit func() int64, then func(r *http.Request) error) func(*source, http.Handler) http.Handler {
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
	raw, ref, list := blobtest.Large(5, 150*mib)
	size := int64(len(raw))
	for _, c := range []struct {
		what  string
		limit func() int64
		then  func(r *http.Request) error
		tries int // of Keep
	}{
		{"nothing happens", func() int64 { return 1 << 40 }, nil, 1},
		{"the connection breaks", func() int64 { return roll.Int64N(40*mib) + 20*mib }, func(*http.Request) error { return io.ErrUnexpectedEOF }, 1},
		{"the keeper stands still", func() int64 { return roll.Int64N(40*mib) + 60*mib }, func(*http.Request) error { time.Sleep(time.Minute); return io.ErrUnexpectedEOF }, 8},
		{"it breaks before much has come", func() int64 { return roll.Int64N(10 * mib) }, func(*http.Request) error { return io.ErrUnexpectedEOF }, 60},
	} {
		t.Run(c.what, func(t *testing.T) {
			at(t, nil, core, nil, []func(*source, http.Handler) http.Handler{hears(c.limit, c.then)}, func(t *testing.T, m *market) {
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
	at(t, nil, core, nil, make([]func(*source, http.Handler) http.Handler, 1), func(t *testing.T, m *market) {
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
	at(t, nil, core, nil, []func(*source, http.Handler) http.Handler{answers("part", func(w http.ResponseWriter, _ *http.Request) {
		raw, _ := cluster.Marshal(cluster.Errorf(cluster.NoSpace, "The workshop's disk has no room for 66 MB more."))
		w.WriteHeader(http.StatusInsufficientStorage)
		_, _ = w.Write(raw)
	}), nil, nil}, func(t *testing.T, m *market) {
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

// TestOldKeepersAreSentTheWhole: a machine that knows nothing of parts still gets
// results.
func TestOldKeepersAreSentTheWhole(t *testing.T) {
	raw, ref, _ := blobtest.Large(7, 66*mib)
	at(t, nil, core, nil, []func(*source, http.Handler) http.Handler{old}, func(t *testing.T, m *market) {
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
	at(t, nil, stranger, nobody{}, make([]func(*source, http.Handler) http.Handler, 1), func(t *testing.T, m *market) {
		keep(t, m.sources[0].store, raw)
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
