package agent_test

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ahelme/comfyume/agent"
	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/people"
	"github.com/ahelme/comfyume/ui"
)

// node is what the checks look at; a test breaks one thing after the other.
type node struct {
	mu       sync.Mutex
	commit   error
	hang     bool
	frontend error
	accounts error
	people   *people.Table
	disk     int
	up, all  int
}

func (n *node) Propose(ctx context.Context, _ ...cluster.Command) (cluster.Outcome, error) {
	n.mu.Lock()
	hang, err := n.hang, n.commit
	n.mu.Unlock()
	if hang {
		<-ctx.Done()
		return cluster.Outcome{}, ctx.Err()
	}
	return cluster.Outcome{Index: 7}, err
}

func (n *node) set(change func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	change()
}

func (n *node) health() *agent.Health {
	return agent.NewHealth(time.Now,
		agent.CheckCommit(n, func() string { return "" }),
		agent.CheckFrontend(func() (string, error) { n.mu.Lock(); defer n.mu.Unlock(); return "1.37.11", n.frontend }),
		agent.CheckAccounts(func(f func(*people.Table)) { n.mu.Lock(); defer n.mu.Unlock(); f(n.people) }, func() error { return n.accounts }),
		agent.CheckDisk(func() (ui.Space, error) {
			n.mu.Lock()
			defer n.mu.Unlock()
			return ui.Space{Used: n.disk, Free: 1 << 30, Full: ui.FullUnknown}, nil
		}),
		agent.CheckComfyUI(func() (int, int, string) { n.mu.Lock(); defer n.mu.Unlock(); return n.up, n.all, "connection refused" }),
	)
}

func table(t *testing.T, disabled bool) *people.Table {
	t.Helper()
	return people.Restore(people.Snapshot{Rows: []people.Person{{Name: "user001", Hash: "x", Disabled: disabled}}})
}

// TestEachCheckTurns breaks each thing, sees its check turn, repairs it and
// sees it turn back.
func TestEachCheckTurns(t *testing.T) {
	for _, c := range []struct {
		check    string
		required bool
		within   time.Duration
		broken   func(*node)
		repaired func(*node)
	}{
		{"commit", true, 4 * time.Second, func(n *node) { n.commit = cluster.Errorf(cluster.NoLeader, "no leader") }, func(n *node) { n.commit = nil }},
		{"commit", true, 14 * time.Second, func(n *node) { n.hang = true }, func(n *node) { n.hang = false }},
		{"frontend", true, 6 * time.Second, func(n *node) { n.frontend = errors.New("index.html is damaged") }, func(n *node) { n.frontend = nil }},
		{"accounts", true, 3 * time.Second, func(n *node) {
			n.people = people.Restore(people.Snapshot{Rows: []people.Person{{Name: "a", Disabled: true}}})
		}, func(n *node) { n.people = people.Restore(people.Snapshot{Rows: []people.Person{{Name: "a"}}}) }},
		{"accounts", true, 3 * time.Second, func(n *node) { n.people = people.New() }, func(n *node) { n.people = people.Restore(people.Snapshot{Rows: []people.Person{{Name: "a"}}}) }},
		{"disk", false, 6 * time.Second, func(n *node) { n.disk = 70 }, func(n *node) { n.disk = 69 }},
		{"disk", false, 6 * time.Second, func(n *node) { n.disk = 95 }, func(n *node) { n.disk = 10 }},
		{"comfyui", false, 2 * time.Second, func(n *node) { n.up = 0 }, func(n *node) { n.up = 1 }},
		{"comfyui", false, 2 * time.Second, func(n *node) { n.up, n.all = 0, 0 }, func(n *node) { n.up, n.all = 1, 1 }},
	} {
		t.Run(c.check, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := &node{people: table(t, false), disk: 10, up: 1, all: 1}
				h := n.health()
				if r := h.Report(); r.Ready {
					t.Error("ready before anything was tried")
				}
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error, 1)
				go func() { done <- h.Run(ctx) }()
				synctest.Wait()
				expect(t, h, "at the start", "", false)
				n.set(func() { c.broken(n) })
				time.Sleep(c.within)
				synctest.Wait()
				expect(t, h, "broken", c.check, c.required)
				n.set(func() { c.repaired(n) })
				time.Sleep(c.within)
				synctest.Wait()
				expect(t, h, "repaired", "", false)
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// expect wants exactly one check to be bad, or none when bad is "".
func expect(t *testing.T, h *agent.Health, when, bad string, required bool) {
	t.Helper()
	status, body := h.Answer()
	var r agent.Report
	if err := json.Unmarshal(body, &r); err != nil {
		t.Fatal(err)
	}
	if want := bad == "" || !required; r.Ready != want || (status == 200) != want {
		t.Errorf("%s: ready %v with status %d, want %v", when, r.Ready, status, want)
	}
	if want := bad != "" && !required; (len(r.Degraded) == 1 && r.Degraded[0] == bad) != want {
		t.Errorf("%s: degraded %q", when, r.Degraded)
	}
	for _, c := range r.Checks {
		if c.OK != (c.Name != bad) {
			t.Errorf("%s: check %s is ok=%v (%s)", when, c.Name, c.OK, c.Detail)
		}
		if !c.OK && (c.Detail == "" || c.Cure == "") {
			t.Errorf("%s: check %s does not say what is wrong and what to do", when, c.Name)
		}
		if c.OK && c.Age < 0 {
			t.Errorf("%s: check %s has no age", when, c.Name)
		}
	}
}
