package browsertest_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ahelme/comfyume/agent/browsertest"
	"github.com/ahelme/comfyume/agent/doortest"
)

// slowGraph takes the given seconds in sketch, with progress and a preview at each step.
func slowGraph(seconds float64, steps, seed int, after string) string {
	return fmt.Sprintf(`{"last_node_id":3,"last_link_id":2,"nodes":[
{"id":1,"type":"EmptyImage","pos":[50,100],"size":[270,130],"flags":{},"order":0,"mode":0,"inputs":[],
 "outputs":[{"name":"IMAGE","type":"IMAGE","links":[1],"slot_index":0}],
 "properties":{"Node name for S&R":"EmptyImage"},"widgets_values":[96,64,1,3368652]},
{"id":2,"type":"SketchSlow","pos":[380,100],"size":[270,150],"flags":{},"order":1,"mode":0,
 "inputs":[{"name":"image","type":"IMAGE","link":1}],
 "outputs":[{"name":"IMAGE","type":"IMAGE","links":[2],"slot_index":0}],
 "properties":{"Node name for S&R":"SketchSlow"},"widgets_values":[%v,%d,%d,%q]},
{"id":3,"type":"SaveImage","pos":[700,100],"size":[300,300],"flags":{},"order":2,"mode":0,
 "inputs":[{"name":"images","type":"IMAGE","link":2}],"outputs":[],
 "properties":{"Node name for S&R":"SaveImage"},"widgets_values":["door"]}],
"links":[[1,1,0,2,0,"IMAGE"],[2,2,0,3,0,"IMAGE"]],"groups":[],"config":{},"extra":{},"version":0.4}`, seconds, steps, seed, after)
}

// failGraph raises an exception in its second node.
var failGraph = strings.NewReplacer("SketchSlow", "SketchFail", `[1,4,9,"fixed"]`, `["raise"]`).Replace(slowGraph(1, 4, 9, "fixed"))

// TestMatrix is a participant's day in each frontend, unchanged: nothing fails that does not fail on a real ComfyUI too, in
// no version, neither at /user001/ nor at the root. The whole tour runs at one of the two and a short one at the other; which
// is which changes from version to version.
//
//	whole    user001, fresh browser   first visit, edit, run, save, reload mid-job, cancel, batch, upload, errors, rename, delete, history
//	short    user002, same browser    a clean page although somebody worked there, run, reload
//	second   user001, other browser   full of what the same frontend keeps on a real ComfyUI, in another version
func TestMatrix(t *testing.T) {
	browsertest.Require(t)
	dir := t.TempDir()
	for name, graph := range map[string]string{"first_steps": coreGraph(1), "second_thoughts": coreGraph(2)} {
		if err := os.WriteFile(filepath.Join(dir, name+".json"), []byte(graph), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for i, version := range frontends {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			a := start(t, version, "--templates", dir, "--default-template", "first_steps")
			first, second := "prefix", "root"
			if i%2 == 1 {
				first, second = second, first
			}
			b := browsertest.NewBrowser(t)
			t.Run("first at "+first, func(t *testing.T) {
				p := visit(t, a, "user001", first, version, b)
				wholeTour(t, p, a.Client("user001"), version)
				tell(t, p, version, first, "whole")
			})
			t.Run("short at "+second, func(t *testing.T) {
				// At a prefix, their own address leads to the sign-in page: somebody else is signed in there.
				p := visit(t, a, "user002", second, version, b)
				shortTour(t, p, version)
				tell(t, p, version, second, "short")
			})
			t.Run("second browser at "+second, func(t *testing.T) {
				p := dirtyVisit(t, a, second, version, frontends[(i+1)%2])
				secondBrowser(t, p, version)
				tell(t, p, version, second, "second")
			})
		})
	}
}

// tell judges the visit and prints its line.
func tell(t *testing.T, p *browsertest.Page, version, mode, tour string) {
	t.Helper()
	excess := judge(t, p, version)
	frames := p.Frames()
	fmt.Printf("browser frontend=%s mode=%s tour=%s excess=%d requests=%d frames=%d previews=%d\n",
		version, mode, tour, excess, len(p.Requests()), frames.Received, frames.Binary)
}

// firstVisit checks that the default workflow is in front, and nothing over it. Frontend 1.27 cannot open one by its address:
// it shows its own dialog with the workshop's templates.
func firstVisit(t *testing.T, p *browsertest.Page, version string) {
	t.Helper()
	if version == "1.27.10" {
		p.WaitText("second thoughts")
		p.CloseDialogs()
		return
	}
	mustShow(t, p, "workflows/first_steps.json", 3)
}

// run queues what is open with the frontend's own button and waits for its picture.
func run(t *testing.T, p *browsertest.Page, label string) {
	t.Helper()
	before := p.Frames()
	p.QueueByButton()
	p.WaitPreview("2")
	keep(p, label+"-running")
	if w, h := p.WaitExecutedImage("3"); w != 96 || h != 64 {
		t.Errorf("the picture on the node is %dx%d, want 96x64", w, h)
	}
	p.WaitFrame("execution_success", before.Types["execution_success"]+1)
	now := p.Frames()
	if n := now.Types["progress"] + now.Types["progress_state"]; n < 5 || now.Binary < before.Binary+2 {
		t.Errorf("progress and previews are missing: %+v", now)
	}
}

func wholeTour(t *testing.T, p *browsertest.Page, c *doortest.Client, label string) {
	t.Helper()
	step := func(name string, f func(t *testing.T, p *browsertest.Page)) {
		if !t.Run(name, func(t *testing.T) { f(t, p.In(t)) }) {
			t.FailNow() // the next step begins where this one ends
		}
	}
	step("first visit", func(t *testing.T, p *browsertest.Page) {
		firstVisit(t, p, label)
		keep(p, label+"-1-first-visit")
	})
	step("edit and run", func(t *testing.T, p *browsertest.Page) {
		p.LoadGraph(slowGraph(4, 16, len(label), "fixed"))
		p.DragNode("1", -20, 60)
		run(t, p, label+"-2")
		keep(p, label+"-3-done")
	})
	step("save", func(t *testing.T, p *browsertest.Page) {
		p.SaveWorkflow("my take 1")
		if stored := userdata(t, c, "my take 1"); !strings.Contains(stored, "SketchSlow") {
			t.Errorf("stored is %.200s", stored)
		}
	})
	step("reload mid-job and cancel", func(t *testing.T, p *browsertest.Page) { reloadMidJob(t, p, c, label) })
	step("batch of random seeds", func(t *testing.T, p *browsertest.Page) { batch(t, p) })
	step("upload", func(t *testing.T, p *browsertest.Page) {
		p.LoadGraph(loadGraph)
		p.PasteImage("1", "pasted.png")
		doortest.Until(t, 20*time.Second, "the upload is there", func() bool {
			code, _, raw, err := c.Do("GET", "/view?type=input&filename=pasted.png", nil)
			return err == nil && code == 200 && strings.HasPrefix(string(raw), "\x89PNG")
		})
	})
	step("errors", func(t *testing.T, p *browsertest.Page) {
		refused(t, p)
		keep(p, label+"-5-refused")
		p.CloseDialogs()
		p.LoadGraph(failGraph)
		p.QueueByButton()
		p.WaitFrame("execution_error", 1)
		p.WaitDialog()
		p.WaitRed("2")
		keep(p, label+"-6-failed")
		p.CloseDialogs()
	})
	step("rename and delete", func(t *testing.T, p *browsertest.Page) {
		renameAndDelete(t, p)
		if code, _, _, err := c.Do("GET", "/userdata/workflows%2Frenamed.json", nil); err != nil || code != 404 {
			t.Errorf("the deleted workflow: %d, %v", code, err)
		}
		if stored := userdata(t, c, "my take 1"); !strings.Contains(stored, "SketchSlow") {
			t.Errorf("another workflow is now %.200s", stored)
		}
	})
	step("history and templates", func(t *testing.T, p *browsertest.Page) {
		p.WaitAssetImage("door")
		keep(p, label+"-7-history")
		p.ShowTemplates()
		p.WaitText("thoughts") // second_thoughts, or second thoughts in older versions
		p.WaitQuiet()
		keep(p, label+"-8-templates")
		p.CloseDialogs()
	})
}

// userdata is a stored workflow's text.
func userdata(t *testing.T, c *doortest.Client, name string) string {
	t.Helper()
	code, _, raw, err := c.Do("GET", "/userdata/workflows%2F"+strings.ReplaceAll(name, " ", "%20")+".json", nil)
	if err != nil || code != 200 {
		t.Errorf("the stored workflow %s: %d, %v", name, code, err)
	}
	return string(raw)
}

// reloadMidJob has a job run far too long, reloads the page, finds it running still, and cancels it there.
func reloadMidJob(t *testing.T, p *browsertest.Page, c *doortest.Client, label string) {
	t.Helper()
	p.LoadGraph(slowGraph(600, 1000, 2, "fixed"))
	p.WaitQuiet() // the draft is kept
	p.QueueByButton()
	p.WaitPreview("2")
	previews := p.Frames().Binary
	p.Reload()
	p.WaitAppReady()
	doortest.Until(t, 60*time.Second, "previews come again after the reload", func() bool { return p.Frames().Binary > previews+2 })
	p.WaitPreview("2")
	keep(p, label+"-4-after-reload-mid-job")
	interrupted := p.Frames().Types["execution_interrupted"]
	p.Interrupt()
	p.WaitFrame("execution_interrupted", interrupted+1)
	var history map[string]doortest.Entry
	c.JSON(t, "GET", "/history?max_items=1", nil, &history)
	for id, e := range history {
		if e.Status.Str != "error" {
			t.Errorf("the cancelled job %s is %+v", id, e.Status)
		}
	}
}

// batch queues four jobs with one click; the frontend gives each a seed of its own.
func batch(t *testing.T, p *browsertest.Page) {
	t.Helper()
	const n = 4
	p.LoadGraph(slowGraph(0.1, 1, 3, "randomize"))
	p.WaitQuiet()
	p.SetBatchCount(n)
	asked, done := len(p.Requests()), p.Frames().Types["execution_success"]
	p.QueueByButton()
	p.WaitFrame("execution_success", done+n)
	p.SetBatchCount(1)
	var seeds []string
	for _, r := range p.Requests()[asked:] {
		if r.Method != "POST" || r.Path != "/api/prompt" {
			continue
		}
		var sent struct {
			Prompt map[string]struct {
				Inputs map[string]json.RawMessage
			}
		}
		if err := json.Unmarshal([]byte(r.Body), &sent); err != nil {
			t.Fatalf("a prompt cannot be read: %v", err)
		}
		seeds = append(seeds, string(sent.Prompt["2"].Inputs["seed"]))
	}
	slices.Sort(seeds)
	if len(seeds) != n || len(slices.Compact(slices.Clone(seeds))) != n || seeds[0] == "" {
		t.Errorf("the batch was sent with seeds %q, want %d different ones", seeds, n)
	}
}

// shortTour finds a page without a trace of who used the browser before.
func shortTour(t *testing.T, p *browsertest.Page, label string) {
	t.Helper()
	firstVisit(t, p, label)
	keep(p, label+"-9-second-person")
	if strings.Contains(p.Text(stored), "SketchSlow") {
		t.Error("the second person's browser holds the first one's work")
	}
	p.LoadGraph(slowGraph(2, 12, len(label), "fixed"))
	run(t, p, label+"-9")
	p.Reload()
	p.WaitAppReady()
	p.WaitAssetImage("door")
}

// leftBy is what a version kept in its browser after the tour on a real ComfyUI.
func leftBy(version string) string {
	return filepath.Join("..", "testdata", "storage", version+".json")
}

// dirtyVisit opens user001's ComfyUI in a browser in which another version on a real ComfyUI was used at the same address.
func dirtyVisit(t *testing.T, a *doortest.Agent, mode, version, other string) *browsertest.Page {
	t.Helper()
	left, err := os.ReadFile(leftBy(other))
	if err != nil {
		t.Fatal(err)
	}
	b := browsertest.NewBrowser(t)
	p := browsertest.Open(t, browsertest.Options{URL: a.URL + "/robots.txt", FrontendLabel: version, Browser: b})
	p.Goto(a.URL + "/login")
	p.FillStorage(string(left))
	return visit(t, a, "user001", mode, version, b)
}

// secondBrowser finds what user001 did in the other one.
func secondBrowser(t *testing.T, p *browsertest.Page, label string) {
	t.Helper()
	keep(p, label+"-10-second-browser")
	p.CloseDialogs()
	p.WaitAssetImage("door")
	p.OpenWorkflow("my take 1.json")
	if n := len(p.Nodes()); n != 3 {
		t.Errorf("the saved workflow has %d nodes, want 3", n)
	}
}

// mustShow awaits what has to be in front, unmodified, and that nothing covers it: the page opens a template after it is
// ready, and a busy machine takes its time.
func mustShow(t *testing.T, p *browsertest.Page, path string, nodes int) {
	t.Helper()
	var w browsertest.Workflow
	var n int
	var covered string
	show := func() bool {
		w, n, covered = p.ActiveWorkflow(), len(p.Nodes()), p.DialogText()
		return w.Path == path && n == nodes && !w.Modified && covered == ""
	}
	for end := time.Now().Add(2 * time.Minute); !show(); {
		if time.Now().After(end) {
			t.Fatalf("in front is %+v with %d nodes, want %s with %d, unmodified; covered by: %.200s", w, n, path, nodes, covered)
		}
		<-time.After(100 * time.Millisecond)
	}
}
