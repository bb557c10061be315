package gateway

import (
	"net/url"
	"strings"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/roles/gateway/signin"
)

// userKey is where the signed-in user stands for the request's log line.
const userKey = "user"

// realm is what a browser shows when it asks for the password.
const realm = `Basic realm="ComfyuME Workshop", charset="UTF-8"`

// identify says who asks: a program by its token, a browser by its session, or
// either by name and password. A session that counts wins over a password: who
// signed in last on the page is who sits there, and a browser goes on sending a
// password that it was told once.
func (g *Gateway) identify(ctx *fasthttp.RequestCtx) (signin.Identity, error) {
	said := string(ctx.Request.Header.Peek(fasthttp.HeaderAuthorization))
	if len(said) > 7 && strings.EqualFold(said[:7], "Bearer ") {
		return g.cfg.SignIn.Bearer(said)
	}
	text := cookie(ctx, sessionCookie)
	if text != "" {
		id, renewed, err := g.cfg.SignIn.Session(text)
		if err == nil {
			if renewed != "" {
				setCookie(ctx, sessionCookie, renewed, signin.SessionLife)
			}
			return id, nil
		}
		if said == "" || cluster.CodeOf(err) == cluster.Unavailable {
			return signin.Identity{}, err
		}
	}
	return g.cfg.SignIn.BasicAgain(g.life, said, address(ctx), text)
}

// stranger answers a request without a usable sign-in: a person is shown where
// to sign in, a program is told.
func (g *Gateway) stranger(ctx *fasthttp.RequestCtx, raw string, err error) {
	said := len(ctx.Request.Header.Peek(fasthttp.HeaderAuthorization)) > 0
	switch code := cluster.CodeOf(err); {
	case code == cluster.Unauthorized && !said && raw == "/" && (ctx.IsGet() || ctx.IsHead()):
		g.landing(ctx)
		return
	case code == cluster.Unauthorized && !said && followed(ctx):
		askToSignIn(ctx, raw)
		return
	case code == cluster.Unauthorized && (said || !fromPage(ctx)):
		ctx.Response.Header.Set(fasthttp.HeaderWWWAuthenticate, realm)
	case code == cluster.Quota:
		ctx.Response.Header.Set(fasthttp.HeaderRetryAfter, retryAfter)
	}
	fail(ctx, err)
}

// notYours answers who is signed in as somebody else than the address is for. A
// person may have sat down where somebody else worked: they are shown who is
// signed in there, and can sign in instead. A program is told.
func notYours(ctx *fasthttp.RequestCtx, raw string, err error) {
	if followed(ctx) {
		askToSignIn(ctx, raw)
		return
	}
	fail(ctx, err)
}

// askToSignIn sends a person to the sign-in page, and then to where they wanted.
func askToSignIn(ctx *fasthttp.RequestCtx, raw string) {
	redirect(ctx, "/login?next="+url.QueryEscape(raw+query(ctx)), fasthttp.StatusSeeOther)
}

// retryAfter is when the next guess is looked at, in seconds.
const retryAfter = "6"

// followed reports whether a person opened this address in a browser.
func followed(ctx *fasthttp.RequestCtx) bool {
	if !ctx.IsGet() && !ctx.IsHead() || isUpgrade(ctx) {
		return false
	}
	if mode := ctx.Request.Header.Peek("Sec-Fetch-Mode"); len(mode) > 0 {
		return string(mode) == "navigate"
	}
	return strings.Contains(string(ctx.Request.Header.Peek(fasthttp.HeaderAccept)), "text/html")
}

// fromPage reports whether a page's script asks. A question for the password in
// the midst of somebody's work would help nobody: they reload and sign in.
func fromPage(ctx *fasthttp.RequestCtx) bool {
	return len(ctx.Request.Header.Peek("Sec-Fetch-Mode")) > 0 && !followed(ctx)
}

// yearLong is how long a browser remembers who used it.
const yearLong = 365 * 24 * time.Hour

// meet notes who opens ComfyUI in this browser. If it was somebody else before,
// the browser is told to forget what the frontend kept for them: drafts and
// settings of one must not be shown to another, nor saved as theirs. Browsers do
// so over TLS, and on the machine itself.
func (g *Gateway) meet(c *call) {
	if !c.IsGet() {
		return
	}
	before := cookie(c.RequestCtx, personCookie)
	if before == string(c.user) {
		return
	}
	if before != "" {
		c.Response.Header.Set("Clear-Site-Data", `"cache", "storage"`)
	}
	setCookie(c.RequestCtx, personCookie, string(c.user), yearLong)
}
