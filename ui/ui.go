// Package ui is the dashboard: one page of plain ES modules, embedded as they
// are written, and the feed that keeps it live. It promises to work under any
// path prefix, to load nothing from anywhere else and to show when what it
// shows is old. It refuses to decide who may look or act: whoever serves the
// Handler has checked that and says who it is with As.
//
//	GET  ./            the page      GET ./NAME        its modules and styles
//	GET  ./api/status  a View        GET ./api/events  View, then what changes
//	GET  ./api/troubles?of=NAME_OR_ERROR_ID        Troubles
//	POST ./api/do      an Action     POST ./api/link, ./api/token     a Pass
package ui

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strings"

	"github.com/ahelme/comfyume/cluster"
)

//go:embed assets
var assets embed.FS

// policy lets the page load its own files and nothing else.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// maxAction bounds the body of a button, in bytes.
const maxAction = 4 << 10

// Handler serves the dashboard at the root of whatever prefix was stripped.
// Who asks is in the request's context, see cluster.ActedBy; their name stands
// in the audit.
func Handler(src Source) http.Handler {
	h := &page{src: src, feed: newFeed(src), files: load()}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/status", h.status)
	mux.HandleFunc("GET /api/events", h.feed.serve)
	mux.HandleFunc("GET /api/troubles", h.troubles)
	for path, f := range map[string]http.HandlerFunc{"/api/do": h.do, "/api/link": h.pass(PassLink), "/api/token": h.pass(PassToken), "/api/log": h.log} {
		mux.Handle("POST "+path, http.NewCrossOriginProtection().Handler(f))
	}
	mux.HandleFunc("GET /", h.file)
	return mux
}

type page struct {
	src   Source
	feed  *feed
	files map[string]file // by name, "" is the page itself
}

type file struct {
	body []byte
	kind string // Content-Type
	etag string
}

// load reads the embedded files once. They are few and small.
func load() map[string]file {
	out := map[string]file{}
	err := fs.WalkDir(assets, "assets", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := assets.ReadFile(p)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(b)
		f := file{body: b, kind: kindOf(p), etag: `"` + hex.EncodeToString(sum[:8]) + `"`}
		name := strings.TrimPrefix(p, "assets/")
		if name == "index.html" {
			name = ""
		}
		out[name] = f
		return nil
	})
	if err != nil {
		panic(fmt.Sprintf("ui: read embedded files: %v", err)) // they are part of the program
	}
	return out
}

func kindOf(name string) string {
	switch ext := path.Ext(name); ext {
	case ".js":
		return "text/javascript; charset=utf-8"
	case ".svg":
		return "image/svg+xml"
	default:
		return mime.TypeByExtension(ext)
	}
}

func (h *page) file(w http.ResponseWriter, r *http.Request) {
	f, ok := h.files[strings.TrimPrefix(r.URL.Path, "/")]
	if !ok {
		answerError(w, cluster.Errorf(cluster.NotFound, "there is no such page here"))
		return
	}
	head := w.Header()
	head.Set("Content-Type", f.kind)
	head.Set("Content-Security-Policy", policy)
	head.Set("X-Content-Type-Options", "nosniff")
	head.Set("Referrer-Policy", "no-referrer")
	head.Set("Cache-Control", "no-cache") // kept, but asked for again: a new build is seen at once
	head.Set("ETag", f.etag)
	if strings.Contains(r.Header.Get("If-None-Match"), f.etag) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	_, _ = w.Write(f.body) // a reader that went away is not our failure
}

func (h *page) status(w http.ResponseWriter, _ *http.Request) {
	answer(w, http.StatusOK, h.src.View().filled())
}

func (h *page) troubles(w http.ResponseWriter, r *http.Request) {
	t, err := h.src.Troubles(r.Context(), r.URL.Query().Get("of"))
	if err != nil {
		answerError(w, err)
		return
	}
	answer(w, http.StatusOK, t.filled())
}

func (h *page) do(w http.ResponseWriter, r *http.Request) {
	a, actor, err := asked(w, r)
	if err == nil {
		err = h.src.Do(r.Context(), actor, a)
	}
	if err != nil {
		answerError(w, err)
		return
	}
	answer(w, http.StatusOK, struct{}{})
}

// log answers what a worker's ComfyUI printed last.
func (h *page) log(w http.ResponseWriter, r *http.Request) {
	a, _, err := asked(w, r)
	var p Printed
	if err == nil {
		p, err = h.src.Printed(r.Context(), a.Worker, a.Lines)
	}
	if err != nil {
		answerError(w, err)
		return
	}
	p.Lines = list(p.Lines)
	answer(w, http.StatusOK, p)
}

// pass makes a pass of a kind for the user of an Action.
func (h *page) pass(kind PassKind) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		a, actor, err := asked(w, r)
		var p Pass
		if err == nil {
			p, err = h.src.Pass(r.Context(), actor, a.User, kind)
		}
		if err != nil {
			answerError(w, err)
			return
		}
		answer(w, http.StatusOK, p)
	}
}

// asked reads what a button asks for, and who pressed it.
func asked(w http.ResponseWriter, r *http.Request) (a Action, actor string, err error) {
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxAction)).Decode(&a); err != nil {
		return a, "", cluster.Errorf(cluster.Invalid, "an action is JSON: verb, user, prompt_id")
	}
	if actor = cluster.Actor(r.Context()); actor == "" {
		return a, "", cluster.Errorf(cluster.Unauthorized, "sign in first")
	}
	return a, actor, nil
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

func answerError(w http.ResponseWriter, err error) {
	code := cluster.CodeOf(err)
	answer(w, code.Status(), cluster.Error{Code: code, Message: cluster.MessageOf(err)})
}
