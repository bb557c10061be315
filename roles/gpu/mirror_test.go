package gpu_test

import (
	"bytes"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/roles/comfy"
)

// described waits for what a worker registers of a ComfyUI.
func described(t *testing.T, s *scripted) *comfy.Capabilities {
	t.Helper()
	b := newBench(t, s.url, nil)
	b.until("the worker to be registered", func() bool { return len(b.queue.workers) > 0 })
	caps, err := comfy.DecodeCapabilities(bytes.NewReader(b.bytes(b.queue.workers[0].Caps)))
	if err != nil {
		t.Fatal(err)
	}
	return caps
}

// Pages load style sheets and parts of custom nodes that no list names, and ask
// what a model says of itself: all of it travels with the description.
func TestWhatPagesLoadLaterIsMirrored(t *testing.T) {
	s := newScripted(t)
	s.files = map[string]string{
		"/extensions":                                                      `["/extensions/core/c.js","/extensions/Film%20Tools/js/grain.js","/extensions/gone/x.js"]`,
		"/extensions/core/c.js":                                            "the page has its own",
		"/extensions/Film%20Tools/js/grain.js":                             `import {x} from "./lib/part.js"; link.href = "extensions/Film%20Tools/css/grain.css"; fetch('../data.json?v=1'); import "../../scripts/app.js"; import "../../../etc/passwd.js"; "https://example.com/evil.js"`,
		"/extensions/Film%20Tools/js/lib/part.js":                          "part",
		"/extensions/Film%20Tools/css/grain.css":                           `p{background:url(grain.png)}`,
		"/extensions/Film%20Tools/css/grain.png":                           "\x89PNG",
		"/extensions/Film%20Tools/data.json":                               `{}`,
		"/extensions/Film%20Tools/secret.js":                               "nobody names this",
		"/scripts/app.js":                                                  "the page's own",
		"/experiment/models":                                               `[{"name":"checkpoints","folders":["/x"]}]`,
		"/experiment/models/checkpoints":                                   `[{"name":"film\\noir.safetensors","pathIndex":1},{"name":"old.ckpt","pathIndex":0}]`,
		"/view_metadata/checkpoints?filename=film%5Cnoir.safetensors":      `{"ss_base":"sd","loss":NaN}`,
		"/experiment/models/preview/checkpoints/1/film%5Cnoir.safetensors": "webp",
		"/global_subgraphs":                                                `{"s1":{"name":"Grain"},"s2":{"name":"gone"}}`,
		"/global_subgraphs/s1":                                             `{"name":"Grain","data":"{}"}`,
	}
	caps := described(t, s)
	want := []string{
		"/extensions/Film%20Tools/css/grain.css", "/extensions/Film%20Tools/css/grain.png", "/extensions/Film%20Tools/data.json",
		"/extensions/Film%20Tools/js/grain.js", "/extensions/Film%20Tools/js/lib/part.js",
	}
	if d := cmp.Diff(want, slices.Sorted(maps.Keys(caps.Web))); d != "" {
		t.Error(d)
	}
	if string(caps.Web[want[1]].Body) != "\x89PNG" {
		t.Errorf("the picture is %q", caps.Web[want[1]].Body)
	}
	if got := string(caps.Metadata["checkpoints/film/noir.safetensors"]); got != `{"ss_base":"sd","loss":null}` || len(caps.Metadata) != 1 {
		t.Errorf("metadata %s of %d", got, len(caps.Metadata))
	}
	if got := caps.Previews["checkpoints/film/noir.safetensors"]; string(got.Body) != "webp" || len(caps.Previews) != 1 {
		t.Errorf("previews %+v", caps.Previews)
	}
	if len(caps.Subgraphs) != 1 || !strings.Contains(string(caps.Subgraphs["s1"]), `"data"`) {
		t.Errorf("subgraphs %s", caps.Subgraphs)
	}
}

// A ComfyUI on Windows gets the names that it lists; its user never sees them.
func TestWindowsGetsItsOwnModelNames(t *testing.T) {
	s := newScripted(t)
	s.info = `{"Thing":{"input":{"required":{"ckpt":[["film\\noir.safetensors"]]}},"output":[],"output_node":true}}`
	s.view = viewing("")
	s.prompt = func(w http.ResponseWriter, id string) {
		s.keep(id, bareEntry)
		s.accept(w, id)
		s.say(id, sayStart, sayCached, saySuccess, sayOver)
	}
	b := newBench(t, s.url, nil)
	id := b.submit("p-1", `{"1":{"class_type":"Thing","inputs":{"ckpt":"film/noir.safetensors","note":"film/other.txt"}}}`, nil)
	row := b.ends(id)
	if sent := string(s.sent()); !strings.Contains(sent, `"ckpt":"film\\noir.safetensors"`) || !strings.Contains(sent, `"note":"film/other.txt"`) {
		t.Errorf("sent %s", sent)
	}
	if h := b.history(row); row.State != jobs.Done || !strings.Contains(string(h.Prompt.Prompt), `"film/noir.safetensors"`) {
		t.Errorf("%s, history %s", row.State, h.Prompt.Prompt)
	}
}
