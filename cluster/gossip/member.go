package gossip

import (
	"bytes"
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/ahelme/comfyume/cluster"
)

// State is what this node believes of another one.
type State string

// The states. See the package's comment for what each means.
const (
	Alive State = "alive"
	Slow  State = "slow" // suspected: a probe was not answered
	Dead  State = "dead"
	Left  State = "left"
)

// Here reports whether a node in this state is still counted as present.
func (s State) Here() bool { return s == Alive || s == Slow }

// Member is a node as this one sees it.
type Member struct {
	Meta
	Addr  netip.Addr
	State State
	Since time.Time     // of State, by this node's clock
	RTT   time.Duration // of the last probe of ours that it answered itself; 0: none yet
}

// Those that are gone are remembered this long, and this many.
const (
	keepGone  = 24 * time.Hour
	keepCount = 200
)

// table is who was seen. It knows nothing of memberlist, so that nobody waits
// for one who reads it.
type table struct {
	mu      sync.Mutex
	self    Member
	others  map[cluster.NodeID]*row
	updated []byte // self's Meta, encoded
}

type row struct {
	Member
	raw []byte // Meta as it came, to notice a change
}

// move is one change of a row; from is "" for a new one.
type move struct {
	from State
	to   Member
}

func newTable(self Meta, addr netip.Addr, now time.Time) *table {
	t := &table{others: map[cluster.NodeID]*row{}}
	t.self = Member{Meta: self.clipped(), Addr: addr, State: Alive, Since: now}
	return t
}

// copied shares no memory with m.
func copied(m Member) Member {
	m.Roles = slices.Clone(m.Roles)
	return m
}

func (t *table) all() []Member {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := []Member{copied(t.self)}
	for _, r := range t.others {
		out = append(out, copied(r.Member))
	}
	slices.SortFunc(out, func(a, b Member) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID)) })
	return out
}

func (t *table) one(id cluster.NodeID) (Member, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if id == t.self.ID {
		return copied(t.self), true
	}
	if r, ok := t.others[id]; ok {
		return copied(r.Member), true
	}
	return Member{}, false
}

// here maps the addresses of the others that are present.
func (t *table) here() map[netip.Addr]bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := map[netip.Addr]bool{}
	for _, r := range t.others {
		if r.State.Here() {
			out[r.Addr] = true
		}
	}
	return out
}

// update reports whether self's record is another one now.
func (t *table) update(change func(*Meta)) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	m := copied(t.self).Meta
	change(&m)
	m.ID = t.self.ID
	before := t.encode()
	t.self.Meta, t.updated = m.clipped(), nil
	return !bytes.Equal(before, t.encode())
}

func (t *table) leave(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.self.State != Left {
		t.self.State, t.self.Since = Left, now
	}
}

func (t *table) encoded() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.encode()
}

// encode keeps the record until self changes. A clipped Meta always fits (a
// test holds the bound); were it not so, others would see a node without a name.
func (t *table) encode() []byte {
	if t.updated == nil {
		b, err := encode(t.self.Meta)
		if err != nil {
			b = nil
		}
		t.updated = b
	}
	return t.updated
}

func (t *table) heard(id cluster.NodeID, rtt time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if r, ok := t.others[id]; ok {
		r.RTT = rtt
	}
}

// merge takes over everything memberlist believes at one moment and tells what
// is new in it. A member that memberlist has forgotten is not among seen: it
// keeps its last state.
func (t *table) merge(seen []entry, now time.Time) (moves []move) {
	t.mu.Lock()
	defer t.mu.Unlock()
	present := map[cluster.NodeID]bool{}
	for _, e := range seen {
		if e.id == t.self.ID {
			continue
		}
		present[e.id] = true
		old := t.others[e.id]
		if old != nil && old.State == e.state && old.Addr == e.addr && bytes.Equal(old.raw, e.meta) {
			continue
		}
		meta, err := decode(e.id, e.meta)
		if err != nil {
			continue // was refused at the door (see delegate.NotifyAlive)
		}
		next := &row{Member: Member{Meta: meta, Addr: e.addr, State: e.state, Since: now}, raw: e.meta}
		from := State("")
		if old != nil {
			next.RTT, from = old.RTT, old.State
			if old.State == e.state {
				next.Since = old.Since
			}
		}
		t.others[e.id] = next
		moves = append(moves, move{from, copied(next.Member)})
	}
	// Forgotten while we did not look for half a minute (a laptop slept).
	for id, r := range t.others {
		if !present[id] && r.State.Here() {
			moves = append(moves, move{from: r.State})
			r.State, r.Since = Dead, now
			moves[len(moves)-1].to = copied(r.Member)
		}
	}
	t.forget(now)
	return moves
}

// forget drops those that are gone for long, and the oldest of too many.
func (t *table) forget(now time.Time) {
	gone := slices.DeleteFunc(slices.Collect(maps.Values(t.others)), func(r *row) bool { return r.State.Here() })
	slices.SortFunc(gone, func(a, b *row) int { return b.Since.Compare(a.Since) })
	for i, r := range gone {
		if i >= keepCount || now.Sub(r.Since) > keepGone {
			delete(t.others, r.ID)
		}
	}
}
