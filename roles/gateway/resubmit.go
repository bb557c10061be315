package gateway

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
)

// Resubmission makes the POST /prompt body that queues an ended job's workflow
// again, for the same pages. Tokens that came with it are gone: a workflow that
// needs them is held until its user signs in again.
func (g *Gateway) Resubmission(ctx context.Context, id jobs.ID) ([]byte, error) {
	var row jobs.Job
	var ok bool
	g.cfg.Tables.Jobs(func(t *jobs.Table) { row, ok = t.Job(id) })
	switch {
	case !ok:
		return nil, cluster.Errorf(cluster.NotFound, "there is no job %s", id)
	case !row.State.Ended():
		return nil, cluster.Errorf(cluster.Conflict, "job %s has not ended: it is %s", id, row.State)
	case row.History == "" && len(row.Body) == 0:
		return nil, cluster.Errorf(cluster.Conflict, "job %s was cancelled before it ran, so its workflow was not kept", id)
	}
	e, err := g.histories.entry(ctx, &row)
	if err != nil {
		return nil, fmt.Errorf("read the history of job %s: %w", id, err)
	}
	return json.Marshal(struct {
		Prompt   json.RawMessage `json:"prompt"`
		ClientID string          `json:"client_id,omitempty"`
		Extra    json.RawMessage `json:"extra_data,omitempty"`
		Targets  []string        `json:"partial_execution_targets,omitempty"`
	}{e.Prompt.Prompt, row.ClientID, e.Prompt.ExtraData, e.Prompt.Outputs})
}
