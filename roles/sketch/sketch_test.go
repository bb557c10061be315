package sketch_test

import (
	"bytes"
	"image"
	"image/png"
	"strings"
	"testing"

	"github.com/ahelme/comfyume/roles/comfy"
	"github.com/ahelme/comfyume/roles/sketch"
	"github.com/google/go-cmp/cmp"
)

func TestRunTellsWhatHappensInOrder(t *testing.T) {
	b := start(t, sketch.Config{})
	s := b.dial("me", map[string]any{"supports_preview_metadata": true})
	if e := b.read(s); e.Message == nil || e.Message.Type != comfy.TypeFeatureFlags {
		t.Fatalf("no answer to feature flags: %+v", e)
	}
	slow := `"5":{"class_type":"SketchSlow","inputs":{"image":["1",0],"seconds":0.02,"steps":2,"seed":18446744073709551615}}`
	prompt := graph(empty("1", 8, 4, 0x0a64ff), slow, save("9", "5"))
	if r := b.prompt("me", "job-1", prompt); r.PromptID != "job-1" || len(r.NodeErrors) != 0 {
		t.Errorf("answer %+v", r)
	}
	want := []string{
		"status 1", "status 1", "execution_start", "execution_cached []",
		"progress_state 1 1=0/1", "executing 1", "progress_state 1",
		"progress_state 2 5=0/1", "executing 5",
		"progress", "progress_state 2 5=1/2", "frame 4 5",
		"progress", "progress_state 2 5=2/2", "frame 4 5",
		"progress_state 2",
		"progress_state 3 9=0/1", "executing 9", "executed 9", "progress_state 3",
		"execution_success", "status 0", "executing null",
	}
	events := b.follow(s, "job-1")
	got := shape(events)
	for i := range got { // progress names its node, too
		got[i] = strings.Replace(got[i], "progress 5", "progress", 1)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("messages (-want +got)\n%s", diff)
	}
	for _, e := range events {
		if e.Frame == nil {
			continue
		}
		if id, _ := e.Frame.PromptID(); id != "job-1" {
			t.Errorf("a preview is of %q", id)
		}
		if img, kind, err := image.Decode(bytes.NewReader(e.Frame.Payload)); err != nil || kind != "jpeg" || img.Bounds().Dx() != 8 {
			t.Errorf("a preview is %s, %v", kind, err)
		}
	}
	checkResult(b, prompt)
}

// checkResult reads history at once, as clients do on the last message.
func checkResult(b *bench, prompt string) {
	t := b.t
	t.Helper()
	h, ok, err := b.client.History(b.ctx(), "job-1")
	if err != nil || !ok {
		t.Fatalf("no history: %v", err)
	}
	if h.Status.StatusStr != comfy.HistorySuccess || !h.Status.Completed || len(h.Status.Messages) != 3 {
		t.Errorf("status %+v", h.Status)
	}
	if string(h.Prompt.Prompt) != prompt {
		t.Errorf("the prompt became\n%s", h.Prompt.Prompt)
	}
	files := outputs(t, h)
	if diff := cmp.Diff([]comfy.FileItem{{Filename: "shot_00001_.png", Type: "output"}}, files); diff != "" {
		t.Fatal(diff)
	}
	raw := b.fetch(files[0])
	img, err := png.Decode(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	if img.Bounds().Dx() != 8 || img.Bounds().Dy() != 4 || pixel(img, 7, 3) != [3]int{0x0a, 0x64, 0xff} {
		t.Errorf("picture %v, pixel %v", img.Bounds(), pixel(img, 7, 3))
	}
	chunks := texts(t, raw)
	if chunks["prompt"] != prompt || chunks["workflow"] != `{"id":"w-1","note":"Gr\u00fc\u00dfe"}` {
		t.Errorf("text in the picture: %v", chunks)
	}
}

func TestEqualWorkIsNotDoneTwice(t *testing.T) {
	b := start(t, sketch.Config{})
	s := b.dial("me", nil)
	prompt := graph(empty("1", 4, 4, 255), save("9", "1"))
	b.prompt("me", "a", prompt)
	b.follow(s, "a")
	b.prompt("me", "b", graph(empty("71", 4, 4, 255), save("79", "71"))) // other ids, same work
	got := only(shape(b.follow(s, "b")), "exec")
	want := []string{"execution_start", "execution_cached [71 79]", "executed 79", "execution_success", "executing null"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	files := outputs(t, b.wait("b"))
	if len(files) != 1 || files[0].Filename != "shot_00001_.png" {
		t.Errorf("files %v", files)
	}
	if err := b.client.Free(b.ctx()); err != nil {
		t.Fatal(err)
	}
	b.prompt("me", "c", prompt)
	if got := only(shape(b.follow(s, "c")), "execution_cached"); got[0] != "execution_cached []" {
		t.Errorf("after free: %v", got)
	}
	if files := outputs(t, b.wait("c")); files[0].Filename != "shot_00002_.png" {
		t.Errorf("files %v", files)
	}
}

func TestOldClientsGetOldPreviews(t *testing.T) {
	b := start(t, sketch.Config{})
	s := b.dial("old", nil)
	b.prompt("old", "a", graph(empty("1", 4, 4, 255), `"5":{"class_type":"SketchSlow","inputs":{"image":["1",0],"seconds":0,"steps":1}}`, save("9", "5")))
	if got := only(shape(b.follow(s, "a")), "frame"); len(got) != 1 || got[0] != "frame 1 " {
		t.Errorf("frames %v", got)
	}
}

func TestNewNamesWhatIsWrong(t *testing.T) {
	if _, err := sketch.New(sketch.Config{}); err == nil {
		t.Error("no folder was accepted")
	}
	b := start(t, sketch.Config{})
	if _, err := sketch.New(sketch.Config{Dir: t.TempDir(), Addr: strings.TrimPrefix(b.server.URL(), "http://")}); err == nil {
		t.Error("a port in use was accepted")
	}
	idle, err := sketch.New(sketch.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if err := idle.Close(); err != nil {
		t.Error(err)
	}
	if err := idle.Close(); err != nil {
		t.Error(err)
	}
}
