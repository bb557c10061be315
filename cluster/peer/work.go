package peer

import (
	"context"
	"errors"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/files"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/cluster/models"
	"github.com/ahelme/comfyume/cluster/state"
)

// Steward is where work is given out and reported to; queue.Steward on the
// node that leads.
type Steward interface {
	Claim(ctx context.Context, c jobs.Claim) (jobs.Assignment, error)
	Started(ctx context.Context, l jobs.Lease) (index uint64, err error)
	Renew(ctx context.Context, l jobs.Lease) (jobs.Verdict, error)
	GpuDone(ctx context.Context, l jobs.Lease) error
	Outputs(ctx context.Context, l jobs.Lease, out []files.NewOutput) (places []files.Place, index uint64, err error)
	Finish(ctx context.Context, f jobs.Finish) error
	Requeue(ctx context.Context, l jobs.Lease, strike bool, reason string) error
	OutOfMemory(ctx context.Context, l jobs.Lease, m jobs.Memory) (elsewhere bool, err error)
	Hold(ctx context.Context, l jobs.Lease, reason string) error
}

// The verbs of workers.
const (
	verbClaim    Verb = "work/claim"
	verbAhead    Verb = "work/ahead" // a claim of a worker that has jobs: a leader of before would take these back
	verbStarted  Verb = "work/started"
	verbRenew    Verb = "work/renew"
	verbGpuDone  Verb = "work/gpudone"
	verbOutputs  Verb = "work/outputs"
	verbFinish   Verb = "work/finish"
	verbRequeue  Verb = "work/requeue"
	verbNoRoom   Verb = "work/noroom"
	verbHold     Verb = "work/hold"
	verbSecrets  Verb = "work/secrets"
	verbRegister Verb = "work/register"
	verbEnter    Verb = "enter"
	verbLeave    Verb = "leave"
	verbTokens   Verb = "tokens"
)

// pollFor is how long a claim waits at the leader before it is asked anew.
const pollFor = 10 * time.Second

type outputs struct {
	Lease   jobs.Lease        `cbor:"1,keyasint"`
	Outputs []files.NewOutput `cbor:"2,keyasint"`
}

type placed struct {
	Places []files.Place `cbor:"1,keyasint"`
	Index  uint64        `cbor:"2,keyasint"`
}

type givenBack struct {
	Lease  jobs.Lease `cbor:"1,keyasint"`
	Strike bool       `cbor:"2,keyasint"`
	Reason string     `cbor:"3,keyasint"`
}

type noRoom struct {
	Lease  jobs.Lease  `cbor:"1,keyasint"`
	Memory jobs.Memory `cbor:"2,keyasint"`
}

type tokens struct {
	Tokens map[string]string `cbor:"1,keyasint"`
	Found  bool              `cbor:"2,keyasint"`
}

type nothing struct{}

// Work is a worker's way to the leader's steward, wherever that is. It is the
// gpu role's Queue.
type Work struct {
	Lead   *Leadership
	Client *Client
	Local  Steward // this node's own, nil where there is none
}

// at calls the leader's steward: here for the one of this node, else over the wire.
func (w Work) at(ctx context.Context, v Verb, in, out any, here func(ctx context.Context) error) error {
	within := answerWithin
	if v == verbClaim || v == verbAhead {
		within += pollFor // it has no answer for long when there is no job
	}
	return w.Lead.doWithin(ctx, within, func(ctx context.Context, leader cluster.NodeID, self bool) error {
		if self && w.Local != nil {
			return here(ctx)
		}
		return w.Client.Call(ctx, leader, v, in, out)
	})
}

// Claim waits for a job; after a while without one it returns an empty
// assignment.
func (w Work) Claim(ctx context.Context, c jobs.Claim) (a jobs.Assignment, err error) {
	v := verbClaim
	if len(c.Holds) > 0 {
		v = verbAhead
	}
	err = w.at(ctx, v, c, &a, func(ctx context.Context) error {
		a, err = w.Local.Claim(ctx, c)
		return err
	})
	return a, err
}

// Started says that the job runs. The index is the commit's.
func (w Work) Started(ctx context.Context, l jobs.Lease) (index uint64, err error) {
	err = w.at(ctx, verbStarted, l, &index, func(ctx context.Context) error {
		index, err = w.Local.Started(ctx, l)
		return err
	})
	return index, err
}

// Renew says that the job goes on, and asks whether it shall.
func (w Work) Renew(ctx context.Context, l jobs.Lease) (v jobs.Verdict, err error) {
	err = w.at(ctx, verbRenew, l, &v, func(ctx context.Context) error {
		v, err = w.Local.Renew(ctx, l)
		return err
	})
	return v, err
}

// GpuDone says that only storing is left.
func (w Work) GpuDone(ctx context.Context, l jobs.Lease) error {
	return w.at(ctx, verbGpuDone, l, nil, func(ctx context.Context) error { return w.Local.GpuDone(ctx, l) })
}

// Outputs enters stored files and returns the user's names for them.
func (w Work) Outputs(ctx context.Context, l jobs.Lease, out []files.NewOutput) (places []files.Place, index uint64, err error) {
	var p placed
	err = w.at(ctx, verbOutputs, outputs{l, out}, &p, func(ctx context.Context) (err error) {
		p.Places, p.Index, err = w.Local.Outputs(ctx, l, out)
		return err
	})
	return p.Places, p.Index, err
}

// Finish ends an attempt.
func (w Work) Finish(ctx context.Context, f jobs.Finish) error {
	return w.at(ctx, verbFinish, f, nil, func(ctx context.Context) error { return w.Local.Finish(ctx, f) })
}

// Requeue gives a job back.
func (w Work) Requeue(ctx context.Context, l jobs.Lease, strike bool, reason string) error {
	return w.at(ctx, verbRequeue, givenBack{l, strike, reason}, nil, func(ctx context.Context) error { return w.Local.Requeue(ctx, l, strike, reason) })
}

// OutOfMemory puts a job back that was too large for its GPU, or returns false
// when no other has more.
func (w Work) OutOfMemory(ctx context.Context, l jobs.Lease, m jobs.Memory) (elsewhere bool, err error) {
	err = w.at(ctx, verbNoRoom, noRoom{l, m}, &elsewhere, func(ctx context.Context) error {
		elsewhere, err = w.Local.OutOfMemory(ctx, l, m)
		return err
	})
	return elsewhere, err
}

// Hold parks a job that cannot begin.
func (w Work) Hold(ctx context.Context, l jobs.Lease, reason string) error {
	return w.at(ctx, verbHold, givenBack{Lease: l, Reason: reason}, nil, func(ctx context.Context) error { return w.Local.Hold(ctx, l, reason) })
}

// Secrets asks for the user's tokens of a job that this node's worker holds.
// False: they are gone; an error means that they could not be asked for.
func (w Work) Secrets(ctx context.Context, l jobs.Lease) (map[string]string, bool, error) {
	var t tokens
	err := w.Lead.Do(ctx, func(ctx context.Context, leader cluster.NodeID, _ bool) error {
		return w.Client.Call(ctx, leader, verbSecrets, l, &t)
	})
	return t.Tokens, t.Found, err
}

// Register enters a worker of this node.
func (w Work) Register(ctx context.Context, row models.Worker) error {
	return w.Lead.Do(ctx, func(ctx context.Context, leader cluster.NodeID, _ bool) error {
		return w.Client.Call(ctx, leader, verbRegister, row, nil)
	})
}

// Enter enters this node.
func (w Work) Enter(ctx context.Context, n state.Node) error {
	return w.Lead.Do(ctx, func(ctx context.Context, leader cluster.NodeID, _ bool) error {
		return w.Client.Call(ctx, leader, verbEnter, n, nil)
	})
}

// Leave takes this node out of the table for good.
func (w Work) Leave(ctx context.Context) error {
	return w.Lead.Do(ctx, func(ctx context.Context, leader cluster.NodeID, _ bool) error {
		return w.Client.Call(ctx, leader, verbLeave, struct{}{}, nil)
	})
}

// Table is what the leader reads to answer workers; state.Machine is one.
type Table interface {
	Jobs(f func(*jobs.Table))
}

// Secrets gives the tokens that came with a job to this node's own gateway.
type Secrets func(ctx context.Context, id jobs.ID) (map[string]string, bool)

// WorkConfig is what serving workers needs.
type WorkConfig struct {
	Steward Steward
	Table   Table
	Propose cluster.Proposer
	Self    cluster.NodeID
	Leads   func() bool
	Client  *Client
	Secrets Secrets // of this node's gateway; nil without one
}

var errNotLeading = cluster.Errorf(cluster.NoLeader, "this node does not lead; ask the one that does")

// ServeWork lets workers of other nodes work here, as long as this node leads.
// A worker is answered about its own jobs only.
func ServeWork(s *Server, c WorkConfig) {
	own := func(who Who, l jobs.Lease) error {
		switch {
		case !who.Holds(l.Worker):
			return cluster.Errorf(cluster.Forbidden, "worker %s is not one of node %s", l.Worker, who.Name)
		case !c.Leads():
			return errNotLeading
		}
		return nil
	}
	claim := func(ctx context.Context, who Who, in jobs.Claim) (a jobs.Assignment, err error) {
		in.Node = who.Node
		if err := own(who, jobs.Lease{Worker: in.Worker}); err != nil {
			return a, err
		}
		ctx, cancel := context.WithTimeoutCause(ctx, pollFor, errNoJob)
		defer cancel()
		if a, err = c.Steward.Claim(ctx, in); errors.Is(err, errNoJob) {
			return jobs.Assignment{}, nil
		}
		return a, err
	}
	Handle(s, verbClaim, Workers, claim)
	Handle(s, verbAhead, Workers, claim)
	lease(s, verbStarted, own, c.Steward.Started)
	lease(s, verbRenew, own, c.Steward.Renew)
	lease(s, verbGpuDone, own, func(ctx context.Context, l jobs.Lease) (nothing, error) { return nothing{}, c.Steward.GpuDone(ctx, l) })
	Handle(s, verbOutputs, Workers, func(ctx context.Context, who Who, in outputs) (p placed, err error) {
		if err := own(who, in.Lease); err != nil {
			return p, err
		}
		p.Places, p.Index, err = c.Steward.Outputs(ctx, in.Lease, in.Outputs)
		return p, err
	})
	Handle(s, verbFinish, Workers, func(ctx context.Context, who Who, in jobs.Finish) (nothing, error) {
		if err := own(who, in.Lease); err != nil {
			return nothing{}, err
		}
		return nothing{}, c.Steward.Finish(ctx, in)
	})
	Handle(s, verbRequeue, Workers, func(ctx context.Context, who Who, in givenBack) (nothing, error) {
		if err := own(who, in.Lease); err != nil {
			return nothing{}, err
		}
		return nothing{}, c.Steward.Requeue(ctx, in.Lease, in.Strike, in.Reason)
	})
	Handle(s, verbNoRoom, Workers, func(ctx context.Context, who Who, in noRoom) (bool, error) {
		if err := own(who, in.Lease); err != nil {
			return false, err
		}
		return c.Steward.OutOfMemory(ctx, in.Lease, in.Memory)
	})
	Handle(s, verbHold, Workers, func(ctx context.Context, who Who, in givenBack) (nothing, error) {
		if err := own(who, in.Lease); err != nil {
			return nothing{}, err
		}
		return nothing{}, c.Steward.Hold(ctx, in.Lease, in.Reason)
	})
	lease(s, verbSecrets, own, c.secrets)
	c.serveEntries(s)
}

var errNoJob = errors.New("no job came")

// lease adds a verb whose question is a lease.
func lease[Out any](s *Server, v Verb, own func(Who, jobs.Lease) error, do func(context.Context, jobs.Lease) (Out, error)) {
	Handle(s, v, Workers, func(ctx context.Context, who Who, l jobs.Lease) (out Out, err error) {
		if err := own(who, l); err != nil {
			return out, err
		}
		return do(ctx, l)
	})
}

// serveEntries adds the verbs by which nodes and workers enter themselves, and
// the one by which the leader asks a gateway for tokens.
func (c WorkConfig) serveEntries(s *Server) {
	Handle(s, verbRegister, Workers, func(ctx context.Context, who Who, in models.Worker) (nothing, error) {
		if !who.Holds(in.ID) || in.Node != who.Node {
			return nothing{}, cluster.Errorf(cluster.Forbidden, "worker %s is not one of node %s", in.ID, who.Name)
		}
		_, err := c.Propose.Propose(ctx, &models.PutWorker{Worker: in})
		return nothing{}, err
	})
	Handle(s, verbEnter, Workers, func(ctx context.Context, who Who, in state.Node) (nothing, error) {
		if in.ID != who.Node || in.Name != who.Name || in.Core() && !who.Core {
			return nothing{}, cluster.Errorf(cluster.Forbidden, "a node enters itself only, and as what it is")
		}
		_, err := c.Propose.Propose(ctx, &state.PutNode{Node: in})
		return nothing{}, err
	})
	Handle(s, verbLeave, Workers, func(ctx context.Context, who Who, _ struct{}) (nothing, error) {
		_, err := c.Propose.Propose(cluster.ActedBy(ctx, who.Name), &state.LeaveNode{ID: who.Node})
		return nothing{}, err
	})
	Handle(s, verbTokens, CoreOnly, func(ctx context.Context, _ Who, id jobs.ID) (t tokens, err error) {
		if c.Secrets != nil {
			t.Tokens, t.Found = c.Secrets(ctx, id)
		}
		return t, nil
	})
}

// secrets asks the gateway that took the job in.
func (c WorkConfig) secrets(ctx context.Context, l jobs.Lease) (t tokens, err error) {
	var holder cluster.NodeID
	c.Table.Jobs(func(table *jobs.Table) {
		if err = table.CheckLease(l); err == nil {
			row, _ := table.Job(l.Job)
			holder = row.Secrets
		}
	})
	switch {
	case err != nil, holder == "":
		return t, err
	case holder == c.Self:
		if c.Secrets != nil {
			t.Tokens, t.Found = c.Secrets(ctx, l.Job)
		}
		return t, nil
	}
	err = c.Client.Call(ctx, holder, verbTokens, l.Job, &t)
	if cluster.CodeOf(err) == cluster.Unavailable {
		return tokens{}, nil // its memory is gone with it, or soon will be: the job is held
	}
	return t, err
}
