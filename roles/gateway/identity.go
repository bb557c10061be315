package gateway

import (
	"net"
	"net/url"
	"strings"

	"github.com/valyala/fasthttp"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/roles/gateway/signin"
)

// userKey is where the signed-in user stands for the request's log line.
const userKey = "user"

// realm is what a browser shows when it asks for the password.
const realm = `Basic realm="ComfyuME Workshop", charset="UTF-8"`

func (g *Gateway) identify(ctx *fasthttp.RequestCtx) (signin.Identity, error) {
	host, _, err := net.SplitHostPort(ctx.RemoteAddr().String())
	if err != nil {
		host = ctx.RemoteAddr().String()
	}
	return g.cfg.SignIn.Basic(g.life, string(ctx.Request.Header.Peek(fasthttp.HeaderAuthorization)), host)
}

// stranger answers a request without a usable sign-in.
func (g *Gateway) stranger(ctx *fasthttp.RequestCtx, raw string, err error) {
	if raw == "/" && len(ctx.Request.Header.Peek(fasthttp.HeaderAuthorization)) == 0 {
		g.landing(ctx)
		return
	}
	if cluster.CodeOf(err) == cluster.Unauthorized {
		ctx.Response.Header.Set(fasthttp.HeaderWWWAuthenticate, realm)
	}
	if cluster.CodeOf(err) == cluster.Quota {
		ctx.Response.Header.Set(fasthttp.HeaderRetryAfter, "6")
	}
	fail(ctx, err)
}

// sameSite refuses writes and sockets that another site's page makes with the
// browser's remembered password.
func sameSite(ctx *fasthttp.RequestCtx) bool {
	if (ctx.IsGet() || ctx.IsHead()) && !isUpgrade(ctx) {
		return true
	}
	if site := string(ctx.Request.Header.Peek("Sec-Fetch-Site")); site == "cross-site" {
		return false
	}
	origin := string(ctx.Request.Header.Peek(fasthttp.HeaderOrigin))
	if origin == "" {
		return true // not a browser
	}
	u, err := url.Parse(origin)
	return err == nil && strings.EqualFold(u.Host, string(ctx.Host()))
}

func isUpgrade(ctx *fasthttp.RequestCtx) bool {
	return strings.EqualFold(string(ctx.Request.Header.Peek(fasthttp.HeaderUpgrade)), "websocket")
}

// setHeaders are those of every answer. Per-user answers are never cached by
// anything in between; static ones say otherwise themselves.
func setHeaders(ctx *fasthttp.RequestCtx) {
	h := &ctx.Response.Header
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "SAMEORIGIN")
	h.Set("Referrer-Policy", "same-origin")
	h.Set(fasthttp.HeaderCacheControl, "no-store")
}
