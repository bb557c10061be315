package consensus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"github.com/ahelme/comfyume/cluster"
)

// Server is one member of the raft configuration.
type Server struct {
	Node        cluster.NodeID `json:"node"`
	Incarnation string         `json:"incarnation"`
	Voter       bool           `json:"voter"`
	Leader      bool           `json:"leader"`
	// Index is what it holds for certain and Contact when it last answered, as
	// the leader knows; 0 and the zero time elsewhere.
	Index   uint64    `json:"index"`
	Contact time.Time `json:"contact"`
}

func (s Server) id() raft.ServerID { return serverID(s.Node, s.Incarnation) }

// Status is what a page shows of the log.
type Status struct {
	Lineage     cluster.Lineage `json:"lineage"`
	Incarnation string          `json:"incarnation"`
	Stopped     string          `json:"stopped,omitempty"` // why raft does not run here
	Full        bool            `json:"full,omitempty"`    // it does not because the disk is full
	Leader      cluster.NodeID  `json:"leader"`            // "" = none
	Term        uint64          `json:"term"`
	Last        uint64          `json:"last_index"`
	Applied     uint64          `json:"applied_index"`
	Servers     []Server        `json:"servers"`
	// Copied is up to where entries are known to be on two machines. Only the
	// leader knows; 0 elsewhere.
	Copied uint64 `json:"copied_index"`
}

// Voters counts the servers that vote.
func (s Status) Voters() (n int) {
	for _, v := range s.Servers {
		if v.Voter {
			n++
		}
	}
	return n
}

// Status reads the current state; it never blocks on the disk.
func (l *Log) Status() Status {
	s := Status{Lineage: l.Lineage(), Incarnation: l.Incarnation()}
	e := l.engine.Load()
	if e == nil {
		if why := l.why.Load(); why != nil {
			s.Stopped, s.Full = why.Message, why.Code == cluster.NoSpace
		}
		return s
	}
	s.Leader, s.Term, s.Last, s.Applied = l.Leader(), e.raft.CurrentTerm(), e.raft.LastIndex(), e.raft.AppliedIndex()
	leads := e.raft.State() == raft.Leader
	s.Servers = e.servers(leads)
	for i := range s.Servers {
		s.Servers[i].Leader = s.Leader != "" && s.Servers[i].Node == s.Leader
	}
	if leads {
		s.Copied = l.copied(s)
	}
	return s
}

func (e *engine) servers(leads bool) []Server {
	var out []Server
	for _, srv := range e.raft.GetConfiguration().Configuration().Servers {
		v := Server{Voter: srv.Suffrage == raft.Voter}
		v.Node, v.Incarnation = parseServer(string(srv.ID))
		if leads {
			c, _ := e.heard.of(srv.ID)
			v.Index, v.Contact = c.index, c.at
			if srv.ID == e.id {
				v.Index, v.Contact = e.raft.LastIndex(), time.Now()
			}
		}
		out = append(out, v)
	}
	slices.SortFunc(out, func(a, b Server) int {
		return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.Incarnation, b.Incarnation))
	})
	return out
}

// copied is the second highest index of those that count: voters and holders.
func (l *Log) copied(s Status) uint64 {
	var held []uint64
	for _, v := range s.Servers {
		if v.Voter || l.cfg.Holder(v.Node) {
			held = append(held, v.Index)
		}
	}
	if len(held) < 2 {
		return 0
	}
	slices.Sort(held)
	return held[len(held)-2]
}

// aliveWithin is how long ago a holder must have answered for an answer to
// wait for it; it is asked ten times in that span.
const aliveWithin = time.Second

// awaitCopy waits until a second machine holds an entry that one voter alone
// has committed, but no longer than CopyWait, and not at all for a machine
// that does not answer.
func (l *Log) awaitCopy(e *engine, index uint64) {
	var holders []raft.ServerID
	for _, s := range e.raft.GetConfiguration().Configuration().Servers {
		switch node, _ := parseServer(string(s.ID)); {
		case s.ID == e.id:
		case s.Suffrage == raft.Voter:
			return // committed is on two already
		case l.cfg.Holder(node):
			holders = append(holders, s.ID)
		}
	}
	if len(holders) == 0 {
		return
	}
	late := time.NewTimer(l.cfg.CopyWait)
	defer late.Stop()
	for {
		var moved <-chan struct{}
		alive := false
		for _, id := range holders {
			var c confirmed
			c, moved = e.heard.of(id)
			if c.index >= index {
				return
			}
			alive = alive || time.Since(c.at) < aliveWithin
		}
		if !alive {
			return
		}
		select {
		case <-moved:
		case <-late.C:
			return
		case <-e.done:
			return
		}
	}
}

// change makes one change of the configuration that is known now; a change
// that came in between is refused by raft. Only the leader can.
func (l *Log) change(ctx context.Context, what string, do func(e *engine, prev uint64, timeout time.Duration) raft.IndexFuture) error {
	e := l.engine.Load()
	if e == nil {
		return l.stopped()
	}
	f := e.raft.GetConfiguration()
	if err := f.Error(); err != nil {
		return fmt.Errorf("read the configuration: %w", err)
	}
	timeout := 10 * time.Second
	if d, ok := ctx.Deadline(); ok {
		timeout = time.Until(d)
	}
	if err := do(e, f.Index(), timeout).Error(); err != nil {
		return fmt.Errorf("%s: %w", what, proposeError(err))
	}
	l.log.Info("the cluster's members changed", "change", what)
	return nil
}

// Add makes a node a member without a vote; it gets the log from then on.
func (l *Log) Add(ctx context.Context, node cluster.NodeID, incarnation string) error {
	return l.change(ctx, fmt.Sprintf("add %s", node), func(e *engine, prev uint64, t time.Duration) raft.IndexFuture {
		id := serverID(node, incarnation)
		return e.raft.AddNonvoter(id, raft.ServerAddress(id), prev, t)
	})
}

// Promote gives a member a vote.
func (l *Log) Promote(ctx context.Context, s Server) error {
	return l.change(ctx, fmt.Sprintf("give %s a vote", s.Node), func(e *engine, prev uint64, t time.Duration) raft.IndexFuture {
		return e.raft.AddVoter(s.id(), raft.ServerAddress(s.id()), prev, t)
	})
}

// Demote takes a member's vote; it goes on to hold the log.
func (l *Log) Demote(ctx context.Context, s Server) error {
	return l.change(ctx, fmt.Sprintf("take the vote of %s", s.Node), func(e *engine, prev uint64, t time.Duration) raft.IndexFuture {
		return e.raft.DemoteVoter(s.id(), prev, t)
	})
}

// Remove takes one incarnation of a node out of the configuration.
func (l *Log) Remove(ctx context.Context, s Server) error {
	return l.change(ctx, fmt.Sprintf("remove %s", s.Node), func(e *engine, prev uint64, t time.Duration) raft.IndexFuture {
		return e.raft.RemoveServer(s.id(), prev, t)
	})
}

// Transfer hands leadership to a voter, to the one that is furthest if to is
// "". It returns when this node leads no more.
func (l *Log) Transfer(ctx context.Context, to cluster.NodeID) error {
	e := l.engine.Load()
	if e == nil {
		return l.stopped()
	}
	var f raft.Future
	if to == "" {
		f = e.raft.LeadershipTransfer()
	} else {
		i := slices.IndexFunc(e.servers(false), func(s Server) bool { return s.Node == to && s.Voter })
		if i < 0 {
			return cluster.Errorf(cluster.NotFound, "%s is no voter: see raft ls", to)
		}
		id := e.servers(false)[i].id()
		f = e.raft.LeadershipTransferToServer(id, raft.ServerAddress(id))
	}
	done := make(chan error, 1)
	go func() { done <- f.Error() }()
	select {
	case err := <-done:
		switch {
		case err == nil:
			return nil
		case errors.Is(err, raft.ErrNotLeader):
			return proposeError(err)
		}
		return cluster.Errorf(cluster.Unavailable, "leadership was not handed over: %v", err)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
