package gateway

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/valyala/fasthttp"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/files"
)

// workflowsDir is where the workshop's templates show up.
const workflowsDir = "workflows"

// userFileInfo is ComfyUI's description of a userdata file; times are
// milliseconds.
type userFileInfo struct {
	Path     string `json:"path"`
	Size     int64  `json:"size"`
	Modified int64  `json:"modified"`
	Created  int64  `json:"created"`
}

// tree lists a user's files below dir ("" = all) by path: their own, and the
// templates that they neither replaced nor deleted.
func (g *Gateway) tree(u cluster.User, dir string) []userFileInfo {
	var own []files.Doc
	g.cfg.Tables.Files(func(t *files.Table) { own = t.Docs(u, dir) })
	hidden := map[string]bool{}
	var out []userFileInfo
	for _, d := range own {
		hidden[d.Path] = true
		if !d.Gone {
			out = append(out, userFileInfo{d.Path, d.Size, d.Modified, d.Created})
		}
	}
	for name, t := range g.templates.byName {
		p := workflowsDir + "/" + name
		if !hidden[p] && (dir == "" || dir == workflowsDir) {
			at := t.modTime.UnixMilli()
			out = append(out, userFileInfo{p, int64(len(t.data)), at, at})
		}
	}
	slices.SortFunc(out, func(a, b userFileInfo) int { return cmp.Compare(a.Path, b.Path) })
	return out
}

// listUserdata is GET /userdata?dir=.
func (g *Gateway) listUserdata(c *call) {
	a := c.QueryArgs()
	dir := string(a.Peek("dir"))
	if dir == "" {
		plain(c.RequestCtx, fasthttp.StatusBadRequest, "Directory not provided")
		return
	}
	dir, err := files.CleanPath(strings.TrimSuffix(dir, "/"))
	if err != nil {
		plain(c.RequestCtx, fasthttp.StatusForbidden, "Invalid directory")
		return
	}
	recurse, full, split := a.GetBool("recurse"), a.GetBool("full_info"), a.GetBool("split")
	found := []userFileInfo{}
	for _, f := range g.tree(c.user, dir) {
		f.Path = strings.TrimPrefix(f.Path, dir+"/")
		// A glob passes over names that begin with a dot.
		if strings.HasPrefix(f.Path, ".") || strings.Contains(f.Path, "/.") || !recurse && strings.Contains(f.Path, "/") {
			continue
		}
		found = append(found, f)
	}
	if len(found) == 0 && !g.hasDir(c.user, dir) {
		plain(c.RequestCtx, fasthttp.StatusNotFound, "Directory not found")
		return
	}
	switch {
	case full:
		g.writeValue(c, found)
	case split:
		out := make([][]string, len(found))
		for i, f := range found {
			out[i] = append([]string{f.Path}, strings.Split(f.Path, "/")...)
		}
		g.writeValue(c, out)
	default:
		out := make([]string, len(found))
		for i, f := range found {
			out[i] = f.Path
		}
		g.writeValue(c, out)
	}
}

// hasDir says that workflows is always there: a page that saves its first
// workflow must not be told that its folder does not exist.
func (g *Gateway) hasDir(u cluster.User, dir string) bool {
	return dir == workflowsDir || dir == "subgraphs" || len(g.tree(u, dir)) > 0
}

// listUserdataV2 is GET /v2/userdata?path=: the tree with its folders.
func (g *Gateway) listUserdataV2(c *call) {
	dir := strings.Trim(string(c.QueryArgs().Peek("path")), "/")
	if dir != "" {
		var err error
		if dir, err = files.CleanPath(dir); err != nil {
			plain(c.RequestCtx, fasthttp.StatusForbidden, "Invalid path")
			return
		}
	}
	type entry struct {
		Name     string  `json:"name"`
		Path     string  `json:"path"`
		Type     string  `json:"type"`
		Size     *int64  `json:"size,omitempty"`
		Modified float64 `json:"modified,omitempty"`
	}
	out, seen := []entry{}, map[string]bool{}
	for _, f := range g.tree(c.user, dir) {
		rest := strings.TrimPrefix(strings.TrimPrefix(f.Path, dir), "/")
		base := strings.TrimSuffix(f.Path, rest)
		for i, r := range rest {
			if folder := base + rest[:i]; r == '/' && !seen[folder] {
				seen[folder] = true
				out = append(out, entry{Name: folder[strings.LastIndexByte(folder, '/')+1:], Path: folder, Type: "directory"})
			}
		}
		out = append(out, entry{Name: f.Path[strings.LastIndexByte(f.Path, '/')+1:], Path: f.Path, Type: "file", Size: &f.Size, Modified: float64(f.Modified) / 1000})
	}
	if len(out) == 0 && dir != "" && !g.hasDir(c.user, dir) {
		plain(c.RequestCtx, fasthttp.StatusNotFound, "Directory not found")
		return
	}
	slices.SortStableFunc(out, func(a, b entry) int {
		return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(strings.ToLower(a.Name), strings.ToLower(b.Name)))
	})
	g.writeValue(c, out)
}

// docPath is the {file} of a userdata route, decoded once by the router: pages
// encode once, and a name may hold a '%'.
func docPath(c *call, param string) (string, bool) {
	p := c.params[param]
	clean, err := files.CleanPath(p)
	if err != nil || clean != p {
		plain(c.RequestCtx, fasthttp.StatusBadRequest, "Invalid file path")
		return "", false
	}
	return p, true
}

// templateAt is the workshop's workflow of a path, unless the user hid it.
func (g *Gateway) templateAt(u cluster.User, path string) (*template, bool) {
	name, ok := strings.CutPrefix(path, workflowsDir+"/")
	t := g.templates.byName[name]
	if !ok || t == nil {
		return nil, false
	}
	hidden := false
	g.cfg.Tables.Files(func(ft *files.Table) { _, hidden = ft.Doc(u, path) })
	return t, !hidden
}

// isTemplate says that the workshop has a workflow of this name at all.
func (g *Gateway) isTemplate(path string) bool {
	name, ok := strings.CutPrefix(path, workflowsDir+"/")
	return ok && g.templates.byName[name] != nil
}

// Template is the workshop's workflow that stands at a path of everybody's
// documents until they replace it, nil if there is none. It must not be changed.
func (g *Gateway) Template(path string) []byte {
	name, ok := strings.CutPrefix(path, workflowsDir+"/")
	if t := g.templates.byName[name]; ok && t != nil {
		return t.data
	}
	return nil
}

// document reads a user's document, or the template that stands in its place.
func (g *Gateway) document(c *call, path string) (io.ReadCloser, int64, error) {
	var d files.Doc
	var own bool
	g.cfg.Tables.Files(func(t *files.Table) { d, own = t.Doc(c.user, path) })
	switch {
	case own && !d.Gone && d.Ref != "":
		f, err := g.cfg.Blobs.Open(c, d.Ref)
		if err != nil {
			// The row says that it exists: not found would invite a page to replace it.
			return nil, 0, fmt.Errorf("a document's bytes are missing: %v", err) //nolint:errorlint // its code, NotFound, must not get out
		}
		return f, f.Size(), nil
	case own && !d.Gone:
		return io.NopCloser(bytes.NewReader(d.Data)), int64(len(d.Data)), nil
	}
	if t, ok := g.templateAt(c.user, path); ok {
		return io.NopCloser(bytes.NewReader(t.data)), int64(len(t.data)), nil
	}
	return nil, 0, cluster.Errorf(cluster.NotFound, "no such file")
}

// userdata is GET /userdata/{file}.
func (g *Gateway) userdata(c *call) {
	path, ok := docPath(c, "file")
	if !ok {
		return
	}
	r, size, err := g.document(c, path)
	switch cluster.CodeOf(err) {
	case "":
	case cluster.NotFound:
		if path == userCSS {
			noCSS(c)
			return
		}
		plain(c.RequestCtx, fasthttp.StatusNotFound, "404: Not Found")
		return
	default:
		fail(c.RequestCtx, err)
		return
	}
	c.SetContentType(documentType(path))
	if path != userCSS {
		c.Response.Header.Set(fasthttp.HeaderContentDisposition, "attachment")
	}
	c.SetBodyStream(r, int(size))
}

// userCSS is the one document that every page loads, whether there is one or
// not.
const userCSS = "user.css"

// styles is GET /user.css, beside the page.
func (g *Gateway) styles(c *call) {
	own := false
	g.cfg.Tables.Files(func(t *files.Table) { _, own = t.Doc(c.user, userCSS) })
	if !own && g.serveAsset(c.RequestCtx, userCSS) {
		return
	}
	c.params = map[string]string{"file": userCSS}
	g.userdata(c)
}

// noCSS is an empty style sheet: with nosniff, a text saying "not found" would
// stand as an error in every console.
func noCSS(c *call) {
	c.SetContentType(documentType(userCSS))
	c.SetStatusCode(fasthttp.StatusOK)
}

// documentType never lets a document of a user run in the page's origin.
func documentType(path string) string {
	switch {
	case strings.HasSuffix(path, ".json"):
		return "application/json"
	case path == userCSS:
		return "text/css; charset=utf-8"
	}
	return "application/octet-stream"
}

// putUserdata is POST /userdata/{file}?overwrite=&full_info=.
func (g *Gateway) putUserdata(c *call) {
	path, ok := docPath(c, "file")
	if !ok {
		return
	}
	overwrite := string(c.QueryArgs().Peek("overwrite")) != "false"
	if _, shown := g.templateAt(c.user, path); shown && !overwrite {
		plain(c.RequestCtx, fasthttp.StatusConflict, "File already exists")
		return
	}
	cmd, err := g.putDoc(c, path, c.body)
	if err != nil {
		fail(c.RequestCtx, err)
		return
	}
	cmd.IfAbsent = !overwrite
	g.commitDoc(c, cmd, path)
}

// putDoc makes the command that writes a document, whose bytes are a blob when
// they are too many for a row.
func (g *Gateway) putDoc(c *call, path string, raw []byte) (*files.PutDoc, error) {
	cmd := &files.PutDoc{User: c.user, Path: path, Size: int64(len(raw))}
	if len(raw) <= files.MaxInline {
		cmd.Data = raw
		return cmd, nil
	}
	var err error
	cmd.Ref, cmd.Size, err = g.cfg.Blobs.Put(c, bytes.NewReader(raw), int64(len(raw)))
	return cmd, err
}

// commitDoc commits a change of documents and answers with the file as ComfyUI
// does: its path, or its description.
func (g *Gateway) commitDoc(c *call, cmd cluster.Command, path string) {
	_, err := g.commit(c, cmd)
	switch cluster.CodeOf(err) {
	case "":
	case cluster.Conflict:
		plain(c.RequestCtx, fasthttp.StatusConflict, cluster.MessageOf(err))
		return
	case cluster.NotFound:
		plain(c.RequestCtx, fasthttp.StatusNotFound, "404: Not Found")
		return
	default:
		fail(c.RequestCtx, err)
		return
	}
	if !c.QueryArgs().GetBool("full_info") {
		g.writeValue(c, path)
		return
	}
	var d files.Doc
	g.cfg.Tables.Files(func(t *files.Table) { d, _ = t.Doc(c.user, path) })
	g.writeValue(c, userFileInfo{path, d.Size, d.Modified, d.Created})
}

// moveUserdata is POST /userdata/{file}/move/{dest}.
func (g *Gateway) moveUserdata(c *call) {
	from, ok := docPath(c, "file")
	if !ok {
		return
	}
	to, ok := docPath(c, "dest")
	if !ok {
		return
	}
	overwrite := string(c.QueryArgs().Peek("overwrite")) != "false"
	if _, shown := g.templateAt(c.user, to); shown && !overwrite {
		plain(c.RequestCtx, fasthttp.StatusConflict, "File already exists")
		return
	}
	cmd := &files.MoveDoc{User: c.user, From: from, To: to, Overwrite: overwrite, Template: g.isTemplate(from)}
	switch t, shown := g.templateAt(c.user, from); {
	case shown && len(t.data) <= files.MaxInline:
		cmd.Data = t.data
	case shown: // too large for the command: it becomes the user's own first
		own, err := g.putDoc(c, from, t.data)
		if err == nil {
			_, err = g.commit(c, own)
		}
		if err != nil {
			fail(c.RequestCtx, err)
			return
		}
	}
	g.commitDoc(c, cmd, to)
}

// deleteUserdata is DELETE /userdata/{file}.
func (g *Gateway) deleteUserdata(c *call) {
	path, ok := docPath(c, "file")
	if !ok {
		return
	}
	_, err := g.commit(c, &files.DeleteDoc{User: c.user, Path: path, Template: g.isTemplate(path)})
	switch cluster.CodeOf(err) {
	case "":
		empty(c.RequestCtx, fasthttp.StatusNoContent)
	case cluster.NotFound:
		plain(c.RequestCtx, fasthttp.StatusNotFound, "404: Not Found")
	default:
		fail(c.RequestCtx, err)
	}
}
