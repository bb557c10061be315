package sketch

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/ahelme/comfyume/roles/comfy"
	"github.com/google/uuid"
)

// getJobs lists prompts in the newer form.
func (s *Server) getJobs(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	limit, ok := query(q, "limit", 0)
	if !ok || q.Has("limit") && limit <= 0 {
		jobsError(w, "limit must be a positive integer")
		return
	}
	offset, ok := query(q, "offset", 0)
	if !ok {
		jobsError(w, "offset must be an integer")
		return
	}
	var statuses []string
	if v := q.Get("status"); v != "" {
		statuses = strings.Split(strings.ToLower(v), ",")
		for _, st := range statuses {
			if !slices.Contains(jobStatuses(), comfy.JobStatus(strings.TrimSpace(st))) {
				jobsError(w, fmt.Sprintf("Invalid status value(s): %s", st))
				return
			}
		}
	}
	jobs, problem := sortJobs(s.jobs(), q.Get("sort_by"), q.Get("sort_order"))
	if problem != "" {
		jobsError(w, problem)
		return
	}
	jobs = slices.DeleteFunc(jobs, func(j comfy.Job) bool {
		return statuses != nil && !slices.ContainsFunc(statuses, func(s string) bool { return strings.TrimSpace(s) == string(j.Status) }) ||
			q.Get("workflow_id") != "" && j.WorkflowID != q.Get("workflow_id")
	})
	total := len(jobs)
	offset = min(max(offset, 0), total)
	window := jobs[offset:]
	if limit > 0 {
		window = window[:min(limit, len(window))]
	}
	writeJSON(w, http.StatusOK, comfy.NewJobList(window, offset, limit, total).Encode())
}

func jobStatuses() []comfy.JobStatus {
	return []comfy.JobStatus{comfy.JobPending, comfy.JobInProgress, comfy.JobCompleted, comfy.JobFailed, comfy.JobCancelled}
}

// jobs gathers all that runs, waits or is over.
func (s *Server) jobs() []comfy.Job {
	var out []comfy.Job
	running, pending := s.queue.list()
	for _, j := range running {
		out = append(out, comfy.JobFromQueue(j.item, true, j.created))
	}
	for _, j := range pending {
		out = append(out, comfy.JobFromQueue(j.item, false, j.created))
	}
	for _, p := range s.history.window(0, -1) {
		out = append(out, comfy.JobFromHistory(p.entry, p.created))
	}
	return out
}

func sortJobs(jobs []comfy.Job, by, order string) (sorted []comfy.Job, problem string) {
	key := func(j comfy.Job) int64 { return j.CreateTime }
	switch by {
	case "", "created_at":
	case "execution_duration":
		key = func(j comfy.Job) int64 { return j.ExecutionEndTime - j.ExecutionStartTime }
	default:
		return nil, "sort_by must be created_at or execution_duration"
	}
	sign := int64(-1)
	switch order {
	case "", "desc":
	case "asc":
		sign = 1
	default:
		return nil, "sort_order must be asc or desc"
	}
	slices.SortStableFunc(jobs, func(a, b comfy.Job) int {
		switch d := sign * (key(a) - key(b)); {
		case d < 0:
			return -1
		case d > 0:
			return 1
		}
		return 0
	})
	return jobs, ""
}

func (s *Server) getJob(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	if p, ok := s.history.find(id); ok {
		status := p.entry.Status
		writeJSON(w, http.StatusOK, comfy.JobDetail{
			Job: comfy.JobFromHistory(p.entry, p.created), Outputs: p.entry.Outputs, ExecutionStatus: &status,
			Workflow: &comfy.JobWorkflow{Prompt: p.entry.Prompt.Prompt, ExtraData: p.entry.Prompt.ExtraData},
		}.Encode())
		return
	}
	running, pending := s.queue.list()
	for i, j := range append(running, pending...) {
		if j.item.PromptID == id {
			writeJSON(w, http.StatusOK, comfy.JobDetail{
				Job:      comfy.JobFromQueue(j.item, i < len(running), j.created),
				Workflow: &comfy.JobWorkflow{Prompt: j.item.Prompt, ExtraData: j.item.ExtraData},
			}.Encode())
			return
		}
	}
	writeJSON(w, http.StatusNotFound, []byte(`{"error":"Job not found"}`))
}

// postCancel takes a job out of the queue or stops it.
func (s *Server) postCancel(w http.ResponseWriter, r *http.Request) {
	writeValue(w, map[string]bool{"cancelled": s.cancel(r.PathValue("id"))})
}

func (s *Server) postCancelMany(w http.ResponseWriter, r *http.Request) {
	body, ok := readBody(w, r)
	if !ok {
		return
	}
	var ask struct {
		IDs []string `json:"job_ids"`
	}
	if json.Unmarshal(body, &ask) != nil || len(ask.IDs) == 0 {
		jobsError(w, "job_ids must be a list of ids")
		return
	}
	bad := slices.DeleteFunc(slices.Clone(ask.IDs), func(id string) bool {
		parsed, err := uuid.Parse(id)
		return err == nil && parsed.String() == id
	})
	if len(bad) > 0 {
		answer, err := json.Marshal(map[string]any{"error": "Malformed job ids", "invalid_ids": bad})
		if err != nil {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		writeJSON(w, http.StatusBadRequest, answer)
		return
	}
	cancelled := false
	for _, id := range ask.IDs {
		cancelled = s.cancel(id) || cancelled
	}
	writeValue(w, map[string]bool{"cancelled": cancelled})
}

func (s *Server) cancel(id string) bool {
	return s.queue.remove([]string{id}) > 0 || s.queue.interrupt(id)
}

func jobsError(w http.ResponseWriter, sentence string) {
	writeJSON(w, http.StatusBadRequest, []byte(`{"error":`+string(jsonText(sentence))+`}`))
}
