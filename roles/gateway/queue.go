package gateway

import (
	"context"
	"encoding/json"
	"strconv"

	"github.com/valyala/fasthttp"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/roles/comfy"
	"github.com/ahelme/comfyume/roles/gateway/stitch"
)

// queue is GET /queue: this user's jobs only. A job that is being prepared or
// stored counts as what the page understands: pending until it executes,
// running until its outputs are safe.
func (g *Gateway) queue(c *call) {
	var open []jobs.Job
	g.cfg.Tables.Jobs(func(t *jobs.Table) { open = t.Open(c.user) })
	var out stitch.Writer
	for i, list := range []string{`{"queue_running":[`, `],"queue_pending":[`} {
		out.Text(list)
		comma := ""
		for k := range open {
			j := &open[k]
			if executing(j) != (i == 0) {
				continue
			}
			tail, err := g.queuePiece(j)
			if err != nil {
				// One damaged row must not empty the whole list.
				g.log.Error("a waiting job cannot be read", "job", j.ID, "err", err)
				continue
			}
			out.Text(comma + comfy.QueueItem{Number: queueNumber(j), PromptID: j.ID.Prompt}.Head())
			out.Piece(tail)
			comma = ","
		}
	}
	out.Text("]}")
	writeGzip(c, out.Bytes())
}

// queuePiece is what of a job's tuple its place does not change.
func (g *Gateway) queuePiece(j *jobs.Job) (*stitch.Piece, error) {
	return g.pieces.get(queueKey(j), func() ([]byte, error) {
		item, err := queueItem(j)
		return item.Tail(), err
	})
}

// manyJobs is how many jobs a user must have for the next one to be made ready
// for the list when it comes: all of them at once take seconds.
const manyJobs = 16

// warm makes a new job's part of the list.
func (g *Gateway) warm(id jobs.ID) {
	if g.remaining(id.User) < manyJobs {
		return
	}
	var j jobs.Job
	var ok bool
	g.cfg.Tables.Jobs(func(t *jobs.Table) { j, ok = t.Job(id) })
	if !ok || j.State.Ended() {
		return
	}
	if _, err := g.queuePiece(&j); err != nil {
		g.log.Warn("a new job cannot be listed", "job", id, "err", err)
	}
}

// queueKey names what a job's place in the queue does not change.
func queueKey(j *jobs.Job) string {
	return "q/" + string(j.ID.User) + "/" + j.ID.Prompt + "/" + j.BodyHash + "/" + strconv.FormatInt(j.Created, 36) + "/" + j.ClientID
}

// queueNumber follows the order of the queue, not of submission, so that a job
// moved to the front sorts there.
func queueNumber(j *jobs.Job) float64 { return float64(queueBase + j.Order) }

// executing reports whether a page should show the job as running.
func executing(j *jobs.Job) bool {
	return j.State == jobs.Running || j.State == jobs.Storing || j.State == jobs.Cancelling
}

// queueItem is a waiting or running job's tuple.
func queueItem(j *jobs.Job) (comfy.QueueItem, error) {
	req, err := comfy.UnpackRequest(j.Body)
	if err != nil {
		return comfy.QueueItem{}, err
	}
	extra, err := extraData(j, req)
	return comfy.QueueItem{Number: queueNumber(j), PromptID: j.ID.Prompt, Prompt: req.Prompt, ExtraData: extra, Outputs: req.PartialExecutionTargets}, err
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
