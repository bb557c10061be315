package queue_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/cluster/state"
	"github.com/ahelme/comfyume/roles/queue"
)

func TestNewRefusesWhatItCannotDo(t *testing.T) {
	good := queue.Config{Jobs: state.New(nilLog()), Propose: &journal{}, Watch: func() queue.Watcher { return nil }, Leads: func() bool { return true }}
	if _, err := queue.New(good); err != nil {
		t.Fatal(err)
	}
	if _, err := queue.New(queue.Config{}); err == nil {
		t.Error("an empty configuration was taken")
	}
	bad := good
	bad.LeaseTTL = -1
	if _, err := queue.New(bad); cluster.CodeOf(err) != cluster.Invalid {
		t.Errorf("negative lease: %v", err)
	}
}

func TestFirstInFirstOutToTwoWorkers(t *testing.T) {
	play(t, func(p *stage) {
		for _, prompt := range []string{"p1", "p2", "p3"} {
			p.do(submit(prompt))
		}
		a := p.claim("a").gets("p1")
		b := p.claim("b").gets("p2")
		next := p.claim("c", "Other")
		p.started(a)
		p.started(b)
		next.gets("p3") // needs no class
		if err := p.finish(a); err != nil {
			t.Fatal(err)
		}
		p.is("p1", "done a 1")
		again := p.claim("a")
		again.waits()
		p.do(submit("p4"))
		again.gets("p4")
	})
}

func TestLongestWaitGoesFirst(t *testing.T) {
	play(t, func(p *stage) {
		b, a := p.claim("b"), p.claim("a")
		p.do(submit("p1"))
		b.gets("p1")
		a.waits()
		p.do(submit("p2"))
		a.gets("p2")
	})
}

func TestSeveralAssignmentsAreOneEntry(t *testing.T) {
	play(t, func(p *stage) {
		p.leads.Store(false)
		p.pass(2 * time.Second)
		a, b := p.claim("a"), p.claim("b")
		p.do(submit("p1"), submit("p2"))
		before := p.log.count()
		p.leads.Store(true)
		p.pass(2 * time.Second)
		a.gets("p1")
		b.gets("p2")
		if n := p.log.count() - before; n != 1 {
			t.Errorf("%d entries, want 1", n)
		}
	})
}

func TestClassesKeepAJobFromAWorker(t *testing.T) {
	play(t, func(p *stage) {
		plain := p.claim("a", "KSampler")
		p.do(submit("p1", "Special"))
		plain.waits()
		p.do(submit("p2", "KSampler"))
		plain.gets("p2")
		p.claim("b", "Special").gets("p1")
	})
}

func TestHeldJobWaitsForItsUser(t *testing.T) {
	play(t, func(p *stage) {
		p.do(submit("p1"))
		l := p.claim("a").gets("p1")
		if err := p.s.Hold(t.Context(), l, "sign in again"); err != nil {
			t.Fatal(err)
		}
		c := p.claim("a")
		p.pass(time.Minute)
		c.waits()
		p.is("p1", "held  1")
		p.do(&jobs.Release{User: "user001", Secrets: "n"})
		c.gets("p1")
	})
}

func TestThreeStrikes(t *testing.T) {
	play(t, func(p *stage) {
		p.do(submit("p1"))
		for range 2 {
			l := p.claim("a").gets("p1")
			p.started(l)
			if err := p.s.Requeue(t.Context(), l, true, "ComfyUI died"); err != nil {
				t.Fatal(err)
			}
			p.pass(2 * time.Minute) // it waits a while after a strike
		}
		b := p.claim("b")
		l := b.gets("p1")
		if err := p.s.Requeue(t.Context(), l, true, "ComfyUI died"); err != nil {
			t.Fatal(err)
		}
		if r := p.row("p1"); r.State != jobs.Failed || r.Strikes != 3 || r.Failure == nil {
			t.Errorf("row %+v", r)
		}
	})
}

func TestAStrikeMovesTheJobElsewhere(t *testing.T) {
	play(t, func(p *stage) {
		p.do(submit("p1"))
		l := p.claim("a").gets("p1")
		p.do(submit("p2"))
		busy := p.claim("b").gets("p2")
		if err := p.s.Requeue(t.Context(), l, true, "ComfyUI died"); err != nil {
			t.Fatal(err)
		}
		a := p.claim("a")
		a.waits() // b is there and has not failed with it
		if err := p.finish(busy); err != nil {
			t.Fatal(err)
		}
		b := p.claim("b")
		b.waits()
		p.pass(12 * time.Second)
		b.gets("p1")
		a.waits()
	})
}

func TestNewerClaimReplacesTheOlder(t *testing.T) {
	play(t, func(p *stage) {
		old := p.claim("a")
		now := p.claim("a")
		old.fails(cluster.Stale)
		p.do(submit("p1"))
		now.gets("p1")
	})
}

func TestClaimThatWasGivenUpGetsNothing(t *testing.T) {
	play(t, func(p *stage) {
		c := p.claim("a")
		c.hangUp()
		select {
		case err := <-c.failed:
			if !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
		case a := <-c.got:
			t.Errorf("got %+v", a)
		}
		p.do(submit("p1"))
		p.is("p1", "pending  0")
		p.claim("b").gets("p1")
	})
}

func TestJobGoesBackWhenItsClaimWasGivenUpMeanwhile(t *testing.T) {
	play(t, func(p *stage) {
		c := p.claim("a")
		p.log.ahead(func(cmds []cluster.Command) error {
			if _, ok := cmds[0].(*jobs.Assign); ok {
				c.hangUp()
				<-c.failed // the caller has gone before the commit
				p.log.ahead(nil)
			}
			return nil
		})
		p.do(submit("p1"))
		p.is("p1", "pending  1")
		p.claim("b").gets("p1")
	})
}

func TestRefusedAssignmentIsTriedAgainWithoutASpin(t *testing.T) {
	play(t, func(p *stage) {
		var tries atomic.Int32
		p.log.ahead(func(cmds []cluster.Command) error {
			if _, ok := cmds[0].(*jobs.Assign); ok && tries.Load() < 5 {
				tries.Add(1)
				return cluster.Errorf(cluster.NoLeader, "no quorum")
			}
			return nil
		})
		c := p.claim("a")
		p.do(submit("p1"))
		c.waits()
		p.pass(500 * time.Millisecond)
		if tries.Load() > 2 {
			t.Fatalf("%d tries in half a second", tries.Load())
		}
		p.pass(6 * time.Second)
		c.gets("p1")
	})
}

// TestAssignmentWhoseAnswerWasLost has the commit succeed and the call fail.
func TestAssignmentWhoseAnswerWasLost(t *testing.T) {
	play(t, func(p *stage) {
		p.log.spoil(func(cmds []cluster.Command) error {
			if _, ok := cmds[0].(*jobs.Assign); ok {
				return cluster.Errorf(cluster.Unavailable, "no answer")
			}
			return nil
		})
		c := p.claim("a")
		p.do(submit("p1"))
		c.gets("p1")
	})
}

func TestStopAnswersEveryClaim(t *testing.T) {
	play(t, func(p *stage) {
		ctx, c := p.t.Context(), make(chan error, 2)
		ask := func() {
			_, err := p.s.Claim(ctx, jobs.Claim{Worker: "a"})
			c <- err
		}
		go ask()
		p.pass(time.Second)
		p.stop()
		ask()
		for range 2 {
			if err := <-c; cluster.CodeOf(err) != cluster.Unavailable {
				t.Errorf("claim ended with %v, want unavailable", err)
			}
		}
	})
}

func TestWorkers(t *testing.T) {
	play(t, func(p *stage) {
		p.do(submit("p1"))
		l := p.claim("a").gets("p1")
		p.claim("b")
		p.pass(10 * time.Second)
		p.verdict(l, jobs.Go)
		p.pass(5 * time.Second)
		got := p.s.Workers()
		if len(got) != 2 {
			t.Fatalf("got %+v", got)
		}
		a, b := got[0], got[1]
		if a.ID != "a" || a.Node != "node-a" || a.Idle || a.Job == nil || *a.Job != id("p1") || time.Since(a.LastSeen) != 5*time.Second {
			t.Errorf("a is %+v", a)
		}
		if b.ID != "b" || !b.Idle || b.Job != nil || time.Since(b.LastSeen) != 0 {
			t.Errorf("b is %+v", b)
		}
		if err := p.finish(l); err != nil {
			t.Fatal(err)
		}
		p.pass(2 * time.Hour)
		if got := p.s.Workers(); len(got) != 1 || got[0].ID != "b" {
			t.Errorf("after two hours %+v", got)
		}
	})
}

// TestModelOnOneGPUOnly (predecessor 35's kin): a job is not given to a GPU that
// would refuse it because the file is on another, be that one busy or away. What
// no GPU lists is no file of theirs, and keeps nothing from anybody.
func TestModelOnOneGPUOnly(t *testing.T) {
	play(t, func(p *stage) {
		ask := func(worker string, models ...string) *call {
			return p.askWith(jobs.Claim{Worker: cluster.WorkerID(worker), Node: "n", Classes: map[string]bool{"A": true}, Models: set(models)})
		}
		ltx, other := submit("ltx", "A"), submit("other", "A")
		ltx.Models, other.Models = []string{"ltx.safetensors"}, []string{"from-the-net.gguf"}
		a := ask("a", "ltx.safetensors")
		p.do(submit("p1", "A"))
		first := a.gets("p1")
		p.started(first)
		b := ask("b", "sdxl.safetensors")
		p.do(ltx)
		b.waits()
		turn := p.s.Forecast().Turns()[id("ltx")]
		if turn.Start == 0 {
			t.Errorf("what waits for the one GPU that has its model is told %+v", turn)
		}
		p.do(other)
		second := b.gets("other")
		p.started(second)
		for _, l := range []jobs.Lease{first, second} {
			if err := p.finish(l); err != nil {
				t.Fatal(err)
			}
		}
		p.pass(time.Minute) // a is silent
		c := ask("c")
		c.waits()
		if why := p.s.Forecast().Turns()[id("ltx")].Reason; !strings.Contains(why, "has the model ltx.safetensors") {
			t.Errorf("it is told %q", why)
		}
		ask("a", "ltx.safetensors").gets("ltx")
	})
}

func set(names []string) map[string]bool {
	out := map[string]bool{}
	for _, n := range names {
		out[n] = true
	}
	return out
}
