package queue_test

import (
	"strings"
	"testing"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/cluster/policy"
	"github.com/ahelme/comfyume/roles/queue"
)

// nearly is when a job of which nothing is known is expected to end soon.
const nearly = 29

// work lets a job run for some seconds.
func (p *stage) work(l jobs.Lease, seconds int) {
	p.t.Helper()
	for range seconds {
		p.pass(time.Second)
		p.verdict(l, jobs.Go)
	}
}

// TestNextJobIsGivenAhead: a worker that runs one gets its next, and only one;
// what it still stores does not count.
func TestNextJobIsGivenAhead(t *testing.T) {
	play(t, func(p *stage) {
		p.do(submit("p1"), submit("p2"), submit("p3"))
		a := p.claim("a").gets("p1")
		p.started(a)
		p.work(a, nearly)
		b := p.claimHolding("a", a).gets("p2")
		p.verdict(a, jobs.Go)
		more := p.claimHolding("a", a, b)
		more.waits()
		if err := p.s.GpuDone(p.t.Context(), a); err != nil {
			t.Fatal(err)
		}
		p.started(b)
		for range nearly {
			p.work(a, 1)
			p.verdict(b, jobs.Go)
		}
		c := more.gets("p3")
		p.verdict(b, jobs.Go)
		if err := p.finish(a); err != nil {
			t.Fatal(err)
		}
		p.is("p2", "running a 1")
		p.is("p3", "assigned a 1")
		p.verdict(c, jobs.Go)
	})
}

// TestNothingAheadOfALongJob: who could be free first gets it.
func TestNothingAheadOfALongJob(t *testing.T) {
	play(t, func(p *stage) {
		long := submit("p1")
		long.Form = "film"
		p.do(long)
		a := p.claim("a").gets("p1")
		p.started(a)
		p.work(a, 600)
		if err := p.s.GpuDone(p.t.Context(), a); err != nil {
			t.Fatal(err)
		}
		if err := p.finish(a); err != nil {
			t.Fatal(err)
		}
		again, next := submit("p2"), submit("p3")
		again.Form = "film"
		p.do(again)
		a = p.claim("a").gets("p2")
		p.started(a)
		p.do(next)
		ahead := p.claimHolding("a", a)
		ahead.waits()
		p.work(a, 596)
		ahead.waits()
		p.work(a, 3)
		ahead.gets("p3")
	})
}

// TestRestartedWorkerLosesAllItHeld: what its new claim does not name is another's.
func TestRestartedWorkerLosesAllItHeld(t *testing.T) {
	play(t, func(p *stage) {
		p.do(submit("p1"), submit("p2"))
		a := p.claim("a").gets("p1")
		p.started(a)
		p.work(a, nearly)
		p.claimHolding("a", a).gets("p2")
		c := p.claim("a").gets("p1")
		p.is("p1", "assigned a 2")
		p.is("p2", "pending  1")
		p.verdict(c, jobs.Go)
	})
}

// TestWhatWasGivenAheadIsTakenBack when nothing shall begin, when its user is
// paused, when another is put to the front, and with the job before it.
func TestWhatWasGivenAheadIsTakenBack(t *testing.T) {
	for name, rules := range map[string]queue.Rules{
		"all paused":  {Paused: policy.Pause{All: true}},
		"user paused": {Paused: policy.Pause{Users: map[cluster.User]bool{"user001": true}}},
		"drained":     {Draining: map[cluster.NodeID]bool{"node-a": true}},
		"hands off":   {Class: policy.Class{Mode: policy.HandsOff}},
	} {
		t.Run(name, func(t *testing.T) {
			play(t, func(p *stage) {
				p.do(submit("p1"), submit("p2"))
				a := p.claim("a").gets("p1")
				p.started(a)
				p.work(a, nearly)
				b := p.claimHolding("a", a).gets("p2")
				p.obey(rules)
				p.pass(time.Second)
				p.verdict(b, jobs.Lost)
				p.verdict(a, jobs.Go)
				ahead := p.claimHolding("a", a)
				p.pass(time.Second)
				ahead.waits()
				p.obey(queue.Rules{})
				p.pass(time.Second)
				ahead.gets("p2")
			})
		})
	}
	t.Run("front", func(t *testing.T) {
		play(t, func(p *stage) {
			p.do(submit("p1"), submit("p2"), submit("p3"))
			a := p.claim("a").gets("p1")
			p.started(a)
			p.work(a, nearly)
			b := p.claimHolding("a", a).gets("p2")
			p.do(&jobs.Front{IDs: []jobs.ID{id("p3")}})
			p.verdict(b, jobs.Lost)
			if r := p.row("p2"); r.Strikes != 0 || !strings.Contains(r.Reason, "put before it") {
				t.Errorf("p2 has %d strikes, reason %q", r.Strikes, r.Reason)
			}
			p.claimHolding("a", a).gets("p3")
			p.pass(3 * time.Second)
			p.is("p3", "assigned a 1")
		})
	})
	t.Run("demo", func(t *testing.T) {
		play(t, func(p *stage) {
			p.do(submit("p1"), submit("p2"), submit("demo"))
			a := p.claim("a").gets("p1")
			p.started(a)
			p.work(a, nearly)
			b := p.claimHolding("a", a).gets("p2")
			p.do(&jobs.Now{IDs: []jobs.ID{id("demo")}})
			p.pass(100 * time.Millisecond)
			p.verdict(a, jobs.Lost)
			p.verdict(b, jobs.Lost)
			p.claim("a").gets("demo")
			if r := p.row("p2"); r.Preempted {
				t.Error("what had not begun was counted as stopped")
			}
		})
	})
}
