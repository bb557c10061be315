package agent

import (
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ahelme/comfyume/cluster/jobs"
)

// ears is what a node's pages were told.
type ears struct {
	mu  sync.Mutex
	all []jobs.Event
}

// listen puts ears in the place of a node's gateway.
func (n *testNode) listen() *ears {
	e := &ears{}
	n.hear(func(ev jobs.Event) {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.all = append(e.all, ev)
	})
	n.listening()
	return e
}

func (e *ears) types() (out []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, ev := range e.all {
		out = append(out, ev.Type)
	}
	return out
}

// A gateway that comes in the middle of a job is told what it has said so far,
// before anything new: one whose links were up before it listened, and one that
// comes back.
func TestGatewayThatComesLateIsTold(t *testing.T) {
	inVirtualTime(t, func(s *shop) {
		s.start("a", "queue,gateway")
		lead := s.settled(1, 1)
		gpu := s.start("verda", "gpu")
		gpu.work(10 * time.Minute)
		s.until("the worker to wait for work", 20*time.Second, func() bool { return len(lead.core.steward.Workers()) == 1 })
		if err := lead.submit("p1"); err != nil {
			t.Fatal(err)
		}
		s.until("the job to run", 5*time.Second, func() bool { return lead.job("p1").State == jobs.Running })
		j := lead.job("p1")
		said := func(typ string) jobs.Event {
			return jobs.Event{Job: j.ID, Epoch: j.Epoch, Type: typ, Text: []byte(typ), Index: 1}
		}
		standing := func() []jobs.Event { return []jobs.Event{said("execution_start"), said("progress_state")} }
		gpu.standing.Store(&standing)
		told := []string{"execution_start", "progress_state"}

		late := s.start("b", "gateway")
		s.until("it to be a member", time.Minute, func() bool { return late.job("p1").State == jobs.Running })
		time.Sleep(5 * time.Second) // its links are up
		heard := late.listen()
		took := s.until("it to be told", 10*time.Second, func() bool { return len(heard.types()) >= 2 })
		if got := heard.types(); !slices.Equal(got, told) || took > time.Second {
			t.Errorf("told %v after %s", got, took)
		}
		gpu.links.Publish(said("executing"))
		s.until("what is new", time.Second, func() bool { return slices.Contains(heard.types(), "executing") })

		late.kill()
		late = s.start("b", "gateway")
		heard = late.listen() // before it knows the table
		s.until("it to be told", time.Minute, func() bool { return slices.Equal(heard.types(), told) })
	})
}

// That a page has heard how its job ended is for gateways to say, and travels
// between them.
func TestGatewaysTellEachOtherWhatPagesHeard(t *testing.T) {
	inVirtualTime(t, func(s *shop) {
		a := s.start("a", "queue,gateway")
		s.settled(1, 1)
		b := s.start("b", "gateway")
		gpu := s.start("verda", "gpu")
		if err := a.submit("p1"); err != nil {
			t.Fatal(err)
		}
		s.until("b to know the job", time.Minute, func() bool { return b.job("p1").ID.Prompt == "p1" })
		time.Sleep(5 * time.Second)
		heard := b.listen()
		time.Sleep(3 * time.Second) // the links are up again
		e := jobs.Event{Job: jobs.ID{User: "ann", Prompt: "p1"}, Type: jobs.EventHeard}
		gpu.links.Tell(e) // it only runs jobs
		time.Sleep(time.Second)
		if got := heard.types(); len(got) > 0 {
			t.Errorf("a node that only runs jobs is believed: %v", got)
		}
		a.links.Tell(e)
		s.until("b to hear it", time.Second, func() bool { return slices.Equal(heard.types(), []string{jobs.EventHeard}) })
	})
}
