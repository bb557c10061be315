package gateway_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ahelme/comfyume/cluster/files"
)

type classInfo struct {
	Input struct {
		Required map[string][]json.RawMessage
	}
	Module *string `json:"python_module"`
}

func (w *world) classes(target string) map[string]classInfo {
	w.t.Helper()
	var out map[string]classInfo
	w.ask(ask{user: ann, target: target, header: []string{"Accept-Encoding: gzip"}}).want(w.t, 200).json(w.t, &out)
	return out
}

// A page offers this user's files where the worker lists everybody's, and keeps
// to the byte what it does not understand.
func TestObjectInfo(t *testing.T) {
	w := open(t, options{visited: true})
	for name, area := range map[string]string{"mine.png": "input", "clip.mp4": "input", "notes.txt": "input", "shot.png": "temp"} {
		w.upload(ann, "/upload/image", part{"image", name, name}, part{"type", "", area}).want(t, 200)
	}
	w.upload(ann, "/upload/image", part{"image", "deep.png", "x"}, part{"subfolder", "", "in/ner"}).want(t, 200)
	w.upload(bob, "/upload/image", part{"image", "bobs.png", "x"}).want(t, 200)
	w.submit(ann, "c", "p1")
	s := w.assign(ann, "p1").begin()
	w.do(&files.PutOutputs{User: ann, Prompt: "p1", Worker: "gpu/0", Epoch: 1, Outputs: []files.NewOutput{{Item: "9/images/0", Area: files.Output, Name: "o_00001_.png", Ref: w.put([]byte("o")), Size: 1}}})
	s.done("o_00001_.png")

	for _, target := range []string{"/object_info", "/user001/api/object_info", "/api/object_info/LoadImage"} {
		list := w.classes(target)
		if got := string(list["LoadImage"].Input.Required["image"][0]); got != `["mine.png"]` {
			t.Errorf("%s: LoadImage offers %s", target, got)
		}
		if strings.HasSuffix(target, "LoadImage") {
			continue
		}
		if len(list) != 7 {
			t.Errorf("%s: %d classes", target, len(list))
		}
		var config struct{ Options []string }
		if err := json.Unmarshal(list["LoadFromOutput"].Input.Required["image"][1], &config); err != nil || !slices.Equal(config.Options, []string{"o_00001_.png"}) {
			t.Errorf("%s: LoadFromOutput offers %v, %v", target, config.Options, err)
		}
		if got := string(list["CheckpointLoaderSimple"].Input.Required["ckpt_name"][0]); got != `["sd.safetensors"]` {
			t.Errorf("%s: models %s", target, got)
		}
		for name, c := range list {
			if c.Module == nil {
				t.Errorf("%s: %s has no module: newer pages never open", target, name)
			}
		}
	}
	// Whatever encoding is taken, the seed's largest value is whole and nobody's file but one's own is named.
	for _, accept := range []string{"identity", "gzip", "br"} {
		a := w.ask(ask{user: ann, target: "/object_info", header: []string{"Accept-Encoding: " + accept}}).want(t, 200)
		if accept == "gzip" != (a.header.Get("Content-Encoding") == "gzip") {
			t.Errorf("%s: encoded as %q", accept, a.header.Get("Content-Encoding"))
		}
		var all json.RawMessage
		a.json(t, &all)
		for what, want := range map[string]bool{"18446744073709551615": true, "of_somebody_else": false, "bobs.png": false, "deep.png": false} {
			if strings.Contains(string(all), what) != want {
				t.Errorf("%s: %s is there: %v", accept, what, !want)
			}
		}
	}
	if a := w.get(ann, "/object_info/NoSuchNode").want(t, 200); a.body != "{}" {
		t.Errorf("an unknown class: %q", a.body)
	}
}

// What else a page asks of the server before it shows anything.
func TestWhatPagesAsk(t *testing.T) {
	w := open(t, options{visited: true})
	for target, want := range map[string]string{
		"/api/users":                         `{"storage":"server","migrated":true}`,
		"/api/embeddings":                    `["easy"]`,
		"/api/models":                        `["checkpoints"]`,
		"/api/models/checkpoints":            `["sd.safetensors"]`,
		"/api/experiment/models":             `[{"name":"checkpoints","folders":[]}]`,
		"/api/experiment/models/checkpoints": `[{"name":"sd.safetensors","pathIndex":0,"modified":1,"created":1,"size":1}]`,
		"/api/i18n":                          `{}`,
		"/api/global_subgraphs":              `{}`,
		"/api/node_replacements":             `{"OldName":[{"new_id":"EmptyImage"}]}`,
		"/internal/logs":                     `""`,
		"/internal/logs/raw":                 `{"entries":[],"size":{"cols":80,"rows":24}}`,
		"/internal/folder_paths":             `{}`,
		"/internal/files/input":              `[]`,
		"/templates/index.json":              `[]`,
		"/api/queue":                         `{"queue_running":[],"queue_pending":[]}`,
		"/api/history":                       `{}`,
		"/api/history/none":                  `{}`,
		"/api/prompt":                        `{"exec_info":{"queue_remaining":0}}`,
		"/api/jobs":                          `{"jobs":[],"pagination":{"offset":0,"limit":1,"total":0,"has_more":false}}`,
		"/api/jobs?limit=200&offset=0&status=in_progress,pending": `{"jobs":[],"pagination":{"offset":0,"limit":200,"total":0,"has_more":false}}`,
		"/api/features": `{"supports_preview_metadata":true,"max_upload_size":10000000000,"node_replacements":true,"assets":false,"show_signin_button":false}`,
	} {
		for _, prefix := range []string{"", "/user001"} {
			a := w.get(ann, prefix+target).want(t, 200)
			var got, exp any
			a.json(t, &got)
			if err := json.Unmarshal([]byte(want), &exp); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(exp, got); d != "" || !strings.HasPrefix(a.header.Get("Content-Type"), "application/json") {
				t.Errorf("%s%s (%s): %s", prefix, target, a.header.Get("Content-Type"), d)
			}
		}
	}
}

// A page opens whatever the worker is, or before there was one.
func TestSystemAndRefusals(t *testing.T) {
	w := open(t, options{visited: true})
	var s struct {
		System struct {
			Version  string   `json:"comfyui_version"`
			Frontend string   `json:"required_frontend_version"`
			Argv     []string `json:"argv"`
		}
		Devices []any
	}
	a := w.get(ann, "/api/system_stats").want(t, 200)
	a.json(t, &s)
	if s.System.Version != "0.3.64" || s.System.Frontend != "9.9.9" || len(s.System.Argv) == 0 || len(s.Devices) != 1 || strings.Contains(a.body, "/home/") || strings.Contains(a.body, "manager") {
		t.Errorf("system_stats: %s", a.body)
	}
	for target, status := range map[string]int{
		"/api/models/none": 404, "/api/experiment/models/none": 404, "/api/view_metadata/checkpoints?filename=sd.safetensors": 404, "/internal/files/models": 400,
		"/api/assets": 503, "/api/assets/x": 503, "/api/tags": 503, "/api/manager/queue/start": 403, "/v2/customnode/install": 403, "/api/global_subgraphs/x": 200,
		"/api/userdata/comfy.templates.json": 404, "/api/experiment/models/preview/checkpoints/0/sd.safetensors": 404,
	} {
		w.get(ann, target).want(t, status)
	}
	// Every page loads its user's style sheet; that there is none must be no error.
	for i, want := range []string{"", "body{}", "body{}"} {
		for _, target := range []string{"/user001/user.css", "/api/userdata/user.css"} {
			if a := w.get(ann, target).want(t, 200); a.body != want || !strings.HasPrefix(a.header.Get("Content-Type"), "text/css") || a.header.Get("Content-Disposition") != "" {
				t.Errorf("%s: %q %v", target, a.body, a.header)
			}
		}
		if i == 0 {
			w.post(ann, "/api/userdata/user.css", "body{}").want(t, 200)
		}
	}
	for _, target := range []string{"/free", "/interrupt", "/api/queue", "/api/history"} {
		if a := w.post(ann, target, `{}`).want(t, 200); a.body != "" {
			t.Errorf("%s: %q", target, a.body)
		}
	}
	w.post(ann, "/interrupt", "").want(t, 200)
	w.ask(ask{user: ann, method: "PATCH", target: "/internal/logs/subscribe", body: `{"clientId":"x","enabled":true}`}).want(t, 200)
	// Before any GPU was there a page still opens.
	lonely := open(t, options{visited: true, noGPU: true})
	for _, target := range []string{"/", "/api/object_info", "/api/system_stats", "/api/models", "/api/extensions", "/api/settings"} {
		lonely.get(ann, target).want(t, 200)
	}
}
