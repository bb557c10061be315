package gateway

import (
	"cmp"
	"encoding/json"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/valyala/fasthttp"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/roles/comfy"
)

// jobs is GET /api/jobs, from rows alone: cheap, because newer pages ask for it
// after every event.
func (g *Gateway) jobs(c *call) {
	q, problem := jobsQueryOf(c)
	if problem != "" {
		g.jobsError(c, fasthttp.StatusBadRequest, problem)
		return
	}
	var rows []jobs.Job
	g.cfg.Tables.Jobs(func(t *jobs.Table) { rows = append(t.Open(c.user), t.History(c.user)...) })
	rows = slices.DeleteFunc(rows, func(j jobs.Job) bool {
		return len(q.statuses) > 0 && !slices.Contains(q.statuses, string(statusOfJob(&j))) || q.workflow != "" && j.WorkflowID != q.workflow
	})
	slices.SortStableFunc(rows, func(a, b jobs.Job) int {
		n := cmp.Or(cmp.Compare(a.Created, b.Created), cmp.Compare(a.Seq, b.Seq))
		if q.byDuration {
			n = cmp.Compare(a.Ended-a.Started, b.Ended-b.Started)
		}
		if q.ascending {
			return n
		}
		return -n
	})
	total := len(rows)
	rows = rows[min(q.offset, total):]
	if q.limit > 0 {
		rows = rows[:min(q.limit, len(rows))]
	}
	list := make([]comfy.Job, len(rows))
	for i := range rows {
		list[i] = jobOf(&rows[i])
	}
	limit := q.limit
	if limit == 0 {
		limit = max(total, 1) // the page's schema wants a number
	}
	writeCompressed(c, comfy.NewJobList(list, q.offset, limit, total).Encode())
}

type jobsQuery struct {
	statuses              []string
	workflow              string
	byDuration, ascending bool
	limit, offset         int // limit 0 = all
}

func jobsQueryOf(c *call) (q jobsQuery, problem string) {
	a := c.QueryArgs()
	known := []string{"pending", "in_progress", "completed", "failed", "cancelled"}
	for s := range strings.SplitSeq(string(a.Peek("status")), ",") {
		if s = strings.ToLower(strings.TrimSpace(s)); s == "" {
			continue
		}
		if !slices.Contains(known, s) {
			return q, "Invalid status value: " + s
		}
		q.statuses = append(q.statuses, s)
	}
	q.workflow = string(a.Peek("workflow_id"))
	switch string(a.Peek("sort_by")) {
	case "", "created_at":
	case "execution_duration":
		q.byDuration = true
	default:
		return q, "sort_by must be created_at or execution_duration"
	}
	switch string(a.Peek("sort_order")) {
	case "", "desc":
	case "asc":
		q.ascending = true
	default:
		return q, "sort_order must be asc or desc"
	}
	var err error
	if q.limit, err = queryInt(c, "limit", 0); err != nil || q.limit < 0 || q.limit == 0 && len(a.Peek("limit")) > 0 {
		return q, "limit must be a positive integer"
	}
	if q.offset, err = queryInt(c, "offset", 0); err != nil {
		return q, "offset must be an integer"
	}
	q.offset = max(0, q.offset)
	return q, ""
}

func statusOfJob(j *jobs.Job) comfy.JobStatus {
	switch {
	case j.State == jobs.Done:
		return comfy.JobCompleted
	case j.State == jobs.Failed:
		return comfy.JobFailed
	case j.State == jobs.Cancelled:
		return comfy.JobCancelled
	case executing(j):
		return comfy.JobInProgress
	}
	return comfy.JobPending
}

// jobOf is one row of the list. Times of what has not happened are left out.
func jobOf(j *jobs.Job) comfy.Job {
	out := comfy.Job{
		ID: j.ID.Prompt, Status: statusOfJob(j), Priority: float64(j.Number), CreateTime: j.Created, ExecutionStartTime: j.Started,
		OutputsCount: int(j.Outputs), PreviewableOutputsCount: int(j.Previewable), WorkflowID: j.WorkflowID,
	}
	if j.State.Ended() {
		out.ExecutionEndTime = j.Ended
	}
	if len(j.Preview) > 0 && json.Valid(j.Preview) {
		out.PreviewOutput = j.Preview
	}
	if j.State == jobs.Failed {
		var d comfy.ExecutionErrorData
		if terminalOf(j, nil).Decode(&d) == nil {
			out.ExecutionError = &d
		}
	}
	return out
}

// job is GET /api/jobs/{id}.
func (g *Gateway) job(c *call) {
	var j jobs.Job
	var ok bool
	g.cfg.Tables.Jobs(func(t *jobs.Table) { j, ok = t.Job(jobs.ID{User: c.user, Prompt: c.params["id"]}) })
	if !ok || j.Hidden {
		g.jobsError(c, fasthttp.StatusNotFound, "Job not found")
		return
	}
	d := comfy.JobDetail{Job: jobOf(&j)}
	if j.State.Ended() {
		e, err := g.histories.entry(c, &j)
		if err != nil {
			fail(c.RequestCtx, err)
			return
		}
		d.Outputs, d.ExecutionStatus = e.Outputs, &e.Status
		d.Workflow = &comfy.JobWorkflow{Prompt: e.Prompt.Prompt, ExtraData: e.Prompt.ExtraData}
	} else {
		item, err := queueItem(&j)
		if err != nil {
			fail(c.RequestCtx, err)
			return
		}
		d.Workflow = &comfy.JobWorkflow{Prompt: item.Prompt, ExtraData: item.ExtraData}
	}
	writeCompressed(c, d.Encode())
}

// cancelJob is POST /api/jobs/{id}/cancel.
func (g *Gateway) cancelJob(c *call) { g.cancelled(c, []string{c.params["id"]}) }

// cancelJobs is POST /api/jobs/cancel.
func (g *Gateway) cancelJobs(c *call) {
	var body struct {
		IDs []string `json:"job_ids"`
	}
	if !g.body(c, &body) {
		return
	}
	var bad []string
	for _, id := range body.IDs {
		if uuid.Validate(id) != nil && !jobs.ValidPromptID(id) {
			bad = append(bad, id)
		}
	}
	if len(bad) > 0 || len(body.IDs) == 0 {
		raw, err := json.Marshal(map[string]any{"error": "job_ids must be a list of job ids", "invalid_ids": bad})
		if err != nil {
			fail(c.RequestCtx, err)
			return
		}
		writeJSON(c.RequestCtx, fasthttp.StatusBadRequest, raw)
		return
	}
	g.cancelled(c, body.IDs)
}

func (g *Gateway) cancelled(c *call, prompts []string) {
	ids := make([]jobs.ID, len(prompts))
	for i, p := range prompts {
		ids[i] = jobs.ID{User: c.user, Prompt: p}
	}
	touched, err := g.cancelIDs(c, c.user, ids)
	if err != nil {
		fail(c.RequestCtx, submitError(err))
		return
	}
	body := []byte(`{"cancelled": false}`)
	if len(touched.IDs) > 0 {
		body = []byte(`{"cancelled": true}`)
	}
	writeJSON(c.RequestCtx, fasthttp.StatusOK, body)
}

func (g *Gateway) jobsError(c *call, status int, text string) {
	raw, err := json.Marshal(map[string]string{"error": text})
	if err != nil {
		fail(c.RequestCtx, err)
		return
	}
	c.SetUserValue(problemKey, cluster.Errorf(cluster.Invalid, "%s", text))
	writeJSON(c.RequestCtx, status, raw)
}
