package gateway

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"runtime/debug"
	"strings"
	"sync"

	"github.com/valyala/fasthttp"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/roles/gateway/signin"
)

// adminPrefix is where the dashboard stands at the door.
const adminPrefix = "/admin/"

// admin serves the dashboard to the instructor. The dashboard is a net/http
// handler, as on every node's own site; this bridges one request to it and
// streams what it writes, because its feed never ends.
func (g *Gateway) admin(ctx *fasthttp.RequestCtx, raw string, id signin.Identity) {
	if !id.Instructor {
		notYours(ctx, raw, cluster.Errorf(cluster.Forbidden, "The dashboard is for the instructor. Your ComfyUI is at /%s/.", id.User))
		return
	}
	if raw == "/admin" {
		redirect(ctx, "/admin/", fasthttp.StatusMovedPermanently)
		return
	}
	req, err := adminRequest(ctx, raw)
	if err != nil {
		plain(ctx, fasthttp.StatusBadRequest, "400: Bad Request")
		return
	}
	w := g.desk.serve(g.cfg.Admin(string(id.User)), req, id)
	if w == nil {
		fail(ctx, cluster.Errorf(cluster.Unavailable, "The dashboard's server is restarting."))
		return
	}
	<-w.ready
	for k, vs := range w.sent {
		for i, v := range vs {
			if i == 0 {
				ctx.Response.Header.Set(k, v)
			} else {
				ctx.Response.Header.Add(k, v)
			}
		}
	}
	ctx.SetStatusCode(w.status)
	ctx.Response.ImmediateHeaderFlush = true // a feed may have nothing to say yet
	ctx.SetBodyStreamWriter(w.copyTo)
}

// maxAdmin bounds what the dashboard may send, in bytes.
const maxAdmin = 16 << 20

func adminRequest(ctx *fasthttp.RequestCtx, raw string) (*http.Request, error) {
	path, err := url.PathUnescape(strings.TrimPrefix(raw, "/admin"))
	if err != nil {
		return nil, err
	}
	body, err := readBody(ctx, maxAdmin)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequest(string(ctx.Method()), "http://site/", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.URL.Path, req.URL.RawQuery = path, string(ctx.URI().QueryString())
	req.Host = string(ctx.Host())
	for k, v := range ctx.Request.Header.All() {
		// What signs in at the door is nobody else's to see.
		if key := string(k); !strings.EqualFold(key, fasthttp.HeaderAuthorization) && !strings.EqualFold(key, fasthttp.HeaderCookie) {
			req.Header.Add(key, string(v))
		}
	}
	req.RemoteAddr = ctx.RemoteAddr().String()
	return req, nil
}

// desk runs the dashboard's handlers and waits for them at the end.
type desk struct {
	log  *slog.Logger
	life context.Context // of every request; over when the door closes
	end  context.CancelFunc

	mu     sync.Mutex
	closed bool
	asking map[*bridge]signin.Identity // whose handlers run
	open   sync.WaitGroup
}

func newDesk(log *slog.Logger) *desk {
	d := &desk{log: log, asking: map[*bridge]signin.Identity{}}
	d.life, d.end = context.WithCancel(context.Background())
	return d
}

// serve starts a handler; nil when the door is closing.
func (d *desk) serve(h http.Handler, req *http.Request, id signin.Identity) *bridge {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	ctx, cancel := context.WithCancel(d.life)
	w := newBridge(cancel)
	d.asking[w] = id
	// At the end a write that nobody takes must not hold the handler.
	stop := context.AfterFunc(d.life, func() { _ = w.read.CloseWithError(errors.New("the door is closing")) })
	d.open.Go(func() {
		defer cancel()
		defer stop()
		defer d.done(w)
		defer w.finish()
		defer func() {
			p := recover()
			if p == nil {
				return
			}
			w.WriteHeader(http.StatusInternalServerError) // too late if it had begun
			if err, ok := p.(error); !ok || !errors.Is(err, http.ErrAbortHandler) {
				d.log.Error("the dashboard panicked", "path", req.URL.Path, "panic", p, "stack", string(debug.Stack()))
			}
		}()
		h.ServeHTTP(w, req.WithContext(ctx))
	})
	return w
}

func (d *desk) done(w *bridge) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.asking, w)
}

// dismiss ends the requests of those who may not look any more: a feed goes on
// for as long as the page is open.
func (d *desk) dismiss(holds func(signin.Identity) bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for w, id := range d.asking {
		if !holds(id) {
			w.leave()
			_ = w.read.CloseWithError(errors.New("the sign-in has ended"))
		}
	}
}

// close ends all requests and waits for their handlers, no longer than ctx.
func (d *desk) close(ctx context.Context) {
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	d.end()
	done := make(chan struct{})
	go func() { defer close(done); d.open.Wait() }()
	select {
	case <-done:
	case <-ctx.Done():
		d.log.Warn("a page of the dashboard did not end")
	}
}

// bridge is the http.ResponseWriter of one dashboard request: what the handler
// writes goes through a pipe to the connection, flush by flush.
type bridge struct {
	header http.Header
	sent   http.Header
	status int
	ready  chan struct{} // closed at the first byte, or when the handler ends
	read   *io.PipeReader
	write  *io.PipeWriter
	begun  bool
	leave  context.CancelFunc // the browser is gone
}

func newBridge(leave context.CancelFunc) *bridge {
	r, w := io.Pipe()
	return &bridge{header: http.Header{}, status: http.StatusOK, ready: make(chan struct{}), read: r, write: w, leave: leave}
}

func (b *bridge) Header() http.Header { return b.header }

func (b *bridge) WriteHeader(status int) {
	if b.begun {
		return
	}
	b.begun, b.status, b.sent = true, status, b.header.Clone()
	b.sent.Del("Content-Length")
	close(b.ready)
}

func (b *bridge) Write(p []byte) (int, error) {
	b.WriteHeader(http.StatusOK)
	return b.write.Write(p)
}

// Flush has nothing to hold back: copyTo flushes whatever it gets.
func (b *bridge) Flush() { b.WriteHeader(http.StatusOK) }

func (b *bridge) finish() {
	b.WriteHeader(http.StatusOK)
	_ = b.write.Close()
}

// copyTo ends when the handler does, or at the first write after the browser
// has gone: then the request's context is over and the handler cannot write.
func (b *bridge) copyTo(w *bufio.Writer) {
	defer b.leave()
	defer b.read.CloseWithError(errors.New("the browser is gone"))
	buf := make([]byte, 16<<10)
	for {
		n, err := b.read.Read(buf)
		if n > 0 {
			if _, werr := w.Write(buf[:n]); werr != nil || w.Flush() != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
