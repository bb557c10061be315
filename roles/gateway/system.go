package gateway

import (
	"cmp"
	"encoding/json"
	"path"
	"slices"
	"strings"

	"github.com/valyala/fasthttp"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/files"
	"github.com/ahelme/comfyume/roles/comfy"
)

// flags are what this server can do, for the socket and for /features.
func (g *Gateway) flags() map[string]any {
	return map[string]any{"supports_preview_metadata": true, "max_upload_size": g.cfg.MaxUpload, "node_replacements": true, "assets": false, "show_signin_button": false}
}

func (g *Gateway) features(c *call) { g.writeValue(c, g.flags()) }

// users is always the single-user form: another one makes the page show its own
// picker, which asks for no password.
func (g *Gateway) users(c *call) {
	writeJSON(c.RequestCtx, fasthttp.StatusOK, []byte(`{"storage": "server", "migrated": true}`))
}

func (g *Gateway) refusedUsers(c *call) {
	fail(c.RequestCtx, cluster.Errorf(cluster.Forbidden, "People are added by the instructor."))
}

// systemStats is the worker's own description without its paths, with the
// frontend version that is served: another one shows a warning for good.
func (g *Gateway) systemStats(c *call) {
	var s comfy.SystemStats
	if raw := g.caps.doc().SystemStats; len(raw) > 0 {
		if err := json.Unmarshal(raw, &s); err != nil {
			g.log.Warn("a worker's system_stats cannot be read", "err", err)
		}
	}
	if s.System.ComfyUIVersion == "" {
		s.System.ComfyUIVersion = "0.0.0"
		s.System.OS = "posix"
	}
	s.System.RequiredFrontendVersion = g.cfg.Frontend.Version()
	s.System.Argv = []string{"main.py"}
	writeJSON(c.RequestCtx, fasthttp.StatusOK, s.Encode())
}

func (g *Gateway) embeddings(c *call) { g.writeValue(c, notNil(g.caps.doc().Embeddings)) }

func (g *Gateway) modelFolders(c *call) {
	out := []string{}
	for folder := range g.caps.doc().Models {
		if folder != "custom_nodes" && folder != "configs" {
			out = append(out, folder)
		}
	}
	slices.Sort(out)
	g.writeValue(c, out)
}

func (g *Gateway) modelsIn(c *call) {
	names, ok := g.caps.doc().Models[c.params["folder"]]
	if !ok {
		empty(c.RequestCtx, fasthttp.StatusNotFound)
		return
	}
	g.writeValue(c, notNil(names))
}

// experimentModels lists the folders without where they are on the worker.
func (g *Gateway) experimentModels(c *call) {
	type folder struct {
		Name    string   `json:"name"`
		Folders []string `json:"folders"`
	}
	out := []folder{}
	for name := range g.caps.doc().Models {
		if name != "custom_nodes" && name != "configs" {
			out = append(out, folder{name, []string{}})
		}
	}
	slices.SortFunc(out, func(a, b folder) int { return cmp.Compare(a.Name, b.Name) })
	g.writeValue(c, out)
}

func (g *Gateway) experimentModelsIn(c *call) {
	raw, ok := g.caps.doc().ExperimentModels[c.params["folder"]]
	if ok && len(raw) > 0 {
		writeJSON(c.RequestCtx, fasthttp.StatusOK, raw)
		return
	}
	names, ok := g.caps.doc().Models[c.params["folder"]]
	if !ok {
		empty(c.RequestCtx, fasthttp.StatusNotFound)
		return
	}
	type model struct {
		Name      string `json:"name"`
		PathIndex int    `json:"pathIndex"`
	}
	out := []model{}
	for _, n := range names {
		out = append(out, model{n, 0})
	}
	g.writeValue(c, out)
}

func (g *Gateway) i18n(c *call)             { g.writeRaw(c, g.caps.doc().I18n) }
func (g *Gateway) nodeReplacements(c *call) { g.writeRaw(c, g.caps.doc().NodeReplacements) }

// globalSubgraphs lists the blueprints that workers have, without where they are
// there and without their data. One whose data is not known is not listed: newer
// pages break on it.
func (g *Gateway) globalSubgraphs(c *call) {
	all := comfy.Object{}
	for id, raw := range g.caps.doc().Subgraphs {
		if one, ok := blueprint(raw); ok {
			one.Delete("data")
			all.Set(id, jsonOf(one))
		}
	}
	slices.SortFunc(all, func(a, b comfy.Field) int { return cmp.Compare(a.Key, b.Key) })
	g.writeRaw(c, jsonOf(all))
}

// globalSubgraph is one with its data; an unknown one is null.
func (g *Gateway) globalSubgraph(c *call) {
	one, ok := blueprint(g.caps.doc().Subgraphs[c.params["id"]])
	if !ok {
		writeJSON(c.RequestCtx, fasthttp.StatusOK, []byte("null"))
		return
	}
	g.writeRaw(c, jsonOf(one))
}

// blueprint is a worker's subgraph without the path of its file.
func blueprint(raw json.RawMessage) (comfy.Object, bool) {
	one, err := comfy.ParseObject(raw)
	if data, ok := one.Lookup("data"); err != nil || !ok || len(data) < 3 {
		return nil, false
	}
	one = slices.Clone(one)
	if at, ok := one.Lookup("path"); ok {
		var s string
		if json.Unmarshal(at, &s) == nil {
			one.Set("path", jsonOf(path.Base(comfy.SlashedName(s))))
		}
	}
	return one, true
}

// viewMetadata is what a model says of itself.
func (g *Gateway) viewMetadata(c *call) {
	raw, ok := g.caps.doc().Metadata[c.params["folder"]+"/"+comfy.SlashedName(string(c.QueryArgs().Peek("filename")))]
	if !ok {
		empty(c.RequestCtx, fasthttp.StatusNotFound)
		return
	}
	writeCompressed(c, raw)
}

// modelPreview is a model's picture, as a worker has it beside the file.
func (g *Gateway) modelPreview(c *call) {
	folder, rest, _ := strings.Cut(c.params["rest"], "/")
	_, name, _ := strings.Cut(rest, "/")
	f, ok := g.caps.doc().Previews[folder+"/"+comfy.SlashedName(name)]
	if !ok || !strings.HasPrefix(f.Type, "image/") || strings.Contains(f.Type, "svg") {
		empty(c.RequestCtx, fasthttp.StatusNotFound)
		return
	}
	c.SetContentType(f.Type)
	c.Response.SetBodyRaw(f.Body)
}

// writeRaw answers with a worker's own object, or an empty one.
func (g *Gateway) writeRaw(c *call, raw json.RawMessage) {
	if len(raw) == 0 || raw[0] != '{' {
		raw = json.RawMessage("{}")
	}
	writeCompressed(c, raw)
}

func (g *Gateway) emptyObject(c *call) { writeJSON(c.RequestCtx, fasthttp.StatusOK, []byte("{}")) }
func (g *Gateway) accepted(c *call)    { empty(c.RequestCtx, fasthttp.StatusOK) }

// free is accepted and ignored: unloading models would slow everybody down.
func (g *Gateway) free(c *call) { empty(c.RequestCtx, fasthttp.StatusOK) }

// logs is a JSON string. A worker's real log names other people's work; a 404
// would add a second error to each error dialog.
func (g *Gateway) logs(c *call) { writeJSON(c.RequestCtx, fasthttp.StatusOK, []byte(`""`)) }

func (g *Gateway) logsRaw(c *call) {
	writeJSON(c.RequestCtx, fasthttp.StatusOK, []byte(`{"entries": [], "size": {"cols": 80, "rows": 24}}`))
}

// internalFiles lists the names in the root of one of the user's folders,
// newest first.
func (g *Gateway) internalFiles(c *call) {
	area := files.Area(c.params["type"])
	if !area.Valid() {
		writeJSON(c.RequestCtx, fasthttp.StatusBadRequest, []byte(`{"error": "Invalid directory type"}`))
		return
	}
	out := []string{}
	g.cfg.Tables.Files(func(t *files.Table) {
		for _, f := range t.Files(c.user, area) {
			if f.Place.Subfolder == "" {
				out = append(out, f.Place.Name)
			}
		}
	})
	g.writeValue(c, out)
}

func (g *Gateway) assetsOff(c *call) {
	writeJSON(c.RequestCtx, fasthttp.StatusServiceUnavailable, []byte(`{"error": {"code": "SERVICE_DISABLED", "message": "Assets are off in this workshop.", "details": {}}}`))
}

func (g *Gateway) noManager(c *call) {
	fail(c.RequestCtx, cluster.Errorf(cluster.Forbidden, "Installing nodes or models from the page is off in a workshop. Ask the instructor."))
}

func notNil(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}
