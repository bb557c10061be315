package sketch_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/ahelme/comfyume/roles/comfy"
	"github.com/ahelme/comfyume/roles/sketch"
	"github.com/google/go-cmp/cmp"
)

func TestFailures(t *testing.T) {
	b := start(t, sketch.Config{})
	s := b.dial("me", nil)
	fail := func(mode string) string {
		return graph(empty("1", 4, 4, 255), `"5":{"class_type":"SketchFail","inputs":{"image":["1",0],"mode":"`+mode+`"}}`, save("9", "5"))
	}
	for _, c := range []struct{ mode, kind string }{{"raise", "RuntimeError"}, {"oom", "torch.OutOfMemoryError"}} {
		b.prompt("me", c.mode, fail(c.mode))
		events := b.follow(s, c.mode)
		var e comfy.ExecutionErrorData
		for _, ev := range events {
			if ev.Message.Type == comfy.TypeExecutionError {
				if err := ev.Message.Decode(&e); err != nil {
					t.Fatal(err)
				}
			}
		}
		if e.NodeID != "5" || e.NodeType != "SketchFail" || e.ExceptionType != c.kind || len(e.Traceback) == 0 || e.OutOfMemory() != (c.mode == "oom") {
			t.Errorf("%s: %+v", c.mode, e)
		}
		got := shape(events)
		if diff := cmp.Diff([]string{"execution_error", "status 0", "executing null"}, got[len(got)-3:]); diff != "" {
			t.Errorf("%s: %s", c.mode, diff)
		}
		h := b.wait(c.mode)
		if h.Status.StatusStr != comfy.HistoryError || h.Status.Completed || comfy.JobFromHistory(h, 1).Status != comfy.JobFailed {
			t.Errorf("%s: status %+v", c.mode, h.Status)
		}
	}
	// The server lives on, and the good node before the failure is cached.
	b.prompt("me", "after", graph(empty("1", 4, 4, 255), save("9", "1")))
	if got := only(shape(b.follow(s, "after")), "execution_cached"); got[0] != "execution_cached [1]" {
		t.Errorf("after a failure: %v", got)
	}
}

func TestPictureTooLargeIsOutOfMemory(t *testing.T) {
	b := start(t, sketch.Config{MaxPixels: 1000})
	b.prompt("", "big", graph(empty("1", 100, 100, 0), save("9", "1")))
	if m, ok := b.wait("big").Status.Message(comfy.TypeExecutionError); !ok || !strings.Contains(string(m.Data), "torch.OutOfMemoryError") {
		t.Errorf("message %s", m.Data)
	}
}

func TestInterruptStopsOnlyWhatItNames(t *testing.T) {
	b := start(t, sketch.Config{})
	s := b.dial("me", nil)
	slow := func(seed int) string {
		return graph(empty("1", 4, 4, 255), fmt.Sprintf(`"5":{"class_type":"SketchSlow","inputs":{"image":["1",0],"seconds":600,"steps":100000,"seed":%d}}`, seed), save("9", "5"))
	}
	if _, err := b.submit("me", "x", slow(0)); err == nil {
		t.Error("100000 steps were accepted")
	}
	long := strings.Replace(slow(1), "100000", "1000", 1)
	b.prompt("me", "long", long)
	b.prompt("me", "next", strings.Replace(slow(2), "100000", "1000", 1))
	for e := b.read(s); e.Message == nil || e.Message.Type != comfy.TypeProgress; e = b.read(s) {
	}
	if err := b.client.Interrupt(b.ctx(), "next"); err != nil { // waits, so it is not stopped
		t.Fatal(err)
	}
	q, err := b.client.Queue(b.ctx())
	if err != nil || !q.IsRunning("long") || !q.IsPending("next") {
		t.Fatalf("queue %s, %v", q.Encode(), err)
	}
	if err := b.client.DeleteQueued(b.ctx(), "next", "unknown", "long"); err != nil {
		t.Fatal(err)
	}
	if err := b.client.Interrupt(b.ctx(), "long"); err != nil {
		t.Fatal(err)
	}
	got := shape(b.follow(s, "long"))
	if diff := cmp.Diff([]string{"execution_interrupted", "status 0", "executing null"}, got[len(got)-3:]); diff != "" {
		t.Error(diff)
	}
	h := b.wait("long")
	if !h.Status.Interrupted() || h.Status.StatusStr != comfy.HistoryError || comfy.JobFromHistory(h, 1).Status != comfy.JobCancelled {
		t.Errorf("status %+v", h.Status)
	}
	if _, ok, err := b.client.History(b.ctx(), "next"); ok || err != nil {
		t.Errorf("a job that never ran is in history: %v", err)
	}
	// An interrupt without a name stops whatever runs.
	b.prompt("me", "other", strings.Replace(slow(3), "100000", "1000", 1))
	for e := b.read(s); e.Message == nil || e.Message.Type != comfy.TypeProgress; e = b.read(s) {
	}
	if code, _ := b.do(http.MethodPost, "/api/interrupt", ""); code != 200 {
		t.Errorf("an empty interrupt gave %d", code)
	}
	b.follow(s, "other")
}

func TestHangEndsWithTheServer(t *testing.T) {
	b := start(t, sketch.Config{})
	s := b.dial("me", nil)
	b.prompt("me", "h", graph(empty("1", 4, 4, 255), `"5":{"class_type":"SketchFail","inputs":{"image":["1",0],"mode":"hang"}}`, save("9", "5")))
	for e := b.read(s); e.Message == nil || !strings.Contains(string(e.Message.Data), `"node":"5"`); e = b.read(s) {
	}
	if err := b.client.Interrupt(b.ctx(), "h"); err != nil {
		t.Fatal(err)
	}
	if q, err := b.client.Queue(b.ctx()); err != nil || !q.IsRunning("h") {
		t.Errorf("the hanging job has gone: %s, %v", q.Encode(), err)
	}
	b.stop()
	if err := <-b.ended; err != nil {
		t.Error(err)
	}
	b.ended <- nil
	for {
		e, err := s.Read(b.ctx())
		if err != nil {
			break
		}
		if e.Message != nil && (e.Message.Ends() || e.Message.Terminal()) {
			t.Error("a server that ended told how its job ended")
		}
	}
}

func TestExitLooksLikeDeath(t *testing.T) {
	b := start(t, sketch.Config{})
	s := b.dial("me", nil)
	// The answer may be lost with the process, so it is not looked at.
	_, _ = b.submit("me", "x", graph(empty("1", 4, 4, 255), `"5":{"class_type":"SketchFail","inputs":{"image":["1",0],"mode":"exit"}}`, save("9", "5")))
	for {
		e, err := s.Read(b.ctx())
		if err != nil {
			break
		}
		if e.Message != nil && (e.Message.Ends() || e.Message.Terminal()) {
			t.Error("a process that died told how its job ended")
		}
	}
	if err := <-b.ended; !errors.Is(err, sketch.ErrExited) {
		t.Errorf("Run returned %v", err)
	}
	b.ended <- nil
	if _, err := b.client.SystemStats(b.ctx()); err == nil {
		t.Error("a dead server answers")
	}
}

func TestExitIsTheOwnersChoice(t *testing.T) {
	called := make(chan struct{})
	b := start(t, sketch.Config{Exit: func() { close(called) }})
	b.prompt("", "x", graph(empty("1", 4, 4, 255), `"5":{"class_type":"SketchFail","inputs":{"image":["1",0],"mode":"exit"}}`, save("9", "5")))
	select {
	case <-called:
	case <-b.ctx().Done():
		t.Error("Exit was not called")
	}
}
