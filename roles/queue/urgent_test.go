package queue_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/cluster/policy"
	"github.com/ahelme/comfyume/roles/queue"
)

// TestDemoNowStopsWhoLosesLeast: all GPUs are at work; the urgent job begins as
// soon as one worker has stopped, and the other goes back to its place, once.
func TestDemoNowStopsWhoLosesLeast(t *testing.T) {
	play(t, func(p *stage) {
		p.do(submit("p1"), submit("p2"), submit("p3"), submit("p4"))
		a := p.claim("a").gets("p1")
		p.started(a)
		p.pass(2 * time.Second)
		b := p.claim("b").gets("p2")
		p.started(b)
		p.verdict(a, jobs.Go)
		p.do(submit("demo"))
		p.do(&jobs.Now{IDs: []jobs.ID{id("demo")}})
		p.pass(100 * time.Millisecond)
		p.is("p2", "pending  1")
		p.is("p1", "running a 1")
		p.verdict(b, jobs.Lost)
		if r := p.row("p2"); !strings.Contains(r.Reason, "instructor's demo") || !r.Preempted {
			t.Errorf("p2's user reads %q", r.Reason)
		}
		d := p.claim("b").gets("demo")
		p.started(d)
		if err := p.finish(d); err != nil {
			t.Fatal(err)
		}
		// p2 is before p3 as it was, and is not stopped a second time.
		again := p.claim("b").gets("p2")
		p.started(again)
		p.do(submit("demo2"))
		p.do(&jobs.Now{IDs: []jobs.ID{id("demo2")}})
		p.pass(100 * time.Millisecond)
		p.is("p2", "running b 2")
		p.is("p1", "pending  1")
	})
}

// TestAWorkerThatDoesNotStopIsNamed and the next one is asked after two seconds.
func TestAWorkerThatDoesNotStopIsNamed(t *testing.T) {
	play(t, func(p *stage) {
		p.do(submit("p1"), submit("p2"))
		a := p.claim("a").gets("p1")
		p.started(a)
		p.pass(time.Second)
		b := p.claim("b").gets("p2")
		p.started(b)
		p.do(submit("demo"))
		p.do(&jobs.Now{IDs: []jobs.ID{id("demo")}})
		p.pass(100 * time.Millisecond)
		p.is("p2", "pending  1") // b lost it and says nothing
		p.verdict(a, jobs.Go)
		p.pass(1500 * time.Millisecond)
		p.is("p1", "running a 1")
		p.pass(1500 * time.Millisecond)
		p.is("p1", "pending  1")
		f := p.s.Forecast()
		if f == nil || !strings.Contains(f.Turns()[id("demo")].Reason, "b did not stop its job within 2s") {
			t.Errorf("the one who waits reads %+v", f)
		}
		p.claim("a").gets("demo")
	})
}

// TestDemoNowHundredTimes: with all workers at work, an urgent job begins within
// five seconds each time; workers hear of it with their next renewal, within 1 s.
func TestDemoNowHundredTimes(t *testing.T) {
	play(t, func(p *stage) {
		slowest := time.Duration(0)
		for n := range 100 {
			fill, demo := fmt.Sprint("f", n), fmt.Sprint("d", n)
			p.do(submit(fill))
			l := p.claim("a").gets(fill)
			p.started(l)
			p.pass(time.Duration(n%7) * 100 * time.Millisecond)
			began := time.Now()
			p.do(submit(demo))
			p.do(&jobs.Now{IDs: []jobs.ID{id(demo)}})
			for v := jobs.Go; v == jobs.Go; {
				p.pass(time.Second)
				v, _ = p.s.Renew(p.t.Context(), l)
			}
			d := p.claim("a").gets(demo)
			p.started(d)
			slowest = max(slowest, time.Since(began))
			if err := p.finish(d); err != nil {
				t.Fatal(err)
			}
			back := p.claim("a").gets(fill)
			p.started(back)
			if err := p.finish(back); err != nil {
				t.Fatal(err)
			}
		}
		t.Logf("demo_now runs=100 slowest=%s", slowest)
		if slowest > 5*time.Second {
			t.Errorf("it took %s", slowest)
		}
	})
}

// TestWindingDownEndsWithNothingRunning: ten minutes before the end what will
// not be over is stopped, and at the end everything is.
func TestWindingDownEndsWithNothingRunning(t *testing.T) {
	play(t, func(p *stage) {
		p.do(submit("p1"), submit("p2"))
		a := p.claim("a").gets("p1")
		p.started(a)
		end := time.Now().Add(15 * time.Second)
		p.obey(queue.Rules{Class: policy.Class{Mode: policy.WindDown, Until: end.UnixMilli()}})
		p.pass(2 * time.Second)
		p.is("p1", "pending  1") // 30 s are expected of it
		p.claim("a").waits()
		p.is("p2", "pending  0")
	})
}

// TestForecastOfTheSteward: pages read what the leader expects.
func TestForecastOfTheSteward(t *testing.T) {
	play(t, func(p *stage) {
		p.do(submit("p1"), submit("p2"))
		l := p.claim("a").gets("p1")
		p.started(l)
		f := p.s.Forecast()
		turn := f.Turns()[id("p2")]
		if turn.Position != 1 || turn.Worker != cluster.WorkerID("a") || turn.Start < time.Now().Add(20*time.Second).UnixMilli() {
			t.Errorf("%+v", turn)
		}
		p.leads.Store(false)
		if p.s.Forecast() != nil {
			t.Error("a node that does not lead has a forecast")
		}
	})
}
