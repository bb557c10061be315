package gateway

import (
	"bytes"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/valyala/fasthttp"
)

// static serves the frontend's own files below a prefix or the root; what it
// does not have is ComfyUI's 404.
func (g *Gateway) static(c *call) {
	if !c.IsGet() && !c.IsHead() {
		plain(c.RequestCtx, fasthttp.StatusNotFound, "404: Not Found")
		return
	}
	path, err := url.PathUnescape(strings.TrimPrefix(c.path, "/"))
	if err == nil && g.nodeWeb(c, "/"+path) {
		return
	}
	if err != nil || !g.serveAsset(c.RequestCtx, path) {
		plain(c.RequestCtx, fasthttp.StatusNotFound, "404: Not Found")
	}
}

// serveAsset answers with a file of the frontend, precompressed when the page
// takes that, and says whether there is one.
func (g *Gateway) serveAsset(ctx *fasthttp.RequestCtx, path string) bool {
	a, ok := g.cfg.Frontend.Lookup(path)
	if !ok {
		return false
	}
	h := &ctx.Response.Header
	asPage(ctx)
	h.SetContentType(a.ContentType)
	h.Set(fasthttp.HeaderETag, a.ETag)
	h.Set(fasthttp.HeaderLastModified, a.ModTime.UTC().Format(http.TimeFormat))
	h.Set(fasthttp.HeaderVary, "Accept-Encoding")
	switch {
	case a.Immutable:
		h.Set(fasthttp.HeaderCacheControl, "public, max-age=31536000, immutable")
	default:
		h.Set(fasthttp.HeaderCacheControl, "no-cache")
	}
	if string(ctx.Request.Header.Peek(fasthttp.HeaderIfNoneMatch)) == a.ETag {
		ctx.SetStatusCode(fasthttp.StatusNotModified)
		return true
	}
	file, size := a.Path, a.Size
	accepted := string(ctx.Request.Header.Peek(fasthttp.HeaderAcceptEncoding))
	switch {
	case a.Brotli != "" && accepts(accepted, "br"):
		file, size = a.Brotli, a.BrotliSize
		h.Set(fasthttp.HeaderContentEncoding, "br")
	case a.Gzip != "" && accepts(accepted, "gzip"):
		file, size = a.Gzip, a.GzipSize
		h.Set(fasthttp.HeaderContentEncoding, "gzip")
	}
	if body := g.cfg.Frontend.Small(a, file); len(body) > 0 {
		ctx.Response.SetBodyRaw(body)
		return true
	}
	f, err := os.Open(file)
	if err != nil {
		g.log.Error("a frontend file cannot be read", "path", path, "err", err)
		ctx.Response.ResetBody()
		h.Del(fasthttp.HeaderContentEncoding)
		plain(ctx, fasthttp.StatusInternalServerError, "500: a file of the page is missing; tell the instructor")
		return true
	}
	ctx.SetBodyStream(f, int(size)) // closed after it was sent
	return true
}

// favicon is asked for at the root of a page's address.
func (g *Gateway) favicon(c *call) {
	if !g.serveAsset(c.RequestCtx, "assets/favicon.ico") {
		plain(c.RequestCtx, fasthttp.StatusNotFound, "404: Not Found")
	}
}

// accepts reports whether an Accept-Encoding header names an encoding.
func accepts(header, encoding string) bool {
	for part := range strings.SplitSeq(header, ",") {
		name, params, _ := strings.Cut(strings.TrimSpace(part), ";")
		if strings.EqualFold(strings.TrimSpace(name), encoding) {
			return strings.ReplaceAll(params, " ", "") != "q=0"
		}
	}
	return false
}

// smallBody is the size in bytes under which compressing is not worth it.
const smallBody = 1024

// writeCompressed answers 200 with JSON, gzipped for those who take it.
func writeCompressed(c *call, body []byte) {
	if len(body) < smallBody || !accepts(string(c.Request.Header.Peek(fasthttp.HeaderAcceptEncoding)), "gzip") {
		writeJSON(c.RequestCtx, fasthttp.StatusOK, body)
		return
	}
	writeGzip(c, fasthttp.AppendGzipBytesLevel(nil, body, fasthttp.CompressBestSpeed))
}

// writeGzip answers 200 with a gzipped body, unpacked for those who do not take it.
func writeGzip(c *call, packed []byte) {
	c.Response.Header.Set(fasthttp.HeaderVary, "Accept-Encoding")
	if accepts(string(c.Request.Header.Peek(fasthttp.HeaderAcceptEncoding)), "gzip") {
		c.Response.Header.Set(fasthttp.HeaderContentEncoding, "gzip")
		writeJSON(c.RequestCtx, fasthttp.StatusOK, packed)
		return
	}
	raw, err := unzip(packed)
	if err != nil {
		fail(c.RequestCtx, err)
		return
	}
	writeJSON(c.RequestCtx, fasthttp.StatusOK, raw)
}

func unzip(packed []byte) ([]byte, error) {
	var out bytes.Buffer
	if _, err := fasthttp.WriteGunzip(&out, packed); err != nil {
		return nil, fmt.Errorf("unpack an answer: %w", err)
	}
	return out.Bytes(), nil
}
