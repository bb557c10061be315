package gateway

import (
	"bytes"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	_ "image/gif" // decoders for previews
	"image/jpeg"
	"image/png"
	"io"
	"path"
	"strconv"
	"strings"

	"github.com/valyala/fasthttp"
	_ "golang.org/x/image/webp" // participants upload webp

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/blob"
	"github.com/ahelme/comfyume/cluster/files"
	"github.com/ahelme/comfyume/roles/comfy"
)

// placeOf reads a graph's or a page's way of naming a file: base may hold a
// subfolder, folder is "" for input.
func placeOf(base, folder string) (files.Place, error) {
	if folder == "" {
		folder = string(files.Input)
	}
	clean, err := files.CleanPath(base)
	if err != nil {
		return files.Place{}, err
	}
	p := files.Place{Area: files.Area(folder), Name: path.Base(clean)}
	if dir := path.Dir(clean); dir != "." {
		p.Subfolder = dir
	}
	return p, nil
}

// view is GET /view: one of the caller's own files.
func (g *Gateway) view(c *call) {
	a := c.QueryArgs()
	name, folder := comfy.SplitAnnotation(string(a.Peek("filename")))
	if folder == "" {
		if folder = string(a.Peek("type")); folder == "" {
			folder = string(files.Output)
		}
	}
	if strings.HasPrefix(name, "/") || strings.Contains(name, "..") || !files.Area(folder).Valid() {
		empty(c.RequestCtx, fasthttp.StatusBadRequest)
		return
	}
	sub, err := files.CleanSubfolder(string(a.Peek("subfolder")))
	if err != nil {
		empty(c.RequestCtx, fasthttp.StatusForbidden)
		return
	}
	var f files.File
	ok := false
	if name != "" {
		p := files.Place{Area: files.Area(folder), Subfolder: sub, Name: path.Base(name)}
		g.cfg.Tables.Files(func(t *files.Table) { f, ok = t.File(c.user, p) })
	}
	if !ok {
		empty(c.RequestCtx, fasthttp.StatusNotFound)
		return
	}
	b, err := g.cfg.Blobs.Open(c, f.Ref)
	if err != nil {
		// The row says that it exists: this is no 404.
		fail(c.RequestCtx, fmt.Errorf("a file's bytes are missing: %v", err)) //nolint:errorlint // its code, NotFound, must not get out
		return
	}
	switch ch := string(a.Peek("channel")); {
	case ch == "rgb" || ch == "a":
		g.channel(c, b, ch)
	case len(a.Peek("preview")) > 0 && f.Size > smallPreview:
		g.preview(c, b, f, string(a.Peek("preview")))
	default:
		serveFile(c, b, f)
	}
}

// Bounds of pictures that are decoded here.
const (
	smallPreview = 256 << 10 // bytes under which the original is its own preview
	maxPixels    = 64 << 20
)

// serveFile streams a blob, whole or the one range that was asked for: video
// does not play without ranges.
func serveFile(c *call, b blob.File, f files.File) {
	h := &c.Response.Header
	ctype, inline := mediaType(f.Place.Name)
	h.SetContentType(ctype)
	kind := "attachment"
	if inline {
		kind = "inline"
	}
	h.Set(fasthttp.HeaderContentDisposition, kind+`; filename="`+strings.NewReplacer(`"`, "'", "\\", "_", "\r", "", "\n", "").Replace(f.Place.Name)+`"`)
	h.Set(fasthttp.HeaderAcceptRanges, "bytes")
	etag := `"` + f.Ref.Short() + `"`
	h.Set(fasthttp.HeaderETag, etag)
	h.Set(fasthttp.HeaderCacheControl, "private, no-cache") // kept by the page, asked about each time
	if string(c.Request.Header.Peek(fasthttp.HeaderIfNoneMatch)) == etag {
		_ = b.Close()
		c.SetStatusCode(fasthttp.StatusNotModified)
		return
	}
	size := b.Size()
	start, end, ranged, ok := parseRange(string(c.Request.Header.Peek(fasthttp.HeaderRange)), size)
	if !ok {
		_ = b.Close()
		h.Set(fasthttp.HeaderContentRange, fmt.Sprintf("bytes */%d", size))
		c.SetStatusCode(fasthttp.StatusRequestedRangeNotSatisfiable)
		return
	}
	if ranged {
		h.Set(fasthttp.HeaderContentRange, fmt.Sprintf("bytes %d-%d/%d", start, end, size))
		c.SetStatusCode(fasthttp.StatusPartialContent)
	}
	c.SetBodyStream(section{io.NewSectionReader(b, start, end-start+1), b}, int(end-start+1))
}

// section reads a part and closes the whole.
type section struct {
	io.Reader
	io.Closer
}

// parseRange reads a single range. An absent or foreign unit means the whole;
// ok is false when the range lies outside.
func parseRange(header string, size int64) (start, end int64, ranged, ok bool) {
	spec, found := strings.CutPrefix(header, "bytes=")
	if !found || strings.Contains(spec, ",") {
		return 0, size - 1, false, true
	}
	from, to, dash := strings.Cut(strings.TrimSpace(spec), "-")
	if !dash {
		return 0, size - 1, false, true
	}
	if from == "" { // the last n bytes
		n, err := strconv.ParseInt(to, 10, 64)
		if err != nil || n <= 0 || size == 0 {
			return 0, 0, false, false
		}
		return max(0, size-n), size - 1, true, true
	}
	start, err := strconv.ParseInt(from, 10, 64)
	if err != nil || start < 0 || start >= size {
		return 0, 0, false, false
	}
	end = size - 1
	if to != "" {
		e, err := strconv.ParseInt(to, 10, 64)
		if err != nil || e < start {
			return 0, 0, false, false
		}
		end = min(e, end)
	}
	return start, end, true, true
}

// mediaType says what a file is by its name, and whether a page may show it in
// place. What could run a script in the participant's page is only downloaded.
func mediaType(name string) (ctype string, inline bool) {
	switch strings.ToLower(path.Ext(name)) {
	case ".png":
		return "image/png", true
	case ".jpg", ".jpeg":
		return "image/jpeg", true
	case ".webp":
		return "image/webp", true
	case ".gif":
		return "image/gif", true
	case ".avif":
		return "image/avif", true
	case ".mp4", ".m4v":
		return "video/mp4", true
	case ".webm":
		return "video/webm", true
	case ".mov":
		return "video/quicktime", true
	case ".mkv":
		return "video/x-matroska", true
	case ".wav":
		return "audio/wav", true
	case ".mp3":
		return "audio/mpeg", true
	case ".flac":
		return "audio/flac", true
	case ".ogg", ".opus":
		return "audio/ogg", true
	case ".m4a":
		return "audio/mp4", true
	case ".txt":
		return "text/plain; charset=utf-8", true
	case ".json":
		return "application/json", false
	case ".glb":
		return "model/gltf-binary", false
	}
	return "application/octet-stream", false
}

// decode reads a picture of a bounded size and closes the blob.
func decode(b blob.File) (image.Image, error) {
	defer b.Close()
	conf, _, err := image.DecodeConfig(b)
	if err != nil {
		return nil, err
	}
	if conf.Width*conf.Height > maxPixels {
		return nil, cluster.Errorf(cluster.TooLarge, "This picture is too large to be converted here.")
	}
	if _, err := b.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	img, _, err := image.Decode(b)
	return img, err
}

// channel serves a picture without its alpha, or its alpha alone: the mask
// editor asks for both.
func (g *Gateway) channel(c *call, b blob.File, which string) {
	g.pictures.Lock()
	defer g.pictures.Unlock()
	img, err := decode(b)
	if err != nil {
		empty(c.RequestCtx, fasthttp.StatusNotFound)
		return
	}
	out := image.NewNRGBA(img.Bounds())
	draw.Draw(out, out.Bounds(), img, img.Bounds().Min, draw.Src)
	for i := 0; i < len(out.Pix); i += 4 {
		if which == "rgb" {
			out.Pix[i+3] = 255
			continue
		}
		out.Pix[i], out.Pix[i+1], out.Pix[i+2] = 0, 0, 0
	}
	var buf bytes.Buffer
	if err := png.Encode(&buf, out); err != nil {
		fail(c.RequestCtx, err)
		return
	}
	c.SetContentType("image/png")
	c.Response.SetBodyRaw(buf.Bytes())
}

// preview serves a lighter JPEG of a picture; what cannot be decoded is served
// as it is.
func (g *Gateway) preview(c *call, b blob.File, f files.File, spec string) {
	g.pictures.Lock()
	defer g.pictures.Unlock()
	img, err := decode(b)
	if err != nil {
		if b, err = g.cfg.Blobs.Open(c, f.Ref); err != nil {
			fail(c.RequestCtx, err)
			return
		}
		serveFile(c, b, f)
		return
	}
	quality := 90
	if _, q, ok := strings.Cut(spec, ";"); ok {
		if n, err := strconv.Atoi(q); err == nil && n > 0 && n <= 100 {
			quality = n
		}
	}
	flat := image.NewRGBA(img.Bounds())
	draw.Draw(flat, flat.Bounds(), image.NewUniform(color.White), image.Point{}, draw.Src)
	draw.Draw(flat, flat.Bounds(), img, img.Bounds().Min, draw.Over)
	var buf bytes.Buffer
	if err := jpeg.Encode(&buf, flat, &jpeg.Options{Quality: quality}); err != nil {
		fail(c.RequestCtx, err)
		return
	}
	c.SetContentType("image/jpeg")
	c.Response.SetBodyRaw(buf.Bytes())
}
