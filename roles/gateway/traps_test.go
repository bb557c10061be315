package gateway_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ahelme/comfyume/cluster/jobs"
)

// A page queues again by itself when the count is 0: it is this user's own, it is
// above 0 from the moment a job is taken until it has ended, and pages that did
// not queue hear the count and nothing else.
func TestCountIsTheUsersOwnAndNeverTooLow(t *testing.T) {
	w := open(t, options{visited: true})
	mine, other, bobs := w.page(ann, "tab1"), w.page(ann, "tab2"), w.page(bob, "tab1")
	w.submit(ann, "tab1", "p1")
	mine.waitFor("status 1")
	w.submit(ann, "tab1", "p2")
	mine.waitFor("status 2")
	w.assign(ann, "p1").begin().done("a_00001_.png")
	mine.waitFor("executing p1 null")
	w.assign(ann, "p2").begin().done("a_00002_.png")
	mine.waitFor("executing p2 null")
	other.waitFor("status 0")
	taken := false
	for _, h := range mine.all() {
		taken = taken || h.String() == "status 1"
		if h.String() == "status 0" && taken && !slices.Contains(stringsOf(mine.all()), "execution_success p2") {
			t.Error("0 is told while a job goes on")
		}
	}
	for _, h := range other.all() {
		if !strings.HasPrefix(h.String(), "status") {
			t.Errorf("a tab that did not queue hears %s", h)
		}
	}
	w.submit(bob, "tab1", "b1")
	bobs.waitFor("status 1")
	for _, h := range bobs.all() {
		if s := h.String(); s != "status 0" && s != "status 1" {
			t.Errorf("bob hears %s", s)
		}
	}
}

func stringsOf(all []heard) (out []string) {
	for _, h := range all {
		out = append(out, h.String())
	}
	return out
}

// Pictures are named by text, with a folder and a mark of where, in lists and
// inside objects: whatever names a file of the user's is brought to the worker.
func TestEveryWayToNameAFile(t *testing.T) {
	w := open(t, options{visited: true})
	for _, f := range []struct{ name, sub, area string }{{"é ü (1).png", "", "input"}, {"deep.png", "a/b", "input"}, {"scene.png", "threed", "temp"}, {"o.png", "", "output"}, {"one.png", "", "input"}, {"two.png", "", "input"}} {
		w.upload(ann, "/upload/image", part{"image", f.name, f.name}, part{"subfolder", "", f.sub}, part{"type", "", f.area}).want(t, 200)
	}
	w.upload(bob, "/upload/image", part{"image", "bobs.png", "x"}).want(t, 200)
	graph := `{"1":{"class_type":"LoadImage","inputs":{"image":"é ü (1).png"}},"2":{"class_type":"LoadImage","inputs":{"image":"a/b/deep.png [input]"}},
"3":{"class_type":"Newer","inputs":{"image":{"image":"threed/scene.png [temp]","camera_info":{"fov":35.0,"name":"bobs.png"}}}},"4":{"class_type":"LoadFromOutput","inputs":{"image":"o.png [output]"}},
"5":{"class_type":"Newer","inputs":{"image":{"__value__":["one.png","two.png","bobs.png","nowhere.png"]}}},
"9":{"class_type":"SaveImage","inputs":{"images":["1",0],"filename_prefix":"o.png"}},"8":{"class_type":"SaveImage","inputs":{"images":["2",0],"filename_prefix":"x"}}}`
	w.post(ann, "/prompt", `{"prompt_id":"p1","prompt":`+graph+`}`).want(t, 200)
	var got []string
	for _, in := range w.job(ann, "p1").Inputs {
		got = append(got, in.Value+"="+in.Name)
	}
	want := []string{"é ü (1).png=é ü (1).png", "a/b/deep.png [input]=deep.png", "threed/scene.png [temp]=scene.png", "o.png [output]=o.png", "one.png=one.png", "two.png=two.png"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	for _, missing := range []string{"bobs.png", "é ü (1).png [output]", "b/deep.png"} {
		p := w.post(ann, "/prompt", `{"prompt":{"1":{"class_type":"LoadImage","inputs":{"image":`+quoted(missing)+`}},"9":{"class_type":"SaveImage","inputs":{"images":["1",0],"filename_prefix":"x"}}}}`).want(t, 400).problem(t)
		if !strings.Contains(string(p.NodeErrors["1"]), "Invalid image file: "+missing) {
			t.Errorf("%s: %s", missing, p.NodeErrors["1"])
		}
	}
}

// Every entry of a list holds a whole workflow, so lists go out packed; who does
// not take that gets the same bytes unpacked.
func TestLongListsArePacked(t *testing.T) {
	w := open(t, options{visited: true})
	workflow := `{"id":"wf","note":"` + strings.Repeat("the same words again ", 500) + `"}`
	for i, id := range []string{"w1", "w2", "w3", "e1", "e2"} {
		w.post(ann, "/prompt", `{"client_id":"c","prompt_id":"`+id+`","prompt":`+graph(id)+`,"extra_data":{"extra_pnginfo":{"workflow":`+workflow+`}}}`).want(t, 200)
		if i > 2 {
			w.assign(ann, id).begin().done(id + "_00001_.png")
		}
	}
	w.assign(ann, "w1").begin()
	w.do(&jobs.Front{User: ann, IDs: []jobs.ID{{User: ann, Prompt: "w3"}}})
	for _, target := range []string{"/queue", "/history", "/history?max_items=1", "/history/e1", "/history/none"} {
		for range 2 { // made, and kept
			plain := w.get(ann, target).want(t, 200)
			packed := w.ask(ask{user: ann, target: target, header: []string{"Accept-Encoding: gzip"}}).want(t, 200)
			var a, b any
			plain.json(t, &a)
			packed.json(t, &b)
			if d := cmp.Diff(a, b); d != "" {
				t.Errorf("%s: %s", target, d)
			}
			if len(plain.body) > 10_000 && len(packed.body) > len(plain.body)/5 {
				t.Errorf("%s: %d bytes packed of %d", target, len(packed.body), len(plain.body))
			}
		}
	}
	// A job that moved has another number and is the same job.
	var q struct {
		R [][]any `json:"queue_running"`
		P [][]any `json:"queue_pending"`
	}
	w.get(ann, "/queue").json(t, &q)
	if len(q.R) != 1 || q.R[0][1] != "w1" || len(q.P) != 2 || q.P[0][1] != "w3" || q.P[0][0].(float64) >= q.P[1][0].(float64) {
		t.Errorf("queue: %d running, pending %.80v", len(q.R), q.P)
	}
}
