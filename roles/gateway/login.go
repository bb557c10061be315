package gateway

import (
	"net/url"
	"strings"

	"github.com/valyala/fasthttp"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/roles/gateway/signin"
)

// maxForm bounds the body of a sign-in form, in bytes.
const maxForm = 16 << 10

// signInView is what the sign-in page shows.
type signInView struct {
	Name  string // typed before, or whom a link is for
	Link  string // its text
	Next  string // where to go then
	As    string // who is signed in in this browser already
	Wrong string // what did not work
}

// login is /login: the page with name and password, the page behind a sign-in
// link, and what their buttons do.
func (g *Gateway) login(ctx *fasthttp.RequestCtx) {
	switch {
	case ctx.IsPost():
		g.signIn(ctx)
	case !ctx.IsGet() && !ctx.IsHead():
		plain(ctx, fasthttp.StatusMethodNotAllowed, "405: Method Not Allowed")
	case string(ctx.QueryArgs().Peek("how")) == "basic":
		g.loginBasic(ctx)
	default:
		g.signInPage(ctx)
	}
}

// signInPage asks for what is needed. A link that is only looked at is not used up.
func (g *Gateway) signInPage(ctx *fasthttp.RequestCtx) {
	v := signInView{Link: string(ctx.QueryArgs().Peek("link")), Next: string(ctx.QueryArgs().Peek("next"))}
	if id, _, err := g.cfg.SignIn.Session(cookie(ctx, sessionCookie)); err == nil {
		v.As = string(id.User)
	}
	if v.Link != "" {
		u, err := g.cfg.SignIn.LinkFor(v.Link)
		if err != nil {
			g.notSignedIn(ctx, signInView{As: v.As}, err)
			return
		}
		v.Name = string(u)
	}
	g.page(ctx, "signin", v)
}

// signIn takes what was filled in.
func (g *Gateway) signIn(ctx *fasthttp.RequestCtx) {
	form, err := readForm(ctx)
	if err != nil {
		fail(ctx, err)
		return
	}
	v := signInView{Name: form.Get("name"), Next: form.Get("next")}
	var id signin.Identity
	if link := form.Get("link"); link != "" {
		v = signInView{}
		id, err = g.cfg.SignIn.Redeem(g.life, link)
		if code := cluster.CodeOf(err); err != nil && code != cluster.Unauthorized {
			v.Link, v.Next = link, form.Get("next") // it was not used up: the button may be pressed again
			if u, e := g.cfg.SignIn.LinkFor(link); e == nil {
				v.Name = string(u)
			}
		}
	} else {
		id, err = g.cfg.SignIn.PasswordAgain(g.life, cluster.User(strings.TrimSpace(v.Name)), form.Get("password"), address(ctx), cookie(ctx, sessionCookie))
	}
	if err != nil {
		g.notSignedIn(ctx, v, err)
		return
	}
	text, err := g.cfg.SignIn.NewSession(id)
	if err != nil {
		fail(ctx, err)
		return
	}
	setCookie(ctx, sessionCookie, text, signin.SessionLife)
	redirect(ctx, whereTo(form.Get("next"), id), fasthttp.StatusSeeOther)
}

// readForm reads a form that a page of this door sent.
func readForm(ctx *fasthttp.RequestCtx) (url.Values, error) {
	if !sameOrigin(ctx) {
		return nil, errOtherSite
	}
	body, err := readBody(ctx, maxForm)
	if err != nil {
		ctx.SetConnectionClose() // the rest of the body is not read
		return nil, err
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, cluster.Errorf(cluster.Invalid, "This form cannot be read. Load the page again.")
	}
	return form, nil
}

var errOtherSite = cluster.Errorf(cluster.Forbidden, "This request comes from another site and was refused.")

// notSignedIn shows the page again with what is wrong.
func (g *Gateway) notSignedIn(ctx *fasthttp.RequestCtx, v signInView, err error) {
	v.Wrong = cluster.MessageOf(err)
	code := cluster.CodeOf(err)
	if code == cluster.Unauthorized && v.Name != "" && v.Link == "" {
		v.Wrong = "The name or the password is wrong."
	}
	if code == cluster.Quota {
		ctx.Response.Header.Set(fasthttp.HeaderRetryAfter, retryAfter)
	}
	ctx.SetUserValue(problemKey, err)
	g.page(ctx, "signin", v)
	ctx.SetStatusCode(code.Status())
}

// whereTo is where somebody goes who has signed in: where they wanted to, if it
// is theirs, else home.
func whereTo(next string, id signin.Identity) string {
	home := "/" + string(id.User) + "/"
	if id.Instructor {
		home = "/admin/"
	}
	path, _, _ := strings.Cut(next, "?")
	theirs := strings.HasPrefix(next, home) || path == "/" && !id.Instructor
	if !theirs || len(next) > 2048 || !sanePath(path) || strings.ContainsFunc(next, func(r rune) bool { return r <= ' ' || r == '\\' || r == 0x7f }) {
		return home
	}
	return next
}

// loginBasic has the browser itself ask for name and password, and keep them.
func (g *Gateway) loginBasic(ctx *fasthttp.RequestCtx) {
	id, err := g.cfg.SignIn.Basic(g.life, string(ctx.Request.Header.Peek(fasthttp.HeaderAuthorization)), address(ctx))
	if err != nil {
		if cluster.CodeOf(err) == cluster.Unauthorized {
			ctx.Response.Header.Set(fasthttp.HeaderWWWAuthenticate, realm)
		}
		fail(ctx, err)
		return
	}
	setCookie(ctx, sessionCookie, "", 0) // or the session would go on winning
	if id.Instructor {
		redirect(ctx, "/admin/", fasthttp.StatusFound)
		return
	}
	// To the root: what asked directly below it makes the browser sign in for all
	// of the site, so the page and its socket work there as below a prefix.
	redirect(ctx, "/", fasthttp.StatusFound)
}

// logout is /logout: a page that asks, and its button. The session ends at every
// gateway, and this browser forgets everything of the site: also a password that
// it was told by itself.
func (g *Gateway) logout(ctx *fasthttp.RequestCtx) {
	switch {
	case ctx.IsGet() || ctx.IsHead():
		v := signInView{}
		if id, err := g.identify(ctx); err == nil {
			v.As = string(id.User)
		}
		g.page(ctx, "signout", v)
	case ctx.IsPost():
		form, err := readForm(ctx)
		if err != nil {
			fail(ctx, err)
			return
		}
		if err := g.cfg.SignIn.EndSession(g.life, cookie(ctx, sessionCookie), form.Get("everywhere") != ""); err != nil {
			g.log.Warn("a session was ended in its browser only", "err", err)
		}
		for _, name := range []string{sessionCookie, personCookie} {
			setCookie(ctx, name, "", 0)
		}
		ctx.Response.Header.Set("Clear-Site-Data", `"cache", "cookies", "storage"`)
		g.page(ctx, "signedout", nil)
	default:
		plain(ctx, fasthttp.StatusMethodNotAllowed, "405: Method Not Allowed")
	}
}
