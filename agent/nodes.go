package agent

import (
	"cmp"
	"slices"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/consensus"
	"github.com/ahelme/comfyume/ui"
)

// stateSilent is a node of which gossip knows nothing and no report came.
const stateSilent = "silent"

// nodes lists every machine that the table or a report knows of, as it is now.
func (v *view) nodes(s consensus.Status, all []heardOf) []ui.Node {
	rows := map[cluster.NodeID]*ui.Node{}
	row := func(m cluster.Member) *ui.Node {
		n := rows[m.ID]
		if n == nil {
			n = &ui.Node{ID: m.ID, State: stateSilent, Disk: -1}
			rows[m.ID] = n
		}
		n.Name, n.Roles, n.Version, n.Level = m.Name, m.Roles, m.Version, m.Level
		return n
	}
	for _, n := range v.swarm.core.machine.Nodes() {
		if n.Left > 0 {
			continue
		}
		r := row(n.Member)
		if n.Drain != nil {
			r.Drained = n.Drain.Actor
		}
	}
	for _, h := range all {
		if n, ok := v.swarm.core.machine.Node(h.Member.ID); ok && n.Left > 0 && v.now().Sub(h.at) > fresh {
			continue
		}
		r := row(h.Member)
		r.Disk, r.Waits = h.Disk, h.Waits
		if h.Space != nil {
			r.Space = spaceShown(*h.Space)
		}
		if b := h.Bill; b != nil {
			r.Price, r.Currency = b.Price.Hour, b.Price.Currency
			r.Spent = b.Spent - b.Spent%10_000 // whole cents: a number that moves all the while would be sent all the while
		}
		if v.now().Sub(h.at) <= fresh {
			r.State, r.Since, r.Door = "alive", 0, h.Door
			continue // it is seen now: a time that moves all the while would be sent all the while
		}
		r.Seen = h.at.UnixMilli()
	}
	v.gossiped(rows)
	out := make([]ui.Node, 0, len(rows))
	for id, n := range rows {
		n.Part = v.part(s, id)
		n.Leader, n.Voter = n.Part == partLeader, n.Part == partLeader || n.Part == partVoter
		out = append(out, *n)
	}
	slices.SortFunc(out, func(a, b ui.Node) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID)) })
	return out
}

// gossiped says of each node what gossip believes. Of this node itself it is
// known: it is alive.
func (v *view) gossiped(rows map[cluster.NodeID]*ui.Node) {
	if g := v.swarm.gossip.Load(); g != nil {
		for _, m := range g.Members() {
			if n := rows[m.ID]; n != nil {
				n.State, n.Since = string(m.State), m.Since.UnixMilli()
			}
		}
	}
	if n := rows[v.swarm.self.ID]; n != nil {
		n.State, n.Since = "alive", 0
	}
}

// The parts that a node can have in the log.
const (
	partLeader  = "leader"
	partVoter   = "voter"
	partStandBy = "stand-by" // no vote, but it could be given one, and counts as a copy
	partCopy    = "copy"     // holds the table to read from
)

func (v *view) part(s consensus.Status, id cluster.NodeID) string {
	part := ""
	for _, srv := range s.Servers {
		if srv.Node != id {
			continue
		}
		switch {
		case srv.Node == s.Leader:
			return partLeader
		case srv.Voter:
			part = partVoter
		case v.swarm.core.membership.holder(id):
			part = cmp.Or(part, partStandBy)
		default:
			part = cmp.Or(part, partCopy)
		}
	}
	return part
}

// log is the replicated log for those who look after it.
func (v *view) log(s consensus.Status) ui.Log {
	out := ui.Log{Workshop: string(s.Lineage.Cluster), Generation: s.Lineage.Generation.String(), Last: s.Last, Copied: s.Copied}
	for _, srv := range s.Servers {
		r := ui.Server{Node: v.name(srv.Node), Part: v.part(s, srv.Node), Index: srv.Index}
		if srv.Index > 0 && srv.Index < s.Last {
			r.Lag = s.Last - srv.Index
		}
		if !srv.Contact.IsZero() && v.now().Sub(srv.Contact) > fresh {
			r.Contact = srv.Contact.UnixMilli()
		}
		out.Servers = append(out.Servers, r)
	}
	return out
}
