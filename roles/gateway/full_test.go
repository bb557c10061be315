package gateway_test

import (
	"bytes"
	"net/url"
	"regexp"
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

// Who has all that they may have is told how much that is and where to remove some,
// does so, and goes on.
func TestDiskQuotaSaysWhatToRemove(t *testing.T) {
	const bound = 40_000
	w := open(t, options{visited: true, bound: func(cluster.User) int64 { return bound }, room: func(w *world, u cluster.User, n int64) (err error) {
		w.machine.Files(func(t *files.Table) {
			if used := t.Used(u); used.Total()+n > bound {
				err = used.Over(u, n, bound)
			}
		})
		return err
	}})
	big := strings.Repeat("x", 39_000)
	w.upload(ann, "/upload/image", part{"image", "big.png", big}).want(t, 200)
	a := w.upload(ann, "/upload/image", part{"image", "more.png", big[:1500]}).want(t, 429)
	for _, say := range []string{"You use 39 kB of the 40 kB", "uploads 39 kB", "/user001/workshop/files"} {
		if !strings.Contains(a.body, say) {
			t.Errorf("%q is not said: %s", say, a.body)
		}
	}
	w.upload(bob, "/upload/image", part{"image", "more.png", big[:1500]}).want(t, 200)
	w.post(ann, "/userdata/workflows%2Fmine.json?overwrite=true", `{"nodes":["`+big[:2000]+`"]}`).want(t, 200)
	a = w.post(ann, "/prompt", `{"prompt":`+graph("p1")+`}`).want(t, 429)
	if !strings.Contains(a.body, `"disk_quota"`) || !strings.Contains(a.body, "You use 42 kB of the 40 kB") {
		t.Errorf("the job is refused with %s", a.body)
	}

	page := w.get(ann, "/user001/workshop/files").want(t, 200).body
	picked := regexp.MustCompile(`name="file" value="([^"]*big.png)"`).FindStringSubmatch(page)
	if picked == nil || strings.Contains(page, "more.png") || !strings.Contains(page, "You use 41 kB of the 40 kB that you may have") {
		t.Fatalf("the page of files: %s", page)
	}
	form := url.Values{"file": {picked[1], "nonsense"}}.Encode()
	w.ask(ask{user: bob, method: "POST", target: "/workshop/files", header: []string{"Content-Type: application/x-www-form-urlencoded"}, body: form}).want(t, 303)
	w.get(ann, "/view?filename=big.png&type=input").want(t, 200) // bob's form reaches bob's files
	w.ask(ask{user: ann, method: "POST", target: "/workshop/files", header: []string{"Content-Type: application/x-www-form-urlencoded"}, body: form}).want(t, 303)
	w.get(ann, "/view?filename=big.png&type=input").want(t, 404)
	w.submit(ann, "", "p1")
}
