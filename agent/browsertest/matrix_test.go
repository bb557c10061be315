package browsertest_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ahelme/comfyume/agent/browsertest"
	"github.com/ahelme/comfyume/agent/doortest"
)

// frontends are the builds that the door must serve: the default, one of the first that ask for /jobs, and a recent one.
var frontends = []string{"1.37.11", "1.45.21", "1.58.1"}

// slowGraph takes a few seconds in sketch, with progress and a preview at each step.
const slowGraph = `{"last_node_id":3,"last_link_id":2,"nodes":[
{"id":1,"type":"EmptyImage","pos":[50,100],"size":[270,130],"flags":{},"order":0,"mode":0,"inputs":[],
 "outputs":[{"name":"IMAGE","type":"IMAGE","links":[1],"slot_index":0}],
 "properties":{"Node name for S&R":"EmptyImage"},"widgets_values":[96,64,1,3368652]},
{"id":2,"type":"SketchSlow","pos":[380,100],"size":[270,150],"flags":{},"order":1,"mode":0,
 "inputs":[{"name":"image","type":"IMAGE","link":1}],
 "outputs":[{"name":"IMAGE","type":"IMAGE","links":[2],"slot_index":0}],
 "properties":{"Node name for S&R":"SketchSlow"},"widgets_values":[6,24,%d,"fixed"]},
{"id":3,"type":"SaveImage","pos":[700,100],"size":[300,300],"flags":{},"order":2,"mode":0,
 "inputs":[{"name":"images","type":"IMAGE","link":2}],"outputs":[],
 "properties":{"Node name for S&R":"SaveImage"},"widgets_values":["door"]}],
"links":[[1,1,0,2,0,"IMAGE"],[2,2,0,3,0,"IMAGE"]],"groups":[],"config":{},"extra":{},"version":0.4}`

// visit opens the door as one user, at their prefix or at the root, where the landing page's link signs in.
func visit(t *testing.T, a *doortest.Agent, user, mode, version, profile string) *browsertest.Page {
	t.Helper()
	address := a.URL + "/"
	if mode == "prefix" {
		address += user + "/"
	}
	p := browsertest.Open(t, browsertest.Options{
		URL: address, User: user, Password: a.Client(user).Pass, FrontendLabel: version + " " + mode, ProfileDir: profile,
	})
	if mode == "root" {
		p.Click("sign in")
		p.WaitText("Password")
		p.FillSignIn()
		p.WaitAppReady()
		p.Goto(a.URL + "/")
	}
	p.WaitAppReady()
	return p
}

// judge compares what the visit complained about with the same frontend's visit to a real ComfyUI.
func judge(t *testing.T, p *browsertest.Page, version string) int {
	t.Helper()
	b, err := browsertest.ReadBaseline(filepath.Join("..", "testdata", "baseline", version+".json"))
	if err != nil {
		t.Fatal(err)
	}
	excess := b.Excess(p.Failures(), p.ConsoleErrors())
	for _, e := range excess {
		t.Error(e)
	}
	return len(excess)
}

// keep takes a screenshot when somebody wants to look at one.
func keep(p *browsertest.Page, name string) {
	if dir := os.Getenv("COMFYUME_SCREENSHOTS"); dir != "" {
		p.Screenshot(filepath.Join(dir, name+".png"))
	}
}

// The stock frontend, unchanged, from signing in to the picture and back after a reload: nothing fails that does not fail on
// a real ComfyUI too.
func TestDoorServesTheStockFrontend(t *testing.T) {
	browsertest.Require(t)
	for _, version := range frontends {
		t.Run(version, func(t *testing.T) {
			a := doortest.Start(t, doortest.Options{Args: []string{"--frontend-version", version}})
			for i, mode := range []string{"prefix", "root"} {
				t.Run(mode, func(t *testing.T) {
					user := fmt.Sprintf("user%03d", i+1)
					p := visit(t, a, user, mode, version, "")
					work(t, p, version+"-"+mode)
					excess := judge(t, p, version)
					frames := p.Frames()
					fmt.Printf("browser frontend=%s mode=%s excess=%d requests=%d frames=%d previews=%d\n",
						version, mode, excess, len(p.Requests()), frames.Received, frames.Binary)
				})
			}
		})
	}
}

// work runs a slow workflow with the frontend's button, watches it, and finds its picture again after a reload.
func work(t *testing.T, p *browsertest.Page, label string) {
	t.Helper()
	p.CloseDialogs()
	keep(p, label+"-1-first-visit")
	p.LoadGraph(fmt.Sprintf(slowGraph, len(label)))
	p.WaitQuiet()
	p.QueueByButton()
	p.WaitPreview("2")
	keep(p, label+"-2-running")
	if w, h := p.WaitExecutedImage("3"); w != 96 || h != 64 {
		t.Errorf("the picture on the node is %dx%d, want 96x64", w, h)
	}
	p.WaitQuiet()
	keep(p, label+"-3-done")
	frames := p.Frames()
	if frames.Types["progress"]+frames.Types["progress_state"] < 5 || frames.Binary < 2 {
		t.Errorf("progress and previews are missing: %+v", frames)
	}
	if frames.Types["execution_success"] != 1 {
		t.Errorf("execution_success came %d times", frames.Types["execution_success"])
	}
	p.SaveWorkflow("my take 1")
	p.Reload()
	p.WaitAppReady()
	p.WaitAssetImage("door")
	keep(p, label+"-4-history-after-reload")
	p.OpenWorkflow("my take 1.json")
	if n := len(p.Nodes()); n != 3 {
		t.Errorf("the saved workflow has %d nodes, want 3", n)
	}
	p.ShowTemplates()
	p.WaitQuiet()
	keep(p, label+"-5-templates")
	p.CloseDialogs()
	p.WaitQuiet()
}

// The default workflow opens on each person's first visit and only then, in a fresh browser and in one that somebody else
// used before.
func TestDefaultWorkflowOpensOnTheFirstVisitOnly(t *testing.T) {
	browsertest.Require(t)
	dir := t.TempDir()
	for name, graph := range map[string]string{"first_steps": coreGraph(1), "second_thoughts": coreGraph(2)} {
		if err := os.WriteFile(filepath.Join(dir, name+".json"), []byte(graph), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, version := range frontends {
		t.Run(version, func(t *testing.T) {
			a := doortest.Start(t, doortest.Options{Args: []string{"--frontend-version", version, "--templates", dir, "--default-template", "first_steps"}})
			shared := t.TempDir() // one browser profile, two people
			t.Run("fresh browser", func(t *testing.T) {
				p := visit(t, a, "user001", "prefix", version, shared)
				mustShow(t, p, "workflows/first_steps.json", 3)
				keep(p, version+"-default-fresh")
				p.Reload()
				p.WaitAppReady()
				mustShow(t, p, "workflows/first_steps.json", 3)
				judge(t, p, version)
				p.LoadGraph(oneNode) // the browser remembers this one for whoever comes next
				p.WaitQuiet()
			})
			t.Run("used browser", func(t *testing.T) {
				// Their own address leads to the sign-in page: somebody else is signed in there.
				p := visit(t, a, "user002", "prefix", version, shared)
				// The browser was told to forget the other person's tabs.
				mustShow(t, p, "workflows/first_steps.json", 3)
				judge(t, p, version)
				keep(p, version+"-default-used")
			})
			t.Run("second visit", func(t *testing.T) {
				p := visit(t, a, "user001", "prefix", version, "")
				if w := p.ActiveWorkflow(); w.Path == "workflows/first_steps.json" {
					t.Errorf("the default workflow opened again: %+v", w)
				}
			})
		})
	}
}

const oneNode = `{"last_node_id":1,"last_link_id":0,"nodes":[
{"id":1,"type":"EmptyImage","pos":[50,100],"size":[270,130],"flags":{},"order":0,"mode":0,"inputs":[],
 "outputs":[{"name":"IMAGE","type":"IMAGE","links":[],"slot_index":0}],
 "properties":{"Node name for S&R":"EmptyImage"},"widgets_values":[8,8,1,0]}],
"links":[],"groups":[],"config":{},"extra":{},"version":0.4}`

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
	for end := time.Now().Add(30 * time.Second); !show(); {
		if time.Now().After(end) {
			t.Fatalf("in front is %+v with %d nodes, want %s with %d, unmodified; covered by: %.200s", w, n, path, nodes, covered)
		}
		<-time.After(100 * time.Millisecond)
	}
}
