package comfy_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/ahelme/comfyume/roles/comfy"
	"github.com/google/go-cmp/cmp"
)

func TestMessagesOnTheWire(t *testing.T) {
	for _, c := range []struct {
		m    comfy.Message
		want string
	}{
		{comfy.Status(2, ""), `{"type":"status","data":{"status":{"exec_info":{"queue_remaining":2}}}}`},
		{comfy.Status(0, "abc"), `{"type":"status","data":{"status":{"exec_info":{"queue_remaining":0}},"sid":"abc"}}`},
		{comfy.ExecutionStart("p", 12), `{"type":"execution_start","data":{"prompt_id":"p","timestamp":12}}`},
		{comfy.ExecutionCached(nil, "p", 12), `{"type":"execution_cached","data":{"nodes":[],"prompt_id":"p","timestamp":12}}`},
		{comfy.Executing("5.0.0.3", "5", "p"), `{"type":"executing","data":{"node":"5.0.0.3","display_node":"5","prompt_id":"p"}}`},
		{comfy.ExecutingDone("p"), `{"type":"executing","data":{"node":null,"prompt_id":"p"}}`},
		{comfy.Progress(1, 20, "p", "3"), `{"type":"progress","data":{"value":1,"max":20,"prompt_id":"p","node":"3"}}`},
		{comfy.ProgressState("p", nil), `{"type":"progress_state","data":{"prompt_id":"p","nodes":{}}}`},
		{comfy.Executed("9", "9", json.RawMessage(`{"images":[]}`), "p"), `{"type":"executed","data":{"node":"9","display_node":"9","output":{"images":[]},"prompt_id":"p"}}`},
		{comfy.Executed("9", "9", nil, "p"), `{"type":"executed","data":{"node":"9","display_node":"9","output":null,"prompt_id":"p"}}`},
		{comfy.ExecutionSuccess("p", 13), `{"type":"execution_success","data":{"prompt_id":"p","timestamp":13}}`},
		{comfy.ExecutionError(comfy.ExecutionErrorData{PromptID: "p", ExceptionMessage: "a < b"}), `{"type":"execution_error","data":{"prompt_id":"p","node_id":"","node_type":"","executed":[],"exception_message":"a < b","exception_type":"","traceback":[],"current_inputs":{},"current_outputs":[],"timestamp":0}}`},
		{comfy.ExecutionInterrupted(comfy.InterruptedData{PromptID: "p", NodeID: "3", NodeType: "K"}), `{"type":"execution_interrupted","data":{"prompt_id":"p","node_id":"3","node_type":"K","executed":[],"timestamp":0}}`},
		{comfy.FeatureFlags(nil), `{"type":"feature_flags","data":{}}`},
		{comfy.FeatureFlags(map[string]any{"supports_preview_metadata": true}), `{"type":"feature_flags","data":{"supports_preview_metadata":true}}`},
		{comfy.Message{Type: "x"}, `{"type":"x","data":null}`},
	} {
		if diff := cmp.Diff(c.want, string(c.m.Encode())); diff != "" {
			t.Errorf("%s (-want +got)\n%s", c.m.Type, diff)
		}
		back, err := comfy.ParseMessage(c.m.Encode())
		if err != nil || back.Type != c.m.Type {
			t.Errorf("%s read back: %v, %v", c.m.Type, back.Type, err)
		}
	}
}

func TestMessageNamesItsPrompt(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"top", `{"type":"executing","data":{"node":"3", "prompt_id": "old", "x":1.0}}`, `{"type":"executing","data":{"node":"3", "prompt_id": "new<1>", "x":1.0}}`},
		{
			"progress_state in two places", `{"type":"progress_state","data":{"prompt_id":"old","nodes":{"1":{"value":18446744073709551615,"prompt_id":"old"},"2":{"prompt_id":"old","z":[]}}}}`,
			`{"type":"progress_state","data":{"prompt_id":"new<1>","nodes":{"1":{"value":18446744073709551615,"prompt_id":"new<1>"},"2":{"prompt_id":"new<1>","z":[]}}}}`,
		},
		{
			"not inside other data", `{"type":"executed","data":{"prompt_id":"old","output":{"prompt_id":"mine"},"nodes":{"1":{"prompt_id":"mine"}}}}`,
			`{"type":"executed","data":{"prompt_id":"new<1>","output":{"prompt_id":"mine"},"nodes":{"1":{"prompt_id":"mine"}}}}`,
		},
		{"none", `{"type":"status","data":{"status":{}}}`, `{"type":"status","data":{"status":{}}}`},
		{"no object", `{"type":"x","data":[1]}`, `{"type":"x","data":[1]}`},
	} {
		m, err := comfy.ParseMessage([]byte(c.in))
		if err != nil {
			t.Fatal(err)
		}
		if id, ok := m.PromptID(); ok != strings.Contains(c.want, "new<1>") || ok && id != "old" {
			t.Errorf("%s: prompt id %q, %v", c.name, id, ok)
		}
		got, err := m.WithPromptID("new<1>")
		if err != nil {
			t.Fatal(err)
		}
		if string(got.Encode()) != c.want {
			t.Errorf("%s: got\n%s want\n%s", c.name, got.Encode(), c.want)
		}
	}
}

func TestMessageEnds(t *testing.T) {
	for raw, want := range map[string]bool{
		`{"type":"executing","data":{"node":null,"prompt_id":"p"}}`: true, `{"type":"executing","data":{"node":"","prompt_id":"p"}}`: false,
		`{"type":"executing","data":{"node":"3"}}`: false, `{"type":"execution_success","data":{}}`: false, `{"type":"executing","data":NaN}`: false, `{"type":"executing","data":{}}`: false,
	} {
		m, err := comfy.ParseMessage([]byte(raw))
		if err != nil {
			t.Fatal(err)
		}
		if m.Ends() != want {
			t.Errorf("%s: ends %v", raw, m.Ends())
		}
	}
	if !comfy.ExecutionSuccess("p", 1).Terminal() || comfy.ExecutingDone("p").Terminal() {
		t.Error("terminal messages are told wrongly")
	}
}

func TestMessageToleratesPython(t *testing.T) {
	m, err := comfy.ParseMessage([]byte(`{"type": "progress", "data": {"value": NaN, "max": Infinity, "prompt_id": "NaN"}}`))
	if err != nil {
		t.Fatal(err)
	}
	if got := string(m.Data); got != `{"value": null, "max": null, "prompt_id": "NaN"}` {
		t.Errorf("data %s", got)
	}
	for _, bad := range []string{``, `[]`, `{"data":{}}`, `{"type":5}`, `nonsense`} {
		if _, err := comfy.ParseMessage([]byte(bad)); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestExecutionErrorNeverHoldsNull(t *testing.T) {
	var e comfy.ExecutionErrorData
	if err := json.Unmarshal([]byte(`{"prompt_id":"p","executed":null,"traceback":null,"current_inputs":[],"current_outputs":null,"exception_type":"torch.cuda.OutOfMemoryError"}`), &e); err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(raw), "null") {
		t.Errorf("null in %s", raw)
	}
	if !e.OutOfMemory() {
		t.Error("an older name of out of memory is not known")
	}
}

func FuzzParseMessage(f *testing.F) {
	f.Add([]byte(`{"type":"progress_state","data":{"prompt_id":"a","nodes":{"1":{"prompt_id":"a"}}}}`))
	f.Add([]byte(`{"type":"executing","data":{"node":null,"prompt_id":"\u0000"}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		m, err := comfy.ParseMessage(raw)
		if err != nil {
			return
		}
		old, named := m.PromptID()
		got, err := m.WithPromptID("another")
		if err != nil {
			t.Fatal(err)
		}
		back, err := comfy.ParseMessage(got.Encode())
		if err != nil {
			t.Fatalf("rewritten message cannot be read: %v", err)
		}
		if id, _ := back.PromptID(); named && id != "another" {
			t.Errorf("prompt id is %q, was %q", id, old)
		}
	})
}
