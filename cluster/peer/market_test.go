package peer_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
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
	root  string
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
func changing(change func(r *http.Request, at int64, body []byte) (int, error)) harm {
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
func flips(byteAt int64) harm {
	return changing(func(_ *http.Request, at int64, body []byte) (int, error) {
		if i := byteAt - at; i >= 0 && i < int64(len(body)) {
			body[i] ^= 1
		}
		return len(body), nil
	})
}

// stalls says nothing more from a byte on.
func stalls(byteAt int64) harm {
	return changing(func(r *http.Request, at int64, body []byte) (int, error) {
		if at+int64(len(body)) <= byteAt {
			return len(body), nil
		}
		<-r.Context().Done()
		return 0, io.ErrClosedPipe
	})
}

// breaks ends the connection at a byte, however much was asked for.
func breaks(byteAt func() int64) harm {
	return changing(func(_ *http.Request, at int64, body []byte) (int, error) {
		if end := byteAt(); at+int64(len(body)) > end {
			return int(max(0, end-at)), io.ErrClosedPipe
		}
		return len(body), nil
	})
}

// answers replaces the body of one kind of answer.
func answers(param string, with func(w http.ResponseWriter, r *http.Request)) harm {
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

func both(a, b harm) harm {
	return func(s *source, next http.Handler) http.Handler { return a(s, b(s, next)) }
}

// lists gives a false list.
func lists(l blob.Chunks) harm {
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

type harm = func(*source, http.Handler) http.Handler

// fair is how a market is set up.
type fair struct {
	space func(string) (int64, int64, error) // of the one who fetches; nil asks the system
	who   func() peer.Who                    // asks the sources; nil: a core node
	table peer.Table
	stock []byte // a large file that all sources have
	harms []harm // one for each source: s0, s1 and so on
}

// at a market, f runs in virtual time.
func at(t *testing.T, c fair, f func(t *testing.T, m *market)) {
	t.Helper()
	open := func(path string, space func(string) (int64, int64, error)) *blob.Dir {
		d, err := blob.OpenDir(blob.DirConfig{Path: path, Logger: slog.New(slog.DiscardHandler), Space: space})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	if c.who == nil {
		c.who = core
	}
	m := &market{t: t, root: t.TempDir(), said: &said{}}
	m.local = open(m.root, c.space)
	stock := filepath.Join(t.TempDir(), "stock")
	if err := os.WriteFile(stock, c.stock, 0o600); err != nil {
		t.Fatal(err)
	}
	for i, harm := range c.harms {
		root := t.TempDir()
		if ref := string(blobtest.Digest(c.stock)); c.stock != nil { // a link is not flushed: that takes longest
			dir := filepath.Join(root, "blobs", ref[:2])
			if err := errors.Join(os.MkdirAll(dir, 0o700), os.Link(stock, filepath.Join(dir, ref))); err != nil {
				t.Fatal(err)
			}
		}
		m.sources = append(m.sources, &source{name: cluster.NodeID(fmt.Sprintf("s%d", i)), root: root, store: open(root, nil), harm: harm})
	}
	synctest.Test(t, func(t *testing.T) {
		m.t = t
		var webs []*http.Server
		for _, s := range m.sources {
			webs = append(webs, s.open(c))
		}
		client := peer.NewClient(peer.NewGate(peer.GateConfig{Self: "me", Lineage: oneLineage, Logger: slog.New(slog.NewTextHandler(m.said, nil)), Dial: func(ctx context.Context, node cluster.NodeID, _ uint16) (net.Conn, error) {
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

// open lets a source answer.
func (s *source) open(c fair) *http.Server {
	s.conns = make(chan net.Conn)
	gate := peer.NewGate(peer.GateConfig{Self: s.name, Lineage: oneLineage, WhoIs: func(context.Context, string) (peer.Who, error) { return c.who(), nil }})
	server := peer.NewServer(gate, func() cluster.NodeID { return "" }, slog.New(slog.DiscardHandler))
	peer.ServeBlobs(server, s.store, c.table)
	h := http.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = countedBody{r.Body, s}
		server.ServeHTTP(counted{w, s, nil}, r)
	}))
	if s.harm != nil {
		h = s.harm(s, h)
	}
	web := &http.Server{Handler: h}
	go func() { _ = web.Serve(s) }()
	return web
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
