package gpu

import (
	"context"
	"encoding/json"
	"errors"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/ahelme/comfyume/roles/comfy"
)

// Bounds of what is mirrored of one ComfyUI for pages: it travels and is kept
// with its description.
const (
	maxWebFiles = 600
	maxWebFile  = 4 << 20  // bytes of one file
	maxWebAll   = 16 << 20 // and of all
	maxMetadata = 64 << 10
	maxPreview  = 256 << 10
	maxModelAll = 8 << 20 // bytes of all models' metadata, and of all previews
	maxAsked    = 2000    // models that are asked about
)

// mirrored is what pages may ask of models and custom nodes, kept between two
// looks: it is asked for one by one, and changes only with its names.
type mirrored struct {
	metadata map[string]json.RawMessage // by folder/name; nil for none
	previews map[string]comfy.WebFile   // an empty one for none
	web      map[string]comfy.WebFile
	scripts  []string // from which web was made
}

// mirror adds to a description what pages load later: the web files of custom
// nodes, what models say of themselves, subgraphs. A server that lacks a route
// gives nothing; a.err is set when the connection breaks.
func (w *Worker) mirror(a *asker, c *comfy.Capabilities) {
	if w.mirrored == nil {
		w.mirrored = &mirrored{metadata: map[string]json.RawMessage{}, previews: map[string]comfy.WebFile{}}
	}
	m := w.mirrored
	if !slices.Equal(m.scripts, c.Extensions) || m.web == nil {
		m.scripts, m.web = slices.Clone(c.Extensions), a.crawl(c.Extensions)
	}
	c.Web = m.web
	c.Subgraphs = a.subgraphs(c.GlobalSubgraphs)
	a.models(m, c)
}

// file fetches one file; ok is false for one that is not there or too large.
func (a *asker) file(path string, limit int64) (f comfy.WebFile, ok bool) {
	if a.err != nil {
		return f, false
	}
	body, kind, err := a.client.File(a.ctx, path, limit)
	var status *comfy.StatusError
	switch {
	case err == nil:
		return comfy.WebFile{Type: kind, Body: body}, true
	case errors.As(err, &status), errors.Is(err, comfy.ErrTooLarge):
	case a.ctx.Err() != nil:
		a.err = context.Cause(a.ctx)
	default:
		a.err = err
	}
	return f, false
}

// named matches what a script, a style sheet or a page names as a file of its
// own beside it.
var named = regexp.MustCompile("[\"'`(]([^\"'`()\\s<>\\\\]{1,200}\\.(?:js|mjs|css|html|json|wasm|png|jpe?g|gif|svg|webp|ico|woff2?|ttf|md))(?:\\?[^\"'`()\\s]*)?[\"'`)]")

// crawl fetches the scripts of custom nodes and what these name: pages load
// style sheets and parts of which no list tells.
func (a *asker) crawl(scripts []string) map[string]comfy.WebFile {
	out, total := map[string]comfy.WebFile{}, 0
	asked := map[string]bool{}
	queue := slices.Clone(scripts)
	for len(queue) > 0 && len(asked) < maxWebFiles && a.err == nil {
		at := queue[0]
		queue = queue[1:]
		root, ok := packRoot(at)
		if !ok || asked[at] || strings.Contains(at, "extensions/core/") {
			continue
		}
		asked[at] = true
		f, ok := a.file(at, maxWebFile)
		if !ok || total+len(f.Body) > maxWebAll {
			continue
		}
		total += len(f.Body)
		out[at] = f
		if !slices.Contains([]string{".js", ".mjs", ".css", ".html"}, path.Ext(at)) {
			continue
		}
		for _, match := range named.FindAllSubmatch(f.Body, 500) {
			queue = append(queue, within(root, at, string(match[1]))...)
		}
	}
	return out
}

// packRoot is "/extensions/Pack%20Name/" of a path below it.
func packRoot(at string) (string, bool) {
	rest, ok := strings.CutPrefix(at, "/extensions/")
	pack, file, more := strings.Cut(rest, "/")
	if !ok || !more || pack == "" || file == "" || path.Clean(at) != at {
		return "", false
	}
	return "/extensions/" + pack + "/", true
}

// within lists the paths that a name in a file may mean, as far as they are
// inside its pack.
func within(root, file, name string) (out []string) {
	candidates := []string{path.Join(path.Dir(file), name), path.Join(root, name)}
	if _, tail, ok := strings.Cut(name, "extensions/"); ok {
		candidates = []string{path.Join("/extensions", tail)}
	}
	for _, c := range candidates {
		if u, err := url.Parse(c); err == nil && strings.HasPrefix(c, root) && u.Host == "" {
			out = append(out, c)
		}
	}
	return out
}

// subgraphs fetches the data of each blueprint that is listed.
func (a *asker) subgraphs(listed json.RawMessage) map[string]json.RawMessage {
	all, err := comfy.ParseObject(listed)
	if err != nil {
		return nil
	}
	out, total := map[string]json.RawMessage{}, 0
	for _, f := range all[:min(len(all), maxWebFiles)] {
		raw := a.raw("/global_subgraphs/" + url.PathEscape(f.Key))
		if len(raw) == 0 || raw[0] != '{' || total+len(raw) > maxWebAll {
			continue
		}
		total += len(raw)
		out[f.Key] = raw
	}
	return out
}

// models asks what models say of themselves and for their pictures.
func (a *asker) models(m *mirrored, c *comfy.Capabilities) {
	c.Metadata, c.Previews = map[string]json.RawMessage{}, map[string]comfy.WebFile{}
	asked, text, pictures := 0, 0, 0
	for folder, raw := range c.ExperimentModels {
		var list []struct {
			Name  string `json:"name"`
			Index int    `json:"pathIndex"`
		}
		if json.Unmarshal(raw, &list) != nil {
			continue
		}
		for _, one := range list {
			key := folder + "/" + comfy.SlashedName(one.Name)
			_, known := m.metadata[key]
			if asked++; asked > maxAsked || a.err != nil && !known {
				continue
			}
			if !known {
				m.ask(a, key, folder, one.Name, one.Index)
			}
			if raw := m.metadata[key]; raw != nil && text+len(raw) <= maxModelAll {
				text += len(raw)
				c.Metadata[key] = raw
			}
			if f := m.previews[key]; len(f.Body) > 0 && pictures+len(f.Body) <= maxModelAll {
				pictures += len(f.Body)
				c.Previews[key] = f
			}
		}
	}
}

func (m *mirrored) ask(a *asker, key, folder, name string, index int) {
	var metadata json.RawMessage
	if strings.HasSuffix(name, ".safetensors") {
		metadata = a.raw("/view_metadata/" + url.PathEscape(folder) + "?filename=" + url.QueryEscape(name))
	}
	picture, _ := a.file("/experiment/models/preview/"+url.PathEscape(folder)+"/"+strconv.Itoa(index)+"/"+(&url.URL{Path: name}).EscapedPath(), maxPreview)
	if a.err != nil {
		return
	}
	if len(metadata) > maxMetadata || len(metadata) > 0 && metadata[0] != '{' {
		metadata = nil
	}
	m.metadata[key], m.previews[key] = metadata, picture
}
