package browsertest_test

import (
	"strings"
	"testing"
	"time"

	"github.com/ahelme/comfyume/agent/browsertest"
	"github.com/ahelme/comfyume/agent/doortest"
)

// The instructor opens the dashboard through the door, sees a job run without
// touching the page, and cancels it with its button.
func TestDashboardIsLiveAndCancels(t *testing.T) {
	t.Parallel()
	a := start(t, usual)
	p := browsertest.Open(t, browsertest.Options{URL: a.URL + "/admin/", User: "admin", Password: "secret-admin", FrontendLabel: "dashboard"})
	p.WaitText("Nodes")
	p.WaitText("alive")
	c := a.Client("user001")
	var accepted struct {
		PromptID string `json:"prompt_id"`
	}
	c.JSON(t, "POST", "/prompt", map[string]any{"prompt": doortest.Slow(7, 16, 60, 60), "client_id": "c"}, &accepted)
	p.WaitText("SketchSlow")
	p.WaitText("node 2") // its progress came over the feed
	keep(p, "dashboard-1-running")
	p.Click("^Cancel$")
	p.WaitText("Cancel user001's job?")
	keep(p, "dashboard-2-asks")
	p.Click("^Cancel user001's job$")
	p.WaitText("cancelled job user001/" + accepted.PromptID) // the audit line
	keep(p, "dashboard-3-cancelled")
	doortest.Until(t, 20*time.Second, "the job's history says that it ended", func() bool {
		var history map[string]doortest.Entry
		c.JSON(t, "GET", "/history/"+accepted.PromptID, nil, &history)
		return history[accepted.PromptID].Status.Str == "error"
	})
	if bad := append(p.ConsoleErrors(), failures(p)...); len(bad) > 0 {
		t.Errorf("the page complains: %q", bad)
	}
}

// The instructor pauses with a reason, moves a job, cancels one and queues it
// again, drains the machine and lets it all go on: each by its button.
func TestDashboardSteers(t *testing.T) {
	t.Parallel()
	a := start(t, usual)
	p := browsertest.Open(t, browsertest.Options{URL: a.URL + "/admin/", User: "admin", Password: "secret-admin", FrontendLabel: "dashboard"})
	queue := func(user string, color int) {
		var accepted struct {
			PromptID string `json:"prompt_id"`
		}
		a.Client(user).JSON(t, "POST", "/prompt", map[string]any{"prompt": doortest.Slow(color, 16, 60, 60), "client_id": "c"}, &accepted)
	}
	queue("user001", 8)
	p.WaitText("node 2")
	queue("user002", 9)
	p.WaitText("To front")

	p.Click("^Pause queue$")
	p.WaitText("Jobs are still accepted and wait.")
	p.Text(`document.activeElement.value = "lunch until 13:00"`)
	keep(p, "dashboard-4-pause")
	p.Click("^Pause the queue$")
	p.WaitText("Resume queue")
	p.WaitText("paused all: lunch until 13:00") // the audit line
	p.WaitText("the queue is paused")           // why user002's job waits
	p.Click("^To front$")
	p.WaitText("At the front: user002's")
	p.Click("^Cancel$")
	p.WaitText("Cancel user001's job?")
	p.Click("^Cancel user001's job$")
	p.WaitText("Retry")
	press := func(button string) { p.Text(`document.querySelector("` + button + `").click(), ""`) } // wherever the page stands
	press("#recent button")
	p.WaitText("Queued again: user001's")
	press("#nodes button")
	p.WaitText("What runs there goes on to its end.")
	press("#ask-yes")
	p.WaitText("End drain")
	press("#nodes button")
	p.WaitText("gets jobs again")
	p.Click("^Resume queue$")
	p.WaitText("Goes on: the queue.")
	p.WaitText("node 2") // a job runs again
	keep(p, "dashboard-5-goes-on")
	if bad := append(p.ConsoleErrors(), failures(p)...); len(bad) > 0 {
		t.Errorf("the page complains: %q", bad)
	}
}

func failures(p *browsertest.Page) (out []string) {
	for _, f := range p.Failures() {
		out = append(out, f.Method+" "+f.Path)
	}
	return out
}

// Somebody says that it does not work: the instructor presses Errors, or types
// the id that their dialog shows, and reads what happened and what to do.
func TestDashboardSaysWhatWentWrong(t *testing.T) {
	t.Parallel()
	a := start(t, usual)
	c := a.Client("user001")
	refused := func(graph string) string {
		status, _, answer, err := c.Do("POST", "/prompt", []byte(`{"client_id":"c","prompt":`+graph+`}`))
		if err != nil || status != 400 {
			t.Fatalf("%d %v", status, err)
		}
		_, id, _ := strings.Cut(string(answer), "Error id ")
		return id[:min(8, len(id))]
	}
	id := refused(`{"1":{"class_type":"KSampler","inputs":{}}}`)
	if len(id) != 8 {
		t.Fatalf("the dialog shows no id: %q", id)
	}
	p := browsertest.Open(t, browsertest.Options{URL: a.URL + "/admin/", User: "admin", Password: "secret-admin", FrontendLabel: "dashboard"})
	p.WaitText("alive")
	p.Click("^Errors$")
	p.WaitText("What went wrong for user001")
	p.WaitText("Cannot execute because node KSampler does not exist.")
	p.WaitText("install its pack there")
	p.WaitText(id)
	refused(`{}`)
	p.WaitText("The workflow is empty") // it came by itself
	keep(p, "dashboard-6-errors")
	p.Click("^Close$")
	p.Text(`document.querySelector("#find-of").value = "` + id + `", document.querySelector("#find").requestSubmit(), ""`)
	p.WaitText("What went wrong for " + id)
	keep(p, "dashboard-7-error-id")
	if bad := append(p.ConsoleErrors(), failures(p)...); len(bad) > 0 {
		t.Errorf("the page complains: %q", bad)
	}
}
