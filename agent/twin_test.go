package agent

import (
	"context"
	"testing"
	"time"

	"github.com/ahelme/comfyume/cluster"
)

// Whoever is there twice is told so by any other machine: one that only runs jobs by
// the gateway, the only gateway by one that only runs jobs.
func TestTwinIsTold(t *testing.T) {
	inVirtualTime(t, func(s *shop) {
		a := s.start("a", "queue,gateway")
		s.settled(1, 1)
		gpu := s.start("verda", "gpu")
		s.until("it to join", 20*time.Second, func() bool { return gpu.lineage().Cluster != "" })
		old, young := presence{"old", 100}, presence{"young", 200}
		for who, call := range map[string]func(p presence) error{
			"a machine that only runs jobs": func(p presence) error { return gpu.client.Call(context.Background(), a.self.ID, verbTwin, p, nil) },
			"the only gateway":              func(p presence) error { return a.client.Call(context.Background(), gpu.self.ID, verbTwin, p, nil) },
		} {
			ask := func(p presence) cluster.Code {
				defer time.Sleep(twinEvery) // the bubble's time
				return cluster.CodeOf(call(p))
			}
			for _, p := range []presence{old, young, old} {
				if code := ask(p); code != "" {
					t.Errorf("%s: %s is answered %s", who, p.Mark, code)
				}
			}
			if code := ask(young); code != cluster.Conflict {
				t.Errorf("%s: the later one is answered %q", who, code)
			}
		}
	})
}

// A restart is no twin; two that go on speaking are, and the later one is told.
func TestSameIdentityTwice(t *testing.T) {
	var w twins
	at := time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)
	tick := func() time.Time { at = at.Add(twinEvery); return at }
	old, young := presence{"old", 100}, presence{"young", 200}
	for range 3 {
		if w.heard("n1", old, tick()) {
			t.Fatal("one alone is a twin")
		}
	}
	for range 3 { // restarted
		if w.heard("n1", young, tick()) {
			t.Fatal("a restarted one is a twin of what it was")
		}
	}
	if w.heard("n1", old, tick()) {
		t.Error("the earlier one of two is told to stop")
	}
	if !w.heard("n1", young, tick()) {
		t.Error("the later one of two goes on")
	}
	if w.heard("n2", young, tick()) {
		t.Error("another node's mark counts")
	}
	for range 20 {
		w.heard("n1", old, tick())
	}
	if w.heard("n1", presence{"third", 300}, tick()) {
		t.Error("one that just came is told before the other spoke again")
	}
	if w.heard("n1", old, tick()); !w.heard("n1", presence{"third", 300}, tick()) {
		t.Error("the later one of two goes on")
	}
}
