package agent

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/blob"
	"github.com/ahelme/comfyume/cluster/consensus"
	"github.com/ahelme/comfyume/cluster/files"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/cluster/models"
	"github.com/ahelme/comfyume/cluster/peer"
	"github.com/ahelme/comfyume/cluster/policy"
	"github.com/ahelme/comfyume/cluster/state"
	"github.com/ahelme/comfyume/roles/queue"
)

// core is what a node that holds the table has.
type core struct {
	machine    *state.Machine
	raft       *consensus.Log
	opened     atomic.Bool // raft is set: others' streams may come before that
	propose    peer.Proposals
	forming    *forming
	membership *membership
	steward    *queue.Steward
	mirror     *peer.Mirror // nil on a node that keeps no blobs
	sweep      *peer.Sweep  // nil likewise
	scrub      *peer.Scrub  // nil likewise
	receiver   *peer.Receiver
	secrets    atomic.Pointer[gatewaySecrets] // nil without a gateway
	signing    ed25519.PrivateKey             // of sessions and sign-in links that this node gives
}

// gatewaySecrets is where this node's gateway keeps users' tokens.
type gatewaySecrets struct{ of peer.Secrets }

// openCore opens the node's copy of the table. Its store is locked: from here
// on the state folder is ours alone.
func openCore(s *swarm) error {
	c := &core{machine: state.New(s.cfg.Logger)}
	conf := consensus.Config{
		Dir: filepath.Join(s.cfg.StateDir, "raft"), Node: s.self.ID, Level: state.Level, Machine: c.machine,
		Fresh: func() consensus.Machine { return state.New(s.cfg.Logger) }, Logger: s.cfg.Logger, Profile: s.cfg.Profile,
		Holder: func(id cluster.NodeID) bool { return c.membership.holder(id) },
	}
	if !s.alone {
		conf.Stream = func(incarnation string) (consensus.Stream, error) {
			ln, err := s.network.Listen(cluster.PortRaft)
			if err != nil {
				return nil, err
			}
			return s.gate.LogStream(ln, incarnation), nil
		}
	}
	c.membership = &membership{
		node: func() state.Node { return s.row() }, log: s.log, machine: c.machine, client: s.client, cores: s.otherCores,
		wake: make(chan struct{}, 1),
	}
	var err error
	if c.signing, err = signingKey(s.cfg.StateDir); err != nil {
		return err
	}
	s.core = c // the log may open its way to the others at once, which asks the gate
	if c.raft, err = consensus.Open(conf); err != nil {
		return err
	}
	c.opened.Store(true)
	return nil
}

// row is this node's row in the table, as it should be.
func (s *swarm) row() state.Node {
	n := state.Node{Member: s.self, Vote: string(s.cfg.Vote), Steady: steady(s.cfg)}
	if s.core != nil {
		n.Incarnation = s.core.raft.Incarnation()
		n.Key, _ = s.core.signing.Public().(ed25519.PublicKey)
	}
	return n
}

// wire joins the parts that need each other.
func (c *core) wire(s *swarm) {
	c.propose = peer.Proposals{Log: c.raft, Replica: c.machine, Lead: s.lead, Client: s.client}
	c.membership.raft, c.membership.propose = c.raft, c.propose
	c.membership.refetch = c.membership.fetchImage
	c.forming = &forming{
		self: s.network.Self(), canRun: s.cfg.Has(cluster.Queue) && s.cfg.Vote != consensus.VoteNever, force: s.cfg.Form || s.alone,
		log: s.log, raft: c.raft, client: s.client, peers: s.reach.peers,
	}
}

// start runs the table and what belongs to it, and answers other nodes.
func (c *core) start(s *swarm, stack *stack) (err error) {
	stack.run("log", c.raft.Run)
	c.steward, err = queue.New(queue.Config{
		Jobs: c.machine, Propose: c.propose, Watch: func() queue.Watcher { return c.machine.Watch() },
		Leads: c.raft.Leads, Leading: c.raft.Leading(), Rules: c.rules, Gone: s.gone, Logger: s.cfg.Logger,
	})
	if err != nil {
		return err
	}
	c.serve(s)
	stack.run("queue", c.steward.Run)
	stack.run("membership", func(ctx context.Context) error {
		if err := c.forming.run(ctx); err != nil || ctx.Err() != nil {
			return err
		}
		return c.membership.run(ctx)
	})
	if s.cfg.Keeps() {
		c.mirror = peer.NewMirror(peer.MirrorConfig{
			Client: s.client, Local: s.blobs, Others: s.keepers, Last: s.last, Refs: c.machine.Refs, Watch: func() peer.Changes { return c.machine.Watch() }, Logger: s.cfg.Logger,
		})
		peer.ServeBlobs(s.server, s.blobs, c.machine)
		stack.run("mirror", c.mirror.Run)
		c.startKeeping(s, stack)
	}
	if s.alone {
		return nil
	}
	c.receiver = &peer.Receiver{Replica: c.machine, Event: s.showRemote, Report: s.reports.take, Logger: s.log}
	ln, err := s.network.Listen(cluster.PortLink)
	if err != nil {
		return err
	}
	gated := s.gate.Listener(ln, peer.ForLink)
	stack.run("links of others", func(ctx context.Context) error { return closedAs(ctx, c.receiver.Serve(ctx, gated)) })
	return nil
}

func closedAs(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// serve adds the verbs of a core node.
func (c *core) serve(s *swarm) {
	c.forming.serve(s.server)
	c.membership.serve(s.server)
	serveImage(s.server, c.raft)
	peer.Handle(s.server, verbTransfer, peer.CoreOnly, func(ctx context.Context, _ peer.Who, to string) (struct{}, error) {
		if !c.raft.Leads() {
			return struct{}{}, cluster.Errorf(cluster.NoLeader, "this node does not lead; ask the one that does")
		}
		return struct{}{}, c.transfer(ctx, to)
	})
	peer.ServeProposals(s.server, c.raft, c.steward.Admit())
	peer.ServeWork(s.server, peer.WorkConfig{
		Steward: c.steward, Table: c.machine, Propose: c.propose, Self: s.self.ID, Leads: c.raft.Leads, Client: s.client,
		Secrets: func(ctx context.Context, id jobs.ID) (map[string]string, bool) {
			if gw := c.secrets.Load(); gw != nil {
				return gw.of(ctx, id)
			}
			return nil, false
		},
	})
}

// verbTransfer asks the leader to hand over to a node, by name or id; "" leaves
// the choice to it.
const verbTransfer peer.Verb = "transfer"

func (c *core) transfer(ctx context.Context, to string) error {
	if to == "" {
		return c.raft.Transfer(ctx, "")
	}
	for _, n := range c.machine.Nodes() {
		if n.Name == to || string(n.ID) == to {
			return c.raft.Transfer(ctx, n.ID)
		}
	}
	return cluster.Errorf(cluster.NotFound, "there is no node %q: see node ls", to)
}

// waits is why this node is not part of the table, for people; "" when it is.
func (c *core) waits() string {
	if c.raft.Lineage().Cluster == "" {
		return cmp.Or(c.forming.waitsFor(), "looking for the workshop")
	}
	if s := c.raft.Status(); s.Stopped != "" {
		return s.Stopped
	}
	c.membership.mu.Lock()
	defer c.membership.mu.Unlock()
	return c.membership.trouble
}

// rules is what the steward has to respect, from the table.
func (c *core) rules() queue.Rules {
	set := c.machine.Settings()
	r := queue.Rules{
		Mode:     cmp.Or(policy.Mode(set.Mode), policy.Default),
		Paused:   policy.Pause{Users: map[cluster.User]bool{}, Workers: map[cluster.WorkerID]bool{}},
		Draining: map[cluster.NodeID]bool{}, Kinds: map[cluster.WorkerID]string{}, Boosted: map[cluster.User]bool{},
	}
	for _, p := range set.Pauses {
		switch kind, name, _ := strings.Cut(string(p.Scope), "/"); kind {
		case string(state.PauseAll):
			r.Paused.All = true
		case "user":
			r.Paused.Users[cluster.User(name)] = true
		case "worker":
			r.Paused.Workers[cluster.WorkerID(name)] = true
		}
	}
	c.machine.Models(func(t *models.Table) {
		for _, w := range t.Workers() {
			r.Kinds[w.ID] = w.Device
		}
	})
	if k := set.Class; k != nil {
		r.Class = policy.Class{Mode: policy.ClassMode(k.Mode), N: int(k.N), Since: k.Since, Until: k.Until}
	}
	now := time.Now().UnixMilli()
	for _, b := range set.Boosts {
		r.Boosted[b.User] = b.Until > now
	}
	if len(set.Quotas) > 0 {
		r.Limits = func(u cluster.User) policy.Limits {
			q := set.Quota(u)
			return policy.Limits{Running: int(q.Running), Minutes: int(q.Minutes)}
		}
	}
	for _, n := range c.machine.Nodes() {
		if n.Drain != nil || n.Left > 0 {
			r.Draining[n.ID] = true
		}
	}
	return r
}

// quota refuses a submit of a user who has had, or has queued, what they may.
func (c *core) quota(u cluster.User) (err error) {
	q, now := c.machine.Settings().Quota(u), time.Now().UnixMilli()
	if q.Queued == 0 && q.Minutes == 0 {
		return nil
	}
	c.machine.Jobs(func(t *jobs.Table) {
		switch {
		case q.Queued > 0 && int64(t.Remaining(u)) >= q.Queued:
			err = cluster.Errorf(cluster.Quota, "You have %d jobs in the queue, which is as many as you may have. Queue more when one of them is done.", t.Remaining(u))
		case q.Minutes > 0 && t.HadSince(u, now-24*time.Hour.Milliseconds(), now) >= q.Minutes*60_000:
			err = cluster.Errorf(cluster.Quota, "You have had your %d minutes of GPU time for 24 hours. Ask the instructor if you need more.", q.Minutes)
		}
	})
	return err
}

// room refuses new work of a user for which there is no room on this node's disk,
// or within what they may have. The table itself bounds uploads that come at once.
func (c *core) room(store *blob.Dir) func(u cluster.User, n int64) error {
	return func(u cluster.User, n int64) (err error) {
		if err := store.Room(n); err != nil {
			return err
		}
		bound := c.machine.Settings().Quota(u).Bytes
		if bound == 0 {
			return nil
		}
		c.machine.Files(func(t *files.Table) {
			if used := t.Used(u); used.Total()+n > bound || used.Total() == bound {
				err = used.Over(u, n, bound)
			}
		})
		return err
	}
}

// notFound is what people's part of the network site says to strangers.
func notFound() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		answerError(w, cluster.Errorf(cluster.Forbidden, "this page is for the workshop's instructor: sign in at the workshop's own address, or have your tailnet sign-in name entered with --admin-login"))
	})
}
