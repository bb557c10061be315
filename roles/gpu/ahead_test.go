package gpu_test

import (
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/blob"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/roles/comfy"
	"github.com/ahelme/comfyume/roles/gpu"
)

// TestTheGPUDoesNotWaitForResultsToComeHome: while the queue takes no word of
// the first job's results, the second runs to its end. A page of the same user
// is told of the first to its end before it hears of the second.
func TestTheGPUDoesNotWaitForResultsToComeHome(t *testing.T) {
	s := startSketch(t)
	b := newBench(t, s.url, nil)
	var stuck atomic.Bool
	stuck.Store(true)
	b.queue.mu.Lock()
	b.queue.refuse = func(verb string) error {
		if stuck.Load() && (verb == "outputs" || verb == "gpudone") {
			return cluster.Errorf(cluster.Unavailable, "no leader")
		}
		return nil
	}
	b.queue.mu.Unlock()
	first, second := b.submit("p-1", redPicture, nil), b.submit("p-2", slow("0.3"), nil)
	b.row(second, "the second job runs", func(j jobs.Job) bool { return j.State == jobs.Running })
	if !b.worker.Busy() {
		t.Error("the worker calls itself idle")
	}
	client, err := comfy.NewClient(comfy.ClientConfig{BaseURL: s.url})
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, "ComfyUI to be done with it", func() bool {
		q, err := client.Queue(t.Context())
		return err == nil && len(q.Running)+len(q.Pending) == 0
	})
	if told := b.queue.types(second); len(told) > 0 {
		t.Errorf("its page was told %v before the first job ended", told)
	}
	stuck.Store(false)
	if row := b.ends(second); row.State != jobs.Done {
		t.Errorf("the second job ended %s", row.State)
	}
	if row := b.ends(first); row.State != jobs.Done || row.Outputs != 2 {
		t.Errorf("the first job ended %s with %d outputs", row.State, row.Outputs)
	}
	var order []string
	for _, v := range b.queue.said() {
		if strings.HasPrefix(v, "finish") || v == "started" {
			order = append(order, v)
		}
	}
	if want := []string{"started", "started", "finish done", "finish done"}; !slices.Equal(order, want) {
		t.Errorf("verbs %v, want %v", order, want)
	}
	if told := b.queue.types(second); !slices.Contains(told, "execution_start") || !slices.Contains(told, "executed") {
		t.Errorf("its page was told %v", told)
	}
	waitFor(t, "the worker to be idle", func() bool { return b.worker.Status().Phase == gpu.Idle && !b.worker.Busy() })
}

// TestAStrangersPageHearsAtOnce: only pages of one user wait for each other.
func TestAStrangersPageHearsAtOnce(t *testing.T) {
	b := newBench(t, startSketch(t).url, nil)
	b.queue.mu.Lock()
	b.queue.refuse = func(verb string) error {
		if verb == "gpudone" {
			return cluster.Errorf(cluster.Unavailable, "no leader")
		}
		return nil
	}
	b.queue.mu.Unlock()
	other := jobs.ID{User: "user008", Prompt: "p-2"}
	b.submit("p-1", redPicture, nil)
	b.submit("p-2", redPicture, func(c *jobs.Submit) { c.ID = other })
	b.until("the other's page to hear of the end of its nodes", func() bool {
		return slices.ContainsFunc(b.queue.events, func(e jobs.Event) bool { return e.Job == other && e.Type == comfy.TypeExecuted })
	})
	b.queue.mu.Lock()
	b.queue.refuse = nil
	b.queue.mu.Unlock()
	b.ends(other)
}

// TestCancelOfAJobThatIsNext does not wait for the one before it.
func TestCancelOfAJobThatIsNext(t *testing.T) {
	b := newBench(t, startSketch(t).url, nil)
	first, second := b.submit("p-1", slow("3"), nil), b.submit("p-2", redPicture, nil)
	b.running(first, "2")
	b.row(second, "the second job is taken", func(j jobs.Job) bool { return j.State == jobs.Assigned })
	if _, err := b.queue.apply(&jobs.Cancel{IDs: []jobs.ID{second}}); err != nil {
		t.Fatal(err)
	}
	if row := b.ends(second); row.State != jobs.Cancelled {
		t.Errorf("it ended %s", row.State)
	}
	if row := b.row(first, "the first is there", func(jobs.Job) bool { return true }); row.State != jobs.Running {
		t.Errorf("the first job is %s", row.State)
	}
	if row := b.ends(first); row.State != jobs.Done {
		t.Errorf("the first job ended %s", row.State)
	}
}

// TestAWorkerThatStandsAsideGivesTheNextJobBack and goes on with the one it runs.
func TestAWorkerThatStandsAsideGivesTheNextJobBack(t *testing.T) {
	b := newBench(t, startSketch(t).url, nil)
	first, second := b.submit("p-1", slow("1"), nil), b.submit("p-2", redPicture, nil)
	b.row(second, "the second job is taken", func(j jobs.Job) bool { return j.State == jobs.Assigned })
	b.worker.StandAside(gpu.Leaving, "This machine is being drained.")
	row := b.row(second, "it goes back", func(j jobs.Job) bool { return j.State == jobs.Pending })
	if row.Strikes != 0 || !strings.Contains(row.Reason, "being drained") {
		t.Errorf("%d strikes, reason %q", row.Strikes, row.Reason)
	}
	if row := b.ends(first); row.State != jobs.Done {
		t.Errorf("the first job ended %s", row.State)
	}
	b.worker.Return(gpu.Leaving)
	if row := b.ends(second); row.State != jobs.Done {
		t.Errorf("the second job ended %s", row.State)
	}
}

// TestComfyUIDiesWithAJobWaitingForIt: the one that waited is not blamed, and runs
// when ComfyUI is back.
func TestComfyUIDiesWithAJobWaitingForIt(t *testing.T) {
	s := startSketch(t)
	b := newBench(t, s.url, func(c *gpu.Config) { c.Patience.Lost = 300 * time.Millisecond })
	first, second := b.submit("p-1", slow("30"), nil), b.submit("p-2", redPicture, nil)
	b.running(first, "2")
	b.row(second, "the second job is taken", func(j jobs.Job) bool { return j.State == jobs.Assigned })
	s.stop()
	b.row(first, "the first goes back", func(j jobs.Job) bool { return j.State == jobs.Pending && j.Strikes == 1 })
	b.row(second, "the second goes back", func(j jobs.Job) bool { return j.State == jobs.Pending })
	if _, err := b.queue.apply(&jobs.Cancel{IDs: []jobs.ID{first}}); err != nil {
		t.Fatal(err)
	}
	s.start()
	if row := b.ends(second); row.State != jobs.Done || row.Strikes != 0 {
		t.Errorf("it ended %s with %d strikes", row.State, row.Strikes)
	}
}

// TestCancelOfAJobThatIsBeingStored: it ends cancelled, and the worker goes on.
func TestCancelOfAJobThatIsBeingStored(t *testing.T) {
	b := newBench(t, startSketch(t).url, nil)
	var stuck atomic.Bool
	stuck.Store(true)
	b.queue.mu.Lock()
	b.queue.refuse = func(verb string) error {
		if stuck.Load() && verb == "outputs" {
			return cluster.Errorf(cluster.Unavailable, "no leader")
		}
		return nil
	}
	b.queue.mu.Unlock()
	id := b.submit("p-1", redPicture, nil)
	b.row(id, "it is being stored", func(j jobs.Job) bool { return j.State == jobs.Storing })
	if _, err := b.queue.apply(&jobs.Cancel{IDs: []jobs.ID{id}, Reason: "cancelled by user007"}); err != nil {
		t.Fatal(err)
	}
	stuck.Store(false)
	row := b.ends(id)
	if h := b.history(row); row.State != jobs.Cancelled || h.Status.StatusStr != comfy.HistoryError || h.Status.Messages[len(h.Status.Messages)-1].Type != comfy.TypeExecutionInterrupted {
		t.Errorf("it ended %s, its user reads %+v", row.State, h.Status)
	}
	if row := b.ends(b.submit("p-2", redPicture, nil)); row.State != jobs.Done {
		t.Errorf("the next job ended %s", row.State)
	}
}

// TestJobThatComesWhileTheConnectionIsMadeAnew has its inputs brought.
func TestJobThatComesWhileTheConnectionIsMadeAnew(t *testing.T) {
	s := newScripted(t)
	s.upload = func(name, _ string) string { return name }
	blobs, err := blob.OpenDir(blob.DirConfig{Path: t.TempDir(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ref, _, err := blobs.Put(t.Context(), strings.NewReader("picture"), 7)
	if err != nil {
		t.Fatal(err)
	}
	w, err := gpu.New(gpu.Config{ID: "node/0", URL: s.url, Queue: newQueue(), Blobs: blobs})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := gpu.UploadWithoutLink(t.Context(), w, jobs.Input{Name: "a.png", Ref: ref}); err != nil || got != "folder/a.png" {
		t.Errorf("%q, %v", got, err)
	}
}
