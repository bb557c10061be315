package doortest_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/ahelme/comfyume/agent/doortest"
)

// TestKillNineLosesNothing accepts 50 jobs of a second each, kills the agent
// as a power cut would, and wants every one of them, once, with its picture.
func TestKillNineLosesNothing(t *testing.T) {
	const n, size = 50, 16
	a := doortest.Start(t, doortest.Options{})
	c := a.Client("user001")
	colour := map[string]int{}
	for i := range n {
		rgb := 0x010305 * (i + 1)
		var got struct {
			PromptID string `json:"prompt_id"`
		}
		c.JSON(t, "POST", "/prompt", map[string]any{"prompt": doortest.Slow(rgb, size, 1, 4), "client_id": "c"}, &got)
		colour[got.PromptID] = rgb
	}
	if len(colour) != n {
		t.Fatalf("%d different ids for %d accepted jobs", len(colour), n)
	}
	var q struct {
		Running []any `json:"queue_running"`
		Pending []any `json:"queue_pending"`
	}
	c.JSON(t, "GET", "/queue", nil, &q)
	pending := len(q.Running) + len(q.Pending)
	a.Kill()
	if pending < 45 {
		t.Fatalf("only %d were unfinished at the kill", pending)
	}

	a.Launch(t)
	a.Ready(t, 60*time.Second)
	var history map[string]doortest.Entry
	doortest.Until(t, 3*time.Minute, "all jobs stand in history", func() bool {
		history = nil
		c.JSON(t, "GET", "/history", nil, &history)
		return len(history) >= n
	})
	c.JSON(t, "GET", "/queue", nil, &q)
	if left := len(q.Running) + len(q.Pending); left != 0 {
		t.Errorf("%d jobs are queued beside the %d in history", left, len(history))
	}
	wrong := 0
	for id, rgb := range colour {
		e, ok := history[id]
		if !ok {
			wrong++
			t.Errorf("job %s was accepted and is not in history", id)
			continue
		}
		if err := doortest.Uniform(c.Fetch(t, e, "9"), rgb, size); err != nil {
			wrong++
			t.Errorf("job %s: %v", id, err)
		}
	}
	if len(history) != n {
		t.Errorf("%d entries for %d jobs", len(history), n)
	}
	fmt.Printf("kill9 accepted=%d pending_at_kill=%d in_history=%d wrong=%d\n", n, pending, len(history), wrong)
}

// TestStopIsBounded asks a busy agent to end.
func TestStopIsBounded(t *testing.T) {
	a := doortest.Start(t, doortest.Options{})
	c := a.Client("user001")
	c.Socket(t, "c")
	c.JSON(t, "POST", "/prompt", map[string]any{"prompt": doortest.Slow(1, 16, 30, 30), "client_id": "c"}, nil)
	var q struct {
		Running []any `json:"queue_running"`
	}
	doortest.Until(t, 20*time.Second, "the job runs", func() bool {
		c.JSON(t, "GET", "/queue", nil, &q)
		return len(q.Running) == 1
	})
	if took := a.Stop(t); took > 30*time.Second {
		t.Errorf("stopping took %s", took)
	}
	a.Launch(t)
	a.Ready(t, 60*time.Second)
	c.JSON(t, "GET", "/queue", nil, &q)
	var jobs struct{ Jobs []struct{ Status string } }
	c.JSON(t, "GET", "/api/jobs", nil, &jobs)
	if len(jobs.Jobs) != 1 || jobs.Jobs[0].Status != "pending" && jobs.Jobs[0].Status != "in_progress" {
		t.Errorf("after the stop the job is %+v", jobs.Jobs)
	}
}
