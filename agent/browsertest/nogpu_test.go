package browsertest_test

import (
	"strings"
	"testing"
	"time"

	"github.com/ahelme/comfyume/agent/doortest"
)

// A workshop whose first GPU machine has not come yet: the page opens the default
// workflow with its widgets, saves, queues, and says on the node what it waits for.
func TestPageWithoutAnyGPU(t *testing.T) {
	t.Parallel()
	a := start(t, usual, "--roles=queue,gateway", "--default-template=first_picture")
	p := visit(t, a, "user001", "prefix", usual, nil)
	doortest.Until(t, 30*time.Second, "the default workflow is in front", func() bool { return len(p.Nodes()) == 5 })
	p.CloseDialogs()
	widgets := p.Text(`JSON.stringify(((window.app.rootGraph || window.app.graph).nodes || []).map(n => [n.type, !!n.has_errors, (n.widgets || []).map(w => w.name)]))`)
	for _, want := range []string{`["EmptyImage",false,["width","height","batch_size","color"`, `["SaveImage",false,["filename_prefix"`} {
		if !strings.Contains(widgets, want) {
			t.Errorf("the page's nodes are %s without %s", widgets, want)
		}
	}
	p.QueueByButton()
	p.WaitText("starts when a GPU machine joins")
	keep(p, "no-gpu")
	var q struct {
		Pending [][]any `json:"queue_pending"`
	}
	a.Client("user001").JSON(t, "GET", "/queue", nil, &q)
	if len(q.Pending) != 1 {
		t.Errorf("%d jobs wait", len(q.Pending))
	}
	p.LoadGraph(slowGraph(6, 24, 7, "fixed"))
	p.WaitQuiet()
	p.SaveWorkflow("before the GPU")
	if code, _, raw, err := a.Client("user001").Do("GET", "/userdata/workflows%2Fbefore%20the%20GPU.json", nil); err != nil || code != 200 || !strings.Contains(string(raw), `[96,64,1,3368652]`) {
		t.Errorf("the saved workflow: %d, %v: %.200s", code, err, raw)
	}
	judge(t, p, usual)
}
