package ui

import (
	"context"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
)

// Source is where the page gets its numbers and hands its buttons on. View is
// called up to four times a second while somebody looks and must not wait for
// anything; Do commits and audits under actor.
type Source interface {
	View() View
	Do(ctx context.Context, actor string, a Action) error
}

// SchemaVersion rises when a field of View changes its meaning or goes away.
const SchemaVersion = 1

// View is everything the page shows. Times are milliseconds since 1970 by the
// serving node's clock, 0 = never: the page works out ages itself, so a row
// that does not change is not sent again.
type View struct {
	Schema    int       `json:"schema_version"`
	Now       int64     `json:"now"`
	Head      Head      `json:"head"`
	Counts    Counts    `json:"counts"`
	Nodes     []Node    `json:"nodes"`
	Workers   []Worker  `json:"workers"`
	Queue     []Job     `json:"queue"` // running first, then waiting in queue order; at most MaxQueue
	More      int       `json:"more"`  // open jobs beyond Queue
	Recent    []Job     `json:"recent"`
	Attention []Problem `json:"attention"`
	People    []Person  `json:"people"`
	Audit     []Act     `json:"audit"`
}

// Bounds of the lists.
const (
	MaxQueue  = 200
	MaxRecent = 50
	MaxAudit  = 50
)

// Head says whose page this is and what the workshop can survive.
type Head struct {
	Node     string   `json:"node"` // that serves the page
	Version  string   `json:"version"`
	Leader   string   `json:"leader"` // name, "" = none
	Term     uint64   `json:"term"`
	Voters   int      `json:"voters"`
	Ready    bool     `json:"ready"`
	Degraded []string `json:"degraded"`
	Survives string   `json:"survives"` // a sentence
}

// Counts stand at the top.
type Counts struct {
	Waiting   int `json:"waiting"`
	Running   int `json:"running"`
	Done      int `json:"done"`
	Failed    int `json:"failed"`
	Cancelled int `json:"cancelled"`
	Online    int `json:"online"` // people with an open page
	People    int `json:"people"`
}

// Node is one machine.
type Node struct {
	ID      cluster.NodeID `json:"id"`
	Name    string         `json:"name"`
	Roles   []cluster.Role `json:"roles"`
	State   string         `json:"state"` // "alive"
	Version string         `json:"version"`
	Leader  bool           `json:"leader"`
	Voter   bool           `json:"voter"`
	Disk    int            `json:"disk"` // per cent used where the state is kept, -1 = unknown
}

// Worker is one ComfyUI process.
type Worker struct {
	ID       cluster.WorkerID `json:"id"`
	Node     string           `json:"node"`
	State    string           `json:"state"`
	Since    int64            `json:"since"`
	ComfyUI  string           `json:"comfyui"`
	Device   string           `json:"device"`
	VRAM     int64            `json:"vram"` // bytes, of the device; 0 = unknown
	VRAMFree int64            `json:"vram_free"`
	Job      *jobs.ID         `json:"job,omitempty"`
	Percent  int              `json:"percent"` // of Job, -1 = unknown
	At       string           `json:"at"`      // node of the graph of Job that runs
	Detail   string           `json:"detail"`  // last error, or what it waits for
}

// Job is one row of Queue or Recent.
type Job struct {
	User     cluster.User `json:"user"`
	Prompt   string       `json:"prompt_id"`
	Number   int64        `json:"number"`
	Title    string       `json:"title"`
	State    jobs.State   `json:"state"`
	Position int          `json:"position"` // 1 = next, 0 = not waiting
	Created  int64        `json:"created"`
	Started  int64        `json:"started"`
	Ended    int64        `json:"ended"`
	Worker   string       `json:"worker"`
	Percent  int          `json:"percent"` // -1 = unknown
	At       string       `json:"at"`      // node of the graph that runs
	Reason   string       `json:"reason"`  // why it waits, failed or was cancelled
	Outputs  int64        `json:"outputs"`
	Strikes  uint8        `json:"strikes"`
}

// Level of a Problem.
type Level string

// The levels.
const (
	Fail Level = "fail"
	Warn Level = "warn"
)

// Problem is one line of Attention: what is wrong and what to do.
type Problem struct {
	Level Level        `json:"level"`
	What  string       `json:"what"`
	Cure  string       `json:"cure"`
	User  cluster.User `json:"user,omitempty"`
	Since int64        `json:"since"`
}

// Person is one cell of the people grid.
type Person struct {
	Name     cluster.User `json:"name"`
	Online   int          `json:"online"` // open pages
	Disabled bool         `json:"disabled"`
	Visited  int64        `json:"visited"`
	Waiting  int          `json:"waiting"`
	Running  int          `json:"running"`
	Error    string       `json:"error"` // of their last job, "" when it went well
}

// Act is one line of the audit.
type Act struct {
	At    int64  `json:"at"`
	Actor string `json:"actor"`
	What  string `json:"what"`
}

// Verb is what a button asks for.
type Verb string

// The verbs.
const (
	CancelJob     Verb = "cancel"
	DisablePerson Verb = "disable"
	EnablePerson  Verb = "enable"
)

// Action is what a button sends.
type Action struct {
	Verb   Verb         `json:"verb"`
	User   cluster.User `json:"user"`
	Prompt string       `json:"prompt_id,omitempty"`
}

// filled is v with empty lists in place of missing ones: the page walks them all.
func (v View) filled() View {
	v.Schema = SchemaVersion
	v.Head.Degraded = list(v.Head.Degraded)
	v.Nodes, v.Workers, v.Queue, v.Recent = list(v.Nodes), list(v.Workers), list(v.Queue), list(v.Recent)
	v.Attention, v.People, v.Audit = list(v.Attention), list(v.People), list(v.Audit)
	return v
}

func list[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}
