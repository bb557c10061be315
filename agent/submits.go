package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/cluster/peer"
	"github.com/ahelme/comfyume/roles/comfy"
)

// The verbs by which a node without a gateway queues workflows at one.
const (
	verbSubmit peer.Verb = "submit"
	verbRetry  peer.Verb = "retry"
)

// submission is POST /prompt as if the user had sent it; submitted answers it.
type submission struct {
	User  cluster.User `cbor:"1,keyasint"`
	Body  []byte       `cbor:"2,keyasint"`
	Actor string       `cbor:"3,keyasint"` // who did it for the user
}

// retrial asks for an ended job to be queued again.
type retrial struct {
	Job   jobs.ID `cbor:"1,keyasint"`
	Actor string  `cbor:"2,keyasint"`
}

type submitted struct {
	Status int    `cbor:"1,keyasint"`
	Answer []byte `cbor:"2,keyasint"`
}

// serveSubmits lets other core nodes queue workflows at this gateway.
func serveSubmits(s *peer.Server, r *roles) {
	peer.Handle(s, verbSubmit, peer.CoreOnly, func(ctx context.Context, _ peer.Who, in submission) (out submitted, err error) {
		out.Status, out.Answer = r.submit(cluster.ActedBy(ctx, in.Actor), in.User, in.Body)
		return out, nil
	})
	peer.Handle(s, verbRetry, peer.CoreOnly, func(ctx context.Context, _ peer.Who, in retrial) (jobs.ID, error) {
		return r.retry(cluster.ActedBy(ctx, in.Actor), in.Job)
	})
}

// atGateway asks this node's gateway, or another one's.
func (a *Agent) atGateway(ctx context.Context, v peer.Verb, in, out any) error {
	if a.roles.gateway.Load() != nil {
		return a.swarm.client.Call(ctx, a.self.ID, v, in, out)
	}
	err := error(cluster.Errorf(cluster.Unavailable, "no gateway is there to queue it: start a node with the role gateway"))
	for _, id := range a.swarm.gateways() {
		if err = a.swarm.client.Call(ctx, id, v, in, out); cluster.CodeOf(err) != cluster.Unavailable {
			return err
		}
	}
	return err
}

// submit queues a workflow for a user, at whatever gateway is there.
func (a *Agent) submit(ctx context.Context, user cluster.User, body []byte) (status int, answer []byte, err error) {
	if _, known := a.person(user); !known {
		return 0, nil, a.noUser(user)
	}
	var out submitted
	err = a.atGateway(ctx, verbSubmit, submission{user, body, cluster.Actor(ctx)}, &out)
	return out.Status, out.Answer, err
}

// retry queues a job again.
func (a *Agent) retry(ctx context.Context, id jobs.ID) (again jobs.ID, err error) {
	err = a.atGateway(ctx, verbRetry, retrial{id, cluster.Actor(ctx)}, &again)
	return again, err
}

// retry queues an ended job's workflow anew, as its user's own page would.
func (r *roles) retry(ctx context.Context, id jobs.ID) (jobs.ID, error) {
	body, err := r.gateway.Load().Resubmission(ctx, id)
	if err != nil {
		return jobs.ID{}, err
	}
	status, answer := r.submit(ctx, id.User, body)
	if status != http.StatusOK {
		var refused cluster.Error
		if json.Unmarshal(answer, &refused) == nil && refused.Message != "" {
			return jobs.ID{}, &refused
		}
		var p comfy.PromptError
		if json.Unmarshal(answer, &p) == nil && p.Detail.Message != "" {
			return jobs.ID{}, cluster.Errorf(cluster.Invalid, "%s's workflow is refused now: %s", id.User, p.Detail.Message)
		}
		return jobs.ID{}, cluster.Errorf(cluster.Invalid, "%s's workflow is refused now (%d)", id.User, status)
	}
	var accepted struct {
		PromptID string `json:"prompt_id"`
	}
	if err := json.Unmarshal(answer, &accepted); err != nil {
		return jobs.ID{}, fmt.Errorf("read the answer to a retry: %w", err)
	}
	return jobs.ID{User: id.User, Prompt: accepted.PromptID}, nil
}
