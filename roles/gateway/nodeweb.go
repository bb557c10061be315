package gateway

import (
	"crypto/sha256"
	"encoding/hex"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/valyala/fasthttp"

	"github.com/ahelme/comfyume/roles/comfy"
)

// webFiles are what custom nodes bring for the page, by decoded path.
func webFiles(merged *comfy.Capabilities) map[string]comfy.WebFile {
	out := make(map[string]comfy.WebFile, len(merged.Web))
	for at, f := range merged.Web {
		if decoded, err := url.PathUnescape(at); err == nil {
			out[decoded] = f
		}
	}
	return out
}

// packOf is the custom nodes' folder of a decoded path below /extensions/, ""
// for the page's own.
func packOf(at string) string {
	rest, ok := strings.CutPrefix(at, "/extensions/")
	pack, _, more := strings.Cut(rest, "/")
	if !ok || !more || pack == "core" {
		return ""
	}
	return pack
}

// allows reports whether the instructor lets a pack's files into pages: its
// scripts run in every participant's.
func (g *Gateway) allows(pack string) bool {
	return pack != "" && (slices.Contains(g.cfg.NodeWeb, pack) || slices.Contains(g.cfg.NodeWeb, "*"))
}

// extensions are the page's own scripts, and those of the custom nodes that the
// instructor allows.
func (g *Gateway) extensions(c *call) {
	out := slices.Clone(notNil(g.cfg.Frontend.Extensions()))
	web := g.caps.web()
	for _, at := range g.caps.doc().Extensions {
		decoded, err := url.PathUnescape(at)
		if _, have := web[decoded]; err == nil && have && g.allows(packOf(decoded)) {
			out = append(out, at)
		}
	}
	g.writeValue(c, out)
}

// nodeWeb answers with a file of an allowed pack, as the newest worker that has
// it gave it, and says whether there is one.
func (g *Gateway) nodeWeb(c *call, at string) bool {
	if !g.allows(packOf(at)) {
		return false
	}
	f, ok := g.caps.web()[at]
	if !ok {
		return false
	}
	sum := sha256.Sum256(f.Body)
	etag := `"` + hex.EncodeToString(sum[:8]) + `"`
	asPage(c.RequestCtx)
	h := &c.Response.Header
	h.Set(fasthttp.HeaderETag, etag)
	h.Set(fasthttp.HeaderCacheControl, "no-cache")
	if string(c.Request.Header.Peek(fasthttp.HeaderIfNoneMatch)) == etag {
		c.SetStatusCode(fasthttp.StatusNotModified)
		return true
	}
	kind := webType(at)
	if strings.HasPrefix(kind, "text/") || kind == "application/json" || kind == "image/svg+xml" {
		writeCompressed(c, f.Body)
	} else {
		c.Response.SetBodyRaw(f.Body)
	}
	c.SetContentType(kind)
	return true
}

// webType says what a page's file is by its name: what a worker calls it does
// not count.
func webType(name string) string {
	switch strings.ToLower(path.Ext(name)) {
	case ".js", ".mjs":
		return "text/javascript; charset=utf-8"
	case ".css":
		return "text/css; charset=utf-8"
	case ".html":
		return "text/html; charset=utf-8"
	case ".md":
		return "text/markdown; charset=utf-8"
	case ".json":
		return "application/json"
	case ".wasm":
		return "application/wasm"
	case ".svg":
		return "image/svg+xml"
	case ".woff":
		return "font/woff"
	case ".woff2":
		return "font/woff2"
	case ".ttf":
		return "font/ttf"
	case ".ico":
		return "image/x-icon"
	}
	kind, _ := mediaType(name)
	return kind
}
