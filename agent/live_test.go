package agent

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ahelme/comfyume/roles/gateway"
)

// A template that two GPUs have half of each runs nowhere: it is named as one that
// lacks a GPU. One that a single GPU can run is no problem of the workshop's.
func TestTemplateThatNoOneGPUCanRunIsNamed(t *testing.T) {
	model := func(name string) []gateway.Model { return []gateway.Model{{Folder: "checkpoints", Name: name}} }
	templates := []gateway.TemplateStatus{{Name: "both", Ready: true}, {Name: "one", Ready: true}, {Name: "none", Classes: []string{"NoSuchNode"}}}
	each := []gateway.WorkerLacks{
		{Worker: "a/0", Template: "both", Models: model("left.safetensors")},
		{Worker: "a/0", Template: "one", Classes: []string{"KJNode"}},
		{Worker: "a/0", Template: "none", Classes: []string{"NoSuchNode"}},
		{Worker: "b/0", Template: "both", Models: model("right.safetensors")},
		{Worker: "b/0", Template: "none", Classes: []string{"NoSuchNode"}},
	}
	var got []lack
	for _, l := range lackingOf(templates, each, 2) {
		if l.Worker == "" {
			got = append(got, l)
		}
	}
	want := []lack{
		{Template: "both", What: "one GPU that has all of it: a/0 has not models checkpoints/left.safetensors; b/0 has not models checkpoints/right.safetensors"},
		{Template: "none", What: "nodes NoSuchNode"},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if lackingOf(templates, nil, 0) != nil {
		t.Error("before a worker was seen something is said of templates")
	}
}
