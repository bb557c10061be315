package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"runtime/debug"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/valyala/fasthttp"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/people"
	"github.com/ahelme/comfyume/roles/gateway/signin"
)

// call is one request of a known identity to a route.
type call struct {
	*fasthttp.RequestCtx
	life   context.Context // of the gateway; see Done
	id     signin.Identity
	user   cluster.User      // whose ComfyUI: always id.User
	prefix string            // "/user001" or ""
	path   string            // escaped, below the prefix and without /api
	params map[string]string // decoded, by the pattern's names
	body   []byte            // whole; nil for uploads, which stream
}

// A call is a context of the gateway's own life. The one of fasthttp must not
// be a parent: it is used again for the next request while what was derived
// from it still looks at it.
func (c *call) Deadline() (time.Time, bool) { return c.life.Deadline() }

// Done is closed when the gateway ends.
func (c *call) Done() <-chan struct{} { return c.life.Done() }

// Err says why.
func (c *call) Err() error { return c.life.Err() }

// Value looks into the gateway's context, not into the request's user values.
func (c *call) Value(key any) any { return c.life.Value(key) }

var _ context.Context = (*call)(nil)

// serve handles every request at the door, in this order: is the path sane, is
// it public, who is asking, is it theirs, which route.
func (g *Gateway) serve(ctx *fasthttp.RequestCtx) {
	defer g.noted(ctx)
	defer g.recovered(ctx)
	setHeaders(ctx)
	raw := rawPath(ctx)
	if !sanePath(raw) {
		plain(ctx, fasthttp.StatusBadRequest, "400: Bad Request")
		return
	}
	if g.public(ctx, raw) {
		return
	}
	prefix, rest := g.splitPrefix(raw)
	id, err := g.identify(ctx)
	if err != nil {
		g.stranger(ctx, raw, err)
		return
	}
	ctx.SetUserValue(userKey, id.User)
	if !sameOrigin(ctx) {
		fail(ctx, errOtherSite)
		return
	}
	switch {
	case rest == "" && prefix != "":
		redirect(ctx, prefix+"/"+query(ctx), fasthttp.StatusPermanentRedirect)
		return
	case raw == "/admin" || strings.HasPrefix(raw, adminPrefix):
		g.admin(ctx, raw, id)
		return
	case id.Instructor:
		if raw == "/" {
			redirect(ctx, "/admin/", fasthttp.StatusFound)
			return
		}
		notYours(ctx, raw, cluster.Errorf(cluster.Forbidden, "You are signed in as the instructor. The dashboard is at /admin/; a ComfyUI belongs to a participant."))
		return
	case prefix != "" && prefix != "/"+string(id.User):
		notYours(ctx, raw, cluster.Errorf(cluster.Forbidden, "This is not your ComfyUI. Yours is at /%s/.", id.User))
		return
	}
	c := &call{RequestCtx: ctx, life: g.life, id: id, user: id.User, prefix: prefix, path: rest}
	if rest == "/" {
		g.meet(c)
	}
	g.route(c)
}

// route finds the handler: first as written, then with ComfyUI's optional /api.
func (g *Gateway) route(c *call) {
	method := string(c.Method())
	r, params, allowed := g.routes.find(method, c.path)
	for range 2 { // ComfyUI registers /api/jobs, and so has /api/api/jobs
		rest, ok := strings.CutPrefix(c.path, "/api")
		if r != nil || allowed || !ok || !strings.HasPrefix(rest, "/") {
			break
		}
		if r, params, allowed = g.routes.find(method, rest); r != nil || strings.HasPrefix(rest, "/api/") {
			c.path = rest
		}
	}
	if r == nil {
		if allowed {
			plain(c.RequestCtx, fasthttp.StatusMethodNotAllowed, "405: Method Not Allowed")
			return
		}
		g.static(c)
		return
	}
	c.params = params
	c.SetUserValue(routeKey, r.pattern)
	if r.limit > 0 && int64(c.Request.Header.ContentLength()) > r.limit {
		c.SetConnectionClose() // the rest of the body is not read
		fail(c.RequestCtx, errTooLarge(r.limit))
		return
	}
	if r.limit > 0 {
		if err := c.SetReadDeadline(time.Now().Add(bodyWithin)); err != nil {
			c.SetConnectionClose()
			return
		}
	}
	if r.limit > 0 && !r.streams() {
		var err error
		if c.body, err = readBody(c.RequestCtx, r.limit); err != nil {
			c.SetConnectionClose()
			fail(c.RequestCtx, err)
			return
		}
	}
	abreast := g.catchUp(c)
	r.handle(c)
	if !abreast {
		c.fair()
	}
	g.stamp(c)
}

func errTooLarge(limit int64) error {
	return cluster.Errorf(cluster.TooLarge, "This request is larger than the limit of %s.", inBytes(limit))
}

func inBytes(n int64) string {
	if n >= 1<<20 {
		return fmt.Sprintf("%d MB", n>>20)
	}
	return fmt.Sprintf("%d kB", n>>10)
}

// readBody reads a body to its end and no further than limit, also when its
// length was not announced. PostBody takes a body that broke off for a whole
// one: a page that closes while it saves would leave half a workflow.
func readBody(ctx *fasthttp.RequestCtx, limit int64) ([]byte, error) {
	announced := int64(ctx.Request.Header.ContentLength())
	var body bytes.Buffer
	if stream := ctx.RequestBodyStream(); stream != nil {
		if announced > 0 {
			body.Grow(int(min(announced, limit)) + bytes.MinRead)
		}
		if _, err := body.ReadFrom(io.LimitReader(stream, limit+1)); err != nil {
			return nil, cluster.Errorf(cluster.Invalid, "The request broke off; nothing was changed. Try again.")
		}
	} else {
		body.Write(ctx.PostBody())
	}
	switch n := int64(body.Len()); {
	case n > limit:
		return nil, errTooLarge(limit)
	case announced >= 0 && n != announced:
		return nil, cluster.Errorf(cluster.Invalid, "The request broke off; nothing was changed. Try again.")
	}
	return body.Bytes(), nil
}

// recovered turns a panic into an answer: fasthttp would let it end the process,
// and with it everybody's workshop.
func (g *Gateway) recovered(ctx *fasthttp.RequestCtx) {
	p := recover()
	if p == nil {
		return
	}
	ctx.Response.Reset()
	setHeaders(ctx)
	fail(ctx, fmt.Errorf("panic: %v", p))
	g.log.Error("a request panicked", "path", rawPath(ctx), "panic", p, "stack", string(debug.Stack()))
}

// rawPath is the path as the browser sent it: %2F must not become a slash.
func rawPath(ctx *fasthttp.RequestCtx) string {
	raw := string(ctx.Request.Header.RequestURI())
	if i := strings.IndexAny(raw, "?#"); i >= 0 {
		raw = raw[:i]
	}
	if i := strings.Index(raw, "://"); i >= 0 && !strings.HasPrefix(raw, "/") { // absolute form
		raw = raw[i+3:]
		if j := strings.IndexByte(raw, '/'); j >= 0 {
			return raw[j:]
		}
		return "/"
	}
	return raw
}

// query is the request's query with its question mark, as it came.
func query(ctx *fasthttp.RequestCtx) string {
	if q := ctx.URI().QueryString(); len(q) > 0 {
		return "?" + string(q)
	}
	return ""
}

// sanePath refuses what no client of ours sends: dot segments in any encoding,
// backslashes, control characters, broken escapes, text that is not UTF-8.
func sanePath(raw string) bool {
	if !strings.HasPrefix(raw, "/") || len(raw) > 8192 {
		return false
	}
	for decoded := range 3 { // as sent, decoded, and decoded again as ComfyUI does for userdata
		for seg := range strings.SplitSeq(raw, "/") {
			if seg == "." || seg == ".." || strings.ContainsAny(seg, "\\\x00\r\n") {
				return false
			}
		}
		next, err := url.PathUnescape(raw)
		if err != nil {
			return decoded > 0 // a literal % in a name is fine, a broken escape is not
		}
		if raw = next; !utf8.ValidString(raw) {
			return false
		}
	}
	return true
}

// splitPrefix cuts "/user001" off when it names a person; rest is "" for the
// bare prefix without its slash.
func (g *Gateway) splitPrefix(raw string) (prefix, rest string) {
	first, tail, slash := strings.Cut(raw[1:], "/")
	u := cluster.User(first)
	if !u.Valid() || g.routes.reserved(first) {
		return "", raw
	}
	known := false
	g.cfg.Tables.People(func(t *people.Table) { _, known = t.Person(u) })
	if !known {
		return "", raw
	}
	if !slash {
		return "/" + first, ""
	}
	return "/" + first, "/" + tail
}

// badRequest answers what never became a request.
func (g *Gateway) badRequest(ctx *fasthttp.RequestCtx, err error) {
	setHeaders(ctx)
	var header *fasthttp.ErrSmallBuffer
	var late interface{ Timeout() bool }
	switch {
	case errors.Is(err, fasthttp.ErrBodyTooLarge):
		fail(ctx, cluster.Errorf(cluster.TooLarge, "This request is too large."))
	case errors.As(err, &header):
		plain(ctx, fasthttp.StatusRequestHeaderFieldsTooLarge, "431: Request Header Fields Too Large")
	case errors.As(err, &late) && late.Timeout():
		plain(ctx, fasthttp.StatusRequestTimeout, "408: Request Timeout")
	default:
		plain(ctx, fasthttp.StatusBadRequest, "400: Bad Request")
	}
}
