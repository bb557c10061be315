package jobs

import (
	"slices"
	"strings"

	"github.com/ahelme/comfyume/cluster"
)

// ID names a job: its user and the prompt id that the user's client knows.
type ID = cluster.JobKey

// MaxPromptID is the longest prompt id a client may choose.
const MaxPromptID = 64

// ValidPromptID accepts what clients really send (UUIDs, hex, short names) and
// nothing that could leave a path segment.
func ValidPromptID(s string) bool {
	if s == "" || len(s) > MaxPromptID || s == "." || s == ".." {
		return false
	}
	for _, r := range s {
		ok := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' || r == '.'
		if !ok {
			return false
		}
	}
	return true
}

// State of a job.
type State string

// The states; see the drawing in doc.go.
const (
	Pending    State = "pending"
	Held       State = "held"
	Assigned   State = "assigned"
	Running    State = "running"
	Storing    State = "storing"
	Cancelling State = "cancelling"
	Done       State = "done"
	Failed     State = "failed"
	Cancelled  State = "cancelled"
)

// Ended reports whether nothing more will happen to the job.
func (s State) Ended() bool { return s == Done || s == Failed || s == Cancelled }

// Waiting is what a page calls waiting: not yet on a GPU.
func (s State) Waiting() bool { return s == Pending || s == Assigned || s == Held }

// Active reports whether a worker holds the job.
func (s State) Active() bool {
	return s == Assigned || s == Running || s == Storing || s == Cancelling
}

// Priority orders jobs in the mode of that name; lower goes first.
type Priority uint8

// The priorities.
const (
	Instructor Priority = 0
	High       Priority = 1
	Normal     Priority = 2
	Low        Priority = 3
)

// Input is an uploaded file that the job needs on the worker.
type Input struct {
	Value string      `cbor:"1,keyasint" json:"value"` // as the graph names it, e.g. "a.png" or "sub/a.png [output]"
	Name  string      `cbor:"2,keyasint" json:"name"`  // base name
	Ref   cluster.Ref `cbor:"3,keyasint" json:"ref"`
	Size  int64       `cbor:"4,keyasint" json:"size"`
}

// Failure is why a job failed, short enough for a row. The whole report
// (traceback and all) is in the history blob.
type Failure struct {
	Type     string `cbor:"1,keyasint" json:"type"`
	Message  string `cbor:"2,keyasint" json:"message"`
	NodeID   string `cbor:"3,keyasint,omitempty" json:"node_id"`
	NodeType string `cbor:"4,keyasint,omitempty" json:"node_type"`
}

// maxFailure bounds the strings of a Failure so that a row stays small.
const maxFailure = 400

func (f *Failure) clip() *Failure {
	if f == nil {
		return nil
	}
	c := *f
	c.Type, c.Message = cluster.Clip(c.Type, 100), cluster.Clip(c.Message, maxFailure)
	c.NodeID, c.NodeType = cluster.Clip(c.NodeID, 100), cluster.Clip(c.NodeType, 100)
	return &c
}

// Job is one row. Times are table milliseconds since 1970, 0 = not yet.
type Job struct {
	ID       ID     `cbor:"1,keyasint" json:"id"`
	Seq      uint64 `cbor:"2,keyasint" json:"seq"`    // unique, rises with each submit
	Order    int64  `cbor:"3,keyasint" json:"order"`  // place in the queue; lower goes first, below 0 see Fronted
	Number   int64  `cbor:"4,keyasint" json:"number"` // of this user's submits, from 1
	State    State  `cbor:"5,keyasint" json:"state"`
	ClientID string `cbor:"6,keyasint" json:"client_id"`
	BodyHash string `cbor:"7,keyasint" json:"-"` // sha256 of the body: the same submit again gets the same answer
	// Body is the zstd-compressed submit (see comfy.PromptRequest), secrets
	// removed; nil once History holds it.
	Body       []byte           `cbor:"8,keyasint,omitempty" json:"-"`
	Inputs     []Input          `cbor:"9,keyasint,omitempty" json:"inputs,omitempty"`
	Classes    []string         `cbor:"10,keyasint,omitempty" json:"classes,omitempty"` // node classes a worker must have, sorted
	WorkflowID string           `cbor:"11,keyasint,omitempty" json:"workflow_id,omitempty"`
	Title      string           `cbor:"12,keyasint,omitempty" json:"title,omitempty"` // for people: what kind of workflow
	Priority   Priority         `cbor:"13,keyasint" json:"priority"`
	APINodes   bool             `cbor:"14,keyasint,omitempty" json:"api_nodes,omitempty"` // costs money elsewhere: never retried after Started
	Secrets    cluster.NodeID   `cbor:"15,keyasint,omitempty" json:"-"`                   // the gateway whose memory holds the user's tokens
	Worker     cluster.WorkerID `cbor:"16,keyasint,omitempty" json:"worker,omitempty"`
	Epoch      uint64           `cbor:"17,keyasint" json:"epoch"`
	Strikes    uint8            `cbor:"18,keyasint" json:"strikes"`
	Reason     string           `cbor:"19,keyasint,omitempty" json:"reason,omitempty"` // why it was put back, held or cancelled
	Failure    *Failure         `cbor:"20,keyasint,omitempty" json:"failure,omitempty"`

	Created  int64 `cbor:"21,keyasint" json:"created"`
	Assigned int64 `cbor:"22,keyasint,omitempty" json:"assigned,omitempty"`
	Started  int64 `cbor:"23,keyasint,omitempty" json:"started,omitempty"`
	GpuDone  int64 `cbor:"24,keyasint,omitempty" json:"gpu_done,omitempty"`
	Ended    int64 `cbor:"25,keyasint,omitempty" json:"ended,omitempty"`

	EndNumber   int64       `cbor:"26,keyasint,omitempty" json:"end_number,omitempty"` // of this user's ended jobs, from 1: history's order
	History     cluster.Ref `cbor:"27,keyasint,omitempty" json:"history,omitempty"`    // blob: the whole history entry, see comfy.HistoryEntry
	Outputs     int64       `cbor:"28,keyasint,omitempty" json:"outputs,omitempty"`    // how many output items
	Previewable int64       `cbor:"29,keyasint,omitempty" json:"previewable,omitempty"`
	Preview     []byte      `cbor:"30,keyasint,omitempty" json:"-"` // JSON of the item /api/jobs shows, bounded
	Hidden      bool        `cbor:"31,keyasint,omitempty" json:"-"` // deleted from history by its user, or cancelled before it ran
	Tried       []string    `cbor:"32,keyasint,omitempty" json:"-"` // workers that earned a strike with it

	NotBefore int64     `cbor:"33,keyasint,omitempty" json:"not_before,omitempty"` // no worker should get it earlier: the delay after a strike
	Past      []Attempt `cbor:"34,keyasint,omitempty" json:"-"`                    // attempts before the newest, oldest first, at most maxPast
	Finished  uint64    `cbor:"35,keyasint,omitempty" json:"-"`                    // epoch of the attempt, Worker's, whose Finish ended the job; 0 = ended otherwise
	NoRoom    []Memory  `cbor:"40,keyasint,omitempty" json:"-"`                    // GPUs that it ran out of memory on: it never goes to one of that kind again

	// Models are the model files that the graph loads, sorted: a worker that has
	// them in memory begins sooner. Form stands for the graph without its words and
	// seeds: jobs of one form take about equally long. Both are empty in jobs that
	// were queued below level 2, which cost their user nothing.
	Models []string `cbor:"36,keyasint,omitempty" json:"models,omitempty"`
	Form   string   `cbor:"37,keyasint,omitempty" json:"-"`

	Preempted bool `cbor:"38,keyasint,omitempty" json:"preempted,omitempty"` // it was stopped for another once: never again
	Urgent    bool `cbor:"39,keyasint,omitempty" json:"urgent,omitempty"`    // others may be stopped for it
}

// Memory is a kind of GPU and how much memory a worker has of it.
type Memory struct {
	Device string `cbor:"1,keyasint" json:"device"`
	VRAM   int64  `cbor:"2,keyasint" json:"vram"` // bytes; 0 = not known
}

// Attempt is one that was given up: its worker may still bring a result.
type Attempt struct {
	Epoch   uint64           `cbor:"1,keyasint"`
	Worker  cluster.WorkerID `cbor:"2,keyasint"`
	Started int64            `cbor:"3,keyasint,omitempty"`
}

// maxPast bounds a row's Past. The lease of an attempt before those is nobody's.
const maxPast = 8

// Fronted reports whether the instructor put the job to the very front: it goes
// before all that were not, in every mode.
func (j *Job) Fronted() bool { return j.Order < 0 }

// LoadKey names the set of models that the job loads, "" for none.
func (j *Job) LoadKey() string { return strings.Join(j.Models, "\n") }

// newest reports whether the lease is that of the row's newest attempt.
func (j *Job) newest(l Lease) bool {
	return l.Worker != "" && j.Epoch == l.Epoch && j.Worker == l.Worker && (j.Finished == 0 || j.Finished == j.Epoch)
}

// past returns the lease's attempt if it was given up.
func (j *Job) past(l Lease) (Attempt, bool) {
	i := slices.IndexFunc(j.Past, func(a Attempt) bool { return a.Epoch == l.Epoch && a.Worker == l.Worker })
	if i < 0 {
		return Attempt{}, false
	}
	return j.Past[i], true
}

// retire makes the newest attempt, if the job has one, a past one.
func (j *Job) retire() {
	if j.Worker == "" {
		return
	}
	last := j.Past[max(0, len(j.Past)-maxPast+1):]
	j.Past = append(slices.Clone(last), Attempt{Epoch: j.Epoch, Worker: j.Worker, Started: j.Started})
	j.Worker, j.Assigned, j.Started, j.GpuDone = "", 0, 0, 0
}

// copy returns a row that shares nothing mutable with j. Slices are never
// written in place, so they are shared.
func (j *Job) copy() Job {
	c := *j
	if j.Failure != nil {
		f := *j.Failure
		c.Failure = &f
	}
	return c
}
