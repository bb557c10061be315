package world

import (
	"os/exec"
	"slices"
	"testing"
	"time"
)

// plain is a world without processes in which every node seems to run.
func plain(names ...string) *World {
	w := &World{cuts: map[pair]int{}}
	for _, name := range names {
		roles := "queue"
		if name == "a" || name == "b" {
			roles = "gateway,queue"
		}
		w.nodes = append(w.nodes, &Node{w: w, Name: name, o: Options{Roles: roles}, cmd: &exec.Cmd{}, open: true})
	}
	return w
}

// TestWhoCouldAcceptAWrite: what a gateway is held to account for.
func TestWhoCouldAcceptAWrite(t *testing.T) {
	cut := func(w *World, from, to string) { w.cuts[pair{from, to}]++ }
	for name, c := range map[string]struct {
		do   func(w *World)
		a, b bool
	}{
		"all is well":                       {func(*World) {}, true, true},
		"one voter is away":                 {func(w *World) { w.nodes[2].open = false }, true, true},
		"two are":                           {func(w *World) { w.nodes[1].stopped, w.nodes[2].open = true, false }, false, false},
		"a voter's disk is full":            {func(w *World) { w.nodes[2].full = true }, true, true},
		"and another is away":               {func(w *World) { w.nodes[2].full, w.nodes[1].open = true, false }, false, false},
		"a is alone":                        {func(w *World) { cut(w, "a", "b"); cut(w, "b", "a"); cut(w, "a", "c"); cut(w, "c", "a") }, false, true},
		"a hears nobody":                    {func(w *World) { cut(w, "b", "a"); cut(w, "c", "a") }, false, true},
		"a and b are parted, c hears both":  {func(w *World) { cut(w, "a", "b"); cut(w, "b", "a") }, false, false},
		"a and b are parted, and c is away": {func(w *World) { cut(w, "a", "b"); cut(w, "b", "a"); w.nodes[2].open = false }, false, false},
	} {
		w := plain("a", "b", "c")
		c.do(w)
		if a, b := w.able(w.nodes[0], 3), w.able(w.nodes[1], 3); a != c.a || b != c.b {
			t.Errorf("%s: a %t, b %t", name, a, b)
		}
	}
}

// TestGapsAreCountedWhileAGatewayCould: the time in which it could not is its
// own affair.
func TestGapsAreCountedWhileAGatewayCould(t *testing.T) {
	w := plain("a", "b", "c")
	x := w.Watch(3)
	past := func(d time.Duration) {
		x.mu.Lock()
		for _, door := range x.doors {
			door.last = door.last.Add(-d)
		}
		x.mu.Unlock()
	}
	x.Mark("kill-leader")
	past(3 * time.Second)
	x.Acknowledged("a")
	w.nodes[1].open = false // b goes, after three seconds without a word
	w.changed()
	past(time.Minute)
	w.nodes[1].open = true
	w.changed()
	x.Acknowledged("b")
	gaps := x.End()
	if len(gaps) < 2 || gaps[len(gaps)-1].Took > 4*time.Second {
		t.Errorf("gaps %v", gaps)
	}
	for _, g := range gaps {
		if g.Door == "b" && g.Took > 4*time.Second {
			t.Errorf("b is blamed for the time in which it was away: %v", g)
		}
	}
}

// TestAGapIsCountedFromWhatWasDoneLast: a leader that is killed while it is being
// elected begins anew.
func TestAGapIsCountedFromWhatWasDoneLast(t *testing.T) {
	x := plain("a", "b", "c").Watch(3)
	begin := time.Now()
	x.marks = []mark{{begin.Add(-time.Second), "transfer"}, {begin.Add(3 * time.Second), "kill-leader"}}
	x.note("a", begin, begin.Add(7*time.Second))
	want := []Gap{{"a", begin, 3 * time.Second, "transfer"}, {"a", begin.Add(3 * time.Second), 4 * time.Second, "kill-leader"}}
	if !slices.Equal(x.gaps, want) {
		t.Errorf("gaps %v, want %v", x.gaps, want)
	}
}
