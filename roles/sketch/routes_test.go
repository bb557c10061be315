package sketch_test

import (
	"encoding/json"
	"image"
	"net/http"
	"strings"
	"testing"

	"github.com/ahelme/comfyume/roles/comfy"
	"github.com/ahelme/comfyume/roles/sketch"
	"github.com/google/go-cmp/cmp"
)

// route is a request and what it must be answered.
type route struct {
	method, path, body string
	status             int
	want               string // "" is not compared
}

func (b *bench) check(routes []route, prefixes ...string) {
	b.t.Helper()
	for _, r := range routes {
		for _, prefix := range prefixes {
			status, body := b.do(r.method, prefix+r.path, r.body)
			if status != r.status || r.want != "" && body != r.want {
				b.t.Errorf("%s %s: %d %s, want %d %s", r.method, prefix+r.path, status, body, r.status, r.want)
			}
		}
	}
}

func TestRoutesOfWhatTheServerIs(t *testing.T) {
	start(t, sketch.Config{}).check([]route{
		{"GET", "/system_stats", "", 200, ""},
		{"GET", "/extensions", "", 200, "[]"},
		{"GET", "/embeddings", "", 200, "[]"},
		{"GET", "/models", "", 200, ""},
		{"GET", "/models/checkpoints", "", 200, "[]"},
		{"GET", "/models/nowhere", "", 404, ""},
		{"GET", "/experiment/models/text_encoders", "", 200, "[]"},
		{"GET", "/i18n", "", 200, "{}"},
		{"GET", "/global_subgraphs", "", 200, "{}"},
		{"GET", "/node_replacements", "", 200, "{}"},
		{"GET", "/users", "", 200, `{"storage":"server","migrated":true}`},
		{"POST", "/settings/Comfy.X", `{"a":8.0}`, 200, ""},
		{"GET", "/settings/Comfy.X", "", 200, `{"a":8.0}`},
		{"GET", "/settings/Comfy.None", "", 200, "null"},
		{"POST", "/settings", `{"Comfy.Y":1}`, 200, ""},
		{"GET", "/settings", "", 200, `{"Comfy.X":{"a":8.0},"Comfy.Y":1}`},
		{"POST", "/settings", `nonsense`, 500, ""},
		{"GET", "/features", "", 200, `{"assets":false,"max_upload_size":104857600,"node_replacements":true,"supports_preview_metadata":true}`},
		{"GET", "/prompt", "", 200, `{"exec_info":{"queue_remaining":0}}`},
		{"GET", "/queue", "", 200, `{"queue_running":[],"queue_pending":[]}`},
		{"GET", "/history", "", 200, "{}"},
		{"GET", "/history/none", "", 200, "{}"},
		{"GET", "/history?max_items=x", "", 500, ""},
	}, "", "/api")
}

func TestRoutesThatTakeAnything(t *testing.T) {
	start(t, sketch.Config{}).check([]route{
		{"GET", "/object_info/None", "", 200, "{}"},
		{"GET", "/view", "", 404, ""},
		{"GET", "/view?filename=none.png", "", 404, ""},
		{"GET", "/view?filename=../x.png", "", 400, ""},
		{"GET", "/view?filename=/etc/passwd", "", 400, ""},
		{"GET", "/view?filename=x.png&type=models", "", 400, ""},
		{"GET", "/view?filename=x.png&subfolder=..%2F..", "", 403, ""},
		{"GET", "/view?filename=x.png&subfolder=%2Fetc", "", 403, ""},
		{"GET", "/view?filename=passwd&subfolder=%2e%2e%2f%2e%2e%2fetc", "", 403, ""},
		{"POST", "/interrupt", "", 200, ""},
		{"POST", "/interrupt", "nonsense", 200, ""},
		{"POST", "/queue", `{"clear":true}`, 200, ""},
		{"POST", "/history", `{"delete":["none"]}`, 200, ""},
		{"POST", "/history", `nonsense`, 500, ""},
		{"POST", "/free", `{"unload_models":true,"free_memory":true}`, 200, ""},
		{"POST", "/upload/image", "no form", 400, ""},
		{"GET", "/unknown", "", 404, ""},
		{"DELETE", "/queue", "", 405, ""},
	}, "", "/api")
}

func TestRoutesWithOnePath(t *testing.T) {
	b := start(t, sketch.Config{})
	b.check([]route{
		{"GET", "/internal/folder_paths", "", 200, "{}"},
		{"GET", "/internal/files/output", "", 200, "[]"},
		{"GET", "/internal/files/models", "", 400, `{"error":"Invalid directory type"}`},
		{"PATCH", "/internal/logs/subscribe", `{"clientId":"a","enabled":true}`, 200, ""},
		{"GET", "/api/jobs", "", 200, `{"jobs":[],"pagination":{"offset":0,"limit":1,"total":0,"has_more":false}}`},
		{"GET", "/api/jobs?status=odd", "", 400, ""},
		{"GET", "/api/jobs?limit=0", "", 400, ""},
		{"GET", "/api/jobs?sort_by=odd", "", 400, ""},
		{"GET", "/api/jobs?sort_order=odd", "", 400, ""},
		{"GET", "/api/jobs?offset=-5&limit=3&status=completed,failed", "", 200, `{"jobs":[],"pagination":{"offset":0,"limit":3,"total":0,"has_more":false}}`},
		{"GET", "/api/jobs/none", "", 404, `{"error":"Job not found"}`},
		{"POST", "/api/jobs/none/cancel", "", 200, `{"cancelled":false}`},
		{"POST", "/api/jobs/cancel", `{"job_ids":["X"]}`, 400, `{"error":"Malformed job ids","invalid_ids":["X"]}`},
		{"POST", "/api/jobs/cancel", `{"job_ids":["6d4e1c3a-3c1f-4b57-9b2c-0d9a1d4f0c11"]}`, 200, `{"cancelled":false}`},
	}, "")
	for _, path := range []string{"/internal/logs", "/internal/logs/raw"} {
		if status, body := b.get(path); status != 200 || !json.Valid([]byte(body)) {
			t.Errorf("%s: %d %s", path, status, body)
		}
	}
}

func TestSystemStatsSayWhatThisIs(t *testing.T) {
	b := start(t, sketch.Config{})
	s, err := b.client.SystemStats(b.ctx())
	if err != nil {
		t.Fatal(err)
	}
	if s.System.ComfyUIVersion != sketch.Version || len(s.Devices) != 1 || s.Devices[0].Name != "sketch CPU" || s.System.Argv == nil {
		t.Errorf("stats %s", s.Raw)
	}
}

func TestObjectInfoListsMyFiles(t *testing.T) {
	b := start(t, sketch.Config{})
	b.uploadPicture("b.png", image.NewGray(image.Rect(0, 0, 1, 1)))
	b.uploadPicture("a.png", image.NewGray(image.Rect(0, 0, 1, 1)))
	b.upload("notes.txt", []byte("x"))
	info, err := b.client.ObjectInfo(b.ctx())
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"EmptyImage", "LoadImage", "ImageScale", "ImageInvert", "ImageBlend", "ImageCrop", "PreviewImage", "SaveImage", "SketchSlow", "SketchFail"}
	if diff := cmp.Diff(want, info.Names()); diff != "" {
		t.Error(diff)
	}
	c, _ := info.Class("LoadImage")
	in, _ := c.Input("image")
	if diff := cmp.Diff([]string{"a.png", "b.png"}, in.OptionNames()); diff != "" || in.Upload != "image_upload" {
		t.Errorf("%s %s", diff, in.Upload)
	}
	blend, _ := info.Class("ImageBlend")
	if in, _ := blend.Input("blend_mode"); len(in.Options) != 6 {
		t.Errorf("the newer syntax gives %v", in.Options)
	}
	if status, body := b.get("/object_info/SaveImage"); status != 200 || !strings.HasPrefix(body, `{"SaveImage":{"input":{"required":{"images":["IMAGE"],"filename_prefix":["STRING",`) {
		t.Errorf("%d %s", status, body)
	}
}

func TestPromptIsRefusedInComfyUIsShape(t *testing.T) {
	b := start(t, sketch.Config{})
	for _, c := range []struct{ body, typ string }{
		{`{`, "invalid_prompt"},
		{`{}`, "no_prompt"},
		{`{"prompt":{}}`, "prompt_no_outputs"},
		{`{"prompt":[]}`, "invalid_prompt"},
		{`{"prompt":{"1":{"class_type":"Nothing","inputs":{}}}}`, "invalid_prompt"},
		{`{"prompt":` + graph(empty("1", 4, 4, 0)) + `}`, "prompt_no_outputs"},
		{`{"prompt":` + graph(empty("1", 0, 4, 0), save("9", "1")) + `}`, "prompt_outputs_failed_validation"},
		{`{"prompt":` + graph(load("1", "gone.png"), save("9", "1")) + `}`, "prompt_outputs_failed_validation"},
		{`{"prompt":` + graph(load("1", "../../etc/passwd"), save("9", "1")) + `}`, "prompt_outputs_failed_validation"},
		{`{"prompt":{},"prompt_id":"../x"}`, "invalid_prompt_id"},
	} {
		status, body := b.do(http.MethodPost, "/api/prompt", c.body)
		var e comfy.PromptError
		if err := json.Unmarshal([]byte(body), &e); err != nil || status != 400 || e.Detail.Type != c.typ {
			t.Errorf("%s: %d %s, want %s", c.body, status, body, c.typ)
		}
	}
	if status, _ := b.do(http.MethodGet, "/prompt", ""); status != 200 {
		t.Error("a refused prompt has changed something")
	}
	// One good output is enough; the bad one is named.
	r, err := b.submit("", "half", graph(empty("1", 4, 4, 0), save("9", "1"), `"8":{"class_type":"SaveImage","inputs":{"images":["1",0]}}`))
	if err != nil || r.NodeErrors["8"] == nil {
		t.Errorf("answer %+v, %v", r, err)
	}
	if h := b.wait("half"); len(h.Outputs) != 1 || h.Outputs[0].Key != "9" {
		t.Errorf("outputs %v", h.Outputs)
	}
}
