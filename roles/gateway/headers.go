package gateway

import (
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/valyala/fasthttp"
)

// What a browser may do with an answer (Content-Security-Policy).
const (
	// filePolicy is every answer's that says nothing else. A picture or a document
	// that a participant made is shown as what it is: an SVG or an HTML file runs no
	// script, also when it is opened by itself.
	filePolicy = "sandbox; default-src 'none'; img-src 'self' data:; media-src 'self'; style-src 'unsafe-inline'; frame-ancestors 'self'"
	// pagePolicy is the stock frontend's: it writes scripts and styles in its page,
	// compiles some, and makes workers from blobs. Scripts come from this door alone,
	// but for Google's, with which people sign in at Comfy.org to use API nodes; to
	// there it talks over https.
	pagePolicy = "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob: https://apis.google.com; style-src 'self' 'unsafe-inline'; " +
		"img-src 'self' data: blob: https:; media-src 'self' data: blob: https:; font-src 'self' data:; connect-src 'self' data: blob: https: wss:; " +
		"worker-src 'self' blob:; frame-src 'self' blob: https:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
	// formPolicy is that of our own pages: no script at all.
	formPolicy = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

// hsts has browsers come over TLS only, for a month from each visit.
const hsts = "max-age=2592000"

// setHeaders are those of every answer. Per-user answers are never cached by
// anything in between; static ones say otherwise themselves.
func setHeaders(ctx *fasthttp.RequestCtx) {
	h := &ctx.Response.Header
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "SAMEORIGIN")
	h.Set("Referrer-Policy", "same-origin")
	h.Set(fasthttp.HeaderContentSecurityPolicy, filePolicy)
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin-allow-popups") // Comfy.org's sign-in is one
	h.Set("Permissions-Policy", "geolocation=(), payment=(), usb=()")
	h.Set(fasthttp.HeaderCacheControl, "no-store")
	if ctx.IsTLS() {
		h.Set(fasthttp.HeaderStrictTransportSecurity, hsts)
	}
}

// asPage lets an answer be part of the frontend: its page, its scripts and the
// workers that are made of them.
func asPage(ctx *fasthttp.RequestCtx) {
	ctx.Response.Header.Set(fasthttp.HeaderContentSecurityPolicy, pagePolicy)
}

// sameOrigin refuses what another site's page does with the sign-in that this
// browser has here: every write, every socket, and every read but a person's
// following a link.
func sameOrigin(ctx *fasthttp.RequestCtx) bool {
	h := &ctx.Request.Header
	read := (ctx.IsGet() || ctx.IsHead()) && !isUpgrade(ctx)
	switch string(h.Peek("Sec-Fetch-Site")) {
	case "", "same-origin", "none":
	default:
		dest := string(h.Peek("Sec-Fetch-Dest"))
		if !read || string(h.Peek("Sec-Fetch-Mode")) != "navigate" || dest != "" && dest != "document" {
			return false
		}
	}
	origin := string(h.Peek(fasthttp.HeaderOrigin))
	if read || origin == "" { // a browser names it with every write and every socket
		return true
	}
	u, err := url.Parse(origin)
	return err == nil && strings.EqualFold(u.Host, string(ctx.Host())) && (u.Scheme == "https" || !ctx.IsTLS())
}

func isUpgrade(ctx *fasthttp.RequestCtx) bool {
	return strings.EqualFold(string(ctx.Request.Header.Peek(fasthttp.HeaderUpgrade)), "websocket")
}

// secure reports whether the browser came over TLS: to this door, or to a proxy
// before it. A client that makes that up only gets cookies it will not send.
func secure(ctx *fasthttp.RequestCtx) bool {
	return ctx.IsTLS() || strings.EqualFold(string(ctx.Request.Header.Peek(fasthttp.HeaderXForwardedProto)), "https")
}

// address is where a request comes from, as far as guesses are counted: of IPv6
// a network, since one customer has that many addresses; behind a proxy on this
// machine what the proxy says.
func address(ctx *fasthttp.RequestCtx) string {
	ap, err := netip.ParseAddrPort(ctx.RemoteAddr().String())
	if err != nil {
		return ctx.RemoteAddr().String()
	}
	ip := ap.Addr().Unmap()
	if ip.IsLoopback() {
		said := string(ctx.Request.Header.Peek(fasthttp.HeaderXForwardedFor))
		said = strings.TrimSpace(said[strings.LastIndexByte(said, ',')+1:])
		if behind, err := netip.ParseAddr(said); err == nil {
			ip = behind.Unmap()
		}
	}
	if net, err := ip.WithZone("").Prefix(64); err == nil && ip.Is6() {
		return net.String()
	}
	return ip.String()
}

// The cookies of the door. Over TLS a browser takes them from this very host
// alone and sends them over TLS alone.
const (
	sessionCookie = "comfyume"        // the signed text of a session
	personCookie  = "comfyume_person" // who used ComfyUI in this browser last
)

func cookieName(ctx *fasthttp.RequestCtx, name string) string {
	if secure(ctx) {
		return "__Host-" + name
	}
	return name
}

func cookie(ctx *fasthttp.RequestCtx, name string) string {
	return string(ctx.Request.Header.Cookie(cookieName(ctx, name)))
}

// setCookie gives a cookie that no script reads and no other site's page sends;
// life 0 takes it away.
func setCookie(ctx *fasthttp.RequestCtx, name, value string, life time.Duration) {
	k := fasthttp.AcquireCookie()
	defer fasthttp.ReleaseCookie(k)
	k.SetKey(cookieName(ctx, name))
	k.SetValue(value)
	k.SetPath("/")
	k.SetHTTPOnly(true)
	k.SetSecure(secure(ctx))
	k.SetSameSite(fasthttp.CookieSameSiteLaxMode)
	if k.SetMaxAge(int(life.Seconds())); life == 0 {
		k.SetExpire(fasthttp.CookieExpireDelete)
	}
	ctx.Response.Header.SetCookie(k)
}
