package gateway

import (
	"context"
	"encoding/json"

	"github.com/valyala/fasthttp"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/roles/comfy"
)

// queue is GET /queue: this user's jobs only. A job that is being prepared or
// stored counts as what the page understands: pending until it executes,
// running until its outputs are safe.
func (g *Gateway) queue(c *call) {
	var open []jobs.Job
	g.cfg.Tables.Jobs(func(t *jobs.Table) { open = t.Open(c.user) })
	var q comfy.Queue
	for i := range open {
		j := &open[i]
		item, err := queueItem(j)
		if err != nil {
			fail(c.RequestCtx, err)
			return
		}
		if executing(j) {
			q.Running = append(q.Running, item)
		} else {
			q.Pending = append(q.Pending, item)
		}
	}
	raw, err := json.Marshal(q)
	if err != nil {
		fail(c.RequestCtx, err)
		return
	}
	writeJSON(c.RequestCtx, fasthttp.StatusOK, raw)
}

// executing reports whether a page should show the job as running.
func executing(j *jobs.Job) bool {
	return j.State == jobs.Running || j.State == jobs.Storing || j.State == jobs.Cancelling
}

// queueItem is a waiting or running job's tuple. Its number follows the order
// of the queue, not of submission, so that a job moved to the front sorts there.
func queueItem(j *jobs.Job) (comfy.QueueItem, error) {
	req, err := comfy.UnpackRequest(j.Body)
	if err != nil {
		return comfy.QueueItem{}, err
	}
	extra, err := extraData(j, req)
	return comfy.QueueItem{Number: float64(queueBase + j.Order), PromptID: j.ID.Prompt, Prompt: req.Prompt, ExtraData: extra, Outputs: req.PartialExecutionTargets}, err
}

// extraData is what a ComfyUI shows of it: with client_id and create_time.
func extraData(j *jobs.Job, req *comfy.PromptRequest) (json.RawMessage, error) {
	var extra comfy.Object
	if len(req.ExtraData) > 0 {
		var err error
		if extra, err = comfy.ParseObject(req.ExtraData); err != nil {
			return nil, err
		}
	}
	id, err := json.Marshal(j.ClientID)
	if err != nil {
		return nil, err
	}
	if j.ClientID != "" {
		extra.Set("client_id", id)
	}
	if _, ok := extra.Lookup("create_time"); !ok {
		created, err := json.Marshal(j.Created)
		if err != nil {
			return nil, err
		}
		extra.Set("create_time", created)
	}
	return json.Marshal(extra)
}

// changeQueue is POST /queue: clear or delete, waiting jobs only.
func (g *Gateway) changeQueue(c *call) {
	var body struct {
		Clear  bool     `json:"clear"`
		Delete []string `json:"delete"`
	}
	if !g.body(c, &body) {
		return
	}
	var ids []jobs.ID
	g.cfg.Tables.Jobs(func(t *jobs.Table) {
		for _, j := range t.Open(c.user) {
			if !executing(&j) && (body.Clear || contains(body.Delete, j.ID.Prompt)) {
				ids = append(ids, j.ID)
			}
		}
	})
	g.cancel(c, ids)
}

// interrupt is POST /interrupt: only ever this user's own running jobs, with or
// without a prompt_id; any body is understood.
func (g *Gateway) interrupt(c *call) {
	var body struct {
		PromptID string `json:"prompt_id"`
	}
	_ = json.Unmarshal(c.body, &body) // pages send nothing at all
	var ids []jobs.ID
	g.cfg.Tables.Jobs(func(t *jobs.Table) {
		for _, j := range t.Open(c.user) {
			if executing(&j) && (body.PromptID == "" || body.PromptID == j.ID.Prompt) {
				ids = append(ids, j.ID)
			}
		}
	})
	g.cancel(c, ids)
}

// cancel ends jobs and answers 200 with an empty body, as ComfyUI does.
func (g *Gateway) cancel(c *call, ids []jobs.ID) {
	if _, err := g.cancelIDs(c, c.user, ids); err != nil {
		fail(c.RequestCtx, submitError(err))
		return
	}
	empty(c.RequestCtx, fasthttp.StatusOK)
}

func (g *Gateway) cancelIDs(ctx context.Context, u cluster.User, ids []jobs.ID) (jobs.Touched, error) {
	var touched jobs.Touched
	if len(ids) == 0 {
		return touched, nil
	}
	ctx, cancel := context.WithTimeout(ctx, commitWithin)
	defer cancel()
	out, err := g.cfg.Propose.Propose(ctx, &jobs.Cancel{IDs: ids, Reason: "cancelled by " + string(u)})
	if err != nil {
		return touched, err
	}
	return touched, out.Decode(&touched)
}

// body reads a JSON body; a page's mistake is told, nothing happens.
func (g *Gateway) body(c *call, v any) bool {
	if err := json.Unmarshal(c.body, v); err != nil {
		fail(c.RequestCtx, comfy.InvalidJSON(err))
		return false
	}
	return true
}

func contains(list []string, s string) bool {
	for _, one := range list {
		if one == s {
			return true
		}
	}
	return false
}
