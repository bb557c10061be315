package doortest_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/ahelme/comfyume/agent/doortest"
)

// class is a workshop's worth of people at one agent, each with their password.
func class(n int) (env []string, client func(a *doortest.Agent, i int) *doortest.Client) {
	name := func(i int) string { return fmt.Sprintf("user%03d", i+1) }
	pass := func(i int) string { return "secret of " + name(i) }
	for i := range n {
		env = append(env, fmt.Sprintf("USER_CREDENTIALS_USER%03d=%s:%s", i+1, name(i), pass(i)))
	}
	return env, func(a *doortest.Agent, i int) *doortest.Client {
		return &doortest.Client{Base: a.URL + "/" + name(i), User: name(i), Pass: pass(i)}
	}
}

// idle opens a socket that only answers pings from now on.
func idle(t *testing.T, c *doortest.Client, id string) {
	t.Helper()
	ws := c.Socket(t, id)
	if _, err := ws.Next(30 * time.Second); err != nil {
		t.Fatal(err)
	}
	if err := ws.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			if _, _, err := ws.NextReader(); err != nil {
				return // the test is over
			}
		}
	}()
}

// settled is the resident memory of a process, in MB, once it no longer falls.
func settled(t *testing.T, pid int) float64 {
	t.Helper()
	last, since := rss(t, pid), time.Now()
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for time.Since(since) < 6*time.Second {
		<-tick.C
		if now := rss(t, pid); now < last-0.2 || now > last+0.2 {
			last, since = now, time.Now()
		}
	}
	return last
}

// TestBenchSockets measures what an idle page costs the agent's process.
func TestBenchSockets(t *testing.T) {
	benchOnly(t)
	const people = 20
	env, client := class(people)
	a := doortest.Start(t, doortest.Options{Env: env})
	for i := range people { // signed in, and their first socket
		idle(t, client(a, i), "first")
	}
	base := settled(t, a.PID())
	open := 0
	for _, n := range []int{1000, 10_000} {
		for ; open < n; open++ {
			idle(t, client(a, open%people), fmt.Sprint("page-", open))
		}
		now := settled(t, a.PID())
		fmt.Printf("socket_idle sockets=%d kib_each=%.2f rss_mb=%.1f base_mb=%.1f goal_kib=6\n", n, (now-base)*1024/float64(n), now, base)
	}
}

// TestBenchClass measures a whole workshop in one process, ComfyUI's stand-in
// included, at rest: everybody is signed in and has a page open, and has had
// their share of a thousand jobs done.
func TestBenchClass(t *testing.T) {
	benchOnly(t)
	const people, jobs = 20, 1000
	env, client := class(people)
	a := doortest.Start(t, doortest.Options{Env: env})
	for i := range people {
		idle(t, client(a, i), "page")
	}
	begin := time.Now()
	for j := range jobs {
		client(a, j%people).JSON(t, "POST", "/prompt", map[string]any{"prompt": doortest.Inverted(j, 16, "class"), "client_id": "page"}, nil)
	}
	peak := 0.0
	for i := range people {
		doortest.Until(t, 10*time.Minute, "all jobs are done", func() bool {
			var left struct {
				Exec struct {
					Remaining int `json:"queue_remaining"`
				} `json:"exec_info"`
			}
			client(a, i).JSON(t, "GET", "/prompt", nil, &left)
			peak = max(peak, rss(t, a.PID()))
			return left.Exec.Remaining == 0
		})
	}
	took := time.Since(begin).Seconds()
	done := 0
	for i := range people {
		var history map[string]doortest.Entry
		client(a, i).JSON(t, "GET", "/history", nil, &history)
		for _, e := range history {
			if e.Status.Completed {
				done++
			}
		}
	}
	if done != jobs {
		t.Fatalf("%d of %d jobs are done", done, jobs)
	}
	fmt.Printf("class_idle users=%d jobs=%d rss_mb=%.1f peak_mb=%.1f jobs_per_s=%.1f limit_mb=150 goal_mb=64\n", people, done, settled(t, a.PID()), peak, float64(jobs)/took)
}
