package world

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// Watch knows since when each gateway could have accepted a write and when it
// did. A gateway could when it runs, and it and all nodes that it is connected
// with hear each other, and those that vote among them are a majority. Where
// some hear each other and others do not, nothing is asked of it.
type Watch struct {
	w     *World
	votes int

	mu    sync.Mutex
	doors map[string]*doorWatch
	marks []mark
	gaps  []Gap
}

type doorWatch struct {
	able bool
	last time.Time // of the last acknowledgement, or since it is able
}

type mark struct {
	at   time.Time
	kind string
}

// Gap is a time in which a gateway could have accepted a write and did not, from
// the last thing that was done to those who vote.
type Gap struct {
	Door string
	From time.Time
	Took time.Duration
	Kind string // what was done last before it
}

// least is the shortest gap that is kept.
const least = 200 * time.Millisecond

// Watch begins. votes is how many nodes vote in all.
func (w *World) Watch(votes int) *Watch {
	x := &Watch{w: w, votes: votes, doors: map[string]*doorWatch{}}
	w.mu.Lock()
	w.watched = x
	w.mu.Unlock()
	w.changed()
	return x
}

// changed tells the watch to look again.
func (w *World) changed() {
	w.mu.Lock()
	x := w.watched
	able := map[string]bool{}
	if x != nil {
		for _, n := range w.nodes {
			if n.Has("gateway") {
				able[n.Name] = w.able(n, x.votes)
			}
		}
	}
	w.mu.Unlock()
	if x != nil {
		x.update(able)
	}
}

// able reports whether a write through a gateway should be accepted. The lock
// is held.
func (w *World) able(gw *Node, votes int) bool {
	if !gw.Running() {
		return false
	}
	near, seen := []*Node{gw}, map[*Node]bool{gw: true}
	for i := 0; i < len(near); i++ {
		for _, n := range w.nodes {
			if n.Core() && !seen[n] && n.Running() && w.reaches(near[i], n) {
				seen[n] = true
				near = append(near, n)
			}
		}
	}
	voting := 0
	for _, a := range near {
		if a.Votes() && !a.isFull() {
			voting++
		}
		for _, b := range near {
			if !w.reaches(a, b) {
				return false
			}
		}
	}
	return voting > votes/2
}

// Full says that a node's disk is full: it cannot vote.
func (n *Node) Full(on bool) {
	n.mu.Lock()
	n.full = on
	n.mu.Unlock()
	n.w.changed()
}

func (n *Node) isFull() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.full
}

func (x *Watch) update(able map[string]bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	now := time.Now()
	for name, is := range able {
		d := x.doors[name]
		if d == nil {
			d = &doorWatch{}
			x.doors[name] = d
		}
		switch {
		case is && !d.able:
			d.last = now
		case !is && d.able:
			x.note(name, d.last, now)
		}
		d.able = is
	}
}

// note keeps a gap, in pieces: what is done anew in it begins another, because
// that may have hit who was about to lead. The lock is held.
func (x *Watch) note(door string, from, to time.Time) {
	kind := "start"
	for _, m := range x.marks {
		if m.at.After(to) {
			break
		}
		if m.at.After(from) {
			x.keep(Gap{door, from, m.at.Sub(from), kind})
			from = m.at
		}
		kind = m.kind
	}
	x.keep(Gap{door, from, to.Sub(from), kind})
}

func (x *Watch) keep(g Gap) {
	if g.Took >= least {
		x.gaps = append(x.gaps, g)
	}
}

// Acknowledged says that a write through a gateway was accepted.
func (x *Watch) Acknowledged(door string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	d := x.doors[door]
	if d == nil || !d.able {
		return
	}
	now := time.Now()
	x.note(door, d.last, now)
	d.last = now
}

// Mark says what is being done.
func (x *Watch) Mark(kind string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.marks = append(x.marks, mark{time.Now(), kind})
}

// End closes what is open and returns all gaps, the longest first.
func (x *Watch) End() []Gap {
	x.w.mu.Lock()
	x.w.watched = nil
	x.w.mu.Unlock()
	x.mu.Lock()
	defer x.mu.Unlock()
	now := time.Now()
	for name, d := range x.doors {
		if d.able {
			x.note(name, d.last, now)
		}
		d.able = false
	}
	slices.SortFunc(x.gaps, func(a, b Gap) int { return cmp.Compare(b.Took, a.Took) })
	return slices.Clone(x.gaps)
}

// ByKind writes the longest gap after each kind of fault, as a line.
func ByKind(gaps []Gap) string {
	longest := map[string]time.Duration{}
	for _, g := range gaps {
		longest[g.Kind] = max(longest[g.Kind], g.Took)
	}
	kinds := make([]string, 0, len(longest))
	for k := range longest {
		kinds = append(kinds, k)
	}
	slices.Sort(kinds)
	var b strings.Builder
	for _, k := range kinds {
		fmt.Fprintf(&b, " %s=%.1f", k, longest[k].Seconds())
	}
	return b.String()
}
