package gateway_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
)

type accepted struct {
	PromptID string `json:"prompt_id"`
	Number   float64
	Errors   map[string]json.RawMessage `json:"node_errors"`
}

// The same prompt again is the same job; another one under its id is refused.
func TestPromptIDs(t *testing.T) {
	w := open(t, options{visited: true})
	send := func(u cluster.User, id, value string) answer {
		return w.post(u, "/user00"+string(u[6])+"/api/prompt", `{"client_id":"c","prompt_id":`+id+`,"prompt":`+graph(value)+`}`)
	}
	var one, again, other accepted
	send(ann, `"id-1"`, "a").want(t, 200).json(t, &one)
	send(ann, `"id-1"`, "a").want(t, 200).json(t, &again)
	if one.PromptID != "id-1" || one.Number != again.Number || one.Errors == nil {
		t.Errorf("%+v and again %+v", one, again)
	}
	send(ann, `"id-1"`, "b").want(t, 409).problem(t)
	send(bob, `"id-1"`, "b").want(t, 200).json(t, &other) // ids are a user's own
	send(ann, `null`, "c").want(t, 200).json(t, &other)
	if len(other.PromptID) != 36 || other.Number <= one.Number {
		t.Errorf("an id of the server's own: %+v", other)
	}
	send(ann, `17`, "d").want(t, 200).json(t, &other)
	if other.PromptID != "17" {
		t.Errorf("a number as id became %q", other.PromptID)
	}
	w.get(ann, "/api/prompt").want(t, 200)
	if j := w.job(ann, "id-1"); j.Priority != jobs.Instructor || j.ClientID != "c" || !slices.Equal(j.Classes, []string{"EmptyImage", "SaveImage", "Seeded"}) || j.Secrets != "" {
		t.Errorf("row %+v", j)
	}
	if j := w.job(bob, "id-1"); j.Priority != jobs.Normal {
		t.Errorf("bob's priority %d", j.Priority)
	}
}

// TestModelsThatAreNotAtTheGatewayAreRefused: the door has no models; a workflow is
// taken when a GPU has what it names, and the page offers that.
func TestModelsThatAreNotAtTheGatewayAreRefused(t *testing.T) { // predecessor 19
	w := open(t, options{visited: true})
	second := capabilities()
	second.ObjectInfo = json.RawMessage(strings.Replace(strings.Replace(nodes, `"sd.safetensors"`, `"ltx-2-19b.safetensors"`, 1), `"ckpt_name": [[`, `"extra": ["INT", {}], "ckpt_name": [[`, 1)) // of another version
	w.worker("gpu/1", second)
	info := func() string { return w.get(ann, "/object_info/CheckpointLoaderSimple").body }
	w.until("both GPUs' models are offered", func() bool { return strings.Contains(info(), "ltx-2-19b.safetensors") })
	if !strings.Contains(info(), "sd.safetensors") {
		t.Errorf("offered %s", info())
	}
	for i, model := range []string{"sd.safetensors", "ltx-2-19b.safetensors"} {
		w.post(ann, "/prompt", fmt.Sprintf(`{"prompt_id":"m%d","prompt":{"1":{"class_type":"CheckpointLoaderSimple","inputs":{"ckpt_name":%q}},"2":{"class_type":"EmptyImage","inputs":{"width":64,"color":0}},"9":{"class_type":"SaveImage","inputs":{"images":["2",0],"filename_prefix":"x"}}}}`, i, model)).want(t, 200)
	}
}

// A node that reads a folder gets all that its user has in it, and no other.
func TestFolderOfInputs(t *testing.T) {
	caps := capabilities()
	caps.ObjectInfo = json.RawMessage(strings.Replace(nodes, "{", `{"LoadImageSetFromFolderNode": {"input": {"required": {"folder": [["gw", "gw/of_somebody_else"]]}}, "output": ["IMAGE"], "name": "LoadImageSetFromFolderNode", "python_module": "nodes", "category": "image", "output_node": false},`, 1))
	w := open(t, options{visited: true, caps: caps})
	for _, f := range [][2]string{{"1.png", "faces"}, {"1.txt", "faces/10_ann"}, {"2.png", "faces2"}, {"3.png", ""}} {
		w.upload(ann, "/upload/image", part{"image", f[0], f[0]}, part{"subfolder", "", f[1]}).want(t, 200)
	}
	if info := w.get(ann, "/object_info/LoadImageSetFromFolderNode").body; !strings.Contains(info, `["faces","faces/10_ann","faces2"]`) || strings.Contains(info, "gw") {
		t.Errorf("offered %s", info)
	}
	send := func(u cluster.User, folder string) answer {
		return w.post(u, "/prompt", `{"prompt_id":"p","prompt":{"1":{"class_type":"LoadImageSetFromFolderNode","inputs":{"folder":`+quoted(folder)+`}},"9":{"class_type":"SaveImage","inputs":{"images":["1",0],"filename_prefix":"x"}}}}`)
	}
	send(ann, "faces").want(t, 200)
	var got []string
	for _, in := range w.job(ann, "p").Inputs {
		got = append(got, in.Value+"="+in.Name)
	}
	if d := cmp.Diff([]string{"faces/10_ann/1.txt=1.txt", "faces/1.png=1.png"}, got); d != "" {
		t.Error(d)
	}
	for _, other := range []string{"gw", "gw/of_somebody_else", ".", "..", "", "fac", "faces/../faces"} {
		if p := send(ann, other).want(t, 400).problem(t); !strings.Contains(string(p.NodeErrors["1"]), "no folder of yours") || strings.Count(string(p.NodeErrors["1"]), "of_somebody_else") > strings.Count(other, "of_somebody_else")*2 {
			t.Errorf("%q: %s", other, p.NodeErrors["1"])
		}
	}
	send(bob, "faces").want(t, 400)
	// Nor does a refusal tell what others have.
	for _, input := range []string{`"image":"nowhere.png"`, ``} {
		raw := w.post(bob, "/prompt", `{"prompt":{"1":{"class_type":"LoadImage","inputs":{`+input+`}},"9":{"class_type":"SaveImage","inputs":{"images":["1",0],"filename_prefix":"x"}}}}`).want(t, 400).body
		if strings.Contains(raw, "of_somebody_else") || !strings.Contains(raw, "input_config") {
			t.Errorf("refused with %s", raw)
		}
	}
}

// What a prompt carries into its row: the files it names, its title, its place in front.
func TestWhatARowHolds(t *testing.T) {
	w := open(t, options{visited: true})
	w.upload(ann, "/upload/image", part{"image", "a b.png", "A"}).want(t, 200)
	w.upload(ann, "/upload/image", part{"image", "c.png", "C"}, part{"subfolder", "", "sub"}).want(t, 200)
	w.upload(ann, "/upload/image", part{"image", "t.png", "T"}, part{"type", "", "temp"}).want(t, 200)
	prompt := `{"1":{"class_type":"LoadImage","inputs":{"image":"a b.png"}},"2":{"class_type":"LoadImage","inputs":{"image":"sub/c.png [input]"}},"3":{"class_type":"LoadImage","inputs":{"image":"t.png [temp]"}},` +
		`"9":{"class_type":"SaveImage","inputs":{"images":["1",0],"filename_prefix":"a b"}},"10":{"class_type":"SaveImage","inputs":{"images":["2",0],"filename_prefix":"x"}},"11":{"class_type":"SaveImage","inputs":{"images":["3",0],"filename_prefix":"x"}}}`
	w.post(ann, "/prompt", `{"prompt_id":"p","prompt":`+prompt+`,"extra_data":{"extra_pnginfo":{"workflow":{"id":"wf"}}}}`).want(t, 200)
	j := w.job(ann, "p")
	var got []string
	for _, in := range j.Inputs {
		got = append(got, fmt.Sprintf("%s = %s %d", in.Value, in.Name, in.Size))
	}
	slices.Sort(got)
	if d := cmp.Diff([]string{"a b.png = a b.png 1", "sub/c.png [input] = c.png 1", "t.png [temp] = t.png 1"}, got); d != "" || j.WorkflowID != "wf" || j.Title == "" {
		t.Errorf("%s; workflow %q title %q", d, j.WorkflowID, j.Title)
	}
	w.submit(ann, "c", "later")
	w.post(ann, "/prompt", `{"front":true,"prompt_id":"first","prompt":`+graph("first")+`}`).want(t, 200)
	var q struct {
		Pending [][]json.RawMessage `json:"queue_pending"`
	}
	w.get(ann, "/queue").want(t, 200).json(t, &q)
	slices.SortFunc(q.Pending, func(a, b []json.RawMessage) int { return strings.Compare(string(a[0]), string(b[0])) })
	var order []string
	for _, item := range q.Pending {
		order = append(order, string(item[1]))
	}
	if d := cmp.Diff([]string{`"first"`, `"p"`, `"later"`}, order); d != "" {
		t.Errorf("queue: %s", d)
	}
	// An old class that the workers replace themselves is theirs to judge.
	w.post(ann, "/prompt", `{"prompt_id":"old","prompt":{"1":{"class_type":"OldName","inputs":{}},"9":{"class_type":"SaveImage","inputs":{"images":["1",0],"filename_prefix":"x"}}}}`).want(t, 200)
	if classes := w.job(ann, "old").Classes; slices.Contains(classes, "OldName") {
		t.Errorf("no worker will ever have %v", classes)
	}
}

// Tokens are echoed nowhere and stored nowhere.
func TestTokensAreNotEchoed(t *testing.T) {
	w := open(t, options{visited: true})
	w.post(ann, "/prompt", `{"prompt_id":"p","client_id":"c","prompt":`+graph("x")+`,"extra_data":{"auth_token_comfy_org":"hush-1","api_key_comfy_org":"hush-2","extra_pnginfo":{}}}`).want(t, 200)
	tokens, ok := w.gw.Secrets(t.Context(), jobs.ID{User: ann, Prompt: "p"})
	if !ok || tokens["auth_token_comfy_org"] != "hush-1" || tokens["api_key_comfy_org"] != "hush-2" {
		t.Errorf("the worker gets %v", tokens)
	}
	seen := w.get(ann, "/queue").body + w.get(ann, "/api/jobs").body + w.get(ann, "/api/jobs/p").body
	s := w.assign(ann, "p").begin()
	seen += w.get(ann, "/queue").body + w.get(ann, "/api/jobs/p").body
	s.done("a.png")
	seen += w.get(ann, "/history").body + w.get(ann, "/api/jobs/p").body + w.logged.String()
	w.machine.Jobs(func(tab *jobs.Table) {
		raw, err := cluster.Marshal(tab.Snapshot())
		if err != nil {
			t.Error(err)
		}
		seen += string(raw)
	})
	if strings.Contains(seen, "hush") {
		t.Error("a token is told")
	}
}
