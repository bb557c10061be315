package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/ui"
)

// check is one thing that health means: doing it, again and again.
type check struct {
	name     string
	required bool          // the node is not ready without it; else it is degraded
	grave    bool          // and it is red all the same
	every    time.Duration // between two tries that went well
	fresh    time.Duration // how long a good try counts
	cure     string        // what to do when it fails
	// do does the thing. detail is shown either way; an error is a failure.
	do func(ctx context.Context) (detail string, err error)
}

// retry is the pause after a try that failed.
const retry = 200 * time.Millisecond

// Check is what /healthz says of one check.
type Check struct {
	Name   string  `json:"name"`
	OK     bool    `json:"ok"`
	Age    float64 `json:"age_s"` // since it last went well, -1 = never
	Detail string  `json:"detail"`
	Cure   string  `json:"cure,omitempty"` // when it is not ok
}

// Report is the body of /healthz. Ready means: this node can take work now.
type Report struct {
	Ready    bool     `json:"ready"`
	Degraded []string `json:"degraded"`
	Checks   []Check  `json:"checks"`
	Version  string   `json:"version"`
}

// health runs the checks, each in its own rhythm, so that one that hangs
// turns stale and delays no other.
type health struct {
	version string
	checks  []check
	now     func() time.Time

	mu   sync.Mutex
	last []tried
}

// tried is the newest result of a check.
type tried struct {
	good   time.Time // zero = never
	ended  time.Time // of the last try, well or not; at first: when health was made
	failed bool
	detail string
}

func newHealth(version string, now func() time.Time, checks ...check) *health {
	h := &health{version: version, checks: checks, now: now, last: make([]tried, len(checks))}
	for i := range h.last {
		h.last[i] = tried{failed: true, detail: "not tried yet", ended: now()}
	}
	return h
}

// run tries until ctx ends.
func (h *health) run(ctx context.Context) error {
	var wg sync.WaitGroup
	for i := range h.checks {
		wg.Go(func() { h.repeat(ctx, i) })
	}
	wg.Wait()
	return nil
}

func (h *health) repeat(ctx context.Context, i int) {
	c := h.checks[i]
	for {
		pause := c.every
		if !h.try(ctx, i) {
			pause = min(retry, c.every)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
	}
}

func (h *health) try(ctx context.Context, i int) bool {
	c := h.checks[i]
	ctx, cancel := context.WithTimeout(ctx, c.fresh)
	defer cancel()
	detail, err := c.do(ctx)
	h.mu.Lock()
	defer h.mu.Unlock()
	t := &h.last[i]
	t.failed, t.detail, t.ended = err != nil, detail, h.now()
	if err == nil {
		t.good = h.now()
		return true
	}
	if t.detail == "" {
		t.detail = sentence(err)
	}
	return false
}

// report is the state now; it never waits.
func (h *health) report() Report {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := Report{Ready: true, Degraded: []string{}, Version: h.version}
	for i, c := range h.checks {
		t := h.last[i]
		out := Check{Name: c.name, OK: !t.failed, Age: -1, Detail: t.detail}
		if !t.good.IsZero() {
			age := h.now().Sub(t.good)
			out.Age = float64(age.Milliseconds()) / 1000
			if age > c.fresh {
				out.OK = false
			}
		}
		switch {
		case out.OK:
		case c.required:
			r.Ready = false
		default:
			r.Degraded = append(r.Degraded, c.name)
		}
		if !out.OK {
			out.Cure = c.cure
		}
		r.Checks = append(r.Checks, out)
	}
	return r
}

// slack is how much later than its due a check may come back on a busy machine.
const slack = 30 * time.Second

// stuck is an error if a required check does not come back any more, well or
// not: each gives up by itself in time, unless something that this node cannot
// do without is locked for good. Others do not count: what they look at may be a
// folder of another machine that is gone.
func (h *health) stuck() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i, c := range h.checks {
		since := h.now().Sub(h.last[i].ended)
		if c.required && since > c.every+c.fresh+slack {
			return fmt.Errorf("the check %s has not come back for %s", c.name, since.Round(time.Second))
		}
	}
	return nil
}

// answer is /healthz: 200 when ready, else 503, the report either way.
func (h *health) answer() (status int, body []byte) {
	r := h.report()
	status = http.StatusOK
	if !r.Ready {
		status = http.StatusServiceUnavailable
	}
	body, err := json.Marshal(r)
	if err != nil {
		return http.StatusInternalServerError, []byte(`{"ready":false}`)
	}
	return status, append(body, '\n')
}

// sentence is an error for people: ours as it stands, another's in its own words.
func sentence(err error) string {
	if cluster.CodeOf(err) == cluster.Internal {
		return err.Error()
	}
	return cluster.MessageOf(err)
}

// problems lists the checks that fail, for the dashboard.
func (h *health) problems() []ui.Problem {
	var out []ui.Problem
	h.mu.Lock()
	defer h.mu.Unlock()
	for i, c := range h.checks {
		t := h.last[i]
		if !t.failed && h.now().Sub(t.good) <= c.fresh {
			continue
		}
		p := ui.Problem{Level: ui.Warn, What: c.name + ": " + t.detail, Cure: c.cure}
		if c.required || c.grave {
			p.Level = ui.Fail
		}
		if !t.good.IsZero() {
			p.Since = t.good.UnixMilli()
		}
		out = append(out, p)
	}
	return out
}
