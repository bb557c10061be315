package peer_test

import (
	"slices"
	"testing"

	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/cluster/peer"
)

// What was published is with every subscriber, in order, when Publish returns:
// the end of a job relies on it.
func TestEventsAreDeliveredBeforePublishReturns(t *testing.T) {
	hub := peer.NewEvents()
	var one, two []string
	stop := hub.Subscribe(func(e jobs.Event) { one = append(one, e.Type) })
	defer hub.Subscribe(func(e jobs.Event) { two = append(two, e.Type) })()
	for _, typ := range []string{"execution_start", "executed"} {
		hub.Publish(jobs.Event{Type: typ})
		if one[len(one)-1] != typ || two[len(two)-1] != typ {
			t.Fatalf("%s was not delivered: %v %v", typ, one, two)
		}
	}
	stop()
	hub.Publish(jobs.Event{Type: "late"})
	if !slices.Equal(one, []string{"execution_start", "executed"}) || !slices.Equal(two, []string{"execution_start", "executed", "late"}) {
		t.Errorf("after one left: %v %v", one, two)
	}
}
