package gateway_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ahelme/comfyume/roles/comfy"
)

// What several workers have is one ComfyUI to a page: a model on either can be
// chosen, Windows' names are the same names, and where they differ the newest
// speaks.
func TestWorkersAreMerged(t *testing.T) {
	w := open(t, options{visited: true})
	w.worker("win/0", &comfy.Capabilities{
		ObjectInfo: json.RawMessage(`{
"CheckpointLoaderSimple": {"input": {"required": {"ckpt_name": [["film\\noir.safetensors", "sd.safetensors"]]}}, "output": ["MODEL", "CLIP", "VAE"], "name": "CheckpointLoaderSimple", "python_module": "nodes", "output_node": false},
"Seeded": {"input": {"required": {"other": ["IMAGE"]}}, "output": ["LATENT"], "name": "Seeded", "python_module": "nodes", "output_node": false}}`),
		Models:          map[string][]string{"checkpoints": {`film\noir.safetensors`}},
		I18n:            json.RawMessage(`{"fr":{"nodeDefs":{"A":1}}}`),
		Metadata:        map[string]json.RawMessage{"checkpoints/film/noir.safetensors": json.RawMessage(`{"ss_base":"sd"}`)},
		Previews:        map[string]comfy.WebFile{"checkpoints/film/noir.safetensors": {Type: "image/webp", Body: []byte("webp")}},
		Subgraphs:       map[string]json.RawMessage{"s1": json.RawMessage(`{"source":"custom_node","name":"Grain","path":"/home/me/ComfyUI/custom_nodes/p/subgraphs/g.json","info":{"node_pack":"p"},"data":"{\"nodes\":[]}"}`), "s2": json.RawMessage(`{"name":"empty"}`)},
		GlobalSubgraphs: json.RawMessage(`{}`),
	})
	w.until("both workers are known", func() bool {
		return strings.Contains(w.get(ann, "/object_info/CheckpointLoaderSimple").body, "noir")
	})
	options := string(w.classes("/object_info/CheckpointLoaderSimple")["CheckpointLoaderSimple"].Input.Required["ckpt_name"][0])
	if options != `["film/noir.safetensors","sd.safetensors"]` {
		t.Errorf("checkpoints offered: %s", options)
	}
	if _, newest := w.classes("/object_info/Seeded")["Seeded"].Input.Required["other"]; !newest {
		t.Error("the older worker speaks for a class that two describe differently")
	}
	for target, want := range map[string]string{
		"/api/models/checkpoints": `["film/noir.safetensors","sd.safetensors"]`,
		"/api/i18n":               `{"fr":{"nodeDefs":{"A":1}}}`,
		"/api/view_metadata/checkpoints?filename=film/noir.safetensors": `{"ss_base":"sd"}`,
		"/api/global_subgraphs":    `{"s1":{"source":"custom_node","name":"Grain","path":"g.json","info":{"node_pack":"p"}}}`,
		"/api/global_subgraphs/s1": `{"source":"custom_node","name":"Grain","path":"g.json","info":{"node_pack":"p"},"data":"{\"nodes\":[]}"}`,
		"/api/global_subgraphs/s2": `null`,
	} {
		var got, exp any
		w.get(ann, target).want(t, 200).json(t, &got)
		if err := json.Unmarshal([]byte(want), &exp); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(exp, got); d != "" {
			t.Errorf("%s: %s", target, d)
		}
	}
	for _, name := range []string{"film/noir.safetensors", "film%2Fnoir.safetensors", "film%5Cnoir.safetensors"} {
		a := w.get(ann, "/api/experiment/models/preview/checkpoints/0/"+name)
		if strings.Contains(name, "%5C") { // a backslash never passes the door
			a.want(t, 400)
			continue
		}
		if a.want(t, 200); a.body != "webp" || a.header.Get("Content-Type") != "image/webp" {
			t.Errorf("%s: %q %v", name, a.body, a.header)
		}
	}
}

// A custom node's scripts run in everybody's page, so pages get those of allowed
// packs only, from the list to the last style sheet.
func TestNodeWebFilesNeedLeave(t *testing.T) {
	caps := capabilities()
	caps.Extensions = []string{"/extensions/Film%20Tools/grain.js", "/extensions/other/spy.js", "/extensions/core/x.js"}
	caps.Web = map[string]comfy.WebFile{
		"/extensions/Film%20Tools/grain.js":  {Type: "text/javascript", Body: []byte("import '../../scripts/app.js'")},
		"/extensions/Film%20Tools/css/a.css": {Type: "text/plain", Body: []byte("p{}")},
		"/extensions/Film%20Tools/a.exe":     {Type: "text/html", Body: []byte("<script>")},
		"/extensions/other/spy.js":           {Type: "text/javascript", Body: []byte("spy")},
		"/extensions/core/x.js":              {Type: "text/javascript", Body: []byte("not the page's own")},
	}
	for _, c := range []struct {
		allow []string
		film  int
		other int
	}{{nil, 404, 404}, {[]string{"Film Tools"}, 200, 404}, {[]string{"*"}, 200, 200}} {
		w := open(t, options{visited: true, nodeWeb: c.allow, caps: caps})
		var list []string
		w.get(ann, "/user001/api/extensions").want(t, 200).json(t, &list)
		text := strings.Join(list, " ")
		if strings.Contains(text, "grain.js") != (c.film == 200) || strings.Contains(text, "spy.js") != (c.other == 200) || strings.Contains(text, "core/x.js") {
			t.Errorf("%v: listed %s", c.allow, text)
		}
		for _, prefix := range []string{"", "/user001"} {
			for target, status := range map[string]int{
				"/extensions/Film%20Tools/grain.js": c.film, "/extensions/Film%20Tools/css/a.css": c.film, "/extensions/other/spy.js": c.other,
				"/extensions/Film%20Tools/": 404, "/extensions/Film%20Tools/none.css": 404, "/extensions/core/x.js": 404, "/extensions/core/a.js": 200, "/scripts/app.js": 200,
			} {
				w.get(ann, prefix+target).want(t, status)
			}
		}
		if c.film != 200 {
			continue
		}
		for name, kind := range map[string]string{"grain.js": "text/javascript; charset=utf-8", "css/a.css": "text/css; charset=utf-8", "a.exe": "application/octet-stream"} {
			a := w.get(ann, "/extensions/Film%20Tools/"+name).want(t, 200)
			if a.header.Get("Content-Type") != kind || a.header.Get("ETag") == "" {
				t.Errorf("%s is %v", name, a.header)
			}
			w.ask(ask{user: ann, target: "/extensions/Film%20Tools/" + name, header: []string{"If-None-Match: " + a.header.Get("ETag")}}).want(t, 304)
		}
		w.get("", "/extensions/Film%20Tools/grain.js").want(t, 401)
	}
}
