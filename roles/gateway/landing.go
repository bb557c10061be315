package gateway

import (
	"encoding/json"
	htmltemplate "html/template"
	"strings"

	"github.com/valyala/fasthttp"

	"github.com/ahelme/comfyume/cluster/jobs"
)

// openRoute is a path that needs no sign-in.
type openRoute struct {
	path   string
	writes bool // it is also for POST; else for GET and HEAD only
	handle func(*fasthttp.RequestCtx)
}

// openTable is every path that nobody has to sign in for, beside the manifest.
// A test tries each: none may name anybody or their work.
func (g *Gateway) openTable() []openRoute {
	return []openRoute{
		{"/healthz", false, func(ctx *fasthttp.RequestCtx) {
			status, body := g.cfg.Health()
			writeJSON(ctx, status, body)
		}},
		{"/health", false, g.healthPage},
		{"/api/queue/status", false, g.queueStatus},
		{"/login", true, g.login},
		{"/logout", true, g.logout},
		{"/robots.txt", false, func(ctx *fasthttp.RequestCtx) {
			plain(ctx, fasthttp.StatusOK, "User-agent: *\nDisallow: /\n")
		}},
	}
}

// public answers the few paths that need no sign-in, and says whether it did.
func (g *Gateway) public(ctx *fasthttp.RequestCtx, raw string) bool {
	read := ctx.IsGet() || ctx.IsHead()
	for _, r := range g.routes.open {
		if r.path == raw && (read || r.writes) {
			r.handle(ctx)
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
<style>:root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;max-width:40rem;margin:12vh auto;padding:0 1rem}a.go,button{display:inline-block;padding:.6rem 1.2rem;border:1px solid;border-radius:.4rem;text-decoration:none;background:none;color:inherit;font:inherit;cursor:pointer}label{display:block;margin:.8rem 0}input:not([type=checkbox]){display:block;width:100%;box-sizing:border-box;padding:.5rem;font:inherit}.wrong{border-left:.3rem solid #c33;padding-left:.8rem}td{padding:.2rem 1rem .2rem 0}</style></head><body>{{end}}
{{define "landing"}}{{template "head" "ComfyUI workshop"}}<h1>ComfyUI workshop</h1>
<p>Sign in with the name and the password on your card. Your own ComfyUI opens; your workflows and pictures are kept.</p>
<p><a class="go" href="/login">Sign in</a></p><p>Instructor: <a href="/admin/">dashboard</a>. State of the service: <a href="/health">health</a>.</p></body></html>{{end}}
{{define "signin"}}{{template "head" "Sign in"}}<h1>{{if .Link}}Welcome, {{.Name}}{{else}}Sign in{{end}}</h1>
{{with .Wrong}}<p class="wrong" role="alert">{{.}}</p>{{end}}
{{with .As}}<p>This browser is signed in as {{.}}: <a href="/">go on</a>, or <a href="/logout">sign out</a>.</p>{{end}}
<form method="post" action="/login"><input type="hidden" name="next" value="{{.Next}}">
{{if .Link}}<input type="hidden" name="link" value="{{.Link}}"><p>This link signs you in once. After that use the password on your card, or ask for another link.</p>
<p><button>Open my ComfyUI</button></p>{{else}}<label>Name <input name="name" value="{{.Name}}" autocomplete="username" autocapitalize="none" spellcheck="false" required{{if not .Name}} autofocus{{end}}></label>
<label>Password <input name="password" type="password" autocomplete="current-password" required{{if .Name}} autofocus{{end}}></label>
<p><button>Sign in</button></p>{{end}}</form></body></html>{{end}}
{{define "signout"}}{{template "head" "Sign out"}}<h1>Sign out</h1>
<p>{{with .As}}This browser is signed in as {{.}}. {{end}}What you saved stays on the server. Changes that you did not save are removed from this browser.</p>
<form method="post" action="/logout"><label><input type="checkbox" name="everywhere" value="1"> and everywhere else: other browsers, sign-in links, tokens of programs</label>
<p><button>Sign out</button></p></form></body></html>{{end}}
{{define "signedout"}}{{template "head" "Signed out"}}<h1>You are signed out</h1><p><a class="go" href="/login">Sign in</a></p></body></html>{{end}}
{{define "waiting"}}{{template "head" "My place in the queue"}}<h1>My jobs</h1>
{{range .Rows}}<p title="{{.Prompt}}">{{.Words}}</p>{{else}}<p>None of your jobs waits or runs.</p>{{end}}<p>In the whole workshop {{.Waiting}} jobs wait and {{.Running}} run.</p></body></html>{{end}}
{{define "files"}}{{template "head" "My files"}}<h1>My files</h1>
<p>You use {{.Total}}{{with .Bound}} of the {{.}} that you may have{{end}}: results {{.Results}}, uploads {{.Uploads}}, documents {{.Documents}}. What is removed here is gone for good; workflows stay.</p>
<form method="post" action="{{.Action}}"><table>{{range .Rows}}<tr><td><input type="checkbox" name="file" value="{{.Value}}" aria-label="{{.Name}}"></td><td><a href="{{.Link}}">{{.Name}}</a></td><td>{{.Kind}}</td><td>{{.Size}}</td><td>{{.Day}}</td></tr>{{else}}<tr><td>You have no results and uploads.</td></tr>{{end}}</table>
{{if .More}}<p>The largest are shown; there are {{.More}} more.</p>{{end}}{{if .Rows}}<p><button>Remove what is ticked</button></p>{{end}}</form></body></html>{{end}}
{{define "health"}}{{template "head" "Health"}}<h1>{{if .Ready}}The workshop is open{{else}}The workshop is not ready{{end}}</h1>
<table>{{range .Checks}}<tr><td>{{if .OK}}ok{{else}}not ok{{end}}</td><td>{{.Name}}</td><td>{{.Detail}}</td><td>{{printf "%.0f" .Age}} s ago</td></tr>{{end}}</table>
<p>{{.Waiting}} jobs waiting, {{.Running}} running.</p></body></html>{{end}}`))

// landing is what somebody without a sign-in finds at the root.
func (g *Gateway) landing(ctx *fasthttp.RequestCtx) { g.page(ctx, "landing", nil) }

func (g *Gateway) page(ctx *fasthttp.RequestCtx, name string, data any) {
	ctx.SetContentType("text/html; charset=utf-8")
	ctx.Response.Header.Set(fasthttp.HeaderContentSecurityPolicy, formPolicy)
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
