package gossip

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/ahelme/comfyume/cluster"
)

func TestTheGoneAreForgottenLateAndInBounds(t *testing.T) {
	self := Meta{Member: cluster.Member{ID: "me", Name: "me"}}
	now := time.Unix(1700000000, 0)
	table := newTable(self, netip.Addr{}, now)
	raw, err := encode(self.clipped())
	if err != nil {
		t.Fatal(err)
	}
	many := func(n int, s State) (out []entry) {
		for i := range n {
			out = append(out, entry{id: cluster.NodeID(fmt.Sprintf("%s%d", s, i)), meta: raw, state: s})
		}
		return out
	}
	count := func(s State) (n int) {
		for _, m := range table.all() {
			if m.State == s {
				n++
			}
		}
		return n
	}
	table.merge(append(many(300, Alive), many(150, Left)...), now)
	if count(Alive) != 301 || count(Left) != 150 {
		t.Errorf("%d alive, %d left", count(Alive), count(Left))
	}
	moves := table.merge(nil, now.Add(time.Hour)) // memberlist has forgotten them all
	if len(moves) != 300 || moves[0].from != Alive || moves[0].to.State != Dead {
		t.Errorf("%d moves, the first %+v", len(moves), moves[0])
	}
	if count(Dead) != keepCount || count(Left) != 0 {
		t.Errorf("%d dead and %d left of %d kept", count(Dead), count(Left), keepCount)
	}
	table.merge(nil, now.Add(26*time.Hour))
	if got := len(table.all()); got != 1 {
		t.Errorf("%d members a day later", got)
	}
}
