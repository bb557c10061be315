package sketch

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"github.com/ahelme/comfyume/roles/comfy"
)

// routes is the one table of the server. As in ComfyUI each path is also served
// below /api; those that begin with /internal or /api are served as they stand.
func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	table := map[string]http.HandlerFunc{
		"GET /ws":                         s.getSocket,
		"GET /system_stats":               s.getSystemStats,
		"GET /features":                   s.getFeatures,
		"GET /object_info":                s.getObjectInfo,
		"GET /object_info/{class}":        s.getClassInfo,
		"GET /prompt":                     s.getPrompt,
		"POST /prompt":                    s.postPrompt,
		"GET /queue":                      s.getQueue,
		"POST /queue":                     s.postQueue,
		"GET /history":                    s.getHistory,
		"GET /history/{id}":               s.getHistoryOf,
		"POST /history":                   s.postHistory,
		"POST /interrupt":                 s.postInterrupt,
		"POST /free":                      s.postFree,
		"GET /view":                       s.getView,
		"POST /upload/image":              s.postUpload,
		"GET /users":                      constant(`{"storage":"server","migrated":true}`),
		"GET /settings":                   s.getSettings,
		"GET /settings/{id}":              s.getSetting,
		"POST /settings":                  s.postSettings,
		"POST /settings/{id}":             s.postSetting,
		"GET /extensions":                 constant(`[]`),
		"GET /embeddings":                 constant(`[]`),
		"GET /models":                     listModelFolders,
		"GET /models/{folder}":            listModels,
		"GET /experiment/models":          listExperimentFolders,
		"GET /experiment/models/{folder}": listModels,
		"GET /i18n":                       constant(`{}`),
		"GET /global_subgraphs":           constant(`{}`),
		"GET /global_subgraphs/{id}":      constant(`null`),
		"GET /node_replacements":          constant(`{}`),
		"GET /workflow_templates":         constant(`{}`),
		"GET /internal/logs":              s.getLogs,
		"GET /internal/logs/raw":          s.getRawLogs,
		"PATCH /internal/logs/subscribe":  accepted,
		"GET /internal/folder_paths":      constant(`{}`),
		"GET /internal/files/{folder}":    s.getFiles,
		"GET /api/jobs":                   s.getJobs,
		"GET /api/jobs/{id}":              s.getJob,
		"POST /api/jobs/{id}/cancel":      s.postCancel,
		"POST /api/jobs/cancel":           s.postCancelMany,
	}
	for pattern, h := range table {
		method, path, _ := strings.Cut(pattern, " ")
		mux.HandleFunc(method+" "+path, h)
		if !strings.HasPrefix(path, "/internal/") && !strings.HasPrefix(path, "/api/") {
			mux.HandleFunc(method+" /api"+path, h)
		}
	}
	return s.counted(mux)
}

// counted lets Run wait for requests, and bounds their bodies.
func (s *Server) counted(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.requests.enter() {
			return // the server is closing and has cut the connection
		}
		defer s.requests.leave()
		r.Body = http.MaxBytesReader(w, r.Body, s.cfg.MaxUpload)
		next.ServeHTTP(w, r)
	})
}

// gate lets Run wait for requests that are being answered.
type gate struct {
	mu     sync.Mutex
	closed bool
	wg     sync.WaitGroup
}

func (g *gate) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	g.wg.Add(1)
	return true
}

func (g *gate) leave() { g.wg.Done() }

func (g *gate) close() {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	g.wg.Wait()
}

// constant answers what this server has none of.
func constant(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, http.StatusOK, []byte(body)) }
}

func accepted(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) }

func writeJSON(w http.ResponseWriter, status int, body []byte) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(body) // the client has gone; there is nobody to tell
}

// writeValue writes a value of our own making.
func writeValue(w http.ResponseWriter, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	writeJSON(w, http.StatusOK, body)
}

// readBody reads a whole body; it has answered when ok is false.
func readBody(w http.ResponseWriter, r *http.Request) (body []byte, ok bool) {
	body, err := io.ReadAll(r.Body)
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		w.WriteHeader(http.StatusRequestEntityTooLarge)
		return nil, false
	case err != nil:
		w.WriteHeader(http.StatusBadRequest)
		return nil, false
	}
	return body, true
}

// readObject reads a JSON object; ComfyUI answers 500 to anything else.
func readObject(w http.ResponseWriter, r *http.Request) (comfy.Object, bool) {
	body, ok := readBody(w, r)
	if !ok {
		return nil, false
	}
	o, err := comfy.ParseObject(body)
	if err != nil {
		http.Error(w, "500 Internal Server Error", http.StatusInternalServerError)
		return nil, false
	}
	return o, true
}

// features is what this server tells clients and what they may build on.
func (s *Server) features() map[string]any {
	return map[string]any{"supports_preview_metadata": true, "max_upload_size": s.cfg.MaxUpload, "node_replacements": true, "assets": false}
}

func (s *Server) getFeatures(w http.ResponseWriter, _ *http.Request) { writeValue(w, s.features()) }

func (s *Server) getSocket(w http.ResponseWriter, r *http.Request) {
	s.hub.serve(w, r, s.features(), func(id string) []comfy.Message {
		out := []comfy.Message{comfy.Status(s.queue.remaining(), id)}
		if node := s.exec.lastNode(); node != "" && s.queue.runs(id) {
			// ComfyUI names no prompt here, and neither may what imitates it.
			out = append(out, comfy.Message{Type: comfy.TypeExecuting, Data: json.RawMessage(`{"node":` + string(jsonText(node)) + `}`)})
		}
		return out
	})
}

func (s *Server) getSystemStats(w http.ResponseWriter, _ *http.Request) {
	total, free := memory()
	writeJSON(w, http.StatusOK, comfy.SystemStats{
		System: comfy.SystemInfo{
			OS: "posix", RAMTotal: total, RAMFree: free, ComfyUIVersion: Version,
			PythonVersion: "none", PyTorchVersion: "none", Argv: []string{"sketch"},
		},
		Devices: []comfy.Device{{Name: "sketch CPU", Type: "cpu", VRAMTotal: total, VRAMFree: free, TorchVRAMTotal: total, TorchVRAMFree: free}},
	}.Encode())
}

func (s *Server) getObjectInfo(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, s.objectInfo().Marshal())
}

func (s *Server) getClassInfo(w http.ResponseWriter, r *http.Request) {
	class, ok := s.objectInfo().Class(r.PathValue("class"))
	if !ok {
		writeJSON(w, http.StatusOK, []byte("{}"))
		return
	}
	writeJSON(w, http.StatusOK, comfy.NewObjectInfo(class).Marshal())
}

func (s *Server) getSettings(w http.ResponseWriter, _ *http.Request) { writeValue(w, s.settings.all()) }

func (s *Server) getSetting(w http.ResponseWriter, r *http.Request) {
	value, ok := s.settings.all()[r.PathValue("id")]
	if !ok {
		value = json.RawMessage("null")
	}
	writeJSON(w, http.StatusOK, value)
}

func (s *Server) postSettings(w http.ResponseWriter, r *http.Request) {
	o, ok := readObject(w, r)
	if !ok {
		return
	}
	values := map[string]json.RawMessage{}
	for _, f := range o {
		values[f.Key] = f.Value
	}
	s.settings.merge(values)
}

func (s *Server) postSetting(w http.ResponseWriter, r *http.Request) {
	body, ok := readBody(w, r)
	if !ok {
		return
	}
	if !json.Valid(body) {
		http.Error(w, "500 Internal Server Error", http.StatusInternalServerError)
		return
	}
	s.settings.merge(map[string]json.RawMessage{r.PathValue("id"): body})
}

func (s *Server) getLogs(w http.ResponseWriter, _ *http.Request) { writeValue(w, s.lines.text()) }

func (s *Server) getRawLogs(w http.ResponseWriter, _ *http.Request) {
	writeValue(w, map[string]any{"entries": s.lines.copy(), "size": map[string]int{"cols": 80, "rows": 24}})
}

// jsonText writes a JSON string.
func jsonText(s string) json.RawMessage {
	b, err := json.Marshal(s)
	if err != nil {
		return json.RawMessage(`""`)
	}
	return b
}

// query reads a whole number; ok is false for anything that is not one.
func query(v url.Values, name string, absent int) (n int, ok bool) {
	if !v.Has(name) {
		return absent, true
	}
	return number(v.Get(name))
}
