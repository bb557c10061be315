package agent

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/cluster/peer"
	"github.com/ahelme/comfyume/cluster/people"
	"github.com/ahelme/comfyume/cluster/policy"
	"github.com/ahelme/comfyume/cluster/state"
	"github.com/ahelme/comfyume/ui"
)

// Do commits what a button or a command asks for, audited under actor.
func (v *view) Do(ctx context.Context, actor string, a ui.Action) error {
	p := v.swarm.core.propose.As(actor)
	switch a.Verb {
	case ui.CancelJob:
		return v.cancel(ctx, p, jobs.ID{User: a.User, Prompt: a.Prompt}, actor)
	case ui.RetryJob:
		_, err := v.retry(cluster.ActedBy(ctx, actor), jobs.ID{User: a.User, Prompt: a.Prompt})
		return err
	case ui.FrontJobs:
		return v.front(ctx, p, a.Jobs)
	case ui.NowJobs:
		return v.urgent(ctx, p, a.Jobs)
	case ui.SetClass:
		mode, err := policy.ParseClassMode(a.Mode)
		switch {
		case err != nil:
			return err
		case mode == policy.Sprint && a.N <= 0:
			return cluster.Errorf(cluster.Invalid, "A sprint has a number of jobs for each, such as 3.")
		case mode == policy.WindDown && a.Until <= v.now().UnixMilli():
			return cluster.Errorf(cluster.Invalid, "Winding down needs a time to come at which all is over, such as 17:30.")
		}
		return commit(ctx, p, &state.SetClass{Mode: string(mode), N: a.N, Until: a.Until})
	case ui.SetQuota:
		return commit(ctx, p, &state.SetQuota{Quota: state.Quota{User: a.User, Queued: a.Queued, Running: a.N, Minutes: a.Minutes}})
	case ui.SetDisk:
		return commit(ctx, p, &state.SetDisk{User: a.User, Bytes: a.Bytes})
	case ui.BoostPerson:
		return commit(ctx, p, &state.SetBoost{User: a.User, Until: a.Until})
	case ui.DisablePerson, ui.EnablePerson:
		return commit(ctx, p, &people.Disable{Name: a.User, Undo: a.Verb == ui.EnablePerson})
	case ui.SignOutPerson:
		return v.signOut(ctx, p, a.User)
	case ui.PauseQueue, ui.ResumeQueue:
		scope := state.Scope(a.Scope)
		if scope == "" {
			scope = state.PauseAll
		}
		return commit(ctx, p, &state.SetPause{Scope: scope, Undo: a.Verb == ui.ResumeQueue, Why: a.Why})
	case ui.SetMode:
		mode, err := policy.ParseMode(a.Mode)
		if err != nil {
			return err
		}
		return commit(ctx, p, &state.SetMode{Mode: string(mode)})
	case ui.RestartWorker, ui.StopWorker, ui.StartWorker, ui.FreeWorker, ui.ReleaseWorker:
		return v.tend(ctx, p, actor, a)
	case ui.DrainNode, ui.UndrainNode, ui.ForgetNode:
		n, err := v.node(a.Node)
		if err != nil {
			return err
		}
		if a.Verb == ui.ForgetNode {
			return v.forget(ctx, p, n)
		}
		if err := commit(ctx, p, &state.DrainNode{ID: n.ID, Undo: a.Verb == ui.UndrainNode}); err != nil || a.Verb == ui.DrainNode && a.Within <= 0 {
			return err
		}
		return v.drainWithin(ctx, n, actor, a)
	}
	return cluster.Errorf(cluster.Invalid, "there is no action %q", a.Verb)
}

// Pass makes a sign-in link or a token with its usual life.
func (v *view) Pass(ctx context.Context, actor string, u cluster.User, kind ui.PassKind) (ui.Pass, error) {
	p, err := v.pass(cluster.ActedBy(ctx, actor), u, kind, usualLife(kind))
	return ui.Pass{User: p.Name, Kind: kind, Text: cmp.Or(p.URL, p.Token), Until: p.Until.UnixMilli()}, err
}

func commit(ctx context.Context, p cluster.Proposer, cmd cluster.Command) error {
	_, err := p.Propose(ctx, cmd)
	return err
}

// signOut ends all that stands for somebody's password: sessions, links, tokens.
func (v *view) signOut(ctx context.Context, p cluster.Proposer, u cluster.User) error {
	known := false
	v.swarm.core.machine.People(func(t *people.Table) { _, known = t.Person(u) })
	if !known {
		return cluster.Errorf(cluster.NotFound, "there is no user %q: see user ls", u)
	}
	return commit(ctx, p, &people.EndPass{Name: u, All: true})
}

func (v *view) cancel(ctx context.Context, p cluster.Proposer, id jobs.ID, actor string) error {
	var j jobs.Job
	var ok bool
	v.swarm.core.machine.Jobs(func(t *jobs.Table) { j, ok = t.Job(id) })
	switch {
	case !ok:
		return cluster.Errorf(cluster.NotFound, "there is no job %s", id)
	case j.State.Ended():
		return cluster.Errorf(cluster.Conflict, "job %s has ended already: it is %s", id, j.State)
	}
	return commit(ctx, p, &jobs.Cancel{IDs: []jobs.ID{id}, Reason: "cancelled by " + actor})
}

// urgent moves waiting jobs before all others and has running ones stopped for them.
func (v *view) urgent(ctx context.Context, p peer.Proposals, ids []jobs.ID) error {
	if len(ids) == 0 {
		return cluster.Errorf(cluster.Invalid, "which jobs shall begin now?")
	}
	return moved(p.Propose(ctx, &jobs.Now{IDs: ids}))
}

// front moves waiting jobs before all others, in every mode.
func (v *view) front(ctx context.Context, p peer.Proposals, ids []jobs.ID) error {
	if len(ids) == 0 {
		return cluster.Errorf(cluster.Invalid, "which jobs shall go first?")
	}
	return moved(p.Propose(ctx, &jobs.Front{IDs: ids}))
}

// moved reads an answer; that nothing was moved is a refusal.
func moved(out cluster.Outcome, err error) error {
	if err != nil {
		return err
	}
	var moved jobs.Touched
	if err := out.Decode(&moved); err != nil {
		return fmt.Errorf("read what was moved: %w", err)
	}
	if len(moved.IDs) == 0 {
		return cluster.Errorf(cluster.Conflict, "none of these jobs waits any more: there is nothing to move")
	}
	return nil
}

// node finds a node by its name, its id, or a beginning of either that only one
// has.
func (v *view) node(word string) (state.Node, error) {
	var whole, begins []state.Node
	for _, n := range v.swarm.core.machine.Nodes() {
		switch {
		case n.Left > 0 || word == "":
		case n.Name == word, string(n.ID) == word:
			whole = append(whole, n)
		case strings.HasPrefix(n.Name, word), strings.HasPrefix(string(n.ID), word):
			begins = append(begins, n)
		}
	}
	if len(whole) > 0 {
		begins = whole
	}
	switch len(begins) {
	case 0:
		return state.Node{}, cluster.Errorf(cluster.NotFound, "there is no node %q: see node ls", word)
	case 1:
		return begins[0], nil
	}
	names := make([]string, len(begins))
	for i, n := range begins {
		names[i] = fmt.Sprintf("%s (%s)", n.Name, n.ID)
	}
	return state.Node{}, cluster.Errorf(cluster.Conflict, "%q may be %s: give more of the name, or the id", word, strings.Join(names, " or "))
}

// forget takes a node out of the workshop for good. One that is alive would
// only come back.
func (v *view) forget(ctx context.Context, p cluster.Proposer, n state.Node) error {
	if n.ID == v.swarm.self.ID || v.swarm.gossip.Load() != nil && !v.swarm.gone(n.ID) && v.heard(n.ID) {
		return cluster.Errorf(cluster.Conflict, "node %s is alive: end it with comfyume-agent node leave on that machine", n.Name)
	}
	if err := commit(ctx, p, &state.LeaveNode{ID: n.ID}); err != nil {
		return err
	}
	v.swarm.reports.forget(n.ID)
	v.swarm.forgetOnNetwork(n.ID)
	return nil
}

// heard reports whether a node has reported a moment ago.
func (v *view) heard(id cluster.NodeID) bool {
	return slices.ContainsFunc(v.swarm.reports.list(), func(h heardOf) bool { return h.Member.ID == id && v.now().Sub(h.at) < fresh })
}
