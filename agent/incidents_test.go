package agent

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/ui"
)

// Days that the predecessor had, by what people saw. Others stand beside what
// they are about.

// TestBusyWorkerShownOffline: a machine that works for a quarter of an hour is shown alive and
// with its job all the while, and one that is idle is not counted as working.
func TestBusyWorkerShownOffline(t *testing.T) { // predecessor 6
	inVirtualTime(t, func(s *shop) {
		s.start("a", "queue,gateway")
		lead := s.settled(1, 1)
		s.start("verda-1", "gpu").work(15 * time.Minute)
		s.start("verda-2", "gpu")
		s.until("the worker to wait for work", 20*time.Second, func() bool { return len(lead.core.steward.Workers()) == 1 })
		if v := lead.view.View(); v.Counts.Running != 0 {
			t.Errorf("%d jobs run before any was queued", v.Counts.Running)
		}
		if err := lead.submit("p1"); err != nil {
			t.Fatal(err)
		}
		s.until("p1 to run", 5*time.Second, func() bool { return lead.job("p1").State == jobs.Running })
		for minute := range 14 {
			time.Sleep(time.Minute)
			v := lead.view.View()
			at := slices.IndexFunc(v.Nodes, func(n ui.Node) bool { return n.Name == "verda-1" })
			if v.Counts.Running != 1 || at < 0 || v.Nodes[at].State != "alive" {
				t.Fatalf("after %d min: %d jobs run, nodes %+v", minute+1, v.Counts.Running, v.Nodes)
			}
		}
		s.until("p1 to be done", 2*time.Minute, func() bool { return lead.job("p1").State == jobs.Done })
		if j := lead.job("p1"); j.Epoch != 1 || lead.view.View().Counts.Running != 0 {
			t.Errorf("%d attempts, %d jobs run", j.Epoch, lead.view.View().Counts.Running)
		}
	})
}

// TestRealTimeUpdatesAreOffForGood: pictures and progress come again after any
// number of failed tries.
func TestRealTimeUpdatesAreOffForGood(t *testing.T) { // predecessor 11
	inVirtualTime(t, func(s *shop) {
		s.start("a", "queue,gateway")
		lead := s.settled(1, 1)
		var heard atomic.Int64
		lead.hear(func(jobs.Event) { heard.Add(1) })
		gpu := s.start("verda-1", "gpu")
		w := gpu.work(time.Hour)
		s.until("the worker to wait for work", 20*time.Second, func() bool { return len(lead.core.steward.Workers()) == 1 })
		if err := lead.submit("p1"); err != nil {
			t.Fatal(err)
		}
		s.until("p1 to run", 5*time.Second, func() bool { return lead.job("p1").State == jobs.Running })
		say := func() bool {
			before := heard.Load()
			gpu.links.Publish(jobs.Event{Job: lead.job("p1").ID, Epoch: lead.job("p1").Epoch, Type: "progress", Text: []byte(`{"type":"progress","data":{}}`), Droppable: true})
			time.Sleep(100 * time.Millisecond)
			return heard.Load() > before
		}
		s.until("progress to be heard", 10*time.Second, say)
		for range 5 {
			s.fabric.Cut("id-verda-1", "id-a")
			time.Sleep(3 * time.Second) // not so long that the job is lost
			if say() {
				t.Error("heard over a cut line")
			}
			s.fabric.Heal("id-verda-1", "id-a")
			s.until("progress to be heard again", 15*time.Second, say)
		}
		if got := w.started(); len(got) != 1 {
			t.Errorf("it was started as %q", got)
		}
	})
}

// TestSwitchingTheGPUNeedsARestart: which machine works is changed for everybody
// at once, by one command, and written down with who did it.
func TestSwitchingTheGPUNeedsARestart(t *testing.T) { // predecessor 75
	inVirtualTime(t, func(s *shop) {
		s.start("a", "queue,gateway")
		lead := s.settled(1, 1)
		s.start("verda-1", "gpu").work(2 * time.Second)
		s.until("the first to wait for work", 20*time.Second, func() bool { return len(lead.core.steward.Workers()) == 1 })
		s.start("verda-2", "gpu").work(2 * time.Second)
		s.until("both to wait for work", 20*time.Second, func() bool { return len(lead.core.steward.Workers()) == 2 })
		for _, c := range []struct{ off, on, by string }{{"verda-1", "verda-2", "ann"}, {"verda-2", "verda-1", "bob"}} {
			for _, a := range []ui.Action{{Verb: ui.UndrainNode, Node: c.on}, {Verb: ui.DrainNode, Node: c.off}} {
				if err := lead.view.Do(context.Background(), c.by, a); err != nil && a.Verb == ui.DrainNode { // scripted workers have no fleet that hears of the other
					t.Fatal(err)
				}
			}
			for _, prompt := range []string{"x", "y", "z"} {
				prompt = c.on + prompt
				if err := lead.submit(prompt); err != nil {
					t.Fatal(err)
				}
				s.until(prompt+" to be done", 30*time.Second, func() bool { return lead.job(prompt).State == jobs.Done })
				if at := string(lead.job(prompt).Worker); !strings.HasPrefix(at, c.on) {
					t.Errorf("%s ran at %s, drained is %s", prompt, at, c.off)
				}
			}
			if v := lead.view.View(); !slices.ContainsFunc(v.Audit, func(a ui.Act) bool {
				return a.Actor == c.by && strings.Contains(a.What, c.off)
			}) {
				t.Errorf("the record does not say that %s drained %s: %+v", c.by, c.off, v.Audit)
			}
		}
	})
}

// TestNobodyKnewWhichMachineWasProduction: every machine, also one that only runs
// jobs, says of each which roles it has and which one leads, now and after the
// leader's machine has gone.
func TestNobodyKnewWhichMachineWasProduction(t *testing.T) { // predecessor 65
	inVirtualTime(t, func(s *shop) {
		roles := map[string]string{"mello": "queue,gateway", "mac": "queue,gateway", "nas": "queue", "verda": "gpu"}
		for _, name := range []string{"mello", "mac", "nas", "verda"} {
			s.start(name, roles[name])
		}
		old := s.settled(3, 3)
		agree := func(leader *testNode, gone string) func() bool {
			return func() bool {
				for _, n := range s.nodes {
					if n.name == gone {
						continue
					}
					v := n.view.View()
					if v.Head.Leader != leader.name || len(v.Nodes) != len(roles) {
						return false
					}
					for _, row := range v.Nodes {
						if joinRoles(row.Roles) != roles[row.Name] || row.Leader != (row.Name == leader.name) || (row.State == "alive") != (row.Name != gone) {
							return false
						}
					}
				}
				return true
			}
		}
		s.until("all machines say the same", time.Minute, agree(old, ""))
		old.kill()
		delete(s.nodes, old.name)
		s.until("all that are left say the same", 3*time.Minute, agree(s.leader(), old.name))
	})
}
