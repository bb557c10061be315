package gpu_test

import (
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/files"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/roles/comfy"
	"github.com/ahelme/comfyume/roles/gpu"
)

func TestShortReadIsReadAgain(t *testing.T) {
	s := newScripted(t)
	reads := make(chan struct{}, 10)
	s.view = func(w http.ResponseWriter, r *http.Request) {
		reads <- struct{}{}
		if !strings.HasPrefix(r.URL.Query().Get("subfolder"), "gw/") {
			t.Errorf("asked for %s", r.URL)
		}
		w.Header().Set("Content-Length", "7")
		if len(reads) == 1 {
			io.WriteString(w, "pic")
			panic(http.ErrAbortHandler)
		}
		io.WriteString(w, "picture")
	}
	s.prompt = func(w http.ResponseWriter, id string) {
		s.accept(w, id)
		s.keep(id, bareEntry)
		s.say(id, sayStart, sayCached, sayRuns, sayPicture, saySuccess, sayOver)
	}
	b := newBench(t, s.url, nil)
	row := b.ends(b.submit("p-1", thing, nil))
	if row.State != jobs.Done || string(b.output(files.Output, "", "a_00001_.png")) != "picture" || len(reads) != 2 {
		t.Errorf("row %s after %d reads", row.State, len(reads))
	}
}

func TestResultThatIsGoneIsMadeAgain(t *testing.T) {
	s := newScripted(t)
	s.view = func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "404", http.StatusNotFound) }
	s.prompt = func(w http.ResponseWriter, id string) {
		s.accept(w, id)
		s.keep(id, bareEntry)
		s.say(id, sayStart, sayCached, sayPicture, saySuccess, sayOver)
	}
	b := newBench(t, s.url, nil)
	row := b.ends(b.submit("p-1", thing, nil))
	if row.State != jobs.Failed || row.Strikes != 3 || row.Failure.Type != "worker_lost" {
		t.Errorf("row %s %+v", row.State, row.Failure)
	}
}

func TestJobThatEndsWhileTheSocketIsDown(t *testing.T) {
	s := newScripted(t)
	s.view = viewing("picture")
	s.prompt = func(w http.ResponseWriter, id string) {
		s.accept(w, id)
		s.say(id, sayStart, sayCached)
		s.keep(id, bareEntry)
		s.cut()
	}
	b := newBench(t, s.url, nil)
	id := b.submit("p-1", thing, nil)
	row := b.ends(id)
	if row.State != jobs.Done || row.Strikes != 0 || row.Outputs != 1 {
		t.Fatalf("row %+v; verbs %v", row, b.queue.said())
	}
	if got := b.queue.types(id); !slices.Contains(got, "executed") {
		t.Errorf("published %v: the picture was never shown", got)
	}
}

func TestLostConnectionIsNotALostJob(t *testing.T) {
	s := newScripted(t)
	s.view = viewing("picture")
	s.prompt = func(w http.ResponseWriter, id string) {
		s.accept(w, id)
		s.mu.Lock()
		s.queue = `{"queue_running":[[0,"` + id + `",{},{},[]]],"queue_pending":[]}`
		dials := s.dials
		s.mu.Unlock()
		s.cut() // before it began: the start is missed
		go func() {
			waitFor(t, "another connection", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.dials > dials })
			s.keep(id, bareEntry)
			s.mu.Lock()
			s.queue = `{"queue_running":[],"queue_pending":[]}`
			s.mu.Unlock()
			s.say(id, sayRuns, sayPicture, saySuccess, sayOver)
		}()
	}
	b := newBench(t, s.url, nil)
	id := b.submit("p-1", thing, nil)
	row := b.ends(id)
	if row.State != jobs.Done || row.Strikes != 0 {
		t.Fatalf("row %+v; verbs %v", row, b.queue.said())
	}
	if got := b.queue.types(id); got[0] != comfy.TypeExecutionStart {
		t.Errorf("published %v", got)
	}
}

func TestPromptThatNeverBeginsIsPutBack(t *testing.T) {
	s := newScripted(t)
	s.prompt = s.accept
	b := newBench(t, s.url, func(c *gpu.Config) {
		c.Patience.Start, c.Patience.Silence = 30*time.Millisecond, 10*time.Millisecond
	})
	id := b.submit("p-1", thing, nil)
	row := b.ends(id)
	if row.State != jobs.Failed || row.Strikes != 3 {
		t.Errorf("row %+v", row)
	}
}

// TestComfyUIThatDiesOfAPromptIsNotWaitedFor is a prompt that ends its ComfyUI
// before the worker has read the answer: the next ComfyUI knows nothing of it.
func TestComfyUIThatDiesOfAPromptIsNotWaitedFor(t *testing.T) {
	s := newScripted(t)
	s.prompt = func(w http.ResponseWriter, id string) {
		s.mu.Lock()
		dials := s.dials
		s.mu.Unlock()
		s.cut()
		waitFor(t, "another connection", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.dials > dials })
		s.accept(w, id)
	}
	b := newBench(t, s.url, func(c *gpu.Config) { c.Patience.Start, c.Patience.Silence = time.Hour, time.Hour })
	row := b.ends(b.submit("p-1", thing, nil))
	if row.State != jobs.Failed || row.Strikes != 3 || row.Failure.Type != "worker_lost" {
		t.Errorf("row %s after %d strikes: %+v", row.State, row.Strikes, row.Failure)
	}
}

func TestPromptIsSentAgainWhenItsFateIsUnknown(t *testing.T) {
	s := newScripted(t)
	s.view = viewing("picture")
	var tries atomic.Int32
	s.prompt = func(w http.ResponseWriter, id string) {
		if tries.Add(1) == 1 {
			panic(http.ErrAbortHandler)
		}
		s.accept(w, id)
		s.keep(id, bareEntry)
		s.say(id, sayStart, sayCached, sayRuns, sayPicture, saySuccess, sayOver)
	}
	b := newBench(t, s.url, nil)
	if row := b.ends(b.submit("p-1", thing, nil)); row.State != jobs.Done || row.Strikes != 0 {
		t.Errorf("row %+v", row)
	}
}

func TestOldComfyUIThatIgnoresPromptIDs(t *testing.T) {
	s := newScripted(t)
	s.prompt = func(w http.ResponseWriter, _ string) { s.accept(w, "its-own") }
	b := newBench(t, s.url, nil)
	row := b.ends(b.submit("p-1", thing, nil))
	if row.State != jobs.Failed || !strings.Contains(row.Failure.Message, "too old") {
		t.Errorf("row %s %+v", row.State, row.Failure)
	}
}

func TestWorkSurvivesALeaderlessTime(t *testing.T) {
	s := newScripted(t)
	s.view = viewing("picture")
	s.prompt = func(w http.ResponseWriter, id string) {
		s.accept(w, id)
		s.keep(id, bareEntry)
		s.say(id, sayStart, sayCached, sayRuns, sayPicture, saySuccess, sayOver)
	}
	b := newBench(t, s.url, func(c *gpu.Config) { c.Patience.Backoff = time.Millisecond })
	refused := map[string]int{}
	b.queue.mu.Lock()
	b.queue.refuse = func(verb string) error {
		if refused[verb]++; refused[verb] <= 3 {
			return cluster.Errorf(cluster.NoLeader, "no leader")
		}
		return nil
	}
	b.queue.mu.Unlock()
	row := b.ends(b.submit("p-1", thing, nil))
	if row.State != jobs.Done || refused["finish done"] != 4 || refused["outputs"] != 4 {
		t.Errorf("row %s, refusals %v", row.State, refused)
	}
}

func TestLostLeaseEndsTheAttempt(t *testing.T) {
	s := newScripted(t)
	b := newBench(t, s.url, nil)
	ids := make(chan string, 10)
	s.view = viewing("picture")
	s.prompt = func(w http.ResponseWriter, id string) {
		s.accept(w, id)
		if ids <- id; len(ids) > 1 {
			s.keep(id, bareEntry)
			s.say(id, sayStart, sayCached, sayRuns, sayPicture, saySuccess, sayOver)
			return
		}
		s.say(id, sayStart, sayCached, sayRuns)
	}
	id := b.submit("p-1", thing, nil)
	b.running(id, "1")
	// The leader gives the job away.
	row := b.row(id, "the job to run", func(j jobs.Job) bool { return j.State == jobs.Running })
	if _, err := b.queue.apply(&jobs.Requeue{Lease: jobs.Lease{Job: id, Worker: row.Worker, Epoch: row.Epoch}, Reason: "silent"}); err != nil {
		t.Fatal(err)
	}
	if row := b.ends(id); row.State != jobs.Done || row.Epoch != 2 {
		t.Errorf("row %+v", row)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if want := `{"prompt_id":"` + <-ids + `"}`; len(s.interrupted) == 0 || s.interrupted[0] != want {
		t.Errorf("interrupted %v, want %s", s.interrupted, want)
	}
	for _, v := range b.queue.said() {
		if strings.HasPrefix(v, "requeue") {
			t.Errorf("said %q of a job that was not its own any more", v)
		}
	}
}

func TestErrorsTellNothingOfTheMachine(t *testing.T) {
	s := newScripted(t)
	b := newBench(t, s.url, nil)
	trouble := `{"prompt_id":"ID","node_id":"1","node_type":"Thing","executed":[],"exception_message":"cannot write '/root/ComfyUI/output/gw/ID/a_00001_.png'\n","exception_type":"OSError","traceback":["  File \"/root/ComfyUI/nodes.py\", line 7, in save\n"],"current_inputs":{"filename_prefix":["gw/ID/a"]},"current_outputs":["1"],"timestamp":5}`
	s.prompt = func(w http.ResponseWriter, id string) {
		s.accept(w, id)
		s.keep(id, `{"prompt":[0,"ID",{},{},["1"]],"outputs":{},"status":{"status_str":"error","completed":false,"messages":[["execution_start",{"prompt_id":"ID","timestamp":1}],["execution_cached",{"nodes":["1"],"prompt_id":"ID","timestamp":2}],["execution_error",`+trouble+`]]},"meta":{}}`)
		s.say(id, sayStart, sayCached, sayRuns, `{"type":"execution_error","data":`+trouble+`}`, sayOver)
	}
	row := b.ends(b.submit("p-1", thing, nil))
	if row.State != jobs.Failed || row.Failure.Message != "cannot write 'a_00001_.png'" || row.Failure.Type != "OSError" {
		t.Errorf("row %s %+v", row.State, row.Failure)
	}
	h := b.history(row)
	m, _ := h.Status.Message(comfy.TypeExecutionError)
	want := `{"prompt_id":"p-1","node_id":"1","node_type":"Thing","executed":[],"exception_message":"cannot write 'a_00001_.png'\nError id p-1\n","exception_type":"OSError","traceback":["  File \"nodes.py\", line 7, in save\n"],"current_inputs":{"filename_prefix":["a"]},"current_outputs":["1"],"timestamp":5}`
	if string(m.Data) != want {
		t.Errorf("got  %s\nwant %s", m.Data, want)
	}
}
