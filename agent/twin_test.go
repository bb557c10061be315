package agent

import (
	"context"
	"testing"
	"time"

	"github.com/ahelme/comfyume/cluster"
)

// The nodes that hold the table answer whoever is there twice, machines that only run
// jobs as well.
func TestTwinIsTold(t *testing.T) {
	inVirtualTime(t, func(s *shop) {
		a := s.start("a", "queue,gateway")
		s.settled(1, 1)
		gpu := s.start("verda", "gpu")
		s.until("it to join", 20*time.Second, func() bool { return gpu.lineage().Cluster != "" })
		ask := func(p presence) cluster.Code {
			defer time.Sleep(twinEvery) // the bubble's time
			return cluster.CodeOf(gpu.client.Call(context.Background(), a.self.ID, verbTwin, p, nil))
		}
		old, young := presence{"old", 100}, presence{"young", 200}
		for _, p := range []presence{old, young, old} {
			if code := ask(p); code != "" {
				t.Errorf("%s is answered %s", p.Mark, code)
			}
		}
		if code := ask(young); code != cluster.Conflict {
			t.Errorf("the later one is answered %q", code)
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
