package comfy_test

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/ahelme/comfyume/roles/comfy"
)

func formed(t *testing.T, prompt string) *comfy.Graph {
	t.Helper()
	g, err := comfy.ParseGraph(json.RawMessage(prompt))
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func TestModelsOfAGraph(t *testing.T) {
	g := formed(t, `{
		"1":{"class_type":"UNETLoader","inputs":{"unet_name":"LTX\\ltx-2.safetensors","weight_dtype":"default"}},
		"2":{"class_type":"CLIPLoader","inputs":{"clip_name":"qwen.GGUF"}},
		"3":{"class_type":"UNETLoader","inputs":{"unet_name":"LTX/ltx-2.safetensors"}},
		"4":{"class_type":"CLIPTextEncode","inputs":{"text":"a cat on a bin","clip":["2",0]}}}`)
	if got, want := g.Models(), []string{"LTX/ltx-2.safetensors", "qwen.GGUF"}; !slices.Equal(got, want) {
		t.Errorf("Models = %q, want %q", got, want)
	}
}

func TestFormForgetsWordsAndSeedsOnly(t *testing.T) {
	const base = `{"1":{"class_type":"KSampler","inputs":{"seed":1,"steps":20,"model":["2",0]}},"2":{"class_type":"UNETLoader","inputs":{"unet_name":"a.safetensors"}},"3":{"class_type":"CLIPTextEncode","inputs":{"text":"cat"}}}`
	same := []string{
		`{"1":{"class_type":"KSampler","inputs":{"seed":77,"steps":20,"model":["2",0]}},"2":{"class_type":"UNETLoader","inputs":{"unet_name":"a.safetensors"}},"3":{"class_type":"CLIPTextEncode","inputs":{"text":"a dog"}}}`,
		`{"9":{"class_type":"CLIPTextEncode","inputs":{"text":"cat"}},"7":{"class_type":"UNETLoader","inputs":{"unet_name":"a.safetensors"}},"8":{"class_type":"KSampler","inputs":{"seed":1,"steps":20,"model":["7",0]}}}`,
	}
	other := []string{
		`{"1":{"class_type":"KSampler","inputs":{"seed":1,"steps":21,"model":["2",0]}},"2":{"class_type":"UNETLoader","inputs":{"unet_name":"a.safetensors"}},"3":{"class_type":"CLIPTextEncode","inputs":{"text":"cat"}}}`,
		`{"1":{"class_type":"KSampler","inputs":{"seed":1,"steps":20,"model":["2",0]}},"2":{"class_type":"UNETLoader","inputs":{"unet_name":"b.safetensors"}},"3":{"class_type":"CLIPTextEncode","inputs":{"text":"cat"}}}`,
	}
	want := formed(t, base).Form()
	for _, p := range same {
		if got := formed(t, p).Form(); got != want {
			t.Errorf("%s has another form", p)
		}
	}
	for _, p := range other {
		if got := formed(t, p).Form(); got == want {
			t.Errorf("%s has the same form", p)
		}
	}
}
