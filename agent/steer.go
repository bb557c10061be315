package agent

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/consensus"
	"github.com/ahelme/comfyume/cluster/state"
	"github.com/ahelme/comfyume/cluster/tailnet"
	"github.com/ahelme/comfyume/ui"
)

// forget takes a node out of the workshop for good; before there is a table,
// it lets forming go on without it.
func (a *api) forget(w http.ResponseWriter, r *http.Request) {
	word := r.URL.Query().Get("node")
	err := a.forgetNode(r, word)
	if err != nil {
		answerError(w, err)
		return
	}
	answer(w, http.StatusOK, struct{}{})
}

func (a *api) forgetNode(r *http.Request, word string) error {
	c, err := a.core()
	if err != nil {
		return err
	}
	if c.raft.Lineage().Cluster != "" {
		return a.source.Do(r.Context(), localActor(r), ui.Action{Verb: ui.ForgetNode, Node: word})
	}
	peers, err := a.agent.swarm.reach.peers(r.Context())
	if err != nil {
		return err
	}
	i := slices.IndexFunc(peers, func(p tailnet.Peer) bool { return p.Name == word || string(p.ID) == word })
	if i < 0 {
		return cluster.Errorf(cluster.NotFound, "there is no machine %q on the network", word)
	}
	c.forming.ignore(peers[i].ID)
	return nil
}

// leave takes this node out of the workshop for good and ends it: its workers
// get nothing new, its vote is taken, the others are told.
func (a *api) leave(w http.ResponseWriter, r *http.Request) {
	if err := a.agent.swarm.leave(r.Context(), localActor(r)); err != nil {
		answerError(w, err)
		return
	}
	answer(w, http.StatusOK, struct{}{})
	close(a.agent.leave)
}

// leaveWithin bounds how long the log's members may take to go on without a node.
const leaveWithin = 20 * time.Second

func (s *swarm) leave(ctx context.Context, actor string) error {
	if s.core == nil {
		s.guest.leave()
		if err := s.work().Leave(ctx); err != nil {
			return err
		}
		return s.sayGoodbye(ctx)
	}
	status := s.core.raft.Status()
	if len(status.Servers) == 0 {
		return cluster.Errorf(cluster.Conflict, "this node is not part of the workshop's table yet, so there is nothing to leave: stop it instead")
	}
	if others := slices.DeleteFunc(status.Servers, func(v consensus.Server) bool { return v.Node == s.self.ID }); len(others) == 0 {
		return cluster.Errorf(cluster.Conflict, "this node holds the only copy of the workshop's table: stop it instead of leaving, or let another node join first")
	}
	s.core.membership.leave(true)
	out := s.core.propose.As(actor).Parting()
	err := commit(ctx, out, &state.LeaveNode{ID: s.self.ID})
	if cluster.CodeOf(err) == cluster.NotFound {
		// A snapshot was restored that is older than this node's row. It has a
		// seat in the log all the same, and only a row can say that it is given up.
		if err = commit(ctx, out, &state.PutNode{Node: s.row()}); err == nil {
			err = commit(ctx, out, &state.LeaveNode{ID: s.self.ID})
		}
	}
	if err != nil {
		s.core.membership.leave(false)
		return err
	}
	limit := time.Now().Add(leaveWithin)
	for slices.ContainsFunc(s.core.raft.Status().Servers, func(v consensus.Server) bool { return v.Node == s.self.ID }) && s.core.membership.stillIn(s) {
		if time.Now().After(limit) {
			s.core.membership.leave(false) // it enters itself again
			return cluster.Errorf(cluster.Conflict, "the others cannot go on without this node yet: no other node may vote or has caught up; see raft ls")
		}
		select {
		case <-time.After(lookAround / 2):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return s.sayGoodbye(ctx)
}

// stillIn asks a node that leads now: one that was taken out hears no more.
func (m *membership) stillIn(s *swarm) bool {
	for _, id := range m.cores() {
		var v shown
		if m.client.Call(context.Background(), id, verbView, struct{}{}, &v) != nil {
			continue
		}
		view, err := v.read()
		if err != nil || view.Head.Leader == "" {
			continue
		}
		return slices.ContainsFunc(view.Log.Servers, func(srv ui.Server) bool { return srv.Node == s.self.Name })
	}
	return true
}

func (s *swarm) sayGoodbye(ctx context.Context) error {
	g := s.gossip.Load()
	if g == nil {
		return nil
	}
	if err := g.Leave(ctx); err != nil {
		return fmt.Errorf("tell the others: %w", err)
	}
	return nil
}

// Invitation answers POST /api/node/invite.
type Invitation struct {
	Key     string    `json:"key"`
	Expires time.Time `json:"expires"`
	Command string    `json:"command"`
}

// invite mints a key with which one machine joins as a worker.
func (a *api) invite(w http.ResponseWriter, r *http.Request) {
	inv, err := a.mint(r)
	if err != nil {
		answerError(w, err)
		return
	}
	answer(w, http.StatusOK, inv)
}

func (a *api) mint(r *http.Request) (Invitation, error) {
	if _, err := a.core(); err != nil {
		return Invitation{}, err
	}
	ttl, err := time.ParseDuration(r.URL.Query().Get("ttl"))
	if err != nil || ttl <= 0 {
		return Invitation{}, cluster.Errorf(cluster.Invalid, "--ttl takes a duration such as 24h")
	}
	cfg := &a.agent.cfg
	run := "comfyume-agent --roles=gpu --comfyui-url=http://127.0.0.1:8188"
	if cfg.ControlURL != "" {
		run += " --control-url=" + cfg.ControlURL
	}
	switch {
	case cfg.Dev:
		return Invitation{}, cluster.Errorf(cluster.Conflict, "this workshop was started with --dev and has no other nodes: start it with --network=loopback or on a tailnet")
	case cfg.Network == netLoopback:
		return Invitation{Command: run + " --network=loopback --loopback-dir=" + cfg.Hall + " --state-dir=DIR", Expires: time.Now().Add(ttl)}, nil
	case cfg.ClientSecret == "":
		return Invitation{}, cluster.Errorf(cluster.Invalid, "keys are minted with the tailnet's OAuth client: set COMFYUME_TS_CLIENT_SECRET (scope auth_keys, tag %s) on this node; or make a key by hand in the tailnet's admin console (ephemeral, pre-approved, tag %s)", cluster.TagGPU, cluster.TagGPU)
	}
	key, expires, err := tailnet.MintKey(r.Context(), tailnet.MintConfig{
		ClientSecret: string(cfg.ClientSecret), BaseURL: cfg.TailnetAPI, Tags: []string{cluster.TagGPU}, TTL: ttl, Ephemeral: true, Description: "comfyume gpu node",
	})
	if err != nil {
		return Invitation{}, err
	}
	return Invitation{Key: key, Expires: expires, Command: "COMFYUME_TS_AUTHKEY=" + key + " " + run}, nil
}

// transfer hands leadership to another voter.
func (a *api) transfer(w http.ResponseWriter, r *http.Request) {
	if err := a.agent.transfer(r.Context(), r.URL.Query().Get("to")); err != nil {
		answerError(w, err)
		return
	}
	answer(w, http.StatusOK, struct{}{})
}

// transfer asks the leader to hand over; this node need not be it.
func (a *Agent) transfer(ctx context.Context, to string) error {
	c := a.swarm.core
	if c == nil {
		return cluster.Errorf(cluster.Forbidden, "this node only runs jobs: ask a node that holds the table")
	}
	return a.swarm.lead.Do(ctx, func(ctx context.Context, leader cluster.NodeID, _ bool) error {
		return a.swarm.client.Call(ctx, leader, verbTransfer, to, nil)
	})
}

// Forecast says what taking the table over here would mean.
type Forecast struct {
	Verb    string `json:"verb"` // promote or recover
	Allowed bool   `json:"allowed"`
	Text    string `json:"text"` // what may be lost, or why it is not allowed
}

func (a *api) forecast(w http.ResponseWriter, r *http.Request) {
	c, err := a.core()
	if err != nil {
		answerError(w, err)
		return
	}
	answer(w, http.StatusOK, a.agent.forecast(askedFor(r), c, r.URL.Query().Get("verb")))
}

// askedFor carries --force to forecast.
func askedFor(r *http.Request) context.Context {
	return context.WithValue(r.Context(), forceKey{}, r.URL.Query().Get("force") == "true")
}

// forecast works out what raft promote (on a stand-by) or raft recover (on a
// voter) would do here.
func (a *Agent) forecast(ctx context.Context, c *core, verb string) Forecast {
	f := Forecast{Verb: verb}
	s := c.raft.Status()
	me := slices.IndexFunc(s.Servers, func(v consensus.Server) bool { return v.Node == a.self.ID })
	var voters, others []string
	for _, v := range s.Servers {
		name := a.nameOf(v.Node)
		switch {
		case v.Node == a.self.ID:
		case v.Voter:
			voters = append(voters, name)
		default:
			others = append(others, name)
		}
	}
	switch {
	case s.Stopped != "":
		f.Text = "This node's log does not run: " + s.Stopped
	case me < 0:
		f.Text = "This node holds no copy of the workshop's table: " + a.swarm.core.waits()
	case !a.cfg.Has(cluster.Queue):
		f.Text = "This node has not the role queue, so it cannot lead: run this on one that has, or restart this one with --roles that include queue."
	case s.Leader != "":
		f.Text = fmt.Sprintf("%s leads: nothing is wrong with the log. To move leadership: raft transfer NODE. To give a node a vote, start it with --voter=always.", a.nameOf(s.Leader))
	case verb == "promote" && s.Servers[me].Voter:
		f.Text = "This node votes already. If the other voters are gone for good: raft recover."
	case verb == "recover" && !s.Servers[me].Voter:
		f.Text = "This node has no vote: it is a stand-by. If the voters are gone for good: raft promote."
	default:
		f.Allowed = true
		if alive := a.answeringVoters(ctx, s); len(alive) > 0 {
			f.Text = fmt.Sprintf("%s still answers. Taking over while a voter lives makes two histories: the one that is found to be earlier is set aside. ", strings.Join(alive, " and "))
			if f.Allowed = a.forced(ctx); !f.Allowed {
				f.Text += "Stop it first, or use --force."
			}
		}
	}
	if f.Allowed {
		f.Text += fmt.Sprintf("This node has the table up to entry %d. Whatever %s accepted after that is not here: acknowledged changes with two copies are, others may be missing. They are kept on that machine's disk and can be brought back with raft salvage when it returns. %s", s.Last, orNobody(voters), rejoins(others))
	}
	return f
}

func orNobody(names []string) string {
	if len(names) == 0 {
		return "another voter"
	}
	return strings.Join(names, " and ")
}

func rejoins(names []string) string {
	if len(names) == 0 {
		return "All other nodes will join anew by themselves."
	}
	return strings.Join(names, " and ") + " and all returning nodes will join anew by themselves."
}

type forceKey struct{}

func (a *Agent) forced(ctx context.Context) bool { on, _ := ctx.Value(forceKey{}).(bool); return on }

func (a *Agent) nameOf(id cluster.NodeID) string {
	if n, ok := a.swarm.core.machine.Node(id); ok {
		return n.Name
	}
	return string(id)
}

// answeringVoters are the other voters that still answer.
func (a *Agent) answeringVoters(ctx context.Context, s consensus.Status) (names []string) {
	for _, v := range s.Servers {
		if !v.Voter || v.Node == a.self.ID {
			continue
		}
		one, cancel := context.WithTimeout(ctx, greetWithin)
		var g greeting
		err := a.swarm.client.Call(one, v.Node, verbHello, struct{}{}, &g)
		cancel()
		if err == nil {
			names = append(names, a.nameOf(v.Node))
		}
	}
	return names
}

// take makes this node lead a new generation.
func (a *api) take(w http.ResponseWriter, r *http.Request) {
	c, err := a.core()
	if err != nil {
		answerError(w, err)
		return
	}
	f := a.agent.forecast(askedFor(r), c, r.URL.Query().Get("verb"))
	if !f.Allowed {
		answerError(w, cluster.Errorf(cluster.Conflict, "%s", f.Text))
		return
	}
	if err := c.raft.Recover(); err != nil {
		answerError(w, err)
		return
	}
	limit := time.Now().Add(10 * time.Second)
	for !c.raft.Leads() && time.Now().Before(limit) && r.Context().Err() == nil {
		time.Sleep(20 * time.Millisecond)
	}
	if !c.raft.Leads() {
		answerError(w, cluster.Errorf(cluster.Unavailable, "this node has taken the table over and does not lead yet: see raft ls in a moment"))
		return
	}
	f.Text = fmt.Sprintf("%s leads generation %s.", a.agent.self.Name, c.raft.Lineage().Generation)
	answer(w, http.StatusOK, f)
}
