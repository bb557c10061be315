package gateway_test

import (
	"bytes"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/files"
)

// TestDiskIsFullAndNobodyNotices: before a disk is full a new job and an upload are
// refused in a sentence, what runs is stored, and editing and downloading go on.
func TestDiskIsFullAndNobodyNotices(t *testing.T) { // predecessor 61
	var free atomic.Int64
	free.Store(500 << 20)
	w := open(t, options{visited: true, free: free.Load})
	image := part{"image", "a.png", "bytes of a picture"}
	w.upload(ann, "/upload/image", image).want(t, 200)
	w.submit(ann, "", "p1")
	running := w.assign(ann, "p1").begin()

	free.Store(130 << 20) // 87 %
	commits := w.log.commits()
	for what, a := range map[string]answer{
		"a job":     w.post(ann, "/prompt", `{"prompt":`+graph("p2")+`}`),
		"an upload": w.upload(ann, "/upload/image", part{"image", "b.png", "others"}),
		"a mask":    w.upload(ann, "/upload/mask", part{"image", "m.png", "others"}),
	} {
		var said struct {
			Error struct{ Type, Message, Details string }
			Nodes map[string]any `json:"node_errors"`
		}
		a.want(t, 507).json(t, &said)
		text := said.Error.Message + " " + said.Error.Details
		if said.Error.Type != "no_space" || said.Nodes == nil || !strings.Contains(text, "87 % full") || !strings.Contains(text, "Tell the instructor") {
			t.Errorf("%s is refused with %s", what, a.body)
		}
	}
	if n := w.log.commits(); n != commits {
		t.Errorf("refusals committed %d entries", n-commits)
	}
	w.post(ann, "/userdata/workflows%2Fmine.json?overwrite=true", `{"nodes":[]}`).want(t, 200)
	w.get(ann, "/userdata/workflows%2Fmine.json").want(t, 200)
	if a := w.get(ann, "/view?filename=a.png&type=input").want(t, 200); a.body != "bytes of a picture" {
		t.Errorf("downloaded %q", a.body)
	}
	ref, size, err := w.blobs.Put(t.Context(), bytes.NewReader([]byte("the film")), 8)
	if err != nil {
		t.Fatalf("the result of what runs: %v", err)
	}
	w.do(&files.PutOutputs{User: ann, Prompt: "p1", Worker: running.lease.Worker, Epoch: running.lease.Epoch, Outputs: []files.NewOutput{{Item: "9", Area: files.Output, Name: "film_00001_.mp4", Ref: ref, Size: size}}})
	running.done("film_00001_.mp4")
	if a := w.get(ann, "/view?filename=film_00001_.mp4").want(t, 200); a.body != "the film" {
		t.Errorf("the film is %q", a.body)
	}

	free.Store(90 << 20)
	if _, _, err := w.blobs.Put(t.Context(), bytes.NewReader([]byte("x")), 1); cluster.CodeOf(err) != cluster.NoSpace {
		t.Errorf("a result at 91 %%: %v", err)
	}
	free.Store(400 << 20) // somebody has made room: it goes on by itself
	w.upload(ann, "/upload/image", part{"image", "b.png", "others"}).want(t, 200)
	w.submit(ann, "", "p3")
}
