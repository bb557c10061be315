package queue_test

import (
	"testing"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/files"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/cluster/policy"
	"github.com/ahelme/comfyume/roles/queue"
)

func TestSilentWorkerLosesItsJob(t *testing.T) {
	play(t, func(p *stage) {
		p.do(submit("p1"))
		old := p.claim("a").gets("p1")
		p.started(old)
		other := p.claim("b")
		for range 4 {
			p.pass(10 * time.Second)
			p.verdict(old, jobs.Go)
		}
		p.pass(ttl - time.Second)
		p.is("p1", "running a 1")
		p.pass(3 * time.Second)
		lease := other.gets("p1")
		p.is("p1", "assigned b 2")
		if r := p.row("p1"); r.Strikes != 0 {
			t.Errorf("%d strikes for a lost worker", r.Strikes)
		}
		p.verdict(old, jobs.Go) // its result would still be taken
		p.started(lease)
		p.verdict(old, jobs.Lost)
		if err := p.finish(old); err != nil {
			t.Errorf("late Finish: %v, want it kept aside", err)
		}
		p.is("p1", "running b 2")
		if err := p.finish(lease); err != nil {
			t.Error(err)
		}
		p.is("p1", "done b 2")
	})
}

func TestSilentBeforeStarted(t *testing.T) {
	play(t, func(p *stage) {
		p.do(submit("p1"))
		l := p.claim("a").gets("p1")
		p.pass(10 * time.Second)
		p.verdict(l, jobs.Go) // it stages inputs, which may take longer than a lease
		p.pass(10 * time.Second)
		p.is("p1", "assigned a 1")
		p.pass(ttl)
		p.is("p1", "pending  1")
		if r := p.row("p1"); r.Reason != "its worker stopped answering" {
			t.Errorf("reason %q", r.Reason)
		}
	})
}

func TestReportsOfAnOldLeaseDoNotRenewTheNewOne(t *testing.T) {
	play(t, func(p *stage) {
		p.do(submit("p1"))
		old := p.claim("a").gets("p1")
		if err := p.s.Requeue(t.Context(), old, false, "drain"); err != nil {
			t.Fatal(err)
		}
		now := p.claim("b").gets("p1")
		forged := now
		forged.Epoch += 7
		for range 4 {
			p.pass(5 * time.Second)
			for _, l := range []jobs.Lease{old, forged} {
				if _, err := p.s.Started(t.Context(), l); cluster.CodeOf(err) != cluster.Stale {
					t.Fatalf("Started: %v, want stale", err)
				}
			}
		}
		p.is("p1", "pending  2")
	})
}

func TestStoringIsRenewedToo(t *testing.T) {
	play(t, func(p *stage) {
		p.do(submit("p1"))
		l := p.claim("a").gets("p1")
		p.started(l)
		p.pass(10 * time.Second)
		places, index, err := p.s.Outputs(t.Context(), l, []files.NewOutput{{Item: "9/images/0", Area: files.Output, Name: "ComfyUI_00007_.png", Ref: history, Size: 3}})
		if err != nil || index == 0 || len(places) != 1 || places[0].Name != "ComfyUI_00001_.png" {
			t.Fatalf("Outputs = %v, %d, %v", places, index, err)
		}
		p.pass(10 * time.Second)
		if err := p.s.GpuDone(t.Context(), l); err != nil {
			t.Fatal(err)
		}
		p.pass(10 * time.Second)
		p.is("p1", "storing a 1")
		p.pass(10 * time.Second)
		p.is("p1", "pending  1")
	})
}

func TestCancelReachesARunningWorker(t *testing.T) {
	play(t, func(p *stage) {
		p.do(submit("p1"))
		l := p.claim("a").gets("p1")
		p.started(l)
		p.verdict(l, jobs.Go)
		p.do(&jobs.Cancel{IDs: []jobs.ID{id("p1")}, Reason: "cancelled by user001"})
		p.verdict(l, jobs.Stop)
		if err := p.s.Finish(t.Context(), jobs.Finish{Lease: l, State: jobs.Cancelled, History: history}); err != nil {
			t.Fatal(err)
		}
		p.verdict(l, jobs.Lost)
		p.is("p1", "cancelled a 1")
	})
}

func TestCancelOfASilentWorkersJobEndsIt(t *testing.T) {
	play(t, func(p *stage) {
		p.do(submit("p1"))
		p.started(p.claim("a").gets("p1"))
		p.do(&jobs.Cancel{IDs: []jobs.ID{id("p1")}, Reason: "cancelled by user001"})
		p.pass(ttl + 2*time.Second)
		p.is("p1", "cancelled a 1")
		if r := p.row("p1"); r.Reason != "cancelled by user001" {
			t.Errorf("reason %q, want the cancel's", r.Reason)
		}
	})
}

// A machine that gossip believes to be gone loses its job when it is silent as
// well, long before its lease has run out, and not before.
func TestMachineThatVanishedLosesItsJobEarly(t *testing.T) {
	play(t, func(p *stage) {
		p.do(submit("p1"))
		l := p.claim("a").gets("p1")
		p.started(l)
		p.pass(11 * time.Second)
		p.verdict(l, jobs.Go)
		p.slander("node-a")
		for range 5 { // it is slandered: it answers
			p.pass(time.Second)
			p.verdict(l, jobs.Go)
		}
		p.is("p1", "running a 1")
		other := p.claim("b")
		p.pass(5 * time.Second)
		other.gets("p1")
		if r := p.row("p1"); r.Strikes != 0 || len(r.Past) != 1 {
			t.Errorf("%d strikes, past %v", r.Strikes, r.Past)
		}
	})
}

// The result of a worker that was out of reach for long counts, if no other has
// begun.
func TestLateResultIsTaken(t *testing.T) {
	play(t, func(p *stage) {
		p.do(submit("p1"))
		old := p.claim("a").gets("p1")
		p.started(old)
		p.pass(2*ttl + 2*time.Second)
		p.is("p1", "pending  1")
		p.verdict(old, jobs.Go)
		if err := p.finish(old); err != nil {
			t.Fatal(err)
		}
		if r := p.row("p1"); r.State != jobs.Done || r.Strikes != 0 {
			t.Errorf("row %+v", r)
		}
	})
}

// What is paused or drained gets nothing new, and goes on when it is let go.
func TestPausesAndDrains(t *testing.T) {
	play(t, func(p *stage) {
		p.obey(queue.Rules{Paused: policy.Pause{All: true}})
		c := p.claim("a")
		p.do(submit("p1"))
		c.waits()
		p.obey(queue.Rules{Draining: map[cluster.NodeID]bool{"node-a": true}})
		p.pass(2 * time.Second)
		c.waits()
		p.obey(queue.Rules{})
		p.pass(2 * time.Second)
		c.gets("p1")
	})
}

func TestClaimAfterARestart(t *testing.T) {
	play(t, func(p *stage) {
		p.do(submit("p1"), submit("p2"))
		old := p.claim("a").gets("p1")
		p.started(old)
		p.stop()
		p.start()
		lease := p.claim("a").gets("p1") // at once and before p2: it kept its place
		p.is("p1", "assigned a 2")
		p.verdict(lease, jobs.Go)
		p.started(lease)
		p.verdict(old, jobs.Lost)
		p.is("p2", "pending  0")
		if r := p.row("p1"); r.Strikes != 0 {
			t.Errorf("%d strikes for a restart", r.Strikes)
		}
	})
}

func TestNewLeaderGrantsAnAmnesty(t *testing.T) {
	play(t, func(p *stage) {
		p.do(submit("p1"))
		p.started(p.claim("a").gets("p1"))
		p.pass(10 * time.Second)
		p.stop()
		p.start()
		p.pass(2*ttl - time.Second)
		p.is("p1", "running a 1")
		p.pass(3 * time.Second)
		p.is("p1", "pending  1")
	})
}

func TestLeadershipThatCameBackIsANewTerm(t *testing.T) {
	play(t, func(p *stage) {
		p.do(submit("p1"))
		p.started(p.claim("a").gets("p1"))
		p.pass(14 * time.Second)
		p.news <- false // lost and won again before anybody looked
		p.news <- true
		p.pass(20 * time.Second)
		p.is("p1", "running a 1")
		p.pass(15 * time.Second)
		p.is("p1", "pending  1")
	})
}

func TestFollowerSendsWorkersAway(t *testing.T) {
	play(t, func(p *stage) {
		p.leads.Store(false)
		p.pass(2 * time.Second)
		c := p.claim("a")
		p.do(submit("p1"))
		p.pass(ttl - 2*time.Second)
		c.waits() // it may be about to lead
		p.pass(4 * time.Second)
		c.fails(cluster.NoLeader)
		if _, err := p.s.Renew(t.Context(), jobs.Lease{Job: id("p1"), Worker: "a", Epoch: 1}); cluster.CodeOf(err) != cluster.NoLeader {
			t.Errorf("Renew: %v, want no leader", err)
		}
		p.is("p1", "pending  0")
	})
}

func TestRenewAtALeaderThatLagsIsNotALoss(t *testing.T) {
	play(t, func(p *stage) {
		p.do(submit("p1"))
		l := jobs.Lease{Job: id("p1"), Worker: "a", Epoch: 1} // assigned, but not applied here
		if v, err := p.s.Renew(t.Context(), l); cluster.CodeOf(err) != cluster.Unavailable {
			t.Errorf("Renew = %q, %v, want unavailable", v, err)
		}
	})
}
