package browsertest_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/ahelme/comfyume/agent/browsertest"
)

// coreGraph is a workflow of core image nodes that every ComfyUI can run; the seed makes each run a new one, so that no
// cached result answers for it.
func coreGraph(seed int) string {
	return fmt.Sprintf(`{"last_node_id":3,"last_link_id":2,"nodes":[
{"id":1,"type":"EmptyImage","pos":[50,100],"size":[270,130],"flags":{},"order":0,"mode":0,"inputs":[],
 "outputs":[{"name":"IMAGE","type":"IMAGE","links":[1],"slot_index":0}],
 "properties":{"Node name for S&R":"EmptyImage"},"widgets_values":[64,64,1,%d]},
{"id":2,"type":"ImageInvert","pos":[380,100],"size":[200,26],"flags":{},"order":1,"mode":0,
 "inputs":[{"name":"image","type":"IMAGE","link":1}],
 "outputs":[{"name":"IMAGE","type":"IMAGE","links":[2],"slot_index":0}],
 "properties":{"Node name for S&R":"ImageInvert"},"widgets_values":[]},
{"id":3,"type":"SaveImage","pos":[640,100],"size":[300,300],"flags":{},"order":2,"mode":0,
 "inputs":[{"name":"images","type":"IMAGE","link":2}],"outputs":[],
 "properties":{"Node name for S&R":"SaveImage"},"widgets_values":["tour"]}],
"links":[[1,1,0,2,0,"IMAGE"],[2,2,0,3,0,"IMAGE"]],"groups":[],"config":{},"extra":{},"version":0.4}`, seed)
}

// loadGraph shows a picture of the input folder.
const loadGraph = `{"last_node_id":2,"last_link_id":1,"nodes":[
{"id":1,"type":"LoadImage","pos":[50,100],"size":[300,330],"flags":{},"order":0,"mode":0,"inputs":[],
 "outputs":[{"name":"IMAGE","type":"IMAGE","links":[1],"slot_index":0},{"name":"MASK","type":"MASK","links":[],"slot_index":1}],
 "properties":{"Node name for S&R":"LoadImage"},"widgets_values":["example.png","image"]},
{"id":2,"type":"SaveImage","pos":[400,100],"size":[300,300],"flags":{},"order":1,"mode":0,
 "inputs":[{"name":"images","type":"IMAGE","link":1}],"outputs":[],
 "properties":{"Node name for S&R":"SaveImage"},"widgets_values":["loaded"]}],
"links":[[1,1,0,2,0,"IMAGE"]],"groups":[],"config":{},"extra":{},"version":0.4}`

// brokenGraph lacks the link to its last node: every ComfyUI refuses it.
var brokenGraph = strings.NewReplacer(`"link":2}],"outputs":[]`, `"link":null}],"outputs":[]`, `,[2,2,0,3,0,"IMAGE"]`, "", `"links":[2]`, `"links":[]`).Replace(coreGraph(5))

// tour is what a participant does on a first visit, the same on a real ComfyUI and at the door: look, open, run, save,
// reload, open again, upload, be refused, rename, delete. Newer frontends show pictures only of a ComfyUI with jobs.
func tour(t *testing.T, p *browsertest.Page, saveAs string, jobs bool) {
	t.Helper()
	p.WaitAppReady()
	p.CloseDialogs()
	p.LoadGraph(coreGraph(0x3366cc))
	p.WaitQuiet()
	p.QueueByButton()
	if w, h := p.WaitExecutedImage("3"); w != 64 || h != 64 {
		t.Errorf("the image is %dx%d, want 64x64", w, h)
	}
	p.WaitQuiet()
	p.SaveWorkflow(saveAs)
	p.Reload()
	p.WaitAppReady()
	p.OpenWorkflow(saveAs + ".json")
	p.WaitQuiet()
	p.LoadGraph(loadGraph)
	p.PasteImage("1", "pasted.png")
	refused(t, p)
	p.CloseDialogs()
	renameAndDelete(t, p)
	if jobs {
		p.WaitAssetImage("tour")
	}
	p.ShowTemplates()
	p.WaitSettled()
	p.CloseDialogs()
}

// refused queues a workflow that cannot run: the frontend says so and marks the node.
func refused(t *testing.T, p *browsertest.Page) {
	t.Helper()
	p.LoadGraph(brokenGraph)
	p.WaitQuiet()
	p.QueueByButton()
	p.WaitDialog()
	p.WaitRed("3")
}

// renameAndDelete saves a workflow under one name, renames it, and deletes it.
func renameAndDelete(t *testing.T, p *browsertest.Page) {
	t.Helper()
	p.LoadGraph(coreGraph(6))
	p.SaveWorkflow("for a while")
	p.RenameWorkflow("renamed")
	if w := p.ActiveWorkflow(); w.Path != "workflows/renamed.json" {
		t.Errorf("in front is %+v after it was renamed", w)
	}
	p.DeleteWorkflow()
	if w := p.ActiveWorkflow(); w.Path == "workflows/renamed.json" {
		t.Errorf("in front is %+v after it was deleted", w)
	}
}
