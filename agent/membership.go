package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/consensus"
	"github.com/ahelme/comfyume/cluster/peer"
	"github.com/ahelme/comfyume/cluster/state"
)

// verbJoin asks the leader to make the asker a member of the log.
const verbJoin peer.Verb = "join"

// membership keeps this node in the log, and while it leads, the log's members
// as they should be: who votes, which level is agreed on, whether the replicas
// are the same.
type membership struct {
	node    func() state.Node // this node's row as it should be
	log     *slog.Logger
	raft    *consensus.Log
	machine *state.Machine
	propose peer.Proposals
	client  *peer.Client
	cores   func() []cluster.NodeID // other core nodes that may be there
	refetch func(ctx context.Context) error
	caught  uint64 // the term in which this table was known to be whole; for run alone

	mu      sync.Mutex
	later   cluster.Lineage // a later generation that was met; zero = none
	voters  int
	since   time.Time // when the number of voters changed last, as seen here
	trouble string    // why it cannot be a member, for people
	leaving bool      // it has said goodbye: it does not enter itself again
	wake    chan struct{}
}

// The pace of membership.
const (
	tendEvery  = 250 * time.Millisecond
	tendWithin = 10 * time.Second
)

// meet notes that somebody is of a later generation.
func (m *membership) meet(_ cluster.NodeID, l cluster.Lineage) {
	m.mu.Lock()
	if l.Generation.Compare(m.later.Generation) > 0 {
		m.later = l
	}
	m.mu.Unlock()
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// run tends until ctx ends.
func (m *membership) run(ctx context.Context) error {
	tick := time.NewTicker(tendEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-m.wake:
		}
		one, cancel := context.WithTimeout(ctx, tendWithin)
		err := m.tend(one)
		cancel()
		text := ""
		if err != nil && ctx.Err() == nil {
			m.log.Debug("tending the membership", "err", err)
			text = sentence(err)
		}
		m.mu.Lock()
		m.trouble = text
		m.mu.Unlock()
	}
}

// tend does the next thing that is to be done.
func (m *membership) tend(ctx context.Context) error {
	m.mu.Lock()
	later := m.later
	m.mu.Unlock()
	if later.Cluster != "" && later.Generation.Compare(m.raft.Lineage().Generation) > 0 {
		if err := m.raft.Rejoin(later); err != nil {
			return fmt.Errorf("join the later generation: %w", err)
		}
	}
	if err := m.raft.NoteLevel(m.machine.Level()); err != nil {
		m.log.Warn("the table's level cannot be noted", "err", err)
	}
	if halted := m.machine.Halted(); cluster.CodeOf(halted) == cluster.Stale && halted != nil {
		return m.refetch(ctx)
	}
	if err := m.join(ctx); err != nil {
		return err
	}
	if m.raft.Leads() {
		return m.lead(ctx)
	}
	return nil
}

// leave keeps this node from entering itself, or lets it again.
func (m *membership) leave(on bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.leaving = on
}

// isMember reports whether this incarnation is in the configuration, as far
// as is known here.
func (m *membership) isMember(node state.Node) bool {
	return slices.ContainsFunc(m.raft.Status().Servers, func(s consensus.Server) bool {
		return s.Node == node.ID && s.Incarnation == node.Incarnation
	})
}

// join enters this node where it is missing: in the log's configuration and in
// the table.
func (m *membership) join(ctx context.Context) error {
	node := m.node()
	m.mu.Lock()
	leaving := m.leaving
	m.mu.Unlock()
	if leaving || m.raft.Status().Stopped != "" {
		return nil // it holds what it holds; nothing can be added to it now
	}
	if !m.isMember(node) {
		return m.askToJoin(ctx, node)
	}
	if row, ok := m.machine.Node(node.ID); ok && same(row, node) {
		return nil
	}
	if m.raft.Leader() == "" {
		return nil
	}
	_, err := m.propose.Propose(ctx, &state.PutNode{Node: node})
	return err
}

// same reports whether a row says what the node says of itself.
func same(row, node state.Node) bool {
	return row.Left == 0 && row.Name == node.Name && row.Version == node.Version && row.Level == node.Level && row.Incarnation == node.Incarnation &&
		row.Vote == node.Vote && row.Steady == node.Steady && bytes.Equal(row.Key, node.Key) && slices.Equal(row.Roles, node.Roles)
}

// askToJoin asks whoever leads, going from hint to hint: a node without the log
// does not know who that is.
func (m *membership) askToJoin(ctx context.Context, node state.Node) error {
	err := error(cluster.Errorf(cluster.NoLeader, "no node of the workshop's table answers"))
	queue := m.cores()
	asked := map[cluster.NodeID]bool{}
	for len(queue) > 0 {
		to := queue[0]
		queue = queue[1:]
		if asked[to] {
			continue
		}
		asked[to] = true
		one, cancel := context.WithTimeout(ctx, greetWithin)
		e := m.client.Call(one, to, verbJoin, node, nil)
		cancel()
		if e == nil {
			return nil
		}
		if leader, is := peer.NotLeader(e); is {
			if leader != "" {
				queue = append([]cluster.NodeID{leader}, queue...)
			}
			continue
		}
		err = e
	}
	return err
}

// serve lets nodes join, and fetch the table anew.
func (m *membership) serve(s *peer.Server) {
	peer.Handle(s, verbJoin, peer.CoreOnly, func(ctx context.Context, who peer.Who, in state.Node) (struct{}, error) {
		switch {
		case in.ID != who.Node || in.Name != who.Name || !in.Core():
			return struct{}{}, cluster.Errorf(cluster.Forbidden, "a node joins for itself only")
		case !m.raft.Leads():
			return struct{}{}, cluster.Errorf(cluster.NoLeader, "this node does not lead; ask the one that does")
		}
		if _, err := m.propose.Propose(ctx, &state.PutNode{Node: in}); err != nil {
			return struct{}{}, err
		}
		if m.isMember(in) {
			return struct{}{}, nil
		}
		return struct{}{}, m.raft.Add(ctx, in.ID, in.Incarnation)
	})
}

// lead brings the members to what they should be, one step at a time.
func (m *membership) lead(ctx context.Context) error {
	s := m.raft.Status()
	if s.Term != m.caught {
		// What the table of a new leader says may be from before it was restarted: it
		// would take a voter for an earlier incarnation of itself and remove it.
		if err := m.raft.Barrier(ctx); err != nil {
			return err
		}
		m.caught, s = s.Term, m.raft.Status()
	}
	m.mu.Lock()
	if n := s.Voters(); n != m.voters || m.since.IsZero() {
		m.voters, m.since = n, time.Now()
	}
	sit := consensus.Situation{Self: m.node().ID, Last: s.Last, Servers: s.Servers, Nodes: m.candidates(), Now: time.Now(), Since: m.since}
	m.mu.Unlock()
	if step := consensus.Plan(sit); step.Verb != consensus.Nothing {
		m.log.Info("changing the log's members", "verb", step.Verb, "node", m.name(step.Server.Node), "why", step.Why)
		return m.do(ctx, step)
	}
	return m.agree(ctx, s)
}

func (m *membership) do(ctx context.Context, step consensus.Step) error {
	switch step.Verb {
	case consensus.DoPromote:
		return m.raft.Promote(ctx, step.Server)
	case consensus.DoDemote:
		return m.raft.Demote(ctx, step.Server)
	case consensus.DoRemove:
		return m.raft.Remove(ctx, step.Server)
	case consensus.DoTransfer:
		return m.raft.Transfer(ctx, step.Server.Node)
	case consensus.Nothing:
	}
	return nil
}

func (m *membership) name(id cluster.NodeID) string {
	if n, ok := m.machine.Node(id); ok {
		return n.Name
	}
	return string(id)
}

// candidates is what the plan has to know of the nodes.
func (m *membership) candidates() map[cluster.NodeID]consensus.Candidate {
	out := map[cluster.NodeID]consensus.Candidate{}
	for _, n := range m.machine.Nodes() {
		vote := consensus.Vote(n.Vote)
		out[n.ID] = consensus.Candidate{
			Incarnation: n.Incarnation, Left: n.Left > 0, Always: vote == consensus.VoteAlways,
			MayVote: slices.Contains(n.Roles, cluster.Queue) && (vote == consensus.VoteAlways || vote == consensus.VoteAuto && n.Steady),
		}
	}
	return out
}

// agree raises the level when everybody can follow, and has the replicas
// compared when it is time.
func (m *membership) agree(ctx context.Context, s consensus.Status) error {
	lowest := uint32(state.Level)
	for _, srv := range s.Servers {
		n, ok := m.machine.Node(srv.Node)
		if !ok || n.Incarnation != srv.Incarnation {
			return nil // it has not said what it can
		}
		lowest = min(lowest, n.Level)
	}
	if lowest > m.machine.Level() {
		m.log.Info("every node can follow: raising the level", "from", m.machine.Level(), "to", lowest)
		if _, err := m.propose.Propose(ctx, &state.SetLevel{Level: lowest}); err != nil {
			return err
		}
		return m.raised(ctx)
	}
	if c, due := m.machine.Due(); due {
		_, err := m.propose.Propose(ctx, &c)
		return err
	}
	return nil
}

// holder reports whether a node without a vote counts as a second copy.
func (m *membership) holder(id cluster.NodeID) bool {
	n, ok := m.machine.Node(id)
	return ok && n.Left == 0 && slices.Contains(n.Roles, cluster.Queue)
}

// steady is a machine that may be counted on to stay: a laptop sleeps, and a
// rented GPU machine goes away.
func steady(cfg *Config) bool { return runtime.GOOS == "linux" && !cfg.Has(cluster.GPU) }

// verbImage fetches the table as it is at the leader.
const verbImage peer.Verb = "image"

// serveImage lets a core node fetch the table.
func serveImage(s *peer.Server, raft *consensus.Log) {
	peer.HandleStream(s, verbImage, peer.CoreOnly, func(w http.ResponseWriter, _ *http.Request, _ peer.Who) error {
		if !raft.Leads() {
			return cluster.Errorf(cluster.NoLeader, "this node does not lead; ask the one that does")
		}
		im, body, err := raft.Snapshot()
		if err != nil {
			return err
		}
		defer body.Close()
		return writeImage(w, im, body)
	})
}

// fetchImage replaces this node's state by the leader's.
func (m *membership) fetchImage(ctx context.Context) error {
	leader := m.raft.Leader()
	if leader == "" {
		// Raft is stopped here, so the leader has to be found by asking.
		for _, node := range m.cores() {
			var g greeting
			if m.client.Call(ctx, node, verbHello, struct{}{}, &g) == nil && g.Leader != "" {
				leader = g.Leader
				break
			}
		}
	}
	if leader == "" {
		return cluster.Errorf(cluster.NoLeader, "this node's table is wrong and there is no leader to fetch it from")
	}
	body, err := m.client.Stream(ctx, leader, verbImage)
	if err != nil {
		return err
	}
	im, err := readImage(body)
	if err == nil {
		err = m.raft.Refetch(im, io.LimitReader(body, im.Size))
	}
	return errors.Join(err, body.Close())
}
