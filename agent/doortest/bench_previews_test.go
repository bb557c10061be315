package doortest_test

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ahelme/comfyume/agent/doortest"
)

// cpu is the processor time of a process so far, in seconds.
func cpu(t *testing.T, pid int) float64 {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Skipf("no /proc here: %v", err)
	}
	f := strings.Fields(string(raw[slices.Index(raw, ')')+1:]))
	var ticks float64
	for _, s := range f[11:13] { // utime and stime
		n, err := strconv.ParseFloat(s, 64)
		if err != nil {
			t.Fatal(err)
		}
		ticks += n
	}
	return ticks / 100
}

// watched is one person's page while their job shows previews.
type watched struct {
	mu     sync.Mutex
	delays []float64 // ms
	ended  bool
}

func (w *watched) watch(ws *doortest.Socket, prompt string) {
	for {
		m, err := ws.Next(2 * time.Minute)
		if err != nil {
			return // what it has seen by then is too little
		}
		w.mu.Lock()
		if at, ok := m.Shown(); ok {
			w.delays = append(w.delays, time.Since(at).Seconds()*1000)
		}
		w.ended = w.ended || m.EndOf(prompt)
		over := w.ended
		w.mu.Unlock()
		if over {
			return
		}
	}
}

// TestBenchPreviews measures 20 people whose jobs all show previews at once: from
// the ComfyUI's sending to the page, over a machine that only runs jobs and a
// door on another. The ComfyUIs are stand-ins that say when they sent what.
func TestBenchPreviews(t *testing.T) {
	benchOnly(t)
	const people, seconds, fps, size = 20, 30, 10, 30_000
	env, client := class(people)
	hall := doortest.Hall(t)
	door := doortest.Start(t, doortest.Options{Env: env, Roles: "queue,gateway", Hall: hall, Name: "mello"})
	var args []string
	for range people {
		args = append(args, "--comfyui-url", doortest.NewProjector(t).URL)
	}
	gpu := doortest.Start(t, doortest.Options{Roles: "gpu", Hall: hall, Name: "verda", Args: args})
	doortest.Until(t, time.Minute, "the machine's nodes are known", func() bool {
		_, _, raw, err := client(door, 0).Do("GET", "/object_info/Show", nil)
		return err == nil && len(raw) > 10
	})
	pages := make([]*watched, people)
	for i := range people {
		c, w := client(door, i), &watched{}
		ws := c.Socket(t, "page")
		if err := ws.WriteMessage(1, []byte(`{"type":"feature_flags","data":{"supports_preview_metadata":true}}`)); err != nil {
			t.Fatal(err)
		}
		var accepted struct {
			PromptID string `json:"prompt_id"`
		}
		c.JSON(t, "POST", "/prompt", map[string]any{"prompt": doortest.Show(seconds+10, fps, size), "client_id": "page"}, &accepted)
		go w.watch(ws, accepted.PromptID)
		pages[i] = w
	}
	seen := func() (least int) {
		least = seconds * fps
		for _, w := range pages {
			w.mu.Lock()
			least = min(least, len(w.delays))
			w.mu.Unlock()
		}
		return least
	}
	doortest.Until(t, 30*time.Second, "all jobs show something", func() bool { return seen() > 2*fps })
	for _, w := range pages {
		w.mu.Lock()
		w.delays = nil
		w.mu.Unlock()
	}
	before := spent(t)
	begin, doorCPU, gpuCPU, peak := time.Now(), cpu(t, door.PID()), cpu(t, gpu.PID()), 0.0
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for time.Since(begin) < seconds*time.Second {
		<-tick.C
		peak = max(peak, rss(t, door.PID()))
	}
	took, others := time.Since(begin).Seconds(), before.others(t)
	doorCPU, gpuCPU = cpu(t, door.PID())-doorCPU, cpu(t, gpu.PID())-gpuCPU
	var all []float64
	for _, w := range pages {
		w.mu.Lock()
		all = append(all, w.delays...)
		w.mu.Unlock()
	}
	rate := float64(len(all)) / took / people
	fmt.Printf("previews users=%d fps=%.1f kb=%d delay_p50_ms=%.1f delay_p95_ms=%.1f delay_max_ms=%.1f door_cpu_percent=%.1f gpu_node_cpu_percent=%.1f door_rss_mb=%.1f others_cores=%.2f goal_p95_ms=150 goal_cpu_percent=15 goal_rss_mb=150\n",
		people, rate, size/1000, at(all, 50), at(all, 95), at(all, 100), 100*doorCPU/took, 100*gpuCPU/took, peak, others)
	if rate < fps*0.9 {
		t.Errorf("only %.1f previews a second reach a page", rate)
	}
	doortest.Until(t, time.Minute, "all jobs have ended", func() bool {
		for _, w := range pages {
			w.mu.Lock()
			ended := w.ended
			w.mu.Unlock()
			if !ended {
				return false
			}
		}
		return true
	})
}
