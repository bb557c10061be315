package comfy_test

import (
	"encoding/json"
	"testing"

	"github.com/ahelme/comfyume/roles/comfy"
	"github.com/google/go-cmp/cmp"
)

const historyDoc = `{"prompt":[5,"p",{"1":{"inputs":{"seed":18446744073709551615,"x":8.0}}},{"client_id":"c","extra_pnginfo":{"workflow":{"id":"w"}}},["9"]],` +
	`"outputs":{"9":{"images":[{"filename":"a.png","subfolder":"","type":"output"}]},"10":{"images":[{"filename":"t.png","subfolder":"","type":"temp"}],"animated":[false]}},` +
	`"status":{"status_str":"success","completed":true,"messages":[["execution_start",{"prompt_id":"p","timestamp":100}],["execution_success",{"prompt_id":"p","timestamp":350}]]},` +
	`"meta":{"9":{"node_id":"9"}}}`

func TestHistoryEntryKeepsItsBytes(t *testing.T) {
	var h comfy.HistoryEntry
	if err := json.Unmarshal([]byte(historyDoc), &h); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(historyDoc, string(h.Encode())); diff != "" {
		t.Error(diff)
	}
	if got := string(comfy.EncodeHistory([]comfy.HistoryEntry{h})); got != `{"p":`+historyDoc+`}` {
		t.Errorf("history %s", got)
	}
	if got := string(comfy.EncodeHistory(nil)); got != `{}` {
		t.Errorf("empty history %s", got)
	}
	if h.Status.Interrupted() {
		t.Error("it was not interrupted")
	}
}

func TestHistoryOfServersThatKeepLess(t *testing.T) {
	var s comfy.HistoryStatus
	if err := json.Unmarshal([]byte(`{"status_str":"error","completed":false,"messages":["execution_start","execution_error: no memory: 5"]}`), &s); err != nil {
		t.Fatal(err)
	}
	m, ok := s.Message(comfy.TypeExecutionError)
	var e comfy.ExecutionErrorData
	if !ok || m.Decode(&e) != nil || e.ExceptionMessage != "no memory: 5" {
		t.Errorf("message %s", m.Data)
	}
	if j := comfy.JobFromHistory(comfy.HistoryEntry{Status: s}, 1); j.Status != comfy.JobFailed || j.ExecutionError == nil {
		t.Errorf("job %+v", j)
	}
}

func TestQueueDropsTheSecretElement(t *testing.T) {
	var q comfy.Queue
	err := json.Unmarshal([]byte(`{"queue_running":[[1.5,"a",{},{},["9"],{"auth_token_comfy_org":"secret"}]],"queue_pending":[[2,"b",{},{}]]}`), &q)
	if err != nil {
		t.Fatal(err)
	}
	if !q.IsRunning("a") || !q.IsPending("b") || q.IsRunning("b") {
		t.Errorf("queue is %+v", q)
	}
	if got, want := string(q.Encode()), `{"queue_running":[[1.5,"a",{},{},["9"]]],"queue_pending":[[2,"b",{},{},[]]]}`; got != want {
		t.Errorf("got\n%s want\n%s", got, want)
	}
	if got := string(comfy.Queue{}.Encode()); got != `{"queue_running":[],"queue_pending":[]}` {
		t.Errorf("empty queue %s", got)
	}
	for _, bad := range []string{`[[1,"a",{}]]`, `[{"a":1}]`, `[["x","a",{},{}]]`} {
		if err := json.Unmarshal([]byte(`{"queue_running":`+bad+`}`), &q); err == nil {
			t.Errorf("%s was accepted", bad)
		}
	}
}

func TestJobFromHistoryPassesTheSchema(t *testing.T) {
	var h comfy.HistoryEntry
	if err := json.Unmarshal([]byte(historyDoc), &h); err != nil {
		t.Fatal(err)
	}
	list := comfy.NewJobList([]comfy.Job{comfy.JobFromHistory(h, 90)}, 0, 0, 1)
	want := `{"jobs":[{"id":"p","status":"completed","priority":5,"create_time":90,"execution_start_time":100,"execution_end_time":350,"outputs_count":2,"previewable_outputs_count":2,` +
		`"preview_output":{"filename":"a.png","subfolder":"","type":"output","nodeId":"9","mediaType":"images"},"workflow_id":"w"}],"pagination":{"offset":0,"limit":1,"total":1,"has_more":false}}`
	if diff := cmp.Diff(want, string(list.Encode())); diff != "" {
		t.Error(diff)
	}
	if got := string(comfy.NewJobList(nil, 0, 0, 0).Encode()); got != `{"jobs":[],"pagination":{"offset":0,"limit":1,"total":0,"has_more":false}}` {
		t.Errorf("empty list %s", got)
	}
}

func TestJobStatuses(t *testing.T) {
	entry := func(messages ...comfy.Message) comfy.HistoryEntry {
		h := comfy.HistoryEntry{Prompt: comfy.QueueItem{PromptID: "p"}, Status: comfy.HistoryStatus{StatusStr: comfy.HistoryError}}
		for _, m := range messages {
			h.Status.Messages = append(h.Status.Messages, comfy.HistoryMessage(m))
		}
		return h
	}
	failed := comfy.JobFromHistory(entry(comfy.ExecutionError(comfy.ExecutionErrorData{PromptID: "p", NodeID: "3", Timestamp: 5})), 1)
	if failed.Status != comfy.JobFailed || failed.ExecutionError == nil || failed.ExecutionError.NodeID != "3" || failed.ExecutionEndTime != 5 {
		t.Errorf("failed job is %+v", failed)
	}
	if j := comfy.JobFromHistory(entry(comfy.ExecutionInterrupted(comfy.InterruptedData{PromptID: "p"})), 1); j.Status != comfy.JobCancelled {
		t.Errorf("interrupted job is %s", j.Status)
	}
	if j := comfy.JobFromHistory(entry(), 1); j.Status != comfy.JobFailed {
		t.Errorf("job with an error and no message is %s", j.Status)
	}
	q := comfy.QueueItem{PromptID: "p", Number: 4}
	if comfy.JobFromQueue(q, true, 7).Status != comfy.JobInProgress || comfy.JobFromQueue(q, false, 7).Status != comfy.JobPending {
		t.Error("jobs of the queue have the wrong status")
	}
}

func TestSummarizeOutputsChooses(t *testing.T) {
	for _, c := range []struct {
		name, outputs, preview string
		count, previewable     int
	}{
		{"text only", `{"1":{"text":["hello"]}}`, `{"content":"hello","nodeId":"1","mediaType":"text"}`, 0, 0},
		{"temp before text", `{"1":{"text":["hello"]},"2":{"images":[{"filename":"t.png","type":"temp"}]}}`, `{"filename":"t.png","type":"temp","nodeId":"2","mediaType":"images"}`, 1, 1},
		{"video by format", `{"1":{"gifs":[{"filename":"v.mp4","type":"output","format":"video/h264"}]}}`, `{"filename":"v.mp4","type":"output","format":"video/h264","nodeId":"1","mediaType":"gifs"}`, 1, 1},
		{"3D in a plain string", `{"1":{"result":["m.glb",null]}}`, `{"filename":"m.glb","type":"output","subfolder":"","mediaType":"3d","nodeId":"1"}`, 1, 1},
		{"latent counts, is not shown", `{"1":{"latents":[{"filename":"l.latent","type":"output"}],"animated":[true]}}`, ``, 1, 0},
		{"odd shapes", `{"1":5,"2":{"images":null,"x":[1,[2],null]}}`, ``, 0, 0},
	} {
		o, err := comfy.ParseObject(json.RawMessage(c.outputs))
		if err != nil {
			t.Fatal(err)
		}
		got := comfy.SummarizeOutputs(o)
		if string(got.Preview) != c.preview || got.Count != c.count || got.Previewable != c.previewable {
			t.Errorf("%s: %d %d %s", c.name, got.Count, got.Previewable, got.Preview)
		}
	}
}

func TestRewriteOutputFiles(t *testing.T) {
	raw := json.RawMessage(`{"images": [{"filename": "a.png", "subfolder": "", "type": "output", "w": 8.0}, {"filename":"b.png","subfolder":"s","type":"temp"}], "text": ["a.png"], "animated": [true], "gifs":[{"filename":"c.mp4","subfolder":"","type":"output","format":"video/h264"}], "odd":[{"filename":"d"}], "n":null}`)
	files, err := comfy.OutputFiles(raw)
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != 3 || files[1].Item != (comfy.FileItem{Filename: "b.png", Subfolder: "s", Type: "temp"}) || files[2].Key != "gifs" {
		t.Errorf("files %+v", files)
	}
	got, err := comfy.RewriteOutputFiles(raw, func(key string, i int, item comfy.FileItem) (comfy.FileItem, error) {
		if key == "images" && i == 1 {
			return comfy.FileItem{Filename: "B \"1\".png", Subfolder: "", Type: "output"}, nil
		}
		return item, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want := `{"images": [{"filename": "a.png", "subfolder": "", "type": "output", "w": 8.0}, {"filename":"B \"1\".png","subfolder":"","type":"output"}], "text": ["a.png"], "animated": [true], "gifs":[{"filename":"c.mp4","subfolder":"","type":"output","format":"video/h264"}], "odd":[{"filename":"d"}], "n":null}`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Error(diff)
	}
	for in, want := range map[string]string{
		`{"images":[{"abs_path":"/srv/a.png", "filename":"a.png","subfolder":"","type":"output"}]}`:                           `{"images":[{"filename":"b.png","subfolder":"","type":"output"}]}`,
		`{"images":[{"filename":"a.png","subfolder":"","type":"output" , "fullpath":"/srv/a.png"}]}`:                          `{"images":[{"filename":"b.png","subfolder":"","type":"output"}]}`,
		`{"gifs":[{"abs_path":"/a","fullpath":"/b","filename":"a.png","abs_path":1,"subfolder":"","type":"output","n":8.0}]}`: `{"gifs":[{"filename":"b.png","subfolder":"","type":"output","n":8.0}]}`,
	} {
		got, err := comfy.RewriteOutputFiles(json.RawMessage(in), func(_ string, _ int, item comfy.FileItem) (comfy.FileItem, error) {
			item.Filename = "b.png"
			return item, nil
		})
		if err != nil || string(got) != want {
			t.Errorf("host paths in %s: got\n%s, %v", in, got, err)
		}
	}
	for _, none := range []string{``, `null`, `{}`, `[]`, `{"images":[]}`} {
		if files, err := comfy.OutputFiles(json.RawMessage(none)); err != nil || len(files) != 0 {
			t.Errorf("%q: %v, %v", none, files, err)
		}
	}
}

func FuzzRewriteOutputFiles(f *testing.F) {
	f.Add([]byte(`{"images":[{"filename":"a","subfolder":"b","type":"output"}],"x":[1]}`))
	f.Add([]byte(`{"a":[{"abs_path":1,"filename":"a","fullpath":{},"subfolder":"b","type":"output","abs_path":2}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		got, err := comfy.RewriteOutputFiles(raw, func(_ string, _ int, _ comfy.FileItem) (comfy.FileItem, error) {
			return comfy.FileItem{Filename: "new", Subfolder: "sub", Type: "temp"}, nil
		})
		if err != nil || len(raw) == 0 {
			return
		}
		files, err := comfy.OutputFiles(got)
		if err != nil {
			t.Fatalf("rewritten output cannot be read: %v", err)
		}
		for _, f := range files {
			item, err := comfy.ParseObject(f.Raw)
			if err != nil {
				t.Fatal(err)
			}
			if _, told := item.Lookup("abs_path"); told {
				t.Errorf("a path stayed in %s", f.Raw)
			}
			if f.Item != (comfy.FileItem{Filename: "new", Subfolder: "sub", Type: "temp"}) {
				t.Errorf("item is %+v", f.Item)
			}
		}
	})
}
