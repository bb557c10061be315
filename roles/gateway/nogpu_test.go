package gateway_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/cluster/models"
)

// Before any GPU was ever there, a page knows the nodes of the workshop's own
// workflows, and what is queued waits.
func TestWithoutAnyGPU(t *testing.T) {
	w := open(t, options{visited: true, noGPU: true})
	var list map[string]struct {
		Input struct {
			Required map[string][]json.RawMessage
		}
		Order   map[string][]string `json:"input_order"`
		Output  []string
		Outputs bool `json:"output_node"`
	}
	w.get(ann, "/object_info").want(t, 200).json(t, &list)
	if got := strings.Join(list["EmptyImage"].Order["required"], " "); got != "width height batch_size color" || list["EmptyImage"].Output[0] != "IMAGE" {
		t.Errorf("EmptyImage is drawn as %+v", list["EmptyImage"])
	}
	if !list["SaveImage"].Outputs || string(list["SketchSlow"].Input.Required["seed"][1]) == "" || !strings.Contains(string(list["SketchSlow"].Input.Required["seed"][1]), `"control_after_generate":true`) {
		t.Errorf("SaveImage %+v, seed %s", list["SaveImage"], list["SketchSlow"].Input.Required["seed"])
	}
	if got := string(list["ImageScale"].Input.Required["upscale_method"][0]); got != `["bilinear"]` {
		t.Errorf("choices %s", got)
	}
	w.get(ann, "/object_info/SaveImage").want(t, 200).json(t, &list)

	p := w.page(ann, "tab1")
	id := w.submit(ann, "tab1", "p1")
	p.waitFor("frame text Queued. This sta") // at the node that saves; clipped by the test's page
	if j := w.job(ann, id); j.State != jobs.Pending || strings.Join(j.Classes, " ") != "EmptyImage SaveImage Seeded" {
		t.Errorf("the job is %s and needs %v", j.State, j.Classes)
	}
	// What no ComfyUI would take is still refused.
	for _, bad := range []string{`{"1":{"inputs":{}}}`, `{}`, `[]`, `{"1":{"class_type":"A","inputs":{"x":["1",0]}}}`} {
		if a := w.post(ann, "/prompt", `{"prompt":`+bad+`}`); a.status != 400 {
			t.Errorf("%s: status %d %.100s", bad, a.status, a.body)
		}
	}
	// The first GPU takes it as it is.
	w.worker("gpu/0", capabilities())
	w.until("the door knows the nodes", func() bool { return strings.Contains(w.get(ann, "/object_info").body, "CheckpointLoaderSimple") })
	running := w.assign(ann, "p1").begin()
	p.waitFor("frame text  ") // nothing: it waits no longer
	running.done("a_00001_.png")
	p.waitFor("executing p1 null")
	if p2 := w.submit(ann, "tab1", "p2"); p2 != "p2" {
		t.Error(p2)
	}
}

// A gateway that is new to a workshop, whose GPUs were described to a machine
// that is away, takes jobs, and learns the nodes when that machine is back.
func TestNewGatewayWhileItsNeighbourIsAway(t *testing.T) {
	w := open(t, options{visited: true, noGPU: true})
	raw, err := capabilities().Encode()
	if err != nil {
		t.Fatal(err)
	}
	ref := w.put(raw)
	file := filepath.Join(w.blobDir, "blobs", string(ref[:2]), string(ref))
	if err := os.Rename(file, file+".away"); err != nil {
		t.Fatal(err)
	}
	w.do(&models.PutWorker{Worker: models.Worker{ID: "gpu/0", Node: "gpu", Caps: ref, CapsSize: int64(len(raw))}})
	w.until("the log says so", func() bool { return strings.Contains(w.logged.String(), "capabilities cannot be read now") })
	w.submit(ann, "tab1", "p1")
	if err := os.Rename(file+".away", file); err != nil {
		t.Fatal(err)
	}
	w.until("the door knows the nodes", func() bool { return strings.Contains(w.get(ann, "/object_info").body, "CheckpointLoaderSimple") })
	if p := w.post(ann, "/prompt", `{"prompt":{"1":{"class_type":"Nowhere","inputs":{}}}}`).want(t, 400).problem(t); p.Error.Type != "invalid_prompt" {
		t.Errorf("an unknown node: %+v", p)
	}
}
