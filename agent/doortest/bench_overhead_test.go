package doortest_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"image/color"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ahelme/comfyume/agent/doortest"
)

// soon takes 20 ms and saves a picture of 20 kB that only it has.
func soon(picture string, seed int) doortest.Graph {
	return doortest.Graph{
		"1": {Class: "LoadImage", Inputs: map[string]any{"image": picture}},
		"2": {Class: "SketchSlow", Inputs: map[string]any{"image": doortest.Link("1", 0), "seconds": 0.02, "steps": 1, "seed": seed}},
		"9": {Class: "SaveImage", Inputs: map[string]any{"images": doortest.Link("2", 0), "filename_prefix": "soon"}},
	}
}

// behind is the ComfyUI that an agent has connected to.
func behind(t *testing.T, a *doortest.Agent) *doortest.Client {
	t.Helper()
	m := regexp.MustCompile(`"connected to ComfyUI".*?"url":"([^"]+)"`).FindStringSubmatch(a.Output())
	if m == nil {
		t.Fatalf("the agent names no ComfyUI:\n%s", a.Output())
	}
	return &doortest.Client{Base: m[1]}
}

// inTurn has each client queue a job, wait for its end and queue the next. It
// returns how long each job took, in ms, and how many ended in a second.
func inTurn(t *testing.T, clients []*doortest.Client, jobs int, graph func() doortest.Graph) (took []float64, perSecond float64) {
	t.Helper()
	sockets := make([]*doortest.Socket, len(clients))
	id := func(i int) string { return fmt.Sprintf("client-%d", i) }
	for i, c := range clients {
		sockets[i] = c.Socket(t, id(i))
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	begin := time.Now()
	for i, c := range clients {
		wg.Go(func() {
			for range jobs {
				at := time.Now()
				var accepted struct {
					PromptID string `json:"prompt_id"`
				}
				code, _, raw, err := c.Do("POST", "/prompt", map[string]any{"prompt": graph(), "client_id": id(i)})
				if err != nil || code != 200 || json.Unmarshal(raw, &accepted) != nil {
					t.Errorf("POST /prompt answered %d, %v: %.200s", code, err, raw)
					return
				}
				for {
					m, err := sockets[i].Next(time.Minute)
					if err != nil {
						t.Errorf("client %d: %v", i, err)
						return
					}
					if m.EndOf(accepted.PromptID) {
						break
					}
				}
				mu.Lock()
				took = append(took, ms(time.Since(at)))
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	for _, s := range sockets {
		_ = s.Close()
	}
	if len(took) != jobs*len(clients) {
		t.FailNow()
	}
	return took, float64(len(took)) / time.Since(begin).Seconds()
}

// TestBenchOverhead measures what the workshop adds to a ComfyUI: the same jobs at
// its door and at the ComfyUI behind it, in turns.
func TestBenchOverhead(t *testing.T) {
	benchOnly(t)
	const people, rounds = 20, 5
	env, client := class(people)
	a := doortest.Start(t, doortest.Options{Env: env})
	direct := behind(t, a)
	raw := picture(t, 82, func(_, _ int) color.Color {
		return color.RGBA{uint8(rand.IntN(256)), uint8(rand.IntN(256)), uint8(rand.IntN(256)), 255}
	})
	there := upload(t, direct, "noise.png", raw)
	var seed atomic.Int64
	graph := func() doortest.Graph { return soon(there, int(seed.Add(1))) }
	var doors, directs []*doortest.Client
	for i := range people {
		c := client(a, i)
		if here := upload(t, c, "noise.png", raw); here != there {
			t.Fatalf("the picture is called %q and %q", here, there)
		}
		doors, directs = append(doors, c), append(directs, direct)
	}
	for _, n := range []int{1, people} {
		jobs := 100 / n
		inTurn(t, doors[:n], 5, graph)
		before := spent(t)
		var p50, p95, share []float64
		for range rounds {
			plain, most := inTurn(t, directs[:n], jobs, graph)
			through, got := inTurn(t, doors[:n], jobs, graph)
			p50 = append(p50, at(through, 50)-at(plain, 50))
			p95 = append(p95, at(through, 95)-at(plain, 95))
			share = append(share, 100*got/most)
		}
		fmt.Printf("overhead clients=%d rounds=%d jobs=%d added_p50_ms=%.1f added_p95_ms=%.1f rate_percent=%.0f others_cores=%.2f goal_ms=5,25 goal_percent=95\n",
			n, rounds, jobs*n, at(p50, 50), at(p95, 50), at(share, 50), before.others(t))
	}
}

// TestBenchGap measures, with three voters, how long a GPU stands still between two
// jobs that wait, by ComfyUI's own clock, and how long an idle one waits for a job.
// COMFYUME_CONFORMANCE_URL puts a real ComfyUI in place of the sketch.
func TestBenchGap(t *testing.T) {
	benchOnly(t)
	comfyui, name := "sketch", "sketch"
	if url := os.Getenv("COMFYUME_CONFORMANCE_URL"); url != "" {
		comfyui, name = url, "real"
	}
	hall := doortest.Hall(t)
	lead := doortest.Start(t, doortest.Options{Roles: "queue,gateway", Hall: hall, Name: "mello"})
	for _, also := range []string{"annex", "cellar"} {
		doortest.Start(t, doortest.Options{Roles: "queue", Hall: hall, Name: also})
	}
	doortest.Start(t, doortest.Options{Roles: "gpu", Hall: hall, Name: "verda", Args: []string{"--comfyui-url", comfyui}})
	doortest.Until(t, time.Minute, "three nodes vote", func() bool {
		return strings.Contains(site(t, lead, "/metrics"), "comfyume_log_voters_current 3")
	})
	c := lead.Client("user001")
	doortest.Until(t, time.Minute, "the worker's nodes are known", func() bool {
		code, _, raw, err := c.Do("GET", "/object_info/ImageInvert", nil)
		return err == nil && code == 200 && len(raw) > 10
	})
	before := spent(t)
	start, _ := dispatches(t, c, 100)
	fmt.Printf("idle_start comfyui=%s voters=3 n=%d p50_ms=%.1f p95_ms=%.1f others_cores=%.2f goal_p50_ms=30\n", name, len(start), at(start, 50), at(start, 95), before.others(t))

	gaps(t, c, name, "a_few_ms", 200, func(i int) doortest.Graph { return doortest.Inverted(0x10000+i, 256, "gap") })
	if name == "sketch" { // a real ComfyUI has no node that takes its time without a model
		gaps(t, c, name, "300_ms", 60, func(i int) doortest.Graph { return doortest.Slow(0x20000+i, 64, 0.3, 5) })
	}
}

// gaps queues n jobs of one user and prints how long the GPU stood still between two of them.
func gaps(t *testing.T, c *doortest.Client, name, jobs string, n int, graph func(i int) doortest.Graph) {
	t.Helper()
	before := spent(t)
	ws := c.Socket(t, "gap")
	last := ""
	for i := range n {
		var accepted struct {
			PromptID string `json:"prompt_id"`
		}
		c.JSON(t, "POST", "/prompt", map[string]any{"prompt": graph(i), "client_id": "gap"}, &accepted)
		last = accepted.PromptID
	}
	ws.UntilEnd(t, last, 5*time.Minute)
	var history map[string]doortest.Entry
	c.JSON(t, "GET", "/history?max_items=1000", nil, &history)
	type span struct{ begin, end float64 }
	var spans []span
	for _, e := range history {
		s := span{told(e, "execution_start"), told(e, "execution_success")}
		if s.begin > 0 && s.end > 0 {
			spans = append(spans, s)
		}
	}
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.begin, b.begin) })
	var gaps []float64
	for i := 1; i < len(spans); i++ {
		if gap := spans[i].begin - spans[i-1].end; i > len(spans)-n { // those of the queue, not of the idle GPU before
			gaps = append(gaps, gap)
		}
	}
	fmt.Printf("gap comfyui=%s jobs=%s voters=3 n=%d p50_ms=%.0f p95_ms=%.0f others_cores=%.2f\n", name, jobs, len(gaps), at(gaps, 50), at(gaps, 95), before.others(t))
}

// told is the time of a message that a history entry kept, in Unix ms.
func told(e doortest.Entry, typ string) float64 {
	for _, m := range e.Status.Messages {
		pair, ok := m.([]any)
		if !ok || len(pair) < 2 || pair[0] != typ {
			continue
		}
		if data, ok := pair[1].(map[string]any); ok {
			ms, _ := data["timestamp"].(float64)
			return ms
		}
	}
	return 0
}
