package agent

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/peer"
)

// verbTwin asks whether this node's identity is in use twice.
const verbTwin peer.Verb = "twin"

// presence is one run of a node: another run of the same machine has another mark.
type presence struct {
	Mark  string `cbor:"1,keyasint"`
	Began int64  `cbor:"2,keyasint"` // milliseconds since 1970, by the node's own clock
}

// How often a node asks, and how long a run that does not ask any more counts.
const (
	twinEvery  = 5 * time.Second
	twinForget = time.Minute
)

// twins finds machines that run with the identity of another: a copied state folder,
// or one that was restored while the old machine lives. One that was restarted is no
// twin: its old run says nothing after the new one began to speak.
type twins struct {
	mu   sync.Mutex
	runs map[cluster.NodeID]map[string]*run
}

type run struct {
	began       int64
	first, last time.Time // heard
}

// heard notes that a run lives, and reports whether it is the later one of two.
func (t *twins) heard(node cluster.NodeID, p presence, now time.Time) (later bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.runs == nil {
		t.runs = map[cluster.NodeID]map[string]*run{}
	}
	all := t.runs[node]
	if all == nil {
		all = map[string]*run{}
		t.runs[node] = all
	}
	for mark, r := range all {
		if now.Sub(r.last) > twinForget {
			delete(all, mark)
		}
	}
	me := all[p.Mark]
	if me == nil {
		me = &run{began: p.Began, first: now}
		all[p.Mark] = me
	}
	me.last = now
	for mark, r := range all {
		// Both have spoken since both were there.
		if mark != p.Mark && r.last.After(me.first) && now.After(r.first) && (me.began > r.began || me.began == r.began && p.Mark > mark) {
			return true
		}
	}
	return false
}

// serve answers other nodes.
func (t *twins) serve(s *peer.Server) {
	peer.HandleAnyLine(s, verbTwin, peer.Workers, func(_ context.Context, who peer.Who, in presence) (struct{}, error) {
		if t.heard(who.Node, in, time.Now()) {
			return struct{}{}, cluster.Errorf(cluster.Conflict, "another machine runs with the identity of node %s", who.Name)
		}
		return struct{}{}, nil
	})
}

// others are all other machines of the workshop that are there, whatever they do.
func (s *swarm) others(ctx context.Context) (out []cluster.NodeID) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	all, err := s.reach.peers(ctx)
	if err != nil {
		return nil // asked again soon
	}
	for _, p := range all {
		if p.Online && (slices.Contains(p.Tags, cluster.TagCore) || slices.Contains(p.Tags, cluster.TagGPU)) {
			out = append(out, p.ID)
		}
	}
	return out
}

// watchTwins asks the other nodes whether this one is there twice. The later one
// stops: the earlier one has the connections, and people's work.
func (a *Agent) watchTwins(ctx context.Context) error {
	me := presence{Mark: uuid.NewString(), Began: time.Now().UnixMilli()}
	tick := time.NewTicker(twinEvery)
	defer tick.Stop()
	for {
		for _, id := range a.swarm.others(ctx) {
			one, cancel := context.WithTimeout(ctx, greetWithin)
			err := a.swarm.client.Call(one, id, verbTwin, me, nil)
			cancel()
			if ctx.Err() != nil {
				return nil
			}
			if cluster.CodeOf(err) == cluster.Conflict {
				return cluster.Errorf(cluster.Conflict, "another machine runs with this one's identity (%s), and was there before: a copied state folder, or a restore while the old machine lives. This one stops. To let it join as a new machine, empty its state folder %s; to go on here, stop the other one", a.self.Name, a.cfg.StateDir)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
