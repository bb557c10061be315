package gpu_test

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/roles/gpu"
)

// nurse restarts a sketch as the supervisor restarts ComfyUI.
type nurse struct {
	server *server
	mu     sync.Mutex
	run    int
	whys   []string
	busy   sync.WaitGroup
}

func newNurse(s *server) *nurse {
	n := &nurse{server: s, run: 1}
	s.t.Cleanup(n.busy.Wait)
	return n
}

func (n *nurse) Generation() int { n.mu.Lock(); defer n.mu.Unlock(); return n.run }

func (n *nurse) Restart(why string) {
	n.mu.Lock()
	n.whys = append(n.whys, why)
	n.mu.Unlock()
	n.busy.Go(func() {
		n.server.stop()
		n.server.start()
		n.mu.Lock()
		n.run++
		n.mu.Unlock()
	})
}

func (n *nurse) said() string { n.mu.Lock(); defer n.mu.Unlock(); return strings.Join(n.whys, "\n") }

// A job that is too large goes to a larger GPU: its participant sees it wait
// again, not fail.
func TestOOMJobGoesToALargerGPU(t *testing.T) {
	b := newBench(t, startSketch(t).url, nil)
	b.queue.mu.Lock()
	b.queue.larger = true
	b.queue.mu.Unlock()
	id := b.submit("p-1", failing("oom"), nil)
	row := b.row(id, "the job to wait again", func(j jobs.Job) bool { return j.State == jobs.Pending && j.Strikes == 1 })
	if len(row.NoRoom) != 1 || row.NoRoom[0].Device != "sketch CPU" || row.NoRoom[0].VRAM == 0 {
		t.Errorf("it does not know where it was too large: %+v", row.NoRoom)
	}
	mine := jobs.Claim{Worker: "other/0", Memory: row.NoRoom[0]}
	larger := jobs.Claim{Worker: "other/0", Memory: jobs.Memory{Device: "H100", VRAM: row.NoRoom[0].VRAM * 2}}
	if mine.Can(&row) || !larger.Can(&row) {
		t.Error("it may go to the same kind of GPU again, or not to a larger one")
	}
	if got := b.ends(b.submit("p-2", redPicture, nil)); got.State != jobs.Done {
		t.Errorf("the next job is %s", got.State)
	}
}

func TestOOMCrashStopsTheClass(t *testing.T) { // predecessor 15
	s := startSketch(t)
	n := newNurse(s)
	b := newBench(t, s.url, func(c *gpu.Config) { c.Process = n })
	for _, p := range []string{"p-1", "p-2", "p-3"} {
		row := b.ends(b.submit(p, failing("oom"), nil))
		if row.State != jobs.Failed || !strings.Contains(row.Failure.Message, "Use a smaller picture") {
			t.Errorf("%s: %s %+v", p, row.State, row.Failure)
		}
	}
	waitFor(t, "quarantine", func() bool { return b.worker.Status().Phase == gpu.Aside && n.Generation() == 2 })
	if why := b.worker.Status().Problem; !strings.Contains(why, "3 jobs ran out of GPU memory") || !strings.Contains(n.said(), "3 jobs ran out") {
		t.Errorf("it says %q, restarted for %q", why, n.said())
	}
	next := b.submit("p-4", redPicture, nil)
	b.worker.Return(gpu.Quarantine)
	if row := b.ends(next); row.State != jobs.Done {
		t.Errorf("after the release: %s", row.State)
	}
}

func TestBrokenWorkflowHoldsTheGPU30Minutes(t *testing.T) { // predecessor 4
	b := newBench(t, startSketch(t).url, nil)
	began := time.Now()
	row := b.ends(b.submit("p-1", failing("raise"), nil))
	if row.State != jobs.Failed || row.Failure.NodeID != "2" || time.Since(began) > 2*time.Second {
		t.Errorf("%s %+v after %s", row.State, row.Failure, time.Since(began))
	}
	if row := b.ends(b.submit("p-2", redPicture, nil)); row.State != jobs.Done {
		t.Errorf("the next job is %s", row.State)
	}
}

// Cancelled, but deaf to it: the participant is told that it is cancelled, the
// ladder restarts ComfyUI, and the next job runs.
func TestCancelledJobLaterShowsCompletedAndTheGPUContinues(t *testing.T) { // predecessor 7
	s := startSketch(t)
	n := newNurse(s)
	b := newBench(t, s.url, func(c *gpu.Config) { c.Process, c.Patience.Stop = n, 50*time.Millisecond })
	id := b.submit("p-1", failing("hang"), nil)
	b.running(id, "2")
	if _, err := b.queue.apply(&jobs.Cancel{IDs: []jobs.ID{id}}); err != nil {
		t.Fatal(err)
	}
	if row := b.ends(id); row.State != jobs.Cancelled {
		t.Errorf("the job is %s", row.State)
	}
	if row := b.ends(b.submit("p-2", redPicture, nil)); row.State != jobs.Done {
		t.Errorf("the next job is %s", row.State)
	}
	if !strings.Contains(n.said(), "did not stop a job of user007") {
		t.Errorf("restarted for %q", n.said())
	}
	row := b.row(id, "the end", func(j jobs.Job) bool { return true })
	if row.State != jobs.Cancelled {
		t.Errorf("later it is %s", row.State)
	}
}

// A node that hangs: no progress, nothing seen working. The job is put back
// with a strike and ComfyUI restarted.
func TestHungNodeLosesItsJobAndIsRestarted(t *testing.T) {
	s := startSketch(t)
	n := newNurse(s)
	b := newBench(t, s.url, func(c *gpu.Config) {
		c.Process, c.Patience.Stuck, c.Patience.Silence = n, 300*time.Millisecond, 50*time.Millisecond
	})
	id := b.submit("p-1", failing("hang"), nil)
	row := b.row(id, "the job to be put back", func(j jobs.Job) bool { return j.Strikes == 1 })
	if !strings.Contains(row.Reason, "no progress") || !strings.Contains(row.Reason, "node/0") {
		t.Errorf("reason %q", row.Reason)
	}
	if _, err := b.queue.apply(&jobs.Cancel{IDs: []jobs.ID{id}}); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the restart", func() bool { return n.Generation() >= 2 })
	if row := b.ends(b.submit("p-2", redPicture, nil)); row.State != jobs.Done {
		t.Errorf("the next job is %s", row.State)
	}
}

func TestFiveMinuteTimeoutKillsLongVideos(t *testing.T) { // predecessor 8
	s := startSketch(t)
	b := newBench(t, s.url, func(c *gpu.Config) {
		c.Patience.Stuck, c.Patience.Silence = 600*time.Millisecond, 50*time.Millisecond
	})
	id := b.submit("p-1", slow("3"), nil) // far longer than the watchdog waits, but it shows progress
	if row := b.ends(id); row.State != jobs.Done || row.Strikes != 0 {
		t.Errorf("%s with %d strikes: %s", row.State, row.Strikes, row.Reason)
	}
}

func TestSpotInstanceIsReclaimed(t *testing.T) { // predecessor 66
	b := newBench(t, startSketch(t).url, nil)
	id := b.submit("p-1", slow("60"), nil)
	b.running(id, "2")
	began := time.Now()
	b.worker.StandAside(gpu.Leaving, "This machine is about to be taken away.")
	b.worker.HandBack("GPU was reclaimed, restarted")
	row := b.row(id, "the job to be back", func(j jobs.Job) bool { return j.State == jobs.Pending })
	if took := time.Since(began); took > 5*time.Second || row.Strikes != 0 || row.Reason != "GPU was reclaimed, restarted" {
		t.Errorf("after %s with %d strikes: %q", took, row.Strikes, row.Reason)
	}
	waitFor(t, "the worker to stand aside", func() bool { return b.worker.Status().Phase == gpu.Aside })
	b.worker.Return(gpu.Leaving) // undone: it takes the job again
	b.row(id, "the job to run again", func(j jobs.Job) bool { return j.State == jobs.Running && j.Epoch == 2 })
}

func TestWorkerOfAnotherVersionThanTheTemplates(t *testing.T) { // predecessor 36
	b := newBench(t, startSketch(t).url, func(c *gpu.Config) { c.Version = "0.11.0" })
	id := b.submit("p-1", redPicture, nil)
	waitFor(t, "the worker to stand aside", func() bool { return b.worker.Status().Phase == gpu.Aside })
	if why := b.worker.Status().Problem; !strings.Contains(why, "is of version sketch-0.1 and shall be 0.11.0") {
		t.Errorf("it says %q", why)
	}
	if row := b.row(id, "the job", func(jobs.Job) bool { return true }); row.State != jobs.Pending {
		t.Errorf("the job is %s", row.State)
	}
}

// The process is known to have ended: nobody waits for it to answer.
func TestDeadComfyUIIsNotWaitedFor(t *testing.T) {
	s := startSketch(t)
	n := newNurse(s)
	b := newBench(t, s.url, func(c *gpu.Config) { c.Process = n })
	id := b.submit("p-1", slow("60"), nil)
	b.running(id, "2")
	began := time.Now()
	n.mu.Lock()
	n.run = 0
	n.mu.Unlock()
	s.stop()
	row := b.row(id, "the job to be put back", func(j jobs.Job) bool { return j.State == jobs.Pending && j.Epoch == 1 })
	if took := time.Since(began); took > 2*time.Second || row.Strikes != 1 {
		t.Errorf("after %s with %d strikes", took, row.Strikes)
	}
}
