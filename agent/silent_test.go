package agent

import (
	"context"
	"testing"
	"time"

	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/cluster/state"
)

// TestMachineOfTheLeaderIsGone: a machine that loses its power refuses nothing.
// Calls that were under way to it have no answer for many minutes, and neither
// workers nor people may wait for that long.
func TestMachineOfTheLeaderIsGone(t *testing.T) {
	inVirtualTime(t, func(s *shop) {
		for _, name := range []string{"a", "b", "c"} {
			s.start(name, "queue")
		}
		s.start("g", "gpu").work(time.Second) // it waits at the leader for a job
		lead := s.settled(3, 3)
		if err := lead.submit("before"); err != nil {
			t.Fatal(err)
		}
		s.until("the first job is done", 20*time.Second, func() bool { return lead.job("before").State == jobs.Done })
		time.Sleep(time.Second)
		var other *testNode
		for _, n := range s.nodes {
			if n.core != nil && n != lead {
				other = n
			}
		}
		s.fabric.Isolate("id-" + lead.name)

		// A person's change that was on its way to the old leader.
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		begin := time.Now()
		if _, err := other.core.propose.Propose(ctx, &state.Noop{}); err != nil || time.Since(begin) > 7*time.Second {
			t.Errorf("a change at %s: %v after %s", other.name, err, time.Since(begin))
		}
		if err := other.submit("after"); err != nil {
			t.Fatal(err)
		}
		took := s.until("the worker has found the new leader", 40*time.Second, func() bool { return other.job("after").State == jobs.Done })
		t.Logf("the worker had its next job after %s", took)
	})
}
