// Package peer is how one node talks to another: typed proposals (committed
// here if this node leads, else at the leader) and the pictures and progress of
// running jobs on their way to the gateways. It promises that a proposal that
// returned has been applied here. It refuses to decide anything.
package peer

import (
	"context"
	"fmt"

	"github.com/google/uuid"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/state"
)

// Log commits encoded commands; consensus.Log does.
type Log interface {
	Propose(ctx context.Context, cmds ...[]byte) (answers [][]byte, index uint64, err error)
}

// Proposals is the one way into the log for everything on this node.
type Proposals struct {
	Log   Log
	Actor string // who these are made for, in the audit; "" = the node itself
}

var _ cluster.Proposer = Proposals{}

// As returns the same way in, audited under actor.
func (p Proposals) As(actor string) Proposals { p.Actor = actor; return p }

// Propose commits cmds in one entry and returns the last one's outcome.
func (p Proposals) Propose(ctx context.Context, cmds ...cluster.Command) (cluster.Outcome, error) {
	raw := make([][]byte, len(cmds))
	for i, c := range cmds {
		id, err := uuid.NewV7()
		if err != nil {
			return cluster.Outcome{}, fmt.Errorf("make a command id: %w", err)
		}
		if raw[i], err = state.Encode(c, id.String(), p.Actor); err != nil {
			return cluster.Outcome{}, err
		}
	}
	answers, index, err := p.Log.Propose(ctx, raw...)
	if err != nil {
		return cluster.Outcome{}, err
	}
	out := cluster.Outcome{Index: index}
	out.Body, err = state.DecodeAnswer(answers[len(answers)-1])
	return out, err
}
