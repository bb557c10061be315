package peer

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ahelme/comfyume/cluster"
)

var away = cluster.Errorf(cluster.Unavailable, "does not answer")

// elsewhere is a follower's answer.
func elsewhere(leader cluster.NodeID) error {
	return &Refused{Why: cluster.Errorf(cluster.NoLeader, "ask the leader"), Leader: leader}
}

func TestCallsWaitForAnElectionAndNoLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var leader atomic.Pointer[cluster.NodeID]
		lead := func(node cluster.NodeID) { leader.Store(&node) }
		lead("")
		l := NewLeadership(nil, "me", func() cluster.NodeID { return *leader.Load() }, nil)
		nothing := func(context.Context, cluster.NodeID, bool) error { return nil }
		timed := func() (time.Duration, error) {
			begin := time.Now()
			err := l.Do(t.Context(), nothing)
			return time.Since(begin), err
		}
		go func() { time.Sleep(3 * time.Second); lead("other") }()
		if took, err := timed(); err != nil || took < 3*time.Second || took > 3*time.Second+2*retry {
			t.Errorf("an election of 3 s: %v after %s", err, took)
		}
		lead("")
		if took, err := timed(); cluster.CodeOf(err) != cluster.NoLeader || took < Election || took > Election+2*retry {
			t.Errorf("no election: %v after %s", err, took)
		}
		if took, err := timed(); cluster.CodeOf(err) != cluster.NoLeader || took != 0 {
			t.Errorf("and still none: %v after %s", err, took)
		}
		// Nobody asked for an hour. That the call before failed says nothing of now.
		time.Sleep(time.Hour)
		go func() { time.Sleep(2 * time.Second); lead("other") }()
		if took, err := timed(); err != nil || took < 2*time.Second {
			t.Errorf("an election an hour later: %v after %s", err, took)
		}
	})
}

func TestCallsOfNodesWithoutALogFindTheLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cores := []cluster.NodeID{"a", "b", "c"}
		l := NewLeadership(nil, "gpu", nil, func() []cluster.NodeID { return cores })
		up := false
		asked := 0
		ask := func(_ context.Context, node cluster.NodeID, _ bool) error {
			asked++
			switch {
			case node == "a":
				return away
			case !up:
				return elsewhere("")
			case node == "b":
				return elsewhere("c")
			}
			return nil
		}
		if err := l.Do(t.Context(), ask); cluster.CodeOf(err) != cluster.NoLeader && cluster.CodeOf(err) != cluster.Unavailable {
			t.Fatal(err)
		}
		// Longer than an election nobody led; then c does. No call has to fail for
		// having asked the wrong one.
		up = true
		for range 6 {
			asked = 0
			l.mu.Lock()
			l.hint, l.lost, l.failed = "", time.Now().Add(-time.Minute), time.Now()
			l.mu.Unlock()
			if err := l.Do(t.Context(), ask); err != nil || asked > 4 {
				t.Errorf("%v after asking %d times", err, asked)
			}
		}
		asked = 0
		if err := l.Do(t.Context(), ask); err != nil || asked != 1 {
			t.Errorf("%v after asking %d times, want once: the leader is known", err, asked)
		}
	})
}
