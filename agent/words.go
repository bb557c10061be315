package agent

import (
	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/ui"
)

// View is the answer of GET /api/status. Like the words below it stands here for
// the command line, which knows this package alone.
type View = ui.View

// Troubles is what the site answers at /api/troubles.
type Troubles = ui.Troubles

// Node is a machine in a View.
type Node = ui.Node

// Space is a disk of a Node, as MeasureDisk measures it too.
type Space = ui.Space

// DiskFull is the use of a disk, in per cent, at which it counts as full.
const DiskFull = diskRed

// FullWords says when a disk is full.
func FullWords(s int64) string { return ui.FullWords(s) }

// Worker is one ComfyUI in a View.
type Worker = ui.Worker

// Job is one job in a View.
type Job = ui.Job

// Person is one participant in a View.
type Person = ui.Person

// Pause is what somebody paused, in a View.
type Pause = ui.Pause

// Log is the replicated log in a View.
type Log = ui.Log

// Action is what a button or a command asks for, with its Verb.
type Action = ui.Action

// Verb is what an Action asks for.
type Verb = ui.Verb

// The verbs that the command line sends as an Action.
const (
	FrontJobs   = ui.FrontJobs
	PauseQueue  = ui.PauseQueue
	ResumeQueue = ui.ResumeQueue
	DrainNode   = ui.DrainNode
	UndrainNode = ui.UndrainNode
	NowJobs     = ui.NowJobs
	SetClass    = ui.SetClass
	SetQuota    = ui.SetQuota
	SetDisk     = ui.SetDisk
	BoostPerson = ui.BoostPerson

	RestartWorker = ui.RestartWorker
	StopWorker    = ui.StopWorker
	StartWorker   = ui.StartWorker
	FreeWorker    = ui.FreeWorker
	ReleaseWorker = ui.ReleaseWorker
)

// Verb is what an Action asks for.
type WorkerID = cluster.WorkerID

// Printed is the answer of GET /api/worker/log.
type Printed = ui.Printed

// Money is an amount of micro-units for people.
func Money(micro int64, currency string) string { return ui.Money(micro, currency) }

// Error is every refusal, with its Code.
type Error = cluster.Error

// Code says what kind of refusal it is.
type Code = cluster.Code

// Ref is the sha256 of a file.
type Ref = cluster.Ref

// User is a participant's name.
type User = cluster.User

// JobID names a job.
type JobID = cluster.JobKey

// State is where a job stands.
type State = jobs.State

// The codes, states and roles on which the command line acts.
const (
	NotFound    = cluster.NotFound
	NoLeader    = cluster.NoLeader
	Unavailable = cluster.Unavailable

	NoSpace      = cluster.NoSpace
	Unauthorized = cluster.Unauthorized
	Forbidden    = cluster.Forbidden

	Done    = jobs.Done
	Held    = jobs.Held
	RoleGPU = cluster.GPU
)

// CodeOf is the code of an answer's refusal.
func CodeOf(err error) Code { return cluster.CodeOf(err) }

// Answers reports whether a worker can take jobs, now or next.
func Answers(w Worker) bool { return answers(w) }
