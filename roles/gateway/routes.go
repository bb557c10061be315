package gateway

import (
	"net/url"
	"slices"
	"strings"
)

// route is one row of the table: what is answered, and by whom.
type route struct {
	method  string
	pattern string // "{name}" is one escaped segment, "{name...}" the rest
	limit   int64  // of the body, in bytes; 0 = it is not read
	handle  func(*call)
}

// streams reports whether the handler reads the body itself, as it comes.
func (r *route) streams() bool { return strings.HasPrefix(r.pattern, "/upload/") }

// maxSettings bounds a change of settings, in bytes: it is one entry of the log.
const maxSettings = 300 << 10

// table is every route that a signed-in participant can reach below their own
// prefix or the root, beside the frontend's static files. All of them answer
// from the caller's own rows only. Each exists with and without /api before it
// unless its pattern has it. A test tries each as every kind of stranger.
func (g *Gateway) table() []route {
	return slices.Concat(g.userRoutes(int64(g.cfg.MaxBody)), g.serverRoutes(), g.refusedRoutes())
}

// userRoutes are about what the user has and does.
func (g *Gateway) userRoutes(body int64) []route {
	return []route{
		{"GET", "/", 0, g.home},
		{"GET", "/ws", 0, g.socket},
		{"GET", "/user.css", 0, g.styles},
		{"GET", "/favicon.ico", 0, g.favicon},
		{"GET", "/users", 0, g.users},
		{"POST", "/users", body, g.refusedUsers},
		{"GET", "/system_stats", 0, g.systemStats},
		{"GET", "/features", 0, g.features},

		{"GET", "/settings", 0, g.settings},
		{"GET", "/settings/{id}", 0, g.setting},
		{"POST", "/settings", maxSettings, g.putSettings},
		{"POST", "/settings/{id}", maxSettings, g.putSetting},

		{"GET", "/userdata", 0, g.listUserdata},
		{"GET", "/v2/userdata", 0, g.listUserdataV2},
		{"GET", "/userdata/{file}", 0, g.userdata},
		{"POST", "/userdata/{file}", body, g.putUserdata},
		{"DELETE", "/userdata/{file}", body, g.deleteUserdata},
		{"POST", "/userdata/{file}/move/{dest}", body, g.moveUserdata},

		{"GET", "/prompt", 0, g.promptInfo},
		{"POST", "/prompt", body, g.prompt},
		{"GET", "/queue", 0, g.queue},
		{"POST", "/queue", body, g.changeQueue},
		{"POST", "/interrupt", body, g.interrupt},
		{"POST", "/free", body, g.free},
		{"GET", "/history", 0, g.history},
		{"POST", "/history", body, g.changeHistory},
		{"GET", "/history/{id}", 0, g.historyOf},
		{"GET", "/jobs", 0, g.jobs},
		{"POST", "/jobs/cancel", body, g.cancelJobs},
		{"GET", "/jobs/{id}", 0, g.job},
		{"POST", "/jobs/{id}/cancel", body, g.cancelJob},

		{"GET", "/view", 0, g.view},
		{"HEAD", "/view", 0, g.view},
		{"POST", "/upload/image", g.cfg.MaxUpload, g.uploadImage},
		{"POST", "/upload/mask", g.cfg.MaxUpload, g.uploadMask},
	}
}

// serverRoutes are about what this ComfyUI can do.
func (g *Gateway) serverRoutes() []route {
	return []route{
		{"GET", "/object_info", 0, g.objectInfo},
		{"GET", "/object_info/{class}", 0, g.objectInfoOf},
		{"GET", "/embeddings", 0, g.embeddings},
		{"GET", "/models", 0, g.modelFolders},
		{"GET", "/models/{folder}", 0, g.modelsIn},
		{"GET", "/experiment/models", 0, g.experimentModels},
		{"GET", "/experiment/models/{folder}", 0, g.experimentModelsIn},
		{"GET", "/experiment/models/preview/{rest...}", 0, g.modelPreview},
		{"GET", "/view_metadata/{folder}", 0, g.viewMetadata},
		{"GET", "/extensions", 0, g.extensions},
		{"GET", "/i18n", 0, g.i18n},
		{"GET", "/global_subgraphs", 0, g.globalSubgraphs},
		{"GET", "/global_subgraphs/{id}", 0, g.globalSubgraph},
		{"GET", "/node_replacements", 0, g.nodeReplacements},
		{"GET", "/workflow_templates", 0, g.workflowTemplates},
		{"GET", "/api/workflow_templates/{pack}/{file}", 0, g.workflowTemplate},
		{"GET", "/templates/{file...}", 0, g.officialTemplates},
		{"GET", "/docs/{file...}", 0, g.nodeDocs},
		{"GET", "/workshop/templates", 0, g.templateNeeds},
		{"GET", "/workshop/waiting", 0, g.waitingPage},
		{"GET", "/workshop/files", 0, g.filesPage},
		{"POST", "/workshop/files", maxPicked, g.removeFiles},
		{"GET", "/workshop/queue", 0, g.waiting},

		{"GET", "/internal/logs", 0, g.logs},
		{"GET", "/internal/logs/raw", 0, g.logsRaw},
		{"PATCH", "/internal/logs/subscribe", 0, g.accepted},
		{"GET", "/internal/folder_paths", 0, g.emptyObject},
		{"GET", "/internal/files/{type}", 0, g.internalFiles},
	}
}

// refusedRoutes are known to pages and off in a workshop: assets, and the
// Manager, which installs code.
func (g *Gateway) refusedRoutes() []route {
	out := []route{{"GET", "/api/assets", 0, g.assetsOff}, {"POST", "/api/assets", 0, g.assetsOff}, {"GET", "/api/tags", 0, g.assetsOff}}
	for _, method := range []string{"GET", "POST", "HEAD", "PUT", "PATCH", "DELETE"} {
		out = append(out, route{method, "/api/assets/{rest...}", 0, g.assetsOff})
	}
	for _, folder := range []string{"/manager", "/v2/manager", "/v2/customnode", "/v2/snapshot", "/customnode", "/snapshot", "/externalmodel"} {
		out = append(out, route{"GET", folder + "/{rest...}", 0, g.noManager}, route{"POST", folder + "/{rest...}", 0, g.noManager})
	}
	return out
}

// Routes lists every way in as "METHOD /pattern", for the test that tries each:
// both tables, the dashboard and the frontend's files.
func (g *Gateway) Routes() []string {
	out := []string{"GET " + adminPrefix + "{rest...}", "POST " + adminPrefix + "{rest...}", "GET /{rest...}"}
	for _, r := range g.routes.open {
		out = append(out, "GET "+r.path)
		if r.writes {
			out = append(out, "POST "+r.path)
		}
	}
	for _, r := range g.routes.all {
		out = append(out, r.method+" "+r.pattern)
	}
	return out
}

// router finds a route by the escaped path's segments.
type router struct {
	open  []openRoute
	all   []route
	first map[string][]int // first segment -> rows
}

func newRouter(g *Gateway) *router {
	r := &router{open: g.openTable(), all: g.table(), first: map[string][]int{}}
	for i, row := range r.all {
		seg, _, _ := strings.Cut(row.pattern[1:], "/")
		r.first[seg] = append(r.first[seg], i)
	}
	return r
}

// reserved reports whether a path's first segment means something at the root
// already: a person of that name has no prefix, or they would take the word from
// everybody.
func (r *router) reserved(first string) bool {
	return r.first[first] != nil || slices.Contains([]string{"admin", "api", "assets", "extensions", "scripts"}, first) ||
		slices.ContainsFunc(r.open, func(o openRoute) bool { return o.path == "/"+first })
}

// find returns the route of a method and an escaped path with its decoded
// parameters; known says that the path exists for another method.
func (r *router) find(method, path string) (found *route, params map[string]string, known bool) {
	if !strings.HasPrefix(path, "/") {
		return nil, nil, false
	}
	seg, _, _ := strings.Cut(path[1:], "/")
	for _, i := range r.first[seg] {
		row := &r.all[i]
		p, ok := match(row.pattern, path)
		if !ok {
			continue
		}
		if row.method == method || method == "HEAD" && row.method == "GET" {
			return row, p, true
		}
		known = true
	}
	return nil, nil, known
}

// match compares a pattern with an escaped path, segment by segment.
func match(pattern, path string) (map[string]string, bool) {
	var params map[string]string
	pat, rest := pattern[1:], path[1:]
	for {
		p, patTail, patMore := strings.Cut(pat, "/")
		if name, ok := strings.CutSuffix(p, "...}"); ok {
			return with(params, name[1:], rest)
		}
		s, restTail, restMore := strings.Cut(rest, "/")
		switch {
		case strings.HasPrefix(p, "{"):
			var ok bool
			if params, ok = with(params, p[1:len(p)-1], s); !ok {
				return nil, false
			}
		case p != s:
			return nil, false
		}
		if patMore != restMore {
			return nil, false
		}
		if !patMore {
			return params, true
		}
		pat, rest = patTail, restTail
	}
}

func with(params map[string]string, name, escaped string) (map[string]string, bool) {
	v, err := url.PathUnescape(escaped)
	if err != nil || v == "" {
		return nil, false
	}
	if params == nil {
		params = map[string]string{}
	}
	params[name] = v
	return params, true
}
