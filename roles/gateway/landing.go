package gateway

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	htmltemplate "html/template"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/valyala/fasthttp"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/roles/gateway/signin"
)

// public answers the few paths that need no sign-in, and says whether it did.
func (g *Gateway) public(ctx *fasthttp.RequestCtx, raw string) bool {
	read := ctx.IsGet() || ctx.IsHead()
	switch raw {
	case "/healthz":
		if read {
			status, body := g.cfg.Health()
			writeJSON(ctx, status, body)
			return true
		}
	case "/health":
		if read {
			g.healthPage(ctx)
			return true
		}
	case "/api/queue/status":
		if read {
			g.queueStatus(ctx)
			return true
		}
	case "/login":
		if read {
			g.login(ctx)
			return true
		}
	case "/robots.txt":
		if read {
			plain(ctx, fasthttp.StatusOK, "User-agent: *\nDisallow: /\n")
			return true
		}
	}
	return false
}

// login makes the browser ask for the password and then leads to one's own page.
func (g *Gateway) login(ctx *fasthttp.RequestCtx) {
	id, err := g.identify(ctx)
	if err != nil {
		g.stranger(ctx, "/login", err)
		return
	}
	if id.Instructor {
		redirect(ctx, "/admin/", fasthttp.StatusFound)
		return
	}
	redirect(ctx, "/"+string(id.User)+"/", fasthttp.StatusFound)
}

// queueStatus is counts only: nobody's name or work.
func (g *Gateway) queueStatus(ctx *fasthttp.RequestCtx) {
	var n jobs.Counts
	g.cfg.Tables.Jobs(func(t *jobs.Table) { n = t.Count() })
	raw, err := json.Marshal(map[string]int{"waiting": n.Waiting, "running": n.Running, "done": n.Done, "failed": n.Failed})
	if err != nil {
		fail(ctx, err)
		return
	}
	writeJSON(ctx, fasthttp.StatusOK, raw)
}

var pages = htmltemplate.Must(htmltemplate.New("pages").Parse(`{{define "head"}}<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{{.}}</title>
<style>:root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;max-width:40rem;margin:12vh auto;padding:0 1rem}a.go{display:inline-block;padding:.6rem 1.2rem;border:1px solid;border-radius:.4rem;text-decoration:none}td{padding:.2rem 1rem .2rem 0}</style></head><body>{{end}}
{{define "landing"}}{{template "head" "ComfyUI workshop"}}<h1>ComfyUI workshop</h1>
<p>Sign in with the name and the password on your card. Your own ComfyUI opens; your workflows and pictures are kept.</p>
<p><a class="go" href="/login">Sign in</a></p><p>Instructor: <a href="/admin/">dashboard</a>. State of the service: <a href="/health">health</a>.</p></body></html>{{end}}
{{define "health"}}{{template "head" "Health"}}<h1>{{if .Ready}}The workshop is open{{else}}The workshop is not ready{{end}}</h1>
<table>{{range .Checks}}<tr><td>{{if .OK}}ok{{else}}not ok{{end}}</td><td>{{.Name}}</td><td>{{.Detail}}</td><td>{{printf "%.0f" .Age}} s ago</td></tr>{{end}}</table>
<p>{{.Waiting}} jobs waiting, {{.Running}} running.</p></body></html>{{end}}`))

// landing is what somebody without a sign-in finds at the root.
func (g *Gateway) landing(ctx *fasthttp.RequestCtx) { g.page(ctx, "landing", nil) }

func (g *Gateway) page(ctx *fasthttp.RequestCtx, name string, data any) {
	ctx.SetContentType("text/html; charset=utf-8")
	ctx.Response.Header.Set(fasthttp.HeaderContentSecurityPolicy, "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'")
	if err := pages.ExecuteTemplate(ctx, name, data); err != nil {
		g.log.Error("a page could not be written", "page", name, "err", err)
	}
}

// healthPage shows /healthz to people.
func (g *Gateway) healthPage(ctx *fasthttp.RequestCtx) {
	status, raw := g.cfg.Health()
	var view struct {
		Ready  bool
		Checks []struct {
			Name   string
			OK     bool
			Age    float64 `json:"age_s"`
			Detail string
		}
		Waiting, Running int `json:"-"`
	}
	if err := json.Unmarshal(raw, &view); err != nil {
		fail(ctx, err)
		return
	}
	g.cfg.Tables.Jobs(func(t *jobs.Table) { n := t.Count(); view.Waiting, view.Running = n.Waiting, n.Running })
	g.page(ctx, "health", view)
	ctx.SetStatusCode(status)
}

// admin serves the dashboard to the instructor. The dashboard is a net/http
// handler, as on every node's own site; this bridges one request to it and
// streams what it writes, because its feed never ends.
func (g *Gateway) admin(ctx *fasthttp.RequestCtx, raw string, id signin.Identity) {
	if !id.Instructor {
		fail(ctx, cluster.Errorf(cluster.Forbidden, "The dashboard is for the instructor. Your ComfyUI is at /%s/.", id.User))
		return
	}
	if !sameSite(ctx) {
		fail(ctx, cluster.Errorf(cluster.Forbidden, "This request comes from another site and was refused."))
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
	w := newBridge()
	handler := g.cfg.Admin(string(id.User))
	go func() {
		defer w.finish()
		handler.ServeHTTP(w, req)
	}()
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
		if key := string(k); !strings.EqualFold(key, fasthttp.HeaderAuthorization) {
			req.Header.Add(key, string(v))
		}
	}
	req.RemoteAddr = ctx.RemoteAddr().String()
	return req, nil
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
}

func newBridge() *bridge {
	r, w := io.Pipe()
	return &bridge{header: http.Header{}, status: http.StatusOK, ready: make(chan struct{}), read: r, write: w}
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

// copyTo ends when the handler does, or when the browser is gone: then the
// handler's next write fails.
func (b *bridge) copyTo(w *bufio.Writer) {
	defer b.read.CloseWithError(fmt.Errorf("the browser is gone"))
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
