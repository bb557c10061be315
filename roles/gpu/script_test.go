package gpu_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/files"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/roles/comfy"
	"github.com/ahelme/comfyume/roles/gpu"
)

func viewing(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, body) }
}

func TestEventsBeforeTheAnswerToThePrompt(t *testing.T) {
	s := newScripted(t)
	over := make(chan struct{})
	s.view = viewing("picture")
	s.prompt = func(w http.ResponseWriter, id string) {
		s.keep(id, bareEntry)
		s.say(id, sayStart, sayCached, sayRuns, sayPicture, saySuccess, sayOver)
		select { // the answer comes when all is over
		case <-over:
		case <-time.After(patience):
			t.Error("the job does not end before its prompt is answered")
		}
		s.accept(w, id)
	}
	b := newBench(t, s.url, nil)
	id := b.submit("p-1", thing, nil)
	row := b.ends(id)
	close(over)
	if row.State != jobs.Done || row.Outputs != 1 {
		t.Fatalf("row %+v", row)
	}
	h := b.history(row)
	want := `{"images":[{"filename":"a_00001_.png","subfolder":"","type":"output","format":"odd"}],"animated":[false]}`
	if out, _ := h.Outputs.Lookup("1"); string(out) != want {
		t.Errorf("output %s, want %s", out, want)
	}
	if e := b.queue.told(id, "executed"); len(e) != 1 || !strings.Contains(string(e[0].Text), `"output":`+want) {
		t.Errorf("executed %s", e[0].Text)
	}
	// History keeps headings only; the times are those of the socket.
	var times []int64
	for _, m := range h.Status.Messages {
		var at comfy.ExecutionData
		if err := comfy.Message(m).Decode(&at); err != nil || at.PromptID != "p-1" {
			t.Errorf("%s: %s, %v", m.Type, m.Data, err)
		}
		times = append(times, at.Timestamp)
	}
	if diff := cmp.Diff([]int64{1700000000001, 1700000000002, 1700000000009}, times); diff != "" {
		t.Errorf("times (-want +got):\n%s", diff)
	}
	if string(b.output(files.Output, "", "a_00001_.png")) != "picture" {
		t.Error("another picture was stored")
	}
	if v, ok := h.Meta.Lookup("1"); !ok || !strings.Contains(string(v), `"real_node_id":"1"`) {
		t.Errorf("meta %s", v)
	}
}

func TestRefusedPromptFailsAtTheFirstNode(t *testing.T) {
	s := newScripted(t)
	s.prompt = func(w http.ResponseWriter, _ string) {
		w.WriteHeader(http.StatusBadRequest)
		io.WriteString(w, `{"error":{"type":"prompt_outputs_failed_validation","message":"Prompt outputs failed validation","details":"","extra_info":{}},
			"node_errors":{"10":{"errors":[{"type":"x","message":"Ten is bad","details":"","extra_info":{}}],"dependent_outputs":[],"class_type":"Thing"},
			"9":{"errors":[{"type":"x","message":"Value not in list","details":"image: 'gw/1/a.png'","extra_info":{}}],"dependent_outputs":[],"class_type":"Thing"}}}`)
	}
	b := newBench(t, s.url, nil)
	id := b.submit("p-1", `{"9":{"class_type":"Thing","inputs":{}},"10":{"class_type":"Thing","inputs":{}}}`, nil)
	row := b.ends(id)
	if row.State != jobs.Failed || row.Failure.NodeID != "9" || row.Failure.NodeType != "Thing" || !strings.Contains(row.Failure.Message, "Value not in list") {
		t.Fatalf("row %s %+v", row.State, row.Failure)
	}
	raw, err := comfy.Unpack(b.bytes(row.History))
	if err != nil {
		t.Fatal(err)
	}
	var h comfy.HistoryEntry
	if err := json.Unmarshal(raw, &h); err != nil {
		t.Fatal(err)
	}
	var e comfy.ExecutionErrorData
	if m, ok := h.Status.Message(comfy.TypeExecutionError); !ok || m.Decode(&e) != nil || e.NodeID != "9" || e.PromptID != "p-1" || e.Traceback == nil {
		t.Errorf("history %s", raw)
	}
	if diff := cmp.Diff([]string{"claim", "started", "finish failed"}, b.queue.said()); diff != "" {
		t.Errorf("verbs (-want +got):\n%s", diff)
	}
}

func TestOddMessagesDoNotStopTheRelay(t *testing.T) {
	s := newScripted(t)
	s.view = viewing("picture")
	s.prompt = func(w http.ResponseWriter, id string) {
		s.accept(w, id)
		s.keep(id, strings.Replace(bareEntry, picture, `{"text":["x"]}`, 1))
		s.say(id, `{"type":"progress","data":{"value":1,"max":2,"prompt_id":"ID","node":"1"}`, // cut off
			sayStart, sayCached, sayRuns,
			`{"type":"progress","data":{"value":NaN,"max":10,"prompt_id":"ID","node":"1"}}`,
			`{"type":"executing","data":{"node":"1"}}`, // a greeting
			`{"type":"progress","data":{"value":5,"max":10,"prompt_id":"another","node":"1"}}`,
			`{"type":"executing","data":{"node":null,"prompt_id":"another"}}`,
			`{"type":"status","data":{"status":{"exec_info":{"queue_remaining":9}}}}`,
			`{"type":"rgthree.thing","data":{"text":"gw/ID/a"}}`,
			// A blocked node reports an error and the run goes on.
			`{"type":"execution_error","data":{"prompt_id":"ID","node_id":"1","node_type":"Thing","exception_type":"ExecutionBlocked","exception_message":"Blocked","traceback":[],"executed":[],"timestamp":3}}`,
			`{"type":"executed","data":{"node":"1","display_node":"1","output":{"text":["x"]},"prompt_id":"ID"}}`, saySuccess, sayOver)
	}
	b := newBench(t, s.url, nil)
	id := b.submit("p-1", thing, nil)
	row := b.ends(id)
	if h := b.history(row); row.State != jobs.Done || h.Status.StatusStr != "success" || len(h.Status.Messages) != 3 {
		t.Errorf("row %s %+v, history %s", row.State, row.Failure, h.Encode())
	}
	want := []string{"execution_start", "execution_cached", "executing", "rgthree.thing", "executed"}
	if diff := cmp.Diff(want, b.queue.types(id)); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	progress := b.queue.told(id, "progress")
	if len(progress) != 1 || string(progress[0].Text) != `{"type":"progress","data":{"value":null,"max":10,"prompt_id":"p-1","node":"1"}}` {
		t.Errorf("progress %+v", progress)
	}
	if c := b.queue.told(id, "rgthree.thing"); string(c[0].Text) != `{"type":"rgthree.thing","data":{"text":"a"}}` {
		t.Errorf("custom message %s", c[0].Text)
	}
}

func TestResultsInFramesAreNeitherThinnedNorReordered(t *testing.T) {
	s := newScripted(t)
	s.prompt = func(w http.ResponseWriter, id string) {
		s.accept(w, id)
		s.keep(id, strings.Replace(bareEntry, `"1":`+picture, "", 1))
		s.frame(comfy.NewPreview(comfy.FormatPNG, []byte("of nobody")))
		s.say(id, sayStart, sayCached, sayRuns)
		for i := range 20 {
			s.frame(comfy.NewPreview(comfy.FormatPNG, []byte{byte(i)}))
		}
		s.frame(comfy.NewPreview(comfy.FormatJPEG, []byte{20}))
		s.frame(comfy.NewText("1", "at gw/"+id+"/a"))
		s.frame(comfy.NewPreviewMetadata(comfy.PreviewMeta{PromptID: "another"}, []byte("of another")))
		s.say(id, saySuccess, sayOver)
	}
	b := newBench(t, s.url, nil)
	id := b.submit("p-1", `{"1":{"class_type":"SaveImageWebsocket","inputs":{}}}`, nil)
	b.ends(id)
	frames := b.queue.told(id, "preview")
	if len(frames) != 22 {
		t.Fatalf("%d frames, want 22", len(frames))
	}
	for i, e := range frames {
		f, err := comfy.ParseFrame(e.Binary)
		if err != nil || e.Droppable {
			t.Fatalf("frame %d: %+v, %v", i, e, err)
		}
		if i < 21 && string(f.Payload) != string([]byte{byte(i)}) || i == 21 && string(f.Payload) != "at a" {
			t.Errorf("frame %d is %q", i, f.Payload)
		}
	}
}

func TestCancelOfAPromptThatWaitsAtComfyUI(t *testing.T) {
	s := newScripted(t)
	s.prompt = func(w http.ResponseWriter, id string) {
		s.mu.Lock()
		s.queue = `{"queue_running":[],"queue_pending":[[0,"` + id + `",{},{},[]]]}` // somebody else's runs
		s.mu.Unlock()
		s.accept(w, id)
	}
	b := newBench(t, s.url, nil)
	id := b.submit("p-1", thing, nil)
	b.row(id, "the job to be assigned", func(j jobs.Job) bool { return j.State == jobs.Assigned })
	waitFor(t, "the prompt", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return strings.Contains(s.queue, "[[0") })
	if _, err := b.queue.apply(&jobs.Cancel{IDs: []jobs.ID{id}}); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	row := b.ends(id)
	if h := b.history(row); row.State != jobs.Cancelled || !h.Status.Interrupted() || time.Since(began) > 5*time.Second {
		t.Errorf("row %s after %v, history %s", row.State, time.Since(began), h.Encode())
	}
}

func TestFinishedWorkIsReportedWhileTheNodeStops(t *testing.T) {
	s := newScripted(t)
	s.view = viewing("picture")
	s.prompt = func(w http.ResponseWriter, id string) {
		s.accept(w, id)
		s.keep(id, bareEntry)
		s.say(id, sayStart, sayCached, sayRuns, sayPicture, saySuccess, sayOver)
	}
	b := newBench(t, s.url, func(c *gpu.Config) { c.Patience.Backoff = time.Millisecond })
	var asked, stopped atomic.Bool
	b.queue.mu.Lock()
	b.queue.refuse = func(verb string) error {
		if verb == "finish done" && !stopped.Load() {
			asked.Store(true)
			return cluster.Errorf(cluster.NoLeader, "no leader")
		}
		return nil
	}
	b.queue.mu.Unlock()
	id := b.submit("p-1", thing, nil)
	waitFor(t, "the work to be done", asked.Load)
	b.stop()
	stopped.Store(true)
	b.end()
	if row := b.ends(id); row.State != jobs.Done {
		t.Errorf("row %+v", row)
	}
}

func TestFilesThatAJobReadsKeepTheUsersNames(t *testing.T) {
	s := newScripted(t)
	s.upload = func(name, folder string) string {
		if !strings.HasSuffix(name, "-m_bel.glb") || !strings.HasPrefix(folder, "3d/gw/") {
			t.Errorf("upload of %q to %q", name, folder)
		}
		return "other.glb" // ComfyUI's word counts
	}
	s.prompt = func(w http.ResponseWriter, id string) {
		var n struct {
			Node struct {
				Inputs struct {
					File string `json:"model_file"`
				} `json:"inputs"`
			} `json:"1"`
		}
		if err := json.Unmarshal(s.sent(), &n); err != nil || !strings.HasPrefix(n.Node.Inputs.File, "3d/gw/") || !strings.HasSuffix(n.Node.Inputs.File, "/other.glb") {
			t.Errorf("prompt %s, %v", s.sent(), err)
		}
		sub, name, _ := strings.Cut(n.Node.Inputs.File, "/other")
		output := `{"3d":[{"filename":"other` + name + `","subfolder":"` + sub + `","type":"input"}]}`
		s.accept(w, id)
		s.keep(id, strings.Replace(bareEntry, picture, output, 1))
		s.say(id, sayStart, sayCached, sayRuns, strings.Replace(sayPicture, picture, output, 1), saySuccess, sayOver)
	}
	b := newBench(t, s.url, nil)
	ref, size := b.put("mesh")
	id := b.submit("p-1", `{"1":{"class_type":"Load3D","inputs":{"model_file":"3d/möbel.glb"}}}`, func(c *jobs.Submit) {
		c.Inputs = []jobs.Input{{Value: "3d/möbel.glb", Name: "möbel.glb", Ref: ref, Size: size}}
	})
	row := b.ends(id)
	if out, _ := b.history(row).Outputs.Lookup("1"); row.State != jobs.Done || string(out) != `{"3d":[{"filename":"möbel.glb","subfolder":"3d","type":"input"}]}` {
		t.Errorf("row %s %+v, output %s", row.State, row.Failure, out)
	}
}

func TestBodyThatCannotBeReadFailsTheJob(t *testing.T) {
	b := newBench(t, newScripted(t).url, nil)
	row := b.ends(b.submit("p-1", thing, func(c *jobs.Submit) { c.Body = []byte("not packed") }))
	if row.State != jobs.Failed || row.Failure.Type != "invalid_prompt" {
		t.Errorf("row %s %+v", row.State, row.Failure)
	}
}

func TestLargePreviewFitsTheRow(t *testing.T) {
	s := newScripted(t)
	s.view = viewing("picture")
	s.prompt = func(w http.ResponseWriter, id string) {
		s.accept(w, id)
		s.keep(id, strings.Replace(bareEntry, `"odd"`, `"`+strings.Repeat("o", jobs.MaxPreview)+`"`, 1))
		s.say(id, sayStart, sayCached, sayRuns, saySuccess, sayOver)
	}
	b := newBench(t, s.url, nil)
	row := b.ends(b.submit("p-1", thing, nil))
	if want := `{"filename":"a_00001_.png","subfolder":"","type":"output","nodeId":"1","mediaType":"images"}`; string(row.Preview) != want {
		t.Errorf("row %s, preview %s, want %s", row.State, row.Preview, want)
	}
}

func TestSecretsReachComfyUIAndNoRecord(t *testing.T) {
	s := newScripted(t)
	s.prompt = func(w http.ResponseWriter, id string) {
		if !strings.Contains(s.body(), `"api_key_comfy_org":"s3cret"`) {
			t.Errorf("ComfyUI got %s", s.body())
		}
		s.accept(w, id)
		s.keep(id, strings.Replace(bareEntry, `"1":`+picture, "", 1))
		s.say(id, sayStart, sayCached, sayRuns, saySuccess, sayOver)
	}
	b := newBench(t, s.url, func(c *gpu.Config) {
		c.Secrets = func(context.Context, jobs.Lease) (map[string]string, bool, error) {
			return map[string]string{"api_key_comfy_org": "s3cret"}, true, nil
		}
	})
	row := b.ends(b.submit("p-1", thing, func(c *jobs.Submit) { c.Secrets = "gateway" }))
	if h := b.history(row); row.State != jobs.Done || strings.Contains(string(h.Encode()), "s3cret") {
		t.Errorf("row %s, history %s", row.State, h.Encode())
	}
}
