// Package peer is how one node talks to another: checked streams, typed
// proposals (committed here if this node leads, else at the leader), the verbs
// of workers, blobs, and the pictures and progress of running jobs on their way
// to the gateways. It promises that a proposal that returned has been applied
// here, and that nobody is answered who is not a node of this workshop and of
// this history of it. It refuses to decide anything.
//
//	gate.go stream.go      streams: who is it, of which history
//	client.go server.go    POST /peer/VERB, CBOR both ways
//	leader.go propose.go   to whoever leads
//	work.go                claim, started, gpudone, outputs, finish, ...
//	blobs.go mirror.go     bytes by digest, from node to node
//	sweep.go scrub.go      those that nothing names, and those that a disk forgot
//	link.go events.go      pictures, progress and reports
package peer

import (
	"cmp"
	"context"
	"fmt"

	"github.com/google/uuid"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/cluster/state"
)

// Log commits encoded commands; consensus.Log does.
type Log interface {
	Propose(ctx context.Context, cmds ...[]byte) (answers [][]byte, index uint64, err error)
}

// Replica is this node's copy of the table; state.Machine is one.
type Replica interface {
	Await(ctx context.Context, index uint64) error
	Permits(k cluster.Kind) error
	// Fit is the command without what the agreed level does not know.
	Fit(cmd cluster.Command) cluster.Command
}

// Proposals is the one way into the log for everything on this node.
type Proposals struct {
	Log     Log         // this node's own
	Replica Replica     // nil: nothing is awaited or checked (tests)
	Lead    *Leadership // nil: this node leads or nobody does
	Client  *Client
	Actor   string // who these are made for, in the audit; "" = whom the context names

	parting bool
}

var _ cluster.Proposer = Proposals{}

// As returns the same way in, audited under actor.
func (p Proposals) As(actor string) Proposals { p.Actor = actor; return p }

// Parting returns the same way in for a node that says it goes: the leader takes
// it out of the log at once, so this node's copy may never hear of its own word
// and is not waited for.
func (p Proposals) Parting() Proposals { p.parting = true; return p }

// Propose commits cmds in one entry and returns the last one's outcome. What
// is not known to be committed is proposed again under the same ids while
// somebody may yet lead: the table answers what it has applied already.
func (p Proposals) Propose(ctx context.Context, cmds ...cluster.Command) (cluster.Outcome, error) {
	raw := make([][]byte, len(cmds))
	for i, c := range cmds {
		if p.Replica != nil {
			if err := p.Replica.Permits(c.Kind()); err != nil {
				return cluster.Outcome{}, err
			}
			c = p.Replica.Fit(c)
		}
		id, err := uuid.NewV7()
		if err != nil {
			return cluster.Outcome{}, fmt.Errorf("make a command id: %w", err)
		}
		if raw[i], err = state.Encode(c, id.String(), cmp.Or(p.Actor, cluster.Actor(ctx))); err != nil {
			return cluster.Outcome{}, err
		}
	}
	var out entry
	err := p.commit(ctx, raw, &out)
	if err != nil {
		return cluster.Outcome{}, err
	}
	if len(out.Answers) != len(cmds) {
		return cluster.Outcome{}, fmt.Errorf("commit: %d answers to %d commands", len(out.Answers), len(cmds))
	}
	o := cluster.Outcome{Index: out.Index}
	o.Body, err = state.DecodeAnswer(out.Answers[len(out.Answers)-1])
	return o, err
}

func (p Proposals) commit(ctx context.Context, raw [][]byte, out *entry) error {
	here := func(ctx context.Context) (err error) {
		out.Answers, out.Index, err = p.Log.Propose(ctx, raw...)
		return err
	}
	if p.Lead == nil {
		return here(ctx)
	}
	forwarded := false
	err := p.Lead.Do(ctx, func(ctx context.Context, leader cluster.NodeID, self bool) error {
		if forwarded = !self; self {
			return here(ctx)
		}
		return p.Client.Call(ctx, leader, verbPropose, proposal{Commands: raw}, out)
	})
	if err != nil || !forwarded || p.Replica == nil || p.parting {
		return err
	}
	if err := p.Replica.Await(ctx, out.Index); err != nil {
		return cluster.Errorf(cluster.Internal, "the change was made, but this node has not caught up with it: %v", err)
	}
	return nil
}

const verbPropose Verb = "propose"

// proposal asks for commands to be committed in one entry; entry answers it.
type proposal struct {
	Commands [][]byte `cbor:"1,keyasint"`
}

type entry struct {
	Answers [][]byte `cbor:"1,keyasint"`
	Index   uint64   `cbor:"2,keyasint"`
}

// ServeProposals lets other core nodes propose here. admit takes a submit that
// stands alone, so that an idle worker gets it in the same entry.
func ServeProposals(s *Server, log Log, admit cluster.Proposer) {
	Handle(s, verbPropose, CoreOnly, func(ctx context.Context, _ Who, in proposal) (entry, error) {
		if len(in.Commands) == 0 {
			return entry{}, cluster.Errorf(cluster.Invalid, "nothing was proposed")
		}
		if len(in.Commands) == 1 {
			env, cmd, err := state.Decode(in.Commands[0])
			if err != nil {
				return entry{}, err
			}
			if sub, ok := cmd.(*jobs.Submit); ok {
				out, err := admit.Propose(cluster.ActedBy(ctx, env.Actor), sub)
				if err != nil {
					return entry{}, err
				}
				return entry{Answers: [][]byte{state.EncodeAnswer(out.Body)}, Index: out.Index}, nil
			}
		}
		answers, index, err := log.Propose(ctx, in.Commands...)
		return entry{answers, index}, err
	})
}
