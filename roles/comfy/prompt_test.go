package comfy_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/ahelme/comfyume/roles/comfy"
	"github.com/google/go-cmp/cmp"
)

func TestPromptRequest(t *testing.T) {
	body := `{"client_id":"c","prompt":{"1":{"inputs":{"seed":18446744073709551615,"cfg":8.0}}},"prompt_id":"A-1","number":-3.5,"front":true,
	"extra_data":{"z":1.0,"extra_pnginfo":{"workflow":{"id":"w"}},"auth_token_comfy_org":"secret1","api_key_comfy_org":"secret2","client_id":"x","preview_method":"auto"},
	"partial_execution_targets":["9","12:3"],"workflow_metadata":{"a":1}}`
	r, err := comfy.ParsePromptRequest([]byte(body))
	if err != nil {
		t.Fatal(err)
	}
	if r.ClientID != "c" || r.PromptID != "A-1" || r.Number == nil || *r.Number != -3.5 || !r.Front {
		t.Errorf("request is %+v", r)
	}
	if got := string(r.Prompt); got != `{"1":{"inputs":{"seed":18446744073709551615,"cfg":8.0}}}` {
		t.Errorf("prompt %s", got)
	}
	if got := string(r.ExtraData); got != `{"z":1.0,"extra_pnginfo":{"workflow":{"id":"w"}},"preview_method":"auto"}` {
		t.Errorf("extra data %s", got)
	}
	if diff := cmp.Diff(map[string]string{"auth_token_comfy_org": "secret1", "api_key_comfy_org": "secret2"}, r.Secrets); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"9", "12:3"}, r.PartialExecutionTargets); diff != "" {
		t.Error(diff)
	}
	if got := comfy.WorkflowID(r.ExtraData); got != "w" {
		t.Errorf("workflow %q", got)
	}
	out, err := r.Encode()
	if err != nil {
		t.Fatal(err)
	}
	again, err := comfy.ParsePromptRequest(out)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(r, again); diff != "" {
		t.Errorf("written and read again\n%s", diff)
	}
}

func TestPromptRequestLeniency(t *testing.T) {
	for name, c := range map[string]struct {
		body string
		id   string
		typ  string // of the refusal
	}{
		"null id":        {body: `{"prompt":{},"prompt_id":null}`},
		"number id":      {body: `{"prompt":{},"prompt_id":17}`, id: "17"},
		"upper case":     {body: `{"prompt":{},"prompt_id":"ABC.d_e-f"}`, id: "ABC.d_e-f"},
		"path id":        {body: `{"prompt":{},"prompt_id":"../x"}`, typ: "invalid_prompt_id"},
		"dots":           {body: `{"prompt":{},"prompt_id":".."}`, typ: "invalid_prompt_id"},
		"long id":        {body: `{"prompt":{},"prompt_id":"` + strings.Repeat("a", 65) + `"}`, typ: "invalid_prompt_id"},
		"empty id":       {body: `{"prompt":{},"prompt_id":""}`, typ: "invalid_prompt_id"},
		"no prompt":      {body: `{"client_id":"a"}`, typ: "no_prompt"},
		"null prompt":    {body: `{"prompt":null}`, typ: "no_prompt"},
		"not JSON":       {body: `{"prompt":`, typ: "invalid_prompt"},
		"list":           {body: `[]`, typ: "invalid_prompt"},
		"extra is text":  {body: `{"prompt":{},"extra_data":"x"}`, typ: "invalid_prompt"},
		"extra is null":  {body: `{"prompt":{},"extra_data":null}`},
		"targets null":   {body: `{"prompt":{},"partial_execution_targets":null}`},
		"targets text":   {body: `{"prompt":{},"partial_execution_targets":"9"}`, typ: "invalid_prompt"},
		"number is text": {body: `{"prompt":{},"number":"x"}`},
	} {
		r, err := comfy.ParsePromptRequest([]byte(c.body))
		var refused *comfy.PromptError
		if errors.As(err, &refused) != (c.typ != "") || refused != nil && refused.Detail.Type != c.typ {
			t.Errorf("%s: error %v, want %q", name, err, c.typ)
			continue
		}
		if refused == nil && r.PromptID != c.id {
			t.Errorf("%s: id %q, want %q", name, r.PromptID, c.id)
		}
	}
}

func TestPromptErrorOnTheWire(t *testing.T) {
	got := string(comfy.NewPromptError("queue_full", "Too many jobs", "wait <a while>").Encode())
	want := `{"error":{"type":"queue_full","message":"Too many jobs","details":"wait <a while>","extra_info":{}},"node_errors":{}}`
	if got != want {
		t.Errorf("got\n%s want\n%s", got, want)
	}
	var e comfy.PromptError
	if err := json.Unmarshal([]byte(`{"error":"plain words"}`), &e); err != nil || e.Detail.Message != "plain words" {
		t.Errorf("plain error: %+v, %v", e, err)
	}
	full := comfy.NoPrompt().WithStatus(http.StatusTooManyRequests)
	if full.HTTPStatus() != 429 || comfy.NoPrompt().HTTPStatus() != 400 {
		t.Error("statuses are wrong")
	}
	if got := string(comfy.PromptResponse{PromptID: "p", Number: 3}.Encode()); got != `{"prompt_id":"p","number":3,"node_errors":{}}` {
		t.Errorf("answer %s", got)
	}
}

func FuzzParsePromptRequest(f *testing.F) {
	f.Add([]byte(`{"prompt":{"1":{}},"extra_data":{"auth_token_comfy_org":"x","a":1.0},"front":1,"number":2}`))
	f.Add([]byte(`{"prompt":5,"prompt_id":5,"client_id":5,"partial_execution_targets":[1,"a",null]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := comfy.ParsePromptRequest(body)
		if err != nil {
			var refused *comfy.PromptError
			if !errors.As(err, &refused) {
				t.Fatalf("error %T", err)
			}
			return
		}
		for _, name := range comfy.SecretNames() {
			var extra map[string]json.RawMessage
			if len(r.ExtraData) > 0 && json.Unmarshal(r.ExtraData, &extra) != nil {
				t.Fatalf("extra data is %q", r.ExtraData)
			}
			if _, ok := extra[name]; ok {
				t.Fatalf("a secret stayed in %q", r.ExtraData)
			}
		}
		out, err := r.Encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := comfy.ParsePromptRequest(out)
		if err != nil || string(again.Prompt) != string(r.Prompt) {
			t.Fatalf("written and read again: %v", err)
		}
	})
}
