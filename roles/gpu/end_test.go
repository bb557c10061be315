package gpu_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/roles/comfy"
	"github.com/ahelme/comfyume/roles/gpu"
)

// running waits until a node of a job runs.
func (b *bench) running(id jobs.ID, node string) {
	b.t.Helper()
	b.until("node "+node+" to run", func() bool {
		return slices.ContainsFunc(b.queue.events, func(e jobs.Event) bool {
			return e.Job == id && e.Type == comfy.TypeExecuting && strings.Contains(string(e.Text), `"node":"`+node+`"`)
		})
	})
}

func TestCancelInterruptsAndTheNextJobRuns(t *testing.T) {
	b := newBench(t, startSketch(t).url, nil)
	id := b.submit("p-1", slow("60"), nil)
	b.running(id, "2")
	if _, err := b.queue.apply(&jobs.Cancel{IDs: []jobs.ID{id}}); err != nil {
		t.Fatal(err)
	}
	row := b.ends(id)
	h := b.history(row)
	if row.State != jobs.Cancelled || !h.Status.Interrupted() || h.Status.StatusStr != "error" {
		t.Errorf("row %s, history %s", row.State, h.Encode())
	}
	if got := b.queue.said(); got[len(got)-1] != "finish cancelled" {
		t.Errorf("verbs %v", got)
	}
	if row := b.ends(b.submit("p-2", redPicture, nil)); row.State != jobs.Done {
		t.Errorf("the next job is %s", row.State)
	}
}

func TestCancelIsHeardOfByRenewalAlone(t *testing.T) {
	b := newBench(t, startSketch(t).url, func(c *gpu.Config) { c.Await = nil })
	id := b.submit("p-1", slow("60"), nil)
	b.running(id, "2")
	if _, err := b.queue.apply(&jobs.Cancel{IDs: []jobs.ID{id}}); err != nil {
		t.Fatal(err)
	}
	if row := b.ends(id); row.State != jobs.Cancelled {
		t.Errorf("row %s", row.State)
	}
}

func TestDeafJobIsCancelledAndKeepsTheWorkerBusy(t *testing.T) {
	s := startSketch(t)
	b := newBench(t, s.url, func(c *gpu.Config) { c.Patience.Stop = 50 * time.Millisecond })
	id := b.submit("p-1", failing("hang"), nil)
	b.running(id, "2")
	if _, err := b.queue.apply(&jobs.Cancel{IDs: []jobs.ID{id}}); err != nil {
		t.Fatal(err)
	}
	row := b.ends(id)
	if h := b.history(row); row.State != jobs.Cancelled || !h.Status.Interrupted() {
		t.Errorf("row %s, history %s", row.State, h.Encode())
	}
	next := b.submit("p-2", redPicture, nil)
	waitFor(t, "the worker to say why it waits", func() bool { return strings.Contains(b.worker.Status().Problem, "still runs a job") })
	b.queue.mu.Lock()
	waiting, _ := b.queue.jobs.Job(next)
	b.queue.mu.Unlock()
	if waiting.State != jobs.Pending {
		t.Errorf("the next job is %s although the GPU is taken", waiting.State)
	}
	s.stop()
	s.start()
	if row := b.ends(next); row.State != jobs.Done {
		t.Errorf("the next job is %s", row.State)
	}
}

// waitFor waits for what no queue tells of.
func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	late := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}
