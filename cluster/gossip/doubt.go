package gossip

import (
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/ahelme/comfyume/cluster"
)

// doubtAfter lets the suspect's own objection arrive first; it usually does.
const doubtAfter = 500 * time.Millisecond

// doubts asks the slow for themselves, over a stream, before they are buried.
//
// memberlist alone buries the living on a lossy link: the objection of a
// suspect is sent a few times to random nodes, and the one node that it misses
// has no second way to hear of it. That node's own probes are answered, but an
// answer does not clear a suspicion, and as the suspicion is out of date by
// then the suspect ignores it. (Seen after 40 s to 14 min on a link that loses
// a twentieth of its datagrams.) An exchange of states settles it.
type doubts struct {
	list *memberlist.Memberlist
	port uint16
	done func() // somebody answered

	wg     sync.WaitGroup
	mu     sync.Mutex
	asking map[cluster.NodeID]bool
}

// settle begins to ask those who are slow for some time already, eight at once.
func (d *doubts) settle(members []Member, now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, m := range members {
		if m.State != Slow || now.Sub(m.Since) < doubtAfter || d.asking[m.ID] || len(d.asking) >= joinAtOnce {
			continue
		}
		d.asking[m.ID] = true
		d.wg.Go(func() { d.ask(m.ID, m.Addr) })
	}
}

func (d *doubts) ask(id cluster.NodeID, addr netip.Addr) {
	n, _ := d.list.Join([]string{netip.AddrPortFrom(addr, d.port).String()}) // an error is no news
	d.mu.Lock()
	delete(d.asking, id)
	d.mu.Unlock()
	if n > 0 {
		d.done()
	}
}
