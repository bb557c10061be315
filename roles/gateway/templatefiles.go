package gateway

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"image"
	"image/color"
	"image/jpeg"
	"strings"

	"github.com/valyala/fasthttp"

	"github.com/ahelme/comfyume/cluster/people"
	"github.com/ahelme/comfyume/roles/gateway/wheels"
)

// home is the page itself. Somebody who was never here is sent to the same page
// with the address by which the stock frontend opens a template: no script of
// ours is needed, and it works over whatever another user of the same browser
// left behind.
func (g *Gateway) home(c *call) {
	if first := g.templates.first; first != "" && c.IsGet() && len(c.URI().QueryString()) == 0 && g.neverVisited(c) {
		redirect(c.RequestCtx, c.prefix+"/?template="+first+"&source="+pack, fasthttp.StatusFound)
		return
	}
	g.serveAsset(c.RequestCtx, "index.html")
}

func (g *Gateway) neverVisited(c *call) (never bool) {
	g.cfg.Tables.People(func(t *people.Table) {
		p, ok := t.Person(c.user)
		never = ok && p.Visited == 0
	})
	return never
}

// workflowTemplates is GET /workflow_templates: packs and their workflows.
func (g *Gateway) workflowTemplates(c *call) {
	names := []string{}
	for _, n := range g.templates.names {
		names = append(names, strings.TrimSuffix(n, ".json"))
	}
	g.writeValue(c, map[string][]string{pack: names})
}

// workflowTemplate is one workflow of a pack. That the first one was fetched is
// the proof that the first visit happened; a load that broke off gets it again.
func (g *Gateway) workflowTemplate(c *call) {
	t := g.templates.byName[c.params["file"]]
	if stem, ok := strings.CutSuffix(c.params["file"], ".jpg"); ok && c.params["pack"] == pack && g.templates.byName[stem+".json"] != nil {
		g.thumbnail(c, stem)
		return
	}
	if c.params["pack"] != pack || t == nil {
		plain(c.RequestCtx, fasthttp.StatusNotFound, "404: Not Found")
		return
	}
	if c.params["file"] == g.templates.first+".json" && g.neverVisited(c) {
		if _, err := g.commit(c, &people.Visit{Name: c.user}); err != nil {
			g.log.Warn("the first visit was not noted", "user", c.user, "err", err)
		}
	}
	writeJSON(c.RequestCtx, fasthttp.StatusOK, t.data)
}

// officialTemplates are the files of ComfyUI's own templates package. Without it
// the catalogue is empty, so that the page's dialog opens.
func (g *Gateway) officialTemplates(c *call) {
	switch file := c.params["file"]; {
	case g.serveShelf(c, g.cfg.OfficialTemplates, file):
	case file == "index_logo.json":
		writeJSON(c.RequestCtx, fasthttp.StatusOK, []byte("{}"))
	case file == "fuse_options.json":
		// Empty and no JSON: the page keeps its own search options.
		plain(c.RequestCtx, fasthttp.StatusOK, "")
	case strings.HasPrefix(file, "index") && strings.HasSuffix(file, ".json"):
		writeJSON(c.RequestCtx, fasthttp.StatusOK, []byte("[]"))
	default:
		plain(c.RequestCtx, fasthttp.StatusNotFound, "404: Not Found")
	}
}

// nodeDocs are the pages about ComfyUI's nodes. For a node without one the page
// shows what object_info says.
func (g *Gateway) nodeDocs(c *call) {
	if !g.serveShelf(c, g.cfg.NodeDocs, c.params["file"]) {
		plain(c.RequestCtx, fasthttp.StatusNotFound, "404: Not Found")
	}
}

// serveShelf answers with a file of a wheel and says whether there is one.
func (g *Gateway) serveShelf(c *call, s *wheels.Shelf, file string) bool {
	raw, ok, err := s.Read(file)
	switch {
	case !ok:
		return false
	case err != nil:
		fail(c.RequestCtx, err)
		return true
	}
	c.SetContentType(wheels.ContentType(file))
	c.Response.Header.Set(fasthttp.HeaderCacheControl, "private, max-age=3600")
	c.Response.SetBodyRaw(raw)
	return true
}

// templateNeeds tells a participant what the workshop's templates lack.
func (g *Gateway) templateNeeds(c *call) { g.writeValue(c, g.Templates()) }

// writeValue answers 200 with a value as JSON.
func (g *Gateway) writeValue(c *call, v any) {
	raw, err := json.Marshal(v)
	if err != nil {
		fail(c.RequestCtx, err)
		return
	}
	writeJSON(c.RequestCtx, fasthttp.StatusOK, raw)
}

// thumbnail is a template's picture in the page's dialog: a plain field of a
// colour of its own.
func (g *Gateway) thumbnail(c *call, name string) {
	sum := sha256.Sum256([]byte(name))
	img := image.NewUniform(color.RGBA{sum[0]/2 + 48, sum[1]/2 + 48, sum[2]/2 + 48, 255})
	var buf bytes.Buffer
	if err := jpeg.Encode(&buf, field{img, image.Rect(0, 0, 320, 180)}, nil); err != nil {
		fail(c.RequestCtx, err)
		return
	}
	c.SetContentType("image/jpeg")
	c.Response.SetBodyRaw(buf.Bytes())
}

// field is a bounded part of a boundless picture.
type field struct {
	image.Image
	r image.Rectangle
}

func (f field) Bounds() image.Rectangle { return f.r }
