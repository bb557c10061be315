package peer_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/peer"
)

// TestWhatIsUnsureStaysUnsure: the first try may have been committed, so nobody
// may be told that nothing was changed because a later one found no leader.
func TestWhatIsUnsureStaysUnsure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		l := peer.NewLeadership(nil, "me", func() cluster.NodeID { return "a" }, nil)
		err := l.Do(t.Context(), func(context.Context, cluster.NodeID, bool) error {
			if tries++; tries == 1 {
				return cluster.Errorf(cluster.Unavailable, "the connection broke")
			}
			return cluster.Errorf(cluster.NoLeader, "nothing was changed")
		})
		if cluster.CodeOf(err) != cluster.Unavailable || tries < 2 {
			t.Errorf("after %d tries: %v", tries, err)
		}
	})
}

// TestLeaderThatIsSilentIsLeft: a call to a machine that is gone ends when this
// node's log knows another leader, and for a node without a log after a while.
func TestLeaderThatIsSilentIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var elected atomic.Bool
		known := func() cluster.NodeID {
			if elected.Load() {
				return "b"
			}
			return "a"
		}
		cores := func() []cluster.NodeID { return []cluster.NodeID{"a", "b"} }
		answer := func(ctx context.Context, leader cluster.NodeID, _ bool) error {
			if leader == "b" {
				return nil
			}
			<-ctx.Done()
			return context.Cause(ctx)
		}
		time.AfterFunc(2*time.Second, func() { elected.Store(true) })
		begin := time.Now()
		if err := peer.NewLeadership(nil, "me", known, cores).Do(t.Context(), answer); err != nil || time.Since(begin) > 3*time.Second {
			t.Errorf("with a log: %v after %s", err, time.Since(begin))
		}
		begin = time.Now()
		guest := peer.NewLeadership(nil, "me", nil, cores)
		for range 2 { // whoever is asked first
			if err := guest.Do(t.Context(), answer); err != nil || time.Since(begin) > 10*time.Second {
				t.Errorf("without a log: %v after %s", err, time.Since(begin))
			}
		}
	})
}
