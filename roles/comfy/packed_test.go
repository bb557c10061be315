package comfy_test

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/ahelme/comfyume/roles/comfy"
	"github.com/google/go-cmp/cmp"
)

func TestPackedRequestHoldsNoSecret(t *testing.T) {
	const prompt = `{"1":{"inputs":{"seed":18446744073709551615, "cfg":8.0}}}`
	r := &comfy.PromptRequest{Prompt: json.RawMessage(prompt), PromptID: "p", Secrets: map[string]string{"api_key_comfy_org": "sesame"}}
	body, hash, err := comfy.PackRequest(r)
	if err != nil {
		t.Fatal(err)
	}
	if r.Secrets["api_key_comfy_org"] != "sesame" {
		t.Error("packing took the secret from its owner")
	}
	raw, err := comfy.Unpack(body)
	if err != nil || bytes.Contains(raw, []byte("sesame")) {
		t.Errorf("unpacked %s, %v", raw, err)
	}
	back, err := comfy.UnpackRequest(body)
	if err != nil || string(back.Prompt) != prompt || back.PromptID != "p" {
		t.Errorf("read back %+v, %v", back, err)
	}
	if _, again, err := comfy.PackRequest(back); err != nil || again != hash {
		t.Errorf("the same submit has another hash: %s, %v", again, err)
	}
	if _, err := comfy.Unpack([]byte("nonsense")); err == nil {
		t.Error("nonsense was unpacked")
	}
}

func TestCapabilitiesComeBack(t *testing.T) {
	c := &comfy.Capabilities{ObjectInfo: json.RawMessage(`{"A":{"max":18446744073709551615}}`), Extensions: []string{"/extensions/a b/x.js"}, Models: map[string][]string{"vae": {"a"}}}
	raw, err := c.Encode()
	if err != nil {
		t.Fatal(err)
	}
	back, err := comfy.DecodeCapabilities(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	if string(back.ObjectInfo) != string(c.ObjectInfo) {
		t.Errorf("object_info %s", back.ObjectInfo)
	}
	if diff := cmp.Diff(c.Models, back.Models); diff != "" {
		t.Error(diff)
	}
	again, err := c.Encode()
	if err != nil || !bytes.Equal(raw, again) {
		t.Errorf("equal capabilities give other bytes: %v", err)
	}
	if _, err := comfy.DecodeCapabilities(bytes.NewReader(raw[:len(raw)/2])); err == nil {
		t.Error("half a document was read")
	}
}
