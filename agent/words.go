package agent

import (
	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/ui"
)

// The words of the site's answers, for the command line, which knows this
// package alone.
type (
	View  = ui.View       // GET /api/status
	Error = cluster.Error // every refusal
	Code  = cluster.Code
	User  = cluster.User
	JobID = cluster.JobKey
	State = jobs.State
)

// The codes and states on which the command line acts.
const (
	NotFound    = cluster.NotFound
	NoLeader    = cluster.NoLeader
	Unavailable = cluster.Unavailable
	Done        = jobs.Done
)

// CodeOf is the code of an answer's refusal.
func CodeOf(err error) Code { return cluster.CodeOf(err) }
