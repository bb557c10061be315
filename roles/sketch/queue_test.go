package sketch_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/ahelme/comfyume/roles/comfy"
	"github.com/ahelme/comfyume/roles/sketch"
)

func TestHistoryPagesAndJobs(t *testing.T) {
	b := start(t, sketch.Config{})
	for i := range 4 {
		b.prompt("", fmt.Sprintf("job-%d", i), graph(empty("1", 2, 2, i), save("9", "1")))
	}
	b.wait("job-3")
	keys := func(path string) string {
		t.Helper()
		_, body := b.get(path)
		o, err := comfy.ParseObject(json.RawMessage(body))
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, f := range o {
			out = append(out, strings.TrimPrefix(f.Key, "job-"))
		}
		return strings.Join(out, " ")
	}
	for path, want := range map[string]string{
		"/history": "0 1 2 3", "/history?max_items=2": "2 3", "/history?max_items=2&offset=1": "1 2", "/history?offset=3": "3", "/history?max_items=9&offset=9": "", "/api/history?max_items=64": "0 1 2 3",
	} {
		if got := keys(path); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
	_, body := b.get("/api/jobs?status=completed&limit=3&sort_order=asc")
	var list comfy.JobList
	if err := json.Unmarshal([]byte(body), &list); err != nil || len(list.Jobs) != 3 || list.Pagination.Total != 4 || !list.Pagination.HasMore {
		t.Errorf("jobs %s, %v", body, err)
	}
	if j := list.Jobs[0]; j.CreateTime == 0 || j.OutputsCount != 1 || j.WorkflowID != "w-1" || !strings.Contains(string(j.PreviewOutput), `"nodeId":"9"`) {
		t.Errorf("job %+v", j)
	}
	status, body := b.get("/api/jobs/job-2")
	var detail comfy.JobDetail
	if err := json.Unmarshal([]byte(body), &detail); err != nil || status != 200 || detail.Workflow == nil || len(detail.Outputs) != 1 || detail.ExecutionStatus == nil {
		t.Errorf("detail %d %s, %v", status, body, err)
	}
	if err := b.client.DeleteHistory(b.ctx(), "job-1", "none"); err != nil {
		t.Fatal(err)
	}
	if got := keys("/history"); got != "0 2 3" {
		t.Errorf("after deletion: %s", got)
	}
	b.do(http.MethodPost, "/history", `{"clear":true}`)
	if got := keys("/history"); got != "" {
		t.Errorf("after clearing: %s", got)
	}
}

func TestQueueOrderAndCancel(t *testing.T) {
	b := start(t, sketch.Config{})
	s := b.dial("me", nil)
	b.prompt("me", "busy", graph(empty("1", 2, 2, 0), `"5":{"class_type":"SketchSlow","inputs":{"image":["1",0],"seconds":600,"steps":1000}}`, save("9", "5")))
	for e := b.read(s); e.Message == nil || e.Message.Type != comfy.TypeProgress; e = b.read(s) {
	}
	submit := func(id, extra string) {
		t.Helper()
		body := fmt.Sprintf(`{"client_id":"me","prompt_id":%q,"prompt":%s%s}`, id, graph(empty("1", 2, 2, len(id)), save("9", "1")), extra)
		if status, answer := b.do(http.MethodPost, "/prompt", body); status != 200 {
			t.Fatalf("%s: %d %s", id, status, answer)
		}
	}
	const cancelled = "6d4e1c3a-3c1f-4b57-9b2c-0d9a1d4f0c11"
	submit("last", "")
	submit("first", `,"front":true`)
	submit("second", `,"number":-0.5`)
	submit(cancelled, "")
	if status, body := b.do(http.MethodPost, "/api/jobs/cancel", `{"job_ids":["`+cancelled+`"]}`); status != 200 || body != `{"cancelled":true}` {
		t.Errorf("cancel: %d %s", status, body)
	}
	if _, body := b.get("/api/jobs?status=pending,in_progress"); strings.Count(body, `"id"`) != 4 {
		t.Errorf("jobs %s", body)
	}
	if status, body := b.do(http.MethodPost, "/api/jobs/busy/cancel", ""); status != 200 || body != `{"cancelled":true}` {
		t.Errorf("cancel: %d %s", status, body)
	}
	for _, id := range []string{"busy", "first", "second", "last"} {
		b.follow(s, id)
	}
}

func TestTwoClientsNeverSeeEachOther(t *testing.T) {
	b := start(t, sketch.Config{})
	one, two := b.dial("one", nil), b.dial("two", nil)
	b.prompt("one", "job-one", graph(empty("1", 2, 2, 1), save("9", "1")))
	b.prompt("two", "job-two", graph(empty("1", 2, 2, 2), save("9", "1")))
	for _, c := range []struct {
		s  *comfy.Socket
		id string
	}{{one, "job-one"}, {two, "job-two"}} {
		for _, e := range b.follow(c.s, c.id) {
			if e.Message == nil {
				continue
			}
			if id, ok := e.Message.PromptID(); ok && id != c.id {
				t.Errorf("%s sees %s of %s", c.id, e.Message.Type, id)
			}
		}
	}
}

func TestPartialExecution(t *testing.T) {
	b := start(t, sketch.Config{})
	body := `{"prompt_id":"p","partial_execution_targets":["8"],"prompt":` + graph(empty("1", 2, 2, 1), save("9", "1"), `"8":{"class_type":"PreviewImage","inputs":{"images":["1",0]}}`) + `}`
	if status, answer := b.do(http.MethodPost, "/prompt", body); status != 200 {
		t.Fatalf("%d %s", status, answer)
	}
	if h := b.wait("p"); len(h.Outputs) != 1 || h.Outputs[0].Key != "8" {
		t.Errorf("outputs %v", h.Outputs)
	}
}

func TestSecretsAreNotEchoed(t *testing.T) {
	b := start(t, sketch.Config{})
	body := `{"prompt_id":"p","extra_data":{"api_key_comfy_org":"sesame","extra_pnginfo":{}},"prompt":` + graph(empty("1", 2, 2, 1), save("9", "1")) + `}`
	if status, answer := b.do(http.MethodPost, "/prompt", body); status != 200 {
		t.Fatalf("%d %s", status, answer)
	}
	h := b.wait("p")
	raw := b.fetch(outputs(t, h)[0])
	_, jobs := b.get("/api/jobs/p")
	for _, text := range []string{string(h.Encode()), string(raw), jobs} {
		if strings.Contains(text, "sesame") {
			t.Error("a secret is echoed")
		}
	}
}
