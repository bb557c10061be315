package gateway_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/roles/comfy"
)

// ended queues and finishes n jobs named p1...pn, each with one picture.
func (w *world) ended(u cluster.User, ids ...string) {
	w.t.Helper()
	for _, id := range ids {
		w.submit(u, "c", id)
		w.assign(u, id).begin().done(id + ".png")
	}
}

// keys are the members of a JSON object in the order in which they stand.
func (a answer) keys(t testing.TB) []string {
	t.Helper()
	out := []string{}
	o, err := comfy.ParseObject([]byte(a.body))
	if err != nil {
		t.Fatalf("%v in %.200s", err, a.body)
	}
	for _, f := range o {
		out = append(out, f.Key)
	}
	return out
}

// History pages as ComfyUI's does: oldest first, offset from the oldest, and
// without it the newest.
func TestHistoryPages(t *testing.T) {
	w := open(t, options{visited: true})
	w.ended(ann, "p1", "p2", "p3", "p4", "p5")
	w.ended(bob, "bobs")
	for query, want := range map[string][]string{
		"": {"p1", "p2", "p3", "p4", "p5"}, "?max_items=2": {"p4", "p5"}, "?max_items=2&offset=0": {"p1", "p2"}, "?max_items=2&offset=3": {"p4", "p5"}, "?max_items=2&offset=4": {"p5"},
		"?max_items=2&offset=5": {}, "?max_items=2&offset=500": {}, "?offset=2": {"p3", "p4", "p5"}, "?max_items=200&offset=0": {"p1", "p2", "p3", "p4", "p5"}, "?max_items=0": {}, "?max_items=2&offset=-1": {"p4", "p5"},
	} {
		if d := cmp.Diff(want, w.get(ann, "/api/history"+query).want(t, 200).keys(t)); d != "" {
			t.Errorf("%q: %s", query, d)
		}
	}
	w.get(ann, "/history?max_items=x").want(t, 400)
	w.post(ann, "/history", `{"delete":["p2","nothing","bobs"]}`).want(t, 200)
	if d := cmp.Diff([]string{"p1", "p3", "p4", "p5"}, w.get(ann, "/history").keys(t)); d != "" {
		t.Error(d)
	}
	w.post(ann, "/history", `{"clear":true}`).want(t, 200)
	if got := w.get(ann, "/history").keys(t); len(got) != 0 {
		t.Errorf("cleared: %v", got)
	}
	if got := w.get(bob, "/history").keys(t); len(got) != 1 {
		t.Errorf("bob's: %v", got)
	}
}

// Jobs that end out of order still get rising numbers, and running ones have
// higher ones than any that ended: older pages hide what does not rise.
func TestNumbersRise(t *testing.T) {
	w := open(t, options{visited: true})
	for _, id := range []string{"p1", "p2", "p3"} {
		w.submit(ann, "c", id)
	}
	w.assign(ann, "p3").begin().done("3.png")
	w.assign(ann, "p1").begin().done("1.png")
	running := w.assign(ann, "p2").begin()
	number := func(raw json.RawMessage) (n float64) {
		var tuple []json.RawMessage
		if err := json.Unmarshal(raw, &tuple); err != nil || len(tuple) != 5 || json.Unmarshal(tuple[0], &n) != nil {
			t.Fatalf("tuple %s", raw)
		}
		return n
	}
	var h map[string]struct{ Prompt json.RawMessage }
	a := w.get(ann, "/history")
	a.json(t, &h)
	if d := cmp.Diff([]string{"p3", "p1"}, a.keys(t)); d != "" {
		t.Error(d)
	}
	var q struct {
		Running []json.RawMessage `json:"queue_running"`
	}
	w.get(ann, "/queue").json(t, &q)
	if n3, n1, n2 := number(h["p3"].Prompt), number(h["p1"].Prompt), number(q.Running[0]); n3 >= n1 || n1 >= n2 {
		t.Errorf("numbers %v %v %v", n3, n1, n2)
	}
	running.done("2.png")
	w.get(ann, "/history").json(t, &h)
	if number(h["p2"].Prompt) <= number(h["p1"].Prompt) {
		t.Error("the last to end has not the highest number")
	}
}

// entry is one finished prompt as a page reads it.
type entry struct {
	Prompt  []json.RawMessage
	Outputs map[string]json.RawMessage
	Status  struct {
		Text      string `json:"status_str"`
		Completed bool
		Messages  [][]json.RawMessage
	}
	Meta map[string]json.RawMessage
}

// What a history entry holds: the user's own prompt to the byte, outputs, and how it went.
func TestHistoryEntries(t *testing.T) {
	w := open(t, options{visited: true})
	w.ended(ann, "good")
	w.submit(ann, "c", "bad")
	failure := comfy.ExecutionErrorData{PromptID: "bad", NodeID: "2", NodeType: "Seeded", ExceptionType: "ValueError", ExceptionMessage: "no", Traceback: []string{"line"}, Timestamp: 2}
	w.assign(ann, "bad").begin().end(jobs.Failed, `{}`, comfy.ExecutionError(failure), &jobs.Failure{Type: "ValueError", Message: "no", NodeID: "2", NodeType: "Seeded"})
	w.submit(ann, "c", "stopped")
	s := w.assign(ann, "stopped").begin()
	w.post(ann, "/interrupt", `{"prompt_id":"stopped"}`).want(t, 200)
	s.end(jobs.Cancelled, `{}`, comfy.ExecutionInterrupted(comfy.InterruptedData{PromptID: "stopped", NodeID: "2", NodeType: "Seeded", Timestamp: 2}), nil)
	w.submit(ann, "c", "lost")
	for range jobs.MaxStrikes {
		s := w.assign(ann, "lost")
		w.do(&jobs.Started{Lease: s.lease}, &jobs.Requeue{Lease: s.lease, Strike: true, Reason: "the worker died"})
	}
	w.submit(ann, "c", "unran")
	w.post(ann, "/queue", `{"delete":["unran"]}`).want(t, 200)
	var all map[string]entry
	a := w.get(ann, "/user001/api/history").want(t, 200)
	a.json(t, &all)
	if d := cmp.Diff([]string{"good", "bad", "stopped", "lost"}, a.keys(t)); d != "" {
		t.Error(d)
	}
	for id, want := range map[string]struct{ status, last string }{
		"good": {"success", "execution_success"}, "bad": {"error", "execution_error"}, "stopped": {"error", "execution_interrupted"}, "lost": {"error", "execution_error"},
	} {
		e := all[id]
		if len(e.Prompt) != 5 || string(e.Prompt[1]) != quoted(id) || string(e.Prompt[2]) != graph(id) || e.Outputs == nil || e.Meta == nil || len(e.Status.Messages) < 2 {
			t.Errorf("%s: %+v", id, e)
			continue
		}
		last := e.Status.Messages[len(e.Status.Messages)-1]
		if e.Status.Text != want.status || e.Status.Completed != (id == "good") || string(last[0]) != quoted(want.last) || !strings.Contains(string(last[1]), quoted(id)) {
			t.Errorf("%s: %+v, last %s", id, e.Status, last)
		}
		var one map[string]entry
		w.get(ann, "/api/history/"+id).want(t, 200).json(t, &one)
		if d := cmp.Diff(map[string]entry{id: e}, one); d != "" {
			t.Errorf("%s alone: %s", id, d)
		}
	}
	var lost comfy.ExecutionErrorData
	if err := json.Unmarshal(all["lost"].Status.Messages[1][1], &lost); err != nil || lost.NodeID != "" || !strings.Contains(lost.ExceptionMessage, "the worker died") || lost.Traceback == nil || lost.Executed == nil {
		t.Errorf("lost: %+v %v", lost, err)
	}
	if a := w.get(ann, "/history/unran").want(t, 200); a.body != "{}" {
		t.Errorf("what never ran: %s", a.body)
	}
	if a := w.get(bob, "/history/good").want(t, 200); a.body != "{}" {
		t.Errorf("bob reads %s", a.body)
	}
}

// A cancel that was committed before the result is what every list says.
func TestCancelledWhileItFinished(t *testing.T) {
	w := open(t, options{visited: true})
	w.submit(ann, "c", "p")
	s := w.assign(ann, "p").begin()
	w.post(ann, "/interrupt", "").want(t, 200)
	s.done("a.png")
	var h map[string]struct {
		Status struct {
			Text      string `json:"status_str"`
			Completed bool
			Messages  [][]json.RawMessage
		}
	}
	w.get(ann, "/history/p").want(t, 200).json(t, &h)
	if st := h["p"].Status; st.Text != "error" || st.Completed || len(st.Messages) != 2 || string(st.Messages[1][0]) != `"execution_interrupted"` {
		t.Errorf("history says %+v", st)
	}
	if _, ids := w.jobs(""); ids[0] != "p cancelled" {
		t.Errorf("the list says %v", ids)
	}
}
