package gateway

import (
	"encoding/json"
	htmltemplate "html/template"
	"strings"

	"github.com/valyala/fasthttp"

	"github.com/ahelme/comfyume/cluster/jobs"
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
	return read && g.manifest(ctx, raw)
}

// manifest is the page's web manifest, which browsers fetch without the
// password: a 401 would stand as an error in every console.
func (g *Gateway) manifest(ctx *fasthttp.RequestCtx, raw string) bool {
	_, file, ok := strings.Cut(raw, "/assets/manifest")
	if !ok || strings.Contains(file, "/") || !strings.HasSuffix(file, ".json") {
		return false
	}
	return g.serveAsset(ctx, "assets/manifest"+file)
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
	// To the root: what asked directly below it makes the browser sign in for all
	// of the site, so the page and its socket work there as below a prefix.
	redirect(ctx, "/", fasthttp.StatusFound)
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
