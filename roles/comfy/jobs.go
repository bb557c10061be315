package comfy

import (
	"encoding/json"
	"strings"
)

// JobStatus is where a prompt stands in the newer API.
type JobStatus string

// The statuses of a job.
const (
	JobPending    JobStatus = "pending"
	JobInProgress JobStatus = "in_progress"
	JobCompleted  JobStatus = "completed"
	JobFailed     JobStatus = "failed"
	JobCancelled  JobStatus = "cancelled"
)

// Job is one row of GET /api/jobs. Pages check each row against a schema and
// drop the whole list, running and finished, when one does not fit: absent is
// not null, CreateTime is always there, ids are strings. Times are milliseconds.
type Job struct {
	ID                      string              `json:"id"`
	Status                  JobStatus           `json:"status"`
	Priority                float64             `json:"priority"`
	CreateTime              int64               `json:"create_time"`
	ExecutionStartTime      int64               `json:"execution_start_time,omitempty"`
	ExecutionEndTime        int64               `json:"execution_end_time,omitempty"`
	ExecutionError          *ExecutionErrorData `json:"execution_error,omitempty"`
	OutputsCount            int                 `json:"outputs_count"`
	PreviewableOutputsCount int                 `json:"previewable_outputs_count"`
	PreviewOutput           json.RawMessage     `json:"preview_output,omitempty"`
	WorkflowID              string              `json:"workflow_id,omitempty"`
}

// JobDetail is the answer of GET /api/jobs/{id}. Outputs and ExecutionStatus are
// nil while the job has not finished.
type JobDetail struct {
	Job
	Outputs         Object         `json:"outputs,omitempty"`
	ExecutionStatus *HistoryStatus `json:"execution_status,omitempty"`
	Workflow        *JobWorkflow   `json:"workflow,omitempty"`
}

// JobWorkflow lets a page open what was queued.
type JobWorkflow struct {
	Prompt    json.RawMessage `json:"prompt"`
	ExtraData json.RawMessage `json:"extra_data"`
}

// Encode writes the body.
func (d JobDetail) Encode() []byte { return encode(d) }

// JobList is the answer of GET /api/jobs.
type JobList struct {
	Jobs       []Job      `json:"jobs"`
	Pagination Pagination `json:"pagination"`
}

// Pagination is the window of a JobList. Limit is a number even when none was
// asked for: the schema takes no null.
type Pagination struct {
	Offset  int  `json:"offset"`
	Limit   int  `json:"limit"`
	Total   int  `json:"total"`
	HasMore bool `json:"has_more"`
}

// NewJobList wraps one window of jobs out of total.
func NewJobList(jobs []Job, offset, limit, total int) JobList {
	if jobs == nil {
		jobs = []Job{}
	}
	if limit <= 0 {
		limit = max(total, 1)
	}
	return JobList{Jobs: jobs, Pagination: Pagination{Offset: offset, Limit: limit, Total: total, HasMore: offset+len(jobs) < total}}
}

// Encode writes the body.
func (l JobList) Encode() []byte { return encode(l) }

// JobFromQueue is a waiting or running prompt as a job.
func JobFromQueue(q QueueItem, running bool, createMillis int64) Job {
	j := Job{ID: q.PromptID, Status: JobPending, Priority: q.Number, CreateTime: createMillis, WorkflowID: WorkflowID(q.ExtraData)}
	if running {
		j.Status = JobInProgress
	}
	return j
}

// JobFromHistory is a finished prompt as a job.
func JobFromHistory(h HistoryEntry, createMillis int64) Job {
	j := Job{ID: h.Prompt.PromptID, Status: JobCompleted, Priority: h.Prompt.Number, CreateTime: createMillis, WorkflowID: WorkflowID(h.Prompt.ExtraData)}
	for _, m := range h.Status.Messages {
		var at ExecutionData
		_ = json.Unmarshal(m.Data, &at) // a message without data still says how it ended
		switch m.Type {
		case TypeExecutionStart:
			j.ExecutionStartTime = at.Timestamp
		case TypeExecutionSuccess:
			j.ExecutionEndTime = at.Timestamp
		case TypeExecutionInterrupted:
			j.ExecutionEndTime, j.Status = at.Timestamp, JobCancelled
		case TypeExecutionError:
			var e ExecutionErrorData
			if Message(m).Decode(&e) == nil {
				j.ExecutionError = &e
			}
			j.ExecutionEndTime, j.Status = at.Timestamp, JobFailed
		}
	}
	if h.Status.StatusStr == HistoryError && j.Status == JobCompleted {
		j.Status = JobFailed
	}
	s := SummarizeOutputs(h.Outputs)
	j.OutputsCount, j.PreviewableOutputsCount, j.PreviewOutput = s.Count, s.Previewable, s.Preview
	return j
}

// OutputSummary is what a list shows of a job's outputs.
type OutputSummary struct {
	Count       int
	Previewable int
	Preview     json.RawMessage // nil when there is nothing to show
}

// MaxPreviewText is how many characters of a text output a list shows.
const MaxPreviewText = 1024

// How well an item stands for its job.
const (
	rankNone = iota
	rankText
	rankTextFile
	rankUnsaved
	rankSaved
)

// SummarizeOutputs counts outputs and chooses the one that stands for the job:
// the first saved picture or clip, else an unsaved one, else a text file, else
// text. Lines of text are shown but do not count as outputs.
func SummarizeOutputs(outputs Object) OutputSummary {
	var s OutputSummary
	best := rankNone
	for _, node := range outputs {
		lists, err := ParseObject(node.Value)
		if err != nil {
			continue
		}
		for _, list := range lists {
			items, err := ParseArray(list.Value)
			if err != nil || list.Key == "animated" { // a list of flags, not of outputs
				continue
			}
			for _, raw := range items {
				preview, rank, counts := previewOf(node.Key, list.Key, raw)
				if counts {
					s.Count++
				}
				if counts && rank > rankNone {
					s.Previewable++
				}
				if rank > best {
					best, s.Preview = rank, preview
				}
			}
		}
	}
	return s
}

// previewOf judges one item of one list.
func previewOf(node, mediaType string, raw json.RawMessage) (preview json.RawMessage, rank int, counts bool) {
	var item Object
	if s, ok := text(raw); ok {
		switch {
		case hasExtension(s, threeD()...): // some 3D nodes name their file in a plain string
			item = Object{{"filename", quote(s)}, {"type", quote("output")}, {"subfolder", quote("")}, {"mediaType", quote("3d")}}
		case mediaType == "text":
			return textPreview(node, s), rankText, false
		default:
			return nil, rankNone, false
		}
	} else {
		var err error
		if item, err = ParseObject(raw); err != nil {
			return nil, rankNone, false
		}
	}
	rank = rankOf(mediaType, item)
	if rank == rankNone {
		return nil, rank, true
	}
	item = append(Object(nil), item...)
	item.Set("nodeId", quote(node))
	if _, ok := item.Lookup("mediaType"); !ok {
		item.Set("mediaType", quote(mediaType))
	}
	return item.bytes(), rank, true
}

func rankOf(mediaType string, item Object) int {
	name, format := lookupText(item, "filename"), lookupText(item, "format")
	switch {
	case mediaType == "text" || hasExtension(name, ".txt", ".md", ".json"):
		return rankTextFile
	case mediaType == "images", mediaType == "video", mediaType == "audio", mediaType == "3d",
		strings.HasPrefix(format, "video/"), strings.HasPrefix(format, "audio/"), hasExtension(name, threeD()...):
		if lookupText(item, "type") == "output" {
			return rankSaved
		}
		return rankUnsaved
	}
	return rankNone
}

func textPreview(node, content string) json.RawMessage {
	o := Object{{"content", quote(content)}}
	if r := []rune(content); len(r) > MaxPreviewText {
		o = Object{{"content", quote(string(r[:MaxPreviewText]))}, {"truncated", json.RawMessage("true")}}
	}
	o.Set("nodeId", quote(node))
	o.Set("mediaType", quote("text"))
	return o.bytes()
}

func threeD() []string { return []string{".obj", ".fbx", ".gltf", ".glb", ".usdz"} }

func hasExtension(name string, extensions ...string) bool {
	name = strings.ToLower(name)
	for _, e := range extensions {
		if strings.HasSuffix(name, e) {
			return true
		}
	}
	return false
}
