package gateway_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ahelme/comfyume/roles/comfy"
	"github.com/ahelme/comfyume/roles/gateway"
)

// first are workflows that lack things in every way there is.
func first() map[string]string {
	return map[string]string{
		"empty.json": `{"nodes":[],"links":[]}`,
		"fine.json":  `{"nodes":[{"id":1,"type":"EmptyImage","mode":0},{"id":2,"type":"SaveImage","mode":0},{"id":3,"type":"MarkdownNote","mode":0}]}`,
		"lacks.json": `{"nodes":[{"id":1,"type":"NoSuchNode","mode":0},{"id":2,"type":"Bypassed","mode":4},{"id":3,"type":"Muted","mode":2},
			{"id":4,"type":"0a-sub","mode":0},{"id":5,"type":"0b-sub","mode":4},
			{"id":6,"type":"CheckpointLoaderSimple","mode":0,"widgets_values":["sd.safetensors"]},
			{"id":7,"type":"CheckpointLoaderSimple","mode":0,"widgets_values":["other.safetensors"],"properties":{"models":[{"name":"other.safetensors","directory":"checkpoints","url":"https://x.test/other"}]}},
			{"id":8,"type":"VAELoader","mode":4,"widgets_values":["bypassed.safetensors"]}],
		  "definitions":{"subgraphs":[{"id":"0a-sub","nodes":[{"id":1,"type":"InnerNode","mode":0},{"id":2,"type":"UNETLoader","mode":0,"widgets_values":["flux.safetensors","default"]}]},{"id":"0b-sub","nodes":[{"id":1,"type":"NeverUsed","mode":0}]}]}}`,
	}
}

// Whoever was never here lands in the default workflow, whatever the browser
// remembers of others; once it came, never again.
func TestFirstVisit(t *testing.T) {
	w := open(t, options{templates: folder(t, first()), first: "fine"})
	for _, home := range []string{"/user001/", "/"} {
		a := w.get(ann, home).want(t, 302)
		if to := a.header.Get("Location"); to != home+"?template=fine&source=workshop" || !strings.Contains(a.header.Get("Cache-Control"), "no-store") {
			t.Errorf("%s leads to %q, %q", home, to, a.header.Get("Cache-Control"))
		}
		w.get(ann, home+"?template=fine&source=workshop").want(t, 200) // no loop
		w.get(ann, home+"?x=1").want(t, 200)
		w.ask(ask{user: ann, method: "HEAD", target: home}).want(t, 200)
	}
	var packs map[string][]string
	w.get(ann, "/user001/api/workflow_templates").want(t, 200).json(t, &packs)
	if d := cmp.Diff(map[string][]string{"workshop": {"empty", "fine", "lacks"}}, packs); d != "" {
		t.Error(d)
	}
	w.get(ann, "/user001/api/workflow_templates/workshop/lacks.json").want(t, 200)
	w.get(ann, "/user001/").want(t, 302) // another one is no first visit
	if a := w.get(ann, "/user001/api/workflow_templates/workshop/fine.json").want(t, 200); a.body != first()["fine.json"] {
		t.Errorf("the template is %q", a.body)
	}
	w.get(ann, "/user001/").want(t, 200)
	w.get(ann, "/").want(t, 200)
	w.get(bob, "/user002/").want(t, 302)
	for _, target := range []string{"/api/workflow_templates/workshop/none.json", "/api/workflow_templates/other/fine.json", "/api/workflow_templates/workshop/none.jpg", "/api/workflow_templates/other/fine.jpg"} {
		w.get(ann, target).want(t, 404)
	}
	if ct := w.get(ann, "/api/workflow_templates/workshop/fine.jpg").want(t, 200).header.Get("Content-Type"); ct != "image/jpeg" {
		t.Errorf("the thumbnail is %s", ct)
	}
}

// What a template lacks is named, in subgraphs too; what is bypassed is not missed.
func TestWhatTemplatesLack(t *testing.T) {
	w := open(t, options{visited: true, templates: folder(t, first()), first: "fine"})
	want := []gateway.TemplateStatus{
		{Name: "empty", Empty: true, Models: []gateway.Model{}, Classes: []string{}},
		{Name: "fine", Default: true, Ready: true, Models: []gateway.Model{}, Classes: []string{}},
		{Name: "lacks", Models: []gateway.Model{{Folder: "checkpoints", Name: "other.safetensors"}, {Folder: "diffusion_models", Name: "flux.safetensors"}}, Classes: []string{"InnerNode", "NoSuchNode", "UNETLoader"}},
	}
	if d := cmp.Diff(want, w.gw.Templates()); d != "" {
		t.Error(d)
	}
	var got []gateway.TemplateStatus
	w.get(ann, "/user001/api/workshop/templates").want(t, 200).json(t, &got)
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	// A worker that has them makes the list shorter at once.
	caps := capabilities()
	more, err := comfy.ParseObjectInfo(caps.ObjectInfo)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"InnerNode", "NoSuchNode", "UNETLoader"} {
		more = more.With(comfy.ParseClass(name, json.RawMessage(`{"input":{},"output":[],"python_module":"custom_nodes.x"}`)))
	}
	caps.ObjectInfo = more.Marshal()
	caps.Models = map[string][]string{"checkpoints": {"sub\\other.safetensors"}, "diffusion_models": {"flux.safetensors"}}
	w.worker("gpu/1", caps)
	w.until("the template is ready", func() bool { return w.gw.Templates()[2].Ready })

	// Each is named with what it lacks, though all together lack nothing.
	caps.Models = map[string][]string{"checkpoints": {"sd.safetensors"}, "diffusion_models": {"flux.safetensors"}}
	w.worker("gpu/2", caps)
	want2 := []gateway.WorkerLacks{
		{Worker: "gpu/1", Template: "lacks", Models: []gateway.Model{{Folder: "checkpoints", Name: "sd.safetensors"}}, Classes: []string{}},
		{Worker: "gpu/2", Template: "lacks", Models: []gateway.Model{{Folder: "checkpoints", Name: "other.safetensors"}}, Classes: []string{}},
	}
	w.until("both are compared", func() bool { _, known := w.gw.LackingAt(); return known == 3 })
	all, _ := w.gw.LackingAt()
	all = slices.DeleteFunc(all, func(l gateway.WorkerLacks) bool { return l.Worker != "gpu/1" && l.Worker != "gpu/2" })
	if d := cmp.Diff(want2, all); d != "" {
		t.Error(d)
	}
}

// The workflows of this package run on the workshop's own small ComfyUI; none is
// told to lack anything there but sketch's own nodes, which these worlds do not have.
func TestOwnWorkflows(t *testing.T) {
	w := open(t, options{})
	list := w.gw.Templates()
	if len(list) < 2 {
		t.Fatalf("%d workflows", len(list))
	}
	defaults := 0
	for _, s := range list {
		if s.Empty || len(s.Models) > 0 {
			t.Errorf("%+v", s)
		}
		if s.Default {
			defaults++
		}
		var doc struct {
			Nodes []struct {
				ID      int
				Outputs []struct{ Links []int }
				Inputs  []struct{ Link *int }
			}
			Links [][]any
		}
		w.get(ann, "/api/workflow_templates/workshop/"+s.Name+".json").want(t, 200).json(t, &doc)
		ids := map[int]bool{}
		for _, l := range doc.Links {
			ids[int(l[0].(float64))] = true
		}
		for _, n := range doc.Nodes {
			for _, in := range n.Inputs {
				if in.Link != nil && !ids[*in.Link] {
					t.Errorf("%s: node %d hangs on link %d, which is not there", s.Name, n.ID, *in.Link)
				}
			}
			for _, out := range n.Outputs {
				for _, l := range out.Links {
					if !ids[l] {
						t.Errorf("%s: node %d feeds link %d, which is not there", s.Name, n.ID, l)
					}
				}
			}
		}
	}
	if defaults != 1 {
		t.Errorf("%d defaults", defaults)
	}
}

// The workshop's own five, when their folder is given.
func TestWorkshopTemplates(t *testing.T) {
	dir := os.Getenv("COMFYUME_TEMPLATES")
	if dir == "" {
		t.Log("COMFYUME_TEMPLATES names no folder: the workshop's templates were not looked at, and this does not count")
		return
	}
	found, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	w := open(t, options{templates: dir})
	list := w.gw.Templates()
	if len(list) != len(found) || len(list) == 0 {
		t.Fatalf("%d templates of %d files", len(list), len(found))
	}
	for _, s := range list {
		t.Logf("%s: models %v, classes %v", s.Name, s.Models, s.Classes)
		if s.Empty == (len(s.Models) > 0 && len(s.Classes) > 0) {
			t.Errorf("%s: %+v", s.Name, s)
		}
	}
	w.get(ann, "/user001/").want(t, 302)
}

// A folder that cannot be used is one sentence with the cure.
func TestBadTemplateFolders(t *testing.T) {
	for what, dir := range map[string]string{
		"broken JSON": folder(t, map[string]string{"a.json": `{`}), "not a workflow": folder(t, map[string]string{"a.json": `[]`}),
	} {
		if _, err := gateway.New(gateway.Config{TemplateDir: dir}); err == nil || strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), "a.json") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := gateway.New(gateway.Config{TemplateDir: folder(t, map[string]string{"a b.json": `{"nodes":[{"type":"X"}]}`}), DefaultTemplate: "a b"}); err == nil {
		t.Error("a name that no page takes is the default")
	}
}
