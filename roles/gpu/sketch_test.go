package gpu_test

import (
	"bytes"
	"context"
	"encoding/json"
	"image"
	"image/color"
	"image/png"
	"path/filepath"
	"slices"
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

const redPicture = `{"1":{"class_type":"EmptyImage","inputs":{"width":8,"height":8,"batch_size":2,"color":16711680}},
 "2":{"class_type":"SaveImage","inputs":{"images":["1",0],"filename_prefix":"day/red"}}}`

func slow(seconds string) string {
	return `{"1":{"class_type":"EmptyImage","inputs":{"width":8,"height":8,"batch_size":1,"color":255}},
 "2":{"class_type":"SketchSlow","inputs":{"image":["1",0],"seconds":` + seconds + `,"steps":100}},
 "3":{"class_type":"SaveImage","inputs":{"images":["2",0],"filename_prefix":"slow"}}}`
}

func failing(mode string) string {
	return `{"1":{"class_type":"EmptyImage","inputs":{"width":8,"height":8,"batch_size":1,"color":255}},
 "2":{"class_type":"SketchFail","inputs":{"image":["1",0],"mode":"` + mode + `"}},
 "3":{"class_type":"SaveImage","inputs":{"images":["2",0],"filename_prefix":"fail"}}}`
}

func pixel(t *testing.T, raw []byte) color.RGBA {
	t.Helper()
	m, err := png.Decode(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	return color.RGBAModel.Convert(m.At(3, 3)).(color.RGBA)
}

func TestPictureFromPromptToUser(t *testing.T) {
	s := startSketch(t)
	b := newBench(t, s.url, nil)
	id := b.submit("p-1", redPicture, nil)
	row := b.ends(id)
	if row.State != jobs.Done || row.Outputs != 2 || row.Previewable != 2 {
		t.Fatalf("row %+v", row)
	}
	want := []string{"claim", "started", "outputs", "gpudone", "finish done"}
	if diff := cmp.Diff(want, b.queue.said()); diff != "" {
		t.Errorf("verbs (-want +got):\n%s", diff)
	}
	events := []string{"execution_start", "execution_cached", "executing", "executing", "executed"}
	if diff := cmp.Diff(events, b.queue.types(id)); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	if got, want := pixel(t, b.output(files.Output, "day", "red_00001_.png")), (color.RGBA{255, 0, 0, 255}); got != want {
		t.Errorf("pixel %v, want %v", got, want)
	}
	if !json.Valid(row.Preview) || !strings.Contains(string(row.Preview), `"filename":"red_00001_.png"`) || !strings.Contains(string(row.Preview), `"nodeId":"2"`) {
		t.Errorf("preview %s", row.Preview)
	}
	h := b.history(row)
	wantOutput := `{"images":[{"filename":"red_00001_.png","subfolder":"day","type":"output"},{"filename":"red_00002_.png","subfolder":"day","type":"output"}]}`
	if out, _ := h.Outputs.Lookup("2"); string(out) != wantOutput {
		t.Errorf("history's output %s", out)
	}
	if string(h.Prompt.Prompt) != redPicture || h.Prompt.PromptID != "p-1" || h.Prompt.Number != 1 || !slices.Equal(h.Prompt.Outputs, []string{"2"}) {
		t.Errorf("tuple %+v", h.Prompt)
	}
	var types []string
	for _, m := range h.Status.Messages {
		types = append(types, m.Type)
		if got, _ := comfy.Message(m).PromptID(); got != "p-1" {
			t.Errorf("%s names the prompt %q", m.Type, got)
		}
	}
	if diff := cmp.Diff([]string{"execution_start", "execution_cached", "execution_success"}, types); diff != "" || h.Status.StatusStr != "success" || !h.Status.Completed {
		t.Errorf("status %+v (-want +got):\n%s", h.Status, diff)
	}
	executed := b.queue.told(id, "executed")[0]
	if executed.Index == 0 || executed.ClientID != "tab" || !strings.Contains(string(executed.Text), `"output":`+wantOutput) || !strings.Contains(string(executed.Text), `"prompt_id":"p-1"`) {
		t.Errorf("executed %+v: %s", executed, executed.Text)
	}
	// ComfyUI keeps nothing that tells whose it was.
	client, err := comfy.NewClient(comfy.ClientConfig{BaseURL: s.url})
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the worker to be idle", func() bool { return b.worker.Status().Phase == gpu.Idle })
	raw, err := client.GetJSON(t.Context(), "/history")
	if err != nil || string(raw) != "{}" {
		t.Errorf("ComfyUI's history %s, %v", raw, err)
	}
}

func TestCapabilitiesAreRegisteredOnce(t *testing.T) {
	s := startSketch(t)
	b := newBench(t, s.url, func(c *gpu.Config) { c.Patience.Refresh = time.Millisecond })
	b.until("the worker to be registered", func() bool { return len(b.queue.workers) > 0 })
	b.ends(b.submit("p-1", redPicture, nil))
	b.queue.mu.Lock()
	workers := slices.Clone(b.queue.workers)
	b.queue.mu.Unlock()
	if len(workers) != 1 {
		t.Fatalf("registered %d times", len(workers))
	}
	w := workers[0]
	caps, err := comfy.DecodeCapabilities(bytes.NewReader(b.bytes(w.Caps)))
	if err != nil {
		t.Fatal(err)
	}
	info, err := comfy.ParseObjectInfo(caps.ObjectInfo)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := info.Class("SketchSlow"); !ok || w.ID != "node/0" || w.Node != "node" || !strings.HasPrefix(w.Version, "sketch") || caps.Features == nil {
		t.Errorf("registered %+v", w)
	}
}

func TestEmbeddedPromptIsTheUsersOwn(t *testing.T) {
	b := newBench(t, startSketch(t).url, nil)
	// A number that a float cannot hold, and one that Python writes with a point.
	graph := `{"1":{"class_type":"EmptyImage","inputs":{"width":8,"height":8,"batch_size":1,"color":1,"seed":18446744073709551557,"cfg":8.0}},
 "2":{"class_type":"SaveImage","inputs":{"images":["1",0],"filename_prefix":"Grüße"}}}`
	b.ends(b.submit("p-1", graph, nil))
	chunks := textChunks(t, b.output(files.Output, "", "Grüße_00001_.png"))
	want := strings.ReplaceAll(graph, "Grüße", `Gr\u00fc\u00dfe`)
	if chunks["prompt"] != want {
		t.Errorf("prompt chunk\n%s\nwant\n%s", chunks["prompt"], want)
	}
	if got, want := chunks["workflow"], `{"id":"w-1","note":"Gr\u00fc\u00dfe"}`; got != want {
		t.Errorf("workflow chunk %s, want %s", got, want)
	}
}

// pngOf is a small picture of one colour.
func pngOf(t *testing.T) string {
	t.Helper()
	m := image.NewRGBA(image.Rect(0, 0, 8, 8))
	for i := range m.Pix {
		m.Pix[i] = []byte{10, 20, 30, 255}[i%4]
	}
	var picture bytes.Buffer
	if err := png.Encode(&picture, m); err != nil {
		t.Fatal(err)
	}
	return picture.String()
}

func TestUploadIsStagedAndTemporaryPicturesAreKept(t *testing.T) {
	s := startSketch(t)
	b := newBench(t, s.url, nil)
	ref, size := b.put(pngOf(t))
	graph := `{"1":{"class_type":"LoadImage","inputs":{"image":"my cat (1).png [input]"}},"2":{"class_type":"PreviewImage","inputs":{"images":["1",0]}}}`
	with := func(c *jobs.Submit) {
		c.Inputs = []jobs.Input{{Value: "my cat (1).png [input]", Name: "my cat (1).png", Ref: ref, Size: size}}
	}
	for _, prompt := range []string{"p-1", "p-2"} { // the second one comes out of the cache
		row := b.ends(b.submit(prompt, graph, with))
		if row.State != jobs.Done || row.Outputs != 1 {
			t.Fatalf("%s: %s %+v", prompt, row.State, row.Failure)
		}
		h := b.history(row)
		out, _ := h.Outputs.Lookup("2")
		found, err := comfy.OutputFiles(out)
		if err != nil || len(found) != 1 || found[0].Item.Type != "temp" {
			t.Fatalf("output %s, %v", out, err)
		}
		if got, want := pixel(t, b.output(files.Temp, "", found[0].Item.Filename)), (color.RGBA{10, 20, 30, 255}); got != want {
			t.Errorf("pixel %v, want %v", got, want)
		}
		if string(h.Prompt.Prompt) != graph {
			t.Errorf("prompt %s", h.Prompt.Prompt)
		}
	}
	staged, err := filepath.Glob(filepath.Join(s.cfg.Dir, "input", "gw", "*", string(ref[:16])+"-my_cat__1_.png"))
	if err != nil || len(staged) != 1 {
		t.Errorf("staged %v, %v", staged, err)
	}
}

func TestNodeErrorIsReported(t *testing.T) {
	for mode, want := range map[string]string{"raise": "SketchFail was asked to fail.", "oom": "The GPU ran out of memory"} {
		t.Run(mode, func(t *testing.T) {
			b := newBench(t, startSketch(t).url, nil)
			id := b.submit("p-1", failing(mode), nil)
			row := b.ends(id)
			if row.State != jobs.Failed || row.Failure == nil || row.Failure.NodeID != "2" || row.Failure.NodeType != "SketchFail" || !strings.Contains(row.Failure.Message, want) {
				t.Fatalf("row %s %+v", row.State, row.Failure)
			}
			h := b.history(row)
			m, ok := h.Status.Message(comfy.TypeExecutionError)
			var e comfy.ExecutionErrorData
			if !ok || m.Decode(&e) != nil || e.PromptID != "p-1" || e.NodeID != "2" || !strings.Contains(e.ExceptionMessage, want) || h.Status.StatusStr != "error" {
				t.Errorf("history %s", h.Encode())
			}
			if got := b.queue.types(id); slices.Contains(got, comfy.TypeExecutionError) {
				t.Errorf("published %v: the gateway ends jobs", got)
			}
		})
	}
}

func TestCachedRunTellsEverything(t *testing.T) {
	b := newBench(t, startSketch(t).url, nil)
	b.ends(b.submit("p-1", redPicture, nil))
	id := b.submit("p-2", redPicture, nil)
	row := b.ends(id)
	cached := b.queue.told(id, comfy.TypeExecutionCached)
	if row.State != jobs.Done || len(cached) != 1 || !strings.Contains(string(cached[0].Text), `"nodes":["1"]`) {
		t.Fatalf("row %s, cached %+v", row.State, cached)
	}
	out, _ := b.history(row).Outputs.Lookup("2")
	if !strings.Contains(string(out), "red_00003_.png") || !strings.Contains(string(out), "red_00004_.png") {
		t.Errorf("output %s", out)
	}
}

func TestProgressIsThinnedAndPreviewsAreTheUsers(t *testing.T) {
	b := newBench(t, startSketch(t).url, nil)
	id := b.submit("p-1", slow("0.4"), nil)
	b.ends(id)
	progress := b.queue.told(id, comfy.TypeProgress)
	if n := len(progress); n == 0 || n > 20 {
		t.Errorf("%d progress messages of 100 in 0.4 s", n)
	}
	last := progress[len(progress)-1]
	if !strings.Contains(string(last.Text), `"value":100`) || !last.Droppable {
		t.Errorf("the last progress is %s", last.Text)
	}
	previews := b.queue.told(id, "preview")
	if len(previews) == 0 || len(previews) > 20 {
		t.Fatalf("%d previews", len(previews))
	}
	f, err := comfy.ParseFrame(previews[0].Binary)
	if err != nil || f.Event != comfy.EventPreviewMetadata {
		t.Fatalf("preview %+v, %v", f, err)
	}
	if got, _ := f.PromptID(); got != "p-1" {
		t.Errorf("a preview names the prompt %q", got)
	}
	if slices.Index(b.queue.log(), "renew") < 0 {
		t.Error("the lease was never renewed")
	}
}

func TestComfyUIDiesAndComesBack(t *testing.T) {
	s := startSketch(t)
	b := newBench(t, s.url, nil)
	id := b.submit("p-1", slow("0.3"), nil)
	b.running(id, "2")
	s.stop()
	waitFor(t, "the loss to be noticed", func() bool { return !b.worker.Status().Connected })
	s.start()
	row := b.ends(id)
	want := []string{"claim", "started", "requeue strike=true ComfyUI stopped while running this job", "claim", "started", "outputs", "gpudone", "finish done"}
	if diff := cmp.Diff(want, b.queue.said()); diff != "" || row.Strikes != 1 {
		t.Errorf("row %+v, verbs (-want +got):\n%s", row, diff)
	}
}

func TestComfyUIDiesForGood(t *testing.T) {
	s := startSketch(t)
	b := newBench(t, s.url, func(c *gpu.Config) { c.Patience.Lost = 100 * time.Millisecond })
	id := b.submit("p-1", failing("exit"), nil)
	b.row(id, "the job to be put back", func(j jobs.Job) bool { return j.State == jobs.Pending && j.Strikes == 1 })
	waitFor(t, "the worker to say what is wrong", func() bool {
		st := b.worker.Status()
		return st.Phase == gpu.Waiting && strings.Contains(st.Problem, "Is ComfyUI running there?") && st.Job == nil
	})
}

func TestStoppedNodeGivesItsJobBack(t *testing.T) {
	s := startSketch(t)
	b := newBench(t, s.url, nil)
	id := b.submit("p-1", slow("60"), nil)
	b.running(id, "2")
	b.end()
	b.queue.mu.Lock()
	row, _ := b.queue.jobs.Job(id)
	b.queue.mu.Unlock()
	if row.State != jobs.Pending || row.Strikes != 0 || row.Reason != "this node was stopped" {
		t.Errorf("row %+v", row)
	}
	client, err := comfy.NewClient(comfy.ClientConfig{BaseURL: s.url})
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, "ComfyUI to be idle", func() bool {
		q, err := client.Queue(context.Background())
		return err == nil && len(q.Running)+len(q.Pending) == 0
	})
}

func TestMissingTokensHoldTheJob(t *testing.T) {
	b := newBench(t, startSketch(t).url, nil)
	id := b.submit("p-1", redPicture, func(c *jobs.Submit) { c.Secrets = "gateway" })
	row := b.row(id, "the job to be held", func(j jobs.Job) bool { return j.State == jobs.Held })
	if row.Reason != "sign in again" {
		t.Errorf("reason %q", row.Reason)
	}
}

func TestMissingInputFailsTheJob(t *testing.T) {
	b := newBench(t, startSketch(t).url, nil)
	id := b.submit("p-1", `{"1":{"class_type":"LoadImage","inputs":{"image":"a.png"}},"2":{"class_type":"PreviewImage","inputs":{"images":["1",0]}}}`, func(c *jobs.Submit) {
		c.Inputs = []jobs.Input{{Value: "a.png", Name: "a.png", Ref: jobsRef}}
	})
	row := b.ends(id)
	if row.State != jobs.Failed || row.Failure.Type != "input_missing" || !strings.Contains(row.Failure.Message, `"a.png"`) {
		t.Errorf("row %s %+v", row.State, row.Failure)
	}
	if got := b.queue.types(id); !slices.Contains(got, comfy.TypeExecutionStart) {
		t.Errorf("published %v: a page must have seen it begin", got)
	}
}

// away is a depot whose machine is away for a while.
type away struct {
	left atomic.Int32 // times that it does not answer
	gpu.Depot
}

func (a *away) Fetch(context.Context, jobs.Lease, cluster.Ref) error {
	if a.left.Add(-1) >= 0 {
		return cluster.Errorf(cluster.Unavailable, "no machine that is there has this file's bytes")
	}
	return nil
}

func (a *away) Keep(context.Context, jobs.Lease, cluster.Ref) error { return nil }

func (a *away) Kept(context.Context, jobs.Lease, cluster.Ref) (int64, bool) { return 1, true }

// TestInputOnAMachineThatIsAwayIsAwaited: its upload was accepted, so a gateway
// that is just being restarted must not fail the job.
func TestInputOnAMachineThatIsAwayIsAwaited(t *testing.T) {
	d := &away{}
	d.left.Store(3)
	b := newBench(t, startSketch(t).url, func(c *gpu.Config) { c.Depot = d })
	ref, size := b.put(pngOf(t))
	id := b.submit("p-1", `{"1":{"class_type":"LoadImage","inputs":{"image":"a.png"}},"2":{"class_type":"PreviewImage","inputs":{"images":["1",0]}}}`, func(c *jobs.Submit) {
		c.Inputs = []jobs.Input{{Value: "a.png", Name: "a.png", Ref: ref, Size: size}}
	})
	if row := b.ends(id); row.State != jobs.Done || row.Strikes != 0 {
		t.Errorf("row %s after %d strikes: %+v", row.State, row.Strikes, row.Failure)
	}
}

const jobsRef = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

func TestPrefixThatLeadsOutStaysInside(t *testing.T) {
	b := newBench(t, startSketch(t).url, nil)
	for prompt, prefix := range map[string]string{"p-1": "../../one", "p-2": "/two", "p-3": `..\\..\\three`, "p-4": "sub/../../four"} {
		row := b.ends(b.submit(prompt, strings.Replace(redPicture, "day/red", prefix, 1), nil))
		name := strings.TrimLeft(prefix[strings.LastIndexAny(prefix, `/\`)+1:], ".")
		if row.State != jobs.Done || !strings.Contains(string(row.Preview), `"filename":"`+name+`_00001_.png","subfolder":""`) {
			t.Errorf("%s: %s %+v, preview %s", prefix, row.State, row.Failure, row.Preview)
		}
	}
}
