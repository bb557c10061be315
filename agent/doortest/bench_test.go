package doortest_test

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ahelme/comfyume/agent/doortest"
)

func benchOnly(t *testing.T) {
	t.Helper()
	if os.Getenv("COMFYUME_BENCH") == "" {
		t.Skip("a measurement, not a test: `make bench` runs it")
	}
}

// rss of a process in MB, as the kernel counts it.
func rss(t *testing.T, pid int) float64 {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Skipf("no /proc here (%s): %v", runtime.GOOS, err)
	}
	for line := range strings.Lines(string(raw)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "VmRSS:" {
			kb, err := strconv.ParseFloat(f[1], 64)
			if err != nil {
				t.Fatal(err)
			}
			return kb / 1024
		}
	}
	t.Fatal("no VmRSS")
	return 0
}

// effort is the processor time that the machine has given so far, in seconds.
type effort struct {
	at        time.Time
	all, ours float64
}

// spent is the machine's effort up to now: all of it, and what this test and the
// processes that it has started took.
func spent(t *testing.T) effort {
	t.Helper()
	raw, err := os.ReadFile("/proc/stat")
	if err != nil {
		t.Skipf("no /proc here (%s): %v", runtime.GOOS, err)
	}
	first, _, _ := strings.Cut(string(raw), "\n")
	e := effort{at: time.Now()}
	for i, s := range strings.Fields(first)[1:] {
		if n, err := strconv.ParseFloat(s, 64); err == nil && i != 3 && i != 4 && i < 7 { // not idle, not waiting, not stolen
			e.all += n / 100
		}
	}
	e.ours = family(t, os.Getpid())
	return e
}

// family is the processor time of a process and of all that it has started, in
// seconds.
func family(t *testing.T, head int) (sum float64) {
	t.Helper()
	parents, times := map[int]int{}, map[int]float64{}
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range stats {
		raw, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		pid, err := strconv.Atoi(strings.Split(path, "/")[2])
		f := strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+1:]))
		if err != nil || len(f) < 15 {
			continue
		}
		parents[pid], _ = strconv.Atoi(f[1])
		for _, s := range f[11:15] { // its own, and of its children that have ended
			n, _ := strconv.ParseFloat(s, 64)
			times[pid] += n / 100
		}
	}
	for pid, took := range times {
		for up := pid; up > 1; up = parents[up] {
			if up == head {
				sum += took
				break
			}
		}
	}
	return sum
}

// others is how many cores other people's processes have had since then: a figure
// from a busy machine says little.
func (e effort) others(t *testing.T) float64 {
	t.Helper()
	now := spent(t)
	return max(0, ((now.all-e.all)-(now.ours-e.ours))/now.at.Sub(e.at).Seconds())
}

// TestBenchIdle measures the whole agent at rest with a class connected.
func TestBenchIdle(t *testing.T) {
	benchOnly(t)
	a := doortest.Start(t, doortest.Options{})
	c := a.Client("user001")
	const sockets = 20
	for i := range sockets {
		ws := c.Socket(t, fmt.Sprint("idle-", i))
		if _, err := ws.Next(5 * time.Second); err != nil {
			t.Fatal(err)
		}
	}
	run(t, c, doortest.Inverted(1, 64, "warm"), "warm")
	var samples []float64
	for range 10 {
		<-time.After(500 * time.Millisecond)
		samples = append(samples, rss(t, a.PID()))
	}
	slices.Sort(samples)
	fmt.Printf("idle sockets=%d rss_mb=%.1f max_mb=%.1f goal_mb=80\n", sockets, samples[len(samples)/2], samples[len(samples)-1])
}

// TestBenchDispatch measures POST /prompt to execution_start at the page.
func TestBenchDispatch(t *testing.T) {
	benchOnly(t)
	a := doortest.Start(t, doortest.Options{})
	before := spent(t)
	start, whole := dispatches(t, a.Client("user001"), 200)
	fmt.Printf("dispatch n=%d start_p50_ms=%.1f start_p95_ms=%.1f whole_p50_ms=%.1f whole_p95_ms=%.1f others_cores=%.2f goal_p50_ms=50\n", len(start), at(start, 50), at(start, 95), at(whole, 50), at(whole, 95), before.others(t))
}

// dispatches runs jobs one after the other on an idle GPU and returns how long it
// took until each began and until it ended, in ms, as the page hears it.
func dispatches(t *testing.T, c *doortest.Client, n int) (start, whole []float64) {
	t.Helper()
	ws := c.Socket(t, "bench")
	for i := range n {
		begin := time.Now()
		var accepted struct {
			PromptID string `json:"prompt_id"`
		}
		c.JSON(t, "POST", "/prompt", map[string]any{"prompt": doortest.Inverted(i, 16, "bench"), "client_id": "bench"}, &accepted)
		started := false
		for {
			m, err := ws.Next(30 * time.Second)
			if err != nil {
				t.Fatal(err)
			}
			if m.Type == "execution_start" && m.Field("prompt_id") == accepted.PromptID {
				start = append(start, ms(time.Since(begin)))
				started = true
			}
			if m.EndOf(accepted.PromptID) {
				break
			}
		}
		if !started {
			t.Fatal("no execution_start")
		}
		whole = append(whole, ms(time.Since(begin)))
	}
	return start, whole
}

// TestBenchReady measures the start of the binary to "ready":true, with the
// frontend unpacked before and not.
func TestBenchReady(t *testing.T) {
	benchOnly(t)
	dir := t.TempDir()
	for _, what := range []string{"first", "again"} {
		begin := time.Now()
		a := doortest.Start(t, doortest.Options{StateDir: dir})
		fmt.Printf("ready start=%s seconds=%.2f goal_seconds=10\n", what, time.Since(begin).Seconds())
		a.Stop(t)
	}
}

func at(v []float64, percent int) float64 {
	s := slices.Sorted(slices.Values(v))
	return s[min(len(s)-1, len(s)*percent/100)]
}
