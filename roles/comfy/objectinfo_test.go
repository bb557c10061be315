package comfy_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/ahelme/comfyume/roles/comfy"
	"github.com/google/go-cmp/cmp"
)

// infoDoc has each way in which servers describe inputs.
const infoDoc = `{
 "KSampler": {"input": {"required": {"model": ["MODEL", {"tooltip": "x"}], "seed": ["INT", {"default": 0, "min": 0, "max": 18446744073709551615}],
   "cfg": ["FLOAT", {"default": 8.0, "min": 0.0, "max": 100.0}], "sampler_name": [["euler", "heun"]]}, "optional": {"mask": ["MASK"]}, "hidden": {"id": "UNIQUE_ID"}},
   "output": ["LATENT", ["a","b"]], "name": "KSampler", "display_name": "KSampler", "python_module": "nodes", "category": "sampling", "output_node": false, "x": NaN},
 "LoadImage": {"input": {"required": {"image": [["a.png"], {"image_upload": true}]}}, "output": ["IMAGE", "MASK"], "output_node": false},
 "Newer": {"input": {"required": {"mode": ["COMBO", {"multiselect": false, "options": ["one", 2, true]}], "far": ["COMBO", {"remote": {"route": "/internal/files/output"}, "image_upload": true, "image_folder": "output"}],
   "grow": ["COMFY_AUTOGROW_V3", {}], "file": ["COMBO", {"file_upload": true, "options": []}]}}, "output": ["*"], "output_node": true, "api_node": true},
 "Save": {"input": {"required": {"images": ["IMAGE"], "filename_prefix": ["STRING", {"default": "ComfyUI"}]}}, "output": [], "output_node": true},
 "Odd": {"input": null, "output": null},
 "Odder": 5
}`

func parseInfo(t *testing.T) *comfy.ObjectInfo {
	t.Helper()
	info, err := comfy.ParseObjectInfo([]byte(infoDoc))
	if err != nil {
		t.Fatal(err)
	}
	return info
}

func TestObjectInfoReadsAllSyntaxes(t *testing.T) {
	info := parseInfo(t)
	if diff := cmp.Diff([]string{"KSampler", "LoadImage", "Newer", "Save", "Odd", "Odder"}, info.Names()); diff != "" {
		t.Error(diff)
	}
	k, _ := info.Class("KSampler")
	if diff := cmp.Diff([]string{"LATENT", "COMBO"}, k.Outputs); diff != "" {
		t.Error(diff)
	}
	var names []string
	for _, in := range k.Inputs {
		names = append(names, string(in.Section)+"."+in.Name+":"+in.Type)
	}
	want := "required.model:MODEL required.seed:INT required.cfg:FLOAT required.sampler_name:COMBO optional.mask:MASK hidden.id:UNIQUE_ID"
	if got := strings.Join(names, " "); got != want {
		t.Errorf("inputs\n%s want\n%s", got, want)
	}
	seed, _ := k.Input("seed")
	if seed.Max == nil || seed.Max.String() != "18446744073709551615" {
		t.Errorf("largest seed is %v", seed.Max)
	}
	load, _ := info.Class("LoadImage")
	image, _ := load.Input("image")
	if image.Upload != "image_upload" || strings.Join(image.OptionNames(), " ") != "a.png" {
		t.Errorf("image is %+v", image)
	}
	newer, _ := info.Class("Newer")
	mode, _ := newer.Input("mode")
	if !mode.Offers(json.RawMessage("2")) || !mode.Offers(json.RawMessage(`"one"`)) || mode.Offers(json.RawMessage(`"2"`)) || mode.Multiselect {
		t.Errorf("mode is %+v", mode)
	}
	far, _ := newer.Input("far")
	if !far.Remote || far.Folder != "output" || far.Options != nil {
		t.Errorf("far is %+v", far)
	}
	if !newer.OutputNode || !newer.APINode || k.OutputNode {
		t.Error("flags are read wrongly")
	}
	if _, ok := info.Class("Odder"); !ok || info.Len() != 6 {
		t.Error("a class that cannot be understood has vanished")
	}
	if _, ok := (*comfy.ObjectInfo)(nil).Class("x"); ok {
		t.Error("no info knows a class")
	}
}

func TestObjectInfoKeepsWhatItServes(t *testing.T) {
	info := parseInfo(t)
	var want, got any
	if err := json.Unmarshal(comfy.Sanitize([]byte(infoDoc)), &want); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(info.Marshal(), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if !strings.Contains(string(info.Marshal()), "18446744073709551615") {
		t.Error("the largest seed is lost")
	}
}

func TestObjectInfoOptionsCanBeReplaced(t *testing.T) {
	info := parseInfo(t)
	mine, err := info.WithOptions("LoadImage", "image", []string{"mine.png", "é.png"})
	if err != nil {
		t.Fatal(err)
	}
	c, _ := mine.Class("LoadImage")
	in, _ := c.Input("image")
	if diff := cmp.Diff([]string{"mine.png", "é.png"}, in.OptionNames()); diff != "" {
		t.Error(diff)
	}
	if in.Upload != "image_upload" || strings.Contains(string(c.Raw), "a.png\"") && !strings.Contains(string(c.Raw), "mine.png") {
		t.Errorf("class is %s", c.Raw)
	}
	old, _ := info.Class("LoadImage")
	if in, _ := old.Input("image"); strings.Join(in.OptionNames(), "") != "a.png" {
		t.Error("the original has changed")
	}
	if mine, err = mine.WithOptions("Newer", "mode", nil); err != nil {
		t.Fatal(err)
	}
	c, _ = mine.Class("Newer")
	if in, _ := c.Input("mode"); in.Options == nil || len(in.Options) != 0 {
		t.Errorf("options are %v", in.Options)
	}
	for _, bad := range [][2]string{{"None", "x"}, {"KSampler", "seed"}, {"KSampler", "none"}, {"Odd", "x"}, {"Newer", "far"}} {
		if _, err := info.WithOptions(bad[0], bad[1], nil); err == nil {
			t.Errorf("replacing %v was accepted", bad)
		}
	}
}

func FuzzParseObjectInfo(f *testing.F) {
	f.Add([]byte(infoDoc))
	f.Add([]byte(`{"A":{"input":{"required":{"x":[["a"],{"image_upload":true}]}}}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		info, err := comfy.ParseObjectInfo(raw)
		if err != nil {
			return
		}
		for _, name := range info.Names() {
			c, _ := info.Class(name)
			for _, in := range c.Inputs {
				if in.Options == nil {
					continue
				}
				changed, err := c.WithOptions(in.Name, []string{"only"})
				if err != nil {
					continue // an input that stands in two sections, the other no combo
				}
				if !json.Valid(changed.Raw) {
					t.Fatalf("replacing options of %q broke it: %s", c.Raw, changed.Raw)
				}
			}
		}
		if again, err := comfy.ParseObjectInfo(info.Marshal()); err != nil || again.Len() != info.Len() {
			t.Fatalf("what is served cannot be read: %v", err)
		}
	})
}
