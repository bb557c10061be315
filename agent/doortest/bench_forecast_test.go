package doortest_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ahelme/comfyume/agent/doortest"
	"github.com/ahelme/comfyume/roles/sketch"
)

// TestBenchForecast compares what people were told when their job came with what
// became of it: three GPUs of which one is four times as fast as another, three
// kinds of jobs, and people who come at random.
func TestBenchForecast(t *testing.T) {
	benchOnly(t)
	hall := doortest.Hall(t)
	const people = 10
	env, client := class(people + 1)
	lead := doortest.Start(t, doortest.Options{Roles: "queue,gateway", Hall: hall, Name: "mello", Env: env})
	speeds := map[string]float64{"verda": 1, "vast": 2, "spare": 0.5}
	for name, speed := range speeds {
		s, err := sketch.New(sketch.Config{Dir: t.TempDir(), Speed: speed})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- s.Run(ctx) }()
		t.Cleanup(func() { stop(); <-ended })
		doortest.Start(t, doortest.Options{Roles: "gpu", Hall: hall, Name: name, Args: []string{"--comfyui-url", s.URL()}})
	}
	doortest.Until(t, time.Minute, "three workers are idle", func() bool {
		return strings.Contains(site(t, lead, "/metrics"), `comfyume_workers_current{state="idle"} 3`)
	})
	kind := func(i int) doortest.Graph { // seconds and steps tell the forms apart, the seed does not
		k := i % 3
		g := doortest.Slow(0xffffff, 16, []float64{2, 4, 8}[k], []int{10, 20, 40}[k])
		g["2"].Inputs["seed"] = i
		return g
	}
	submit := func(c *doortest.Client, i int) string {
		var accepted struct {
			PromptID string `json:"prompt_id"`
		}
		c.JSON(t, "POST", "/prompt", map[string]any{"prompt": kind(i)}, &accepted)
		return accepted.PromptID
	}
	wait := func(ids []string, c *doortest.Client) {
		for _, id := range ids {
			doortest.Until(t, 5*time.Minute, "a job has ended", func() bool {
				_, _, raw, err := c.Do("GET", "/history/"+id, nil)
				return err == nil && len(raw) > 10
			})
		}
	}
	var first []string // run times get known
	for i := range 18 {
		first = append(first, submit(client(lead, people), i))
	}
	wait(first, client(lead, people))

	type word struct {
		id           string
		at, expected int64
	}
	var mu sync.Mutex
	var all []word
	var working sync.WaitGroup
	for n := range people {
		working.Go(func() {
			c := client(lead, n)
			r := rand.New(rand.NewPCG(7, uint64(n)))
			var mine []string
			for i := range 9 {
				<-time.After(time.Duration(r.Float64() * float64(6*time.Second)))
				id := submit(c, 1000*n+r.IntN(999)+i)
				mine = append(mine, id)
				<-time.After(time.Second) // until a page has looked
				at := time.Now().UnixMilli()
				var list struct {
					Jobs []struct {
						Prompt string `json:"prompt_id"`
						Start  int64  `json:"expected_start"`
						Load   int64  `json:"load_s"`
						Run    int64  `json:"run_s"`
					} `json:"jobs"`
				}
				_, _, raw, err := c.Do("GET", "/workshop/queue", nil)
				if err != nil || json.Unmarshal(raw, &list) != nil {
					t.Errorf("the waiting list: %s, %v", raw, err)
				}
				for _, j := range list.Jobs {
					if j.Prompt == id && j.Start > 0 {
						mu.Lock()
						all = append(all, word{id, at, j.Start + 1000*(j.Load+j.Run)})
						mu.Unlock()
					}
				}
			}
			wait(mine, c)
		})
	}
	working.Wait()
	ends := map[string]float64{}
	for n := range people {
		var history map[string]doortest.Entry
		client(lead, n).JSON(t, "GET", "/history?max_items=100", nil, &history)
		for id, e := range history {
			ends[id] = told(e, "execution_success")
		}
	}
	var off []float64
	near := 0
	for _, w := range all {
		got, want := float64(w.expected-w.at), ends[w.id]-float64(w.at)
		off = append(off, math.Abs(got-want)/want)
		if got <= 2*want && want <= 2*got {
			near++
		}
	}
	slices.Sort(off)
	if len(off) == 0 {
		t.Fatal("nobody had to wait: nothing was foretold")
	}
	fmt.Printf("eta workers=3 speeds=1,2,0.5 jobs=90 foretold=%d median_error_percent=%.0f within_2_percent=%.0f goal=25,90\n", len(off), 100*at(off, 50), 100*float64(near)/float64(len(off)))
}
