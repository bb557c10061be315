package gateway_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/roles/comfy"
)

// job is /api/jobs' schema as strict as the page's: one row that breaks it
// empties the queue and the history of the page.
type job struct {
	ID         string `json:"id"`
	Status     string `json:"status"`
	Priority   *float64
	Create     *float64                   `json:"create_time"`
	Start      *float64                   `json:"execution_start_time"`
	End        *float64                   `json:"execution_end_time"`
	Error      map[string]json.RawMessage `json:"execution_error"`
	Outputs    *float64                   `json:"outputs_count"`
	Preview    map[string]json.RawMessage `json:"preview_output"`
	WorkflowID *string                    `json:"workflow_id"`
}

type jobList struct {
	Jobs       []job
	Pagination struct {
		Offset, Limit, Total *float64
		HasMore              *bool `json:"has_more"`
	}
}

func (w *world) jobs(query string) (jobList, []string) {
	w.t.Helper()
	var list jobList
	a := w.get(ann, "/user001/api/jobs"+query).want(w.t, 200)
	a.json(w.t, &list)
	if strings.Contains(a.body, "null") {
		w.t.Errorf("a null breaks the page: %s", a.body)
	}
	ids := []string{}
	for _, j := range list.Jobs {
		ids = append(ids, j.ID+" "+j.Status)
		if j.Create == nil || j.Priority == nil || j.Outputs == nil {
			w.t.Errorf("%+v lacks what the page demands", j)
		}
	}
	if p := list.Pagination; p.Offset == nil || p.Limit == nil || p.Total == nil || p.HasMore == nil {
		w.t.Errorf("pagination %+v", p)
	}
	return list, ids
}

// The newer pages' one list of everything.
func TestJobList(t *testing.T) {
	w := open(t, options{visited: true})
	w.ended(ann, "good")
	w.submit(ann, "c", "bad")
	failure := comfy.ExecutionErrorData{PromptID: "bad", ExceptionType: "ValueError", ExceptionMessage: "no", Timestamp: 2}
	w.assign(ann, "bad").begin().end(jobs.Failed, `{}`, comfy.ExecutionError(failure), &jobs.Failure{Type: "ValueError", Message: "no"})
	w.submit(ann, "c", "stopped")
	w.assign(ann, "stopped")
	w.post(ann, "/api/jobs/stopped/cancel", "").want(t, 200)
	w.submit(ann, "c", "runs")
	w.assign(ann, "runs").begin()
	w.submit(ann, "c", "prepared")
	w.assign(ann, "prepared")
	w.submit(ann, "c", "waits")
	w.submit(bob, "c", "bobs")
	for query, want := range map[string][]string{
		"": {"waits pending", "prepared pending", "runs in_progress", "stopped in_progress", "bad failed", "good completed"},
		"?status=in_progress,pending&sort_order=asc": {"stopped in_progress", "runs in_progress", "prepared pending", "waits pending"},
		"?status=completed,failed,cancelled":         {"bad failed", "good completed"},
		"?limit=2&offset=1":                          {"prepared pending", "runs in_progress"},
		"?limit=2&offset=-4":                         {"waits pending", "prepared pending"},
		"?offset=99":                                 {},
		"?workflow_id=wf-good":                       {"good completed"},
		"?sort_by=execution_duration&sort_order=asc&status=completed": {"good completed"},
	} {
		if _, ids := w.jobs(query); !slices.Equal(ids, want) {
			t.Errorf("%q: %v, want %v", query, ids, want)
		}
	}
	list, _ := w.jobs("?limit=2")
	if p := list.Pagination; *p.Total != 6 || !*p.HasMore || *p.Limit != 2 {
		t.Errorf("pagination of two: %v %v %v", *p.Total, *p.HasMore, *p.Limit)
	}
	list, _ = w.jobs("?status=failed")
	for _, field := range []string{"node_id", "exception_message", "traceback", "executed", "exception_type", "node_type"} {
		if raw := string(list.Jobs[0].Error[field]); raw == "" || raw == "null" || field == "traceback" && raw[0] != '[' || field == "node_id" && raw[0] != '"' {
			t.Errorf("execution_error.%s is %s", field, raw)
		}
	}
	list, _ = w.jobs("?status=completed")
	if j := list.Jobs[0]; string(j.Preview["filename"]) != `"good.png"` || string(j.Preview["nodeId"]) != `"9"` || *j.Outputs != 1 || j.Start == nil || *j.End < *j.Start || *j.WorkflowID != "wf-good" {
		t.Errorf("completed: %+v", j)
	}
	for _, bad := range []string{"status=nope", "limit=x", "limit=0", "limit=-1", "sort_by=name", "sort_order=up"} {
		var e struct{ Error string }
		w.get(ann, "/api/jobs?"+bad).want(t, 400).json(t, &e)
		if e.Error == "" {
			t.Errorf("%s: no reason", bad)
		}
	}
}

// One job whole, and the ways to end it.
func TestJobDetail(t *testing.T) {
	w := open(t, options{visited: true})
	w.ended(ann, "good")
	w.submit(ann, "c", "waits")
	type detail struct {
		job
		Detailed map[string]json.RawMessage `json:"outputs"`
		Result   map[string]json.RawMessage `json:"execution_status"`
		Workflow struct {
			Prompt json.RawMessage
			Extra  struct {
				PNG struct{ Workflow struct{ ID string } } `json:"extra_pnginfo"`
			} `json:"extra_data"`
		}
	}
	for id, ended := range map[string]bool{"good": true, "waits": false} {
		var d detail
		w.get(ann, "/api/jobs/"+id).want(t, 200).json(t, &d)
		if d.ID != id || string(d.Workflow.Prompt) != graph(id) || d.Workflow.Extra.PNG.Workflow.ID != "wf-"+id || ended != (d.Detailed != nil) || ended != (d.Result != nil) {
			t.Errorf("%s: %+v", id, d)
		}
	}
	for _, c := range []struct {
		user cluster.User
		id   string
	}{{ann, "none"}, {bob, "good"}, {bob, "waits"}} {
		if a := w.get(c.user, "/api/jobs/"+c.id).want(t, 404); !strings.Contains(a.body, "Job not found") {
			t.Errorf("%v: %s", c, a.body)
		}
	}
	cancel := func(u cluster.User, target, body string) (out struct{ Cancelled *bool }) {
		w.post(u, target, body).want(t, 200).json(t, &out)
		if out.Cancelled == nil {
			t.Fatalf("%s says nothing", target)
		}
		return out
	}
	if *cancel(bob, "/api/jobs/waits/cancel", "").Cancelled || *cancel(ann, "/api/jobs/good/cancel", "").Cancelled || *cancel(ann, "/api/jobs/none/cancel", "{}").Cancelled {
		t.Error("what cannot be cancelled was")
	}
	if w.job(ann, "waits").State != jobs.Pending {
		t.Error("bob cancelled ann's job")
	}
	if !*cancel(ann, "/user001/api/jobs/cancel", `{"job_ids":["waits","none"]}`).Cancelled || w.job(ann, "waits").State != jobs.Cancelled {
		t.Error("not cancelled")
	}
	for _, bad := range []string{`{}`, `{"job_ids":[]}`, `{"job_ids":["../x"]}`, `{"job_ids":"x"}`, `x`} {
		w.post(ann, "/api/jobs/cancel", bad).want(t, 400)
	}
}

// The queue's own verbs touch one's own jobs, waiting ones only; interrupt one's
// own running ones only.
func TestQueueVerbs(t *testing.T) {
	w := open(t, options{visited: true})
	for _, id := range []string{"a1", "a2", "a3", "a4"} {
		w.submit(ann, "c", id)
	}
	w.submit(bob, "c", "b1")
	w.submit(bob, "c", "b2")
	w.assign(ann, "a1").begin()
	w.assign(bob, "b1").begin()
	states := func() string {
		var out []string
		for _, id := range []string{"a1", "a2", "a3", "a4"} {
			out = append(out, string(w.job(ann, id).State))
		}
		return strings.Join(out, " ") + " | " + string(w.job(bob, "b1").State) + " " + string(w.job(bob, "b2").State)
	}
	for _, step := range []struct{ target, body, want string }{
		{"/queue", `{"delete":["b2","a2","a1","none"]}`, "running cancelled pending pending | running pending"},
		{"/interrupt", `{"prompt_id":"b1"}`, "running cancelled pending pending | running pending"},
		{"/interrupt", `{"prompt_id":"a3"}`, "running cancelled pending pending | running pending"},
		{"/queue", `{}`, "running cancelled pending pending | running pending"},
		{"/interrupt", `what`, "cancelling cancelled pending pending | running pending"},
		{"/queue", `{"clear":true}`, "cancelling cancelled cancelled cancelled | running pending"},
	} {
		w.post(ann, step.target, step.body).want(t, 200)
		if got := states(); got != step.want {
			t.Errorf("%s %s: %s, want %s", step.target, step.body, got, step.want)
		}
	}
	w.post(ann, "/queue", `x`).want(t, 400).problem(t)
	var p struct {
		Info struct {
			Remaining int `json:"queue_remaining"`
		} `json:"exec_info"`
	}
	w.get(ann, "/prompt").json(t, &p)
	if p.Info.Remaining != 1 {
		t.Errorf("remaining %d", p.Info.Remaining)
	}
}
