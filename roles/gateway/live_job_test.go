package gateway_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/roles/comfy"
)

// TestOneJob plays a job's whole life and listens as the page that queued it.
func TestOneJob(t *testing.T) {
	w := open(t, options{visited: true})
	p := w.page(ann, "tab1")
	if p.sid != "tab1" {
		t.Errorf("sid %q", p.sid)
	}
	p.say(`{"type":"feature_flags","data":{"supports_preview_metadata":true}}`)
	flags := p.waitFor("feature_flags")
	if got := string(flags[len(flags)-1].m.Data); !strings.Contains(got, `"assets":false`) || !strings.Contains(got, `"supports_preview_metadata":true`) {
		t.Errorf("flags %s", got)
	}
	w.submit(ann, "tab1", "p1")
	p.waitFor("status 1")
	s := w.assign(ann, "p1").begin()
	s.say(comfy.Executing("2", "2", "p1"))
	s.say(comfy.Progress(1, 2, "p1", "2"))
	s.show(comfy.NewPreviewMetadata(comfy.PreviewMeta{NodeID: "2", PromptID: "p1"}, []byte("jpeg")))
	s.say(comfy.Executing("9", "9", "p1"))
	s.done("x_00001_.png")

	// Whoever hears the end asks for the history at once.
	terminal := p.waitFor("execution_success p1")
	var h map[string]json.RawMessage
	w.get(ann, "/history/p1").want(t, 200).json(t, &h)
	if h["p1"] == nil {
		t.Errorf("the end is told before history is there (%d frames)", len(terminal))
	}
	got := texts(p.waitFor("executing p1 null"))
	got = got[slices.Index(got, "execution_start p1"):]
	want := []string{
		"execution_start p1", "execution_cached p1", "executing p1 2", "progress p1 2", "frame preview with metadata jpeg", "executing p1 9", "executed p1 9",
		"execution_success p1", "status 0", "executing p1 null",
	}
	if d := cmp.Diff(want, slices.DeleteFunc(got, func(s string) bool { return s == "status 1" })); d != "" {
		t.Error(d)
	}
}

// TestEndIsToldOnce: a page that is told twice shows a job that has ended as one
// that runs again.
func TestEndIsToldOnce(t *testing.T) {
	w := open(t, options{visited: true, twice: true})
	p := w.page(ann, "tab1")
	play := func(id string) []heard {
		w.submit(ann, "tab1", id)
		w.assign(ann, id).begin().done(id + "_00001_.png")
		return p.waitFor("executing " + id + " null")
	}
	play("p1")
	got := about(play("p2"), "p1") // by now all of p1 has been told
	want := []string{"execution_start p1", "execution_cached p1", "executed p1 9", "execution_success p1", "executing p1 null"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// TestEnds: in every way a job can end, the last three are the terminal event,
// status, executing without a node, and the beginning was told before.
func TestEnds(t *testing.T) {
	w := open(t, options{visited: true})
	p := w.page(ann, "tab1")
	failure := &jobs.Failure{Type: "ValueError", Message: "no such colour", NodeID: "2", NodeType: "Seeded"}
	for _, c := range []struct {
		name string
		play func(id string)
		want []string
	}{
		{"fails", func(id string) {
			w.assign(ann, id).begin().end(jobs.Failed, "{}", comfy.ExecutionError(comfy.ExecutionErrorData{PromptID: "worker-own", NodeID: "2", NodeType: "Seeded", ExceptionMessage: "no such colour", ExceptionType: "ValueError"}), failure)
		}, []string{"execution_start", "execution_cached", "execution_error", "executing null"}},
		{"interrupted", func(id string) {
			s := w.assign(ann, id).begin()
			w.post(ann, "/interrupt", "").want(t, 200)
			s.end(jobs.Cancelled, "{}", comfy.ExecutionInterrupted(comfy.InterruptedData{PromptID: id, NodeID: "2", NodeType: "Seeded"}), nil)
		}, []string{"execution_start", "execution_cached", "execution_interrupted", "executing null"}},
		{"all from the cache", func(id string) { // no event ever came
			w.assign(ann, id).end(jobs.Done, "{}", comfy.ExecutionSuccess(id, 2), nil)
		}, []string{"execution_start", "execution_success", "executing null"}},
		{"three lost workers", func(id string) {
			for range jobs.MaxStrikes {
				s := w.assign(ann, id)
				w.do(&jobs.Requeue{Lease: s.lease, Strike: true, Reason: "gone"})
			}
		}, []string{"execution_start", "execution_error", "executing null"}},
	} {
		id := strings.ReplaceAll(c.name, " ", "-")
		w.submit(ann, "tab1", id)
		c.play(id)
		all := p.waitFor("executing " + id + " null")
		var want []string
		for _, s := range c.want {
			typ, node, _ := strings.Cut(s, " ")
			want = append(want, strings.TrimSpace(typ+" "+id+" "+node))
		}
		if d := cmp.Diff(want, about(all, id)); d != "" {
			t.Errorf("%s: %s", c.name, d)
		}
		end := index(all, "executing "+id+" null")
		if all[end-1].String() != "status 0" {
			t.Errorf("%s: before the very last stands %s", c.name, all[end-1])
		}
		checkTerminal(t, c.name, all[end-2].m)
		checkEnded(t, w, id, c.name == "all from the cache")
	}
}

// checkTerminal looks at what a page's schema wants of it.
func checkTerminal(t *testing.T, name string, m comfy.Message) {
	t.Helper()
	if !m.Terminal() {
		t.Errorf("%s: %s is not terminal", name, m.Type)
	}
	if own := string(m.Data); strings.Contains(own, "worker-own") {
		t.Errorf("%s: the worker's own prompt id is told: %s", name, own)
	}
	if m.Type != comfy.TypeExecutionError {
		return
	}
	var d map[string]json.RawMessage
	if err := m.Decode(&d); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"node_id", "node_type", "exception_message", "exception_type", "traceback", "executed", "current_inputs", "timestamp"} {
		if d[key] == nil || string(d[key]) == "null" {
			t.Errorf("%s: %s is %s", name, key, d[key])
		}
	}
}

// checkEnded looks at the history of a job that has ended.
func checkEnded(t *testing.T, w *world, id string, completed bool) {
	t.Helper()
	var h map[string]struct {
		Prompt []json.RawMessage
		Status struct {
			Completed bool
			Messages  [][]json.RawMessage
		}
	}
	w.get(ann, "/history/"+id).want(t, 200).json(t, &h)
	if e := h[id]; len(e.Prompt) != 5 || len(e.Status.Messages) < 2 || e.Status.Completed != completed {
		t.Errorf("%s: history %+v", id, e)
	}
}
