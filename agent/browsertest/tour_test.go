package browsertest_test

import (
	"fmt"
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

// tour is what a participant does on a first visit, the same on a real ComfyUI and at the door: look, open, run, save,
// reload, open again.
func tour(t *testing.T, p *browsertest.Page, saveAs string) {
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
	p.ShowTemplates()
	p.WaitQuiet()
	p.CloseDialogs()
}
