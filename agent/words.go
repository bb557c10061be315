package agent

import (
	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/ui"
)

// View is the answer of GET /api/status. Like the words below it stands here for
// the command line, which knows this package alone.
type View = ui.View

// Error is every refusal, with its Code.
type Error = cluster.Error

// Code says what kind of refusal it is.
type Code = cluster.Code

// User is a participant's name.
type User = cluster.User

// JobID names a job.
type JobID = cluster.JobKey

// State is where a job stands.
type State = jobs.State

// The codes and states on which the command line acts.
const (
	NotFound    = cluster.NotFound
	NoLeader    = cluster.NoLeader
	Unavailable = cluster.Unavailable
	Done        = jobs.Done
)

// CodeOf is the code of an answer's refusal.
func CodeOf(err error) Code { return cluster.CodeOf(err) }
