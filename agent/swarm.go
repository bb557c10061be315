package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/blob"
	"github.com/ahelme/comfyume/cluster/gossip"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/cluster/peer"
	"github.com/ahelme/comfyume/cluster/tailnet"
)

// swarm is this node's part in the workshop: the network, who is there, how to
// ask the others, and on a core node its copy of the table.
//
//	tailnet.Network --> peer.Gate (who is it, may it, same history)
//	     |                 |-- raft stream --> consensus.Log --> state.Machine
//	     |                 |-- link: events and reports to the core nodes
//	     |                 +-- gossip
//	     +-- port 80 --> peer.Server: verbs    (and the dashboard, for people)
type swarm struct {
	cfg     *Config
	log     *slog.Logger
	began   time.Time
	alone   bool // there are no other nodes and never will be
	self    cluster.Member
	network tailnet.Network
	reach   *reach
	gate    *peer.Gate
	client  *peer.Client
	server  *peer.Server
	lead    *peer.Leadership
	links   *peer.Links
	blobs   *blob.Dir
	reports *reports
	gossip  atomic.Pointer[gossip.Gossip] // nil until there is a workshop to gossip about
	core    *core                         // nil on a node that only runs jobs
	guest   *guest                        // nil on a core node

	twins    twins
	report   func() report                       // what this node says of itself; set by the agent
	last     keptFile                            // what no other node has; set by the agent
	pages    atomic.Pointer[func(jobs.Event)]    // this node's own; nil without a gateway
	standing atomic.Pointer[func() []jobs.Event] // what its workers' jobs have said; nil without workers
}

// keptFile returns a file from where it was kept beside the workshop.
type keptFile func(ctx context.Context, ref cluster.Ref) (io.ReadCloser, int64, error)

// newSwarm builds this node's part. Nothing runs before start.
func newSwarm(cfg *Config, network tailnet.Network, self cluster.Member) (*swarm, error) {
	s := &swarm{
		cfg: cfg, log: cfg.Logger.With("component", "swarm"), began: time.Now(), alone: cfg.Dev && cfg.Joined == nil, self: self, network: network,
		reach: &reach{net: network, log: cfg.Logger}, reports: newReports(),
	}
	s.report = func() report { return report{Member: s.self, Disk: -1} }
	var err error
	if s.blobs, err = blob.OpenDir(blob.DirConfig{Path: filepath.Join(cfg.StateDir, "blobs"), Logger: cfg.Logger}); err != nil {
		return nil, err
	}
	s.gate = peer.NewGate(peer.GateConfig{
		Self: self.ID, Lineage: func() cluster.Lineage { return s.lineage() }, WhoIs: s.reach.whoIs, Dial: s.reach.dial,
		Later: func(from cluster.NodeID, l cluster.Lineage) { s.meetLater(from, l) }, Logger: cfg.Logger.With("component", "gate"),
	})
	s.client = peer.NewClient(s.gate)
	s.server = peer.NewServer(s.gate, func() cluster.NodeID { return s.leader() }, cfg.Logger)
	s.twins.serve(s.server)
	s.client.Local(s.server, peer.Who{Node: self.ID, Name: self.Name, Core: cfg.Core(), GPU: true})
	if cfg.Core() {
		if err = openCore(s); err != nil {
			return nil, err
		}
		s.lead = peer.NewLeadership(s.client, self.ID, s.core.raft.Leader, s.otherCores)
		s.core.wire(s)
	} else {
		s.lead = peer.NewLeadership(s.client, self.ID, nil, s.otherCores)
		s.guest = &guest{s: s}
	}
	s.links = peer.NewLinks(peer.LinksConfig{
		Gate: s.gate, Targets: s.targets, Report: s.said, Local: s.showOwn, Standing: s.stand, Logger: cfg.Logger,
	})
	return s, nil
}

// forgetOnNetwork lets the network forget a machine that is gone, where it can.
func (s *swarm) forgetOnNetwork(id cluster.NodeID) {
	f, ok := s.network.(tailnet.Forgetter)
	if !ok {
		return
	}
	if err := f.Forget(id); err != nil {
		s.log.Debug("the network did not forget a node", "node", id, "err", err)
	}
}

// lineage is the history that this node is part of. While the log is being
// opened it is none: another node's stream that comes just then is refused, and
// tried again.
func (s *swarm) lineage() cluster.Lineage {
	switch {
	case s.core != nil && !s.core.opened.Load():
		return cluster.Lineage{}
	case s.core != nil:
		return s.core.raft.Lineage()
	}
	return s.guest.lineage()
}

func (s *swarm) meetLater(from cluster.NodeID, l cluster.Lineage) {
	if s.core != nil {
		s.core.membership.meet(from, l)
		return
	}
	s.guest.follow(l)
}

// leader is who leads, as far as this node knows.
func (s *swarm) leader() cluster.NodeID {
	if s.core != nil {
		return s.core.raft.Leader()
	}
	return ""
}

// otherCores are the other nodes that may hold the table, those online first.
func (s *swarm) otherCores() []cluster.NodeID {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	all, err := s.reach.peers(ctx)
	if err != nil {
		return nil
	}
	all = slices.DeleteFunc(all, func(p tailnet.Peer) bool { return !slices.Contains(p.Tags, cluster.TagCore) || !p.Online })
	slices.SortFunc(all, func(a, b tailnet.Peer) int {
		return cmp.Or(cmp.Compare(s.rank(a.ID), s.rank(b.ID)), cmp.Compare(a.ID, b.ID))
	})
	out := make([]cluster.NodeID, len(all))
	for i, p := range all {
		out[i] = p.ID
	}
	return out
}

// rank puts nodes that gossip believes in before others.
func (s *swarm) rank(id cluster.NodeID) int {
	if g := s.gossip.Load(); g != nil {
		if m, ok := g.State(id); ok && !m.State.Here() {
			return 1
		}
	}
	return 0
}

// hasRole reports whether a node plays a role, as gossip says; true when it is
// not known, since asking in vain costs little.
func (s *swarm) hasRole(id cluster.NodeID, r cluster.Role) bool {
	g := s.gossip.Load()
	if g == nil {
		return true
	}
	m, ok := g.State(id)
	return !ok || slices.Contains(m.Roles, r)
}

// targets are the core nodes, for links.
func (s *swarm) targets() []peer.Target {
	if s.alone {
		return nil
	}
	var out []peer.Target
	for _, id := range s.otherCores() {
		out = append(out, peer.Target{Node: id, Gateway: s.hasRole(id, cluster.Gateway)})
	}
	return out
}

// gateways are the other nodes with a door.
func (s *swarm) gateways() []cluster.NodeID {
	return slices.DeleteFunc(s.otherCores(), func(id cluster.NodeID) bool { return !s.hasRole(id, cluster.Gateway) })
}

// keepers are the other nodes that keep blobs: the gateways, then those that are
// there for backups.
func (s *swarm) keepers() []cluster.NodeID {
	return append(s.gateways(), slices.DeleteFunc(s.otherCores(), func(id cluster.NodeID) bool {
		return s.hasRole(id, cluster.Gateway) || !s.hasRole(id, cluster.Backup)
	})...)
}

// said is this node's report, for the others and for its own page.
func (s *swarm) said() []byte {
	r := s.report()
	s.reports.put(r, time.Now())
	raw, err := json.Marshal(r)
	if err != nil {
		s.log.Error("writing the report of this node", "err", err)
		return nil
	}
	return raw
}

// store is where this node reads and keeps blobs.
func (s *swarm) store() blob.Store {
	if s.core != nil && s.core.mirror != nil {
		return s.core.mirror
	}
	return s.blobs
}

// work is a worker's way to the leader.
func (s *swarm) work() peer.Work {
	w := peer.Work{Lead: s.lead, Client: s.client}
	if s.core != nil {
		w.Local = s.core.steward
	}
	return w
}

// start runs everything on the stack; people is what the node's address on the
// network shows to people.
func (s *swarm) start(stack *stack, people http.Handler) error {
	stack.push("peers' connections", func(context.Context) error { s.client.Close(); return nil })
	if s.core != nil {
		if err := s.core.start(s, stack); err != nil {
			return err
		}
	} else {
		stack.run("guest", s.guest.run)
	}
	if !s.alone {
		site, err := s.network.Listen(cluster.PortSite)
		if err != nil {
			return fmt.Errorf("listen on the network: %w", err)
		}
		stack.run("network site", func(ctx context.Context) error { return s.serve(ctx, site, people) })
		stack.run("gossip", s.runGossip)
	}
	stack.run("links", s.links.Run)
	return nil
}

// serve answers other nodes, and shows people what they may see.
func (s *swarm) serve(ctx context.Context, ln net.Listener, people http.Handler) error {
	mux := http.NewServeMux()
	mux.Handle("/peer/", s.server)
	mux.Handle("/", people)
	base, cut := context.WithCancel(context.Background())
	defer cut()
	srv := &http.Server{
		Handler: mux, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute,
		BaseContext: func(net.Listener) context.Context { return base }, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	served := make(chan error, 1) // one send
	go func() { served <- srv.Serve(ln) }()
	select {
	case err := <-served:
		return fmt.Errorf("serve the network site: %w", err)
	case <-ctx.Done():
	}
	cut()
	end, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	err := srv.Shutdown(end)
	if errors.Is(err, context.DeadlineExceeded) {
		err = srv.Close()
	}
	<-served
	return err
}

// runGossip gossips from the moment that there is a workshop.
func (s *swarm) runGossip(ctx context.Context) error {
	for s.lineage().Cluster == "" {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(lookAround):
		}
	}
	net := peer.Gossip{Gate: s.gate, Net: s.network}
	g, err := gossip.New(gossip.Config{
		Network: net, Addr: s.network.Self().Addr, Label: string(s.lineage().Cluster), Self: s.meta(), Peers: s.reach.addrs,
		Who: func(ctx context.Context, addr netip.Addr) (cluster.NodeID, bool) {
			who, err := s.reach.whoIs(ctx, netip.AddrPortFrom(addr, cluster.PortGossip).String())
			return who.Node, err == nil && (who.Core || who.GPU)
		},
		Logger: s.cfg.Logger,
	})
	if err != nil {
		return err
	}
	s.gossip.Store(g)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { s.keepMeta(ctx, g) })
	// A planned stop says goodbye first: nobody has to wonder what became of it.
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	wg.Go(func() {
		select {
		case <-ctx.Done():
			if err := g.Leave(running); err != nil && cluster.CodeOf(err) != cluster.Unavailable {
				s.log.Debug("the others were not told that this node stops", "err", err)
			}
			stop()
		case <-running.Done():
		}
	})
	return g.Run(running)
}

// metaEvery is how often what gossip says of this node is made anew.
const metaEvery = time.Second

func (s *swarm) keepMeta(ctx context.Context, g *gossip.Gossip) {
	tick := time.NewTicker(metaEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			now := s.meta()
			g.Update(func(m *gossip.Meta) { *m = now })
		}
	}
}

// meta is what gossip says of this node. What moves all the time (the applied
// index) is left to the reports.
func (s *swarm) meta() gossip.Meta {
	m := gossip.Meta{Member: s.self, Generation: s.lineage().Generation, Started: s.began.UnixMilli()}
	for _, w := range s.report().Workers {
		if w.Job != nil {
			m.Running++
		}
	}
	if s.core != nil {
		m.Incarnation = s.core.raft.Incarnation()
		if n, ok := s.core.machine.Node(s.self.ID); ok {
			m.Draining = n.Drain != nil
		}
	}
	return m
}

// here reports whether a node is this one, or gossip knows that it is there.
func (s *swarm) here(id cluster.NodeID) bool {
	if id == s.self.ID {
		return true
	}
	g := s.gossip.Load()
	if g == nil {
		return false
	}
	m, ok := g.State(id)
	return ok && m.State.Here()
}

// gone reports whether gossip believes that a node is not there any more.
func (s *swarm) gone(id cluster.NodeID) bool {
	g := s.gossip.Load()
	if g == nil {
		return false
	}
	m, ok := g.State(id)
	return ok && !m.State.Here()
}
