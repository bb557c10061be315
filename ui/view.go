package ui

import (
	"context"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
)

// Source is where the page gets its numbers and hands its buttons on. View is
// called up to four times a second while somebody looks and must not wait for
// anything; Do commits and audits under actor; Pass lets a participant in without
// a password, likewise. Troubles looks for a person's name or an error id and may wait
// for other nodes, a second at most.
type Source interface {
	Troubles(ctx context.Context, of string) (Troubles, error)
	View() View
	Do(ctx context.Context, actor string, a Action) error
	Pass(ctx context.Context, actor string, u cluster.User, kind PassKind) (Pass, error)
	// Printed is what a worker's ComfyUI printed last, at most so many lines.
	Printed(ctx context.Context, w cluster.WorkerID, lines int) (Printed, error)
}

// Printed is the end of a ComfyUI's log.
type Printed struct {
	Worker cluster.WorkerID `cbor:"1,keyasint" json:"worker"`
	Lines  []Line           `cbor:"2,keyasint" json:"lines"`
}

// Line is one line that was printed.
type Line struct {
	At   int64  `cbor:"1,keyasint" json:"at"` // milliseconds since 1970, by that node's clock
	Text string `cbor:"2,keyasint" json:"text"`
}

// PassKind is what lets somebody in without a password.
type PassKind string

// The kinds of passes.
const (
	PassLink  PassKind = "link"  // signs a browser in, once
	PassToken PassKind = "token" // lets a program in, sent as a Bearer
)

// Pass lets User in. Its text is shown to who asked for it and stands nowhere.
type Pass struct {
	User  cluster.User `json:"user"`
	Kind  PassKind     `json:"kind"`
	Text  string       `json:"text"`  // the link's address, or the token
	Until int64        `json:"until"` // milliseconds since 1970
}

// MaxTroubles bounds the requests and the jobs of Troubles.
const MaxTroubles = 50

// Troubles is what went wrong for one person, or behind an error id.
type Troubles struct {
	Schema   int       `json:"schema_version"`
	Of       string    `json:"of"`
	Requests []Request `json:"requests"` // answered with a status >= 400, newest first
	Jobs     []Job     `json:"jobs"`     // open ones first, then the newest
	Silent   []string  `json:"silent"`   // nodes that did not say what they refused
}

// Request is one that was not answered as a person hoped.
type Request struct {
	At     int64        `json:"at"`
	User   cluster.User `json:"user"`
	Node   string       `json:"node"` // whose door it was, and whose log has the line
	Method string       `json:"method"`
	Route  string       `json:"route"` // its pattern, "" = none
	Path   string       `json:"path"`
	Status int          `json:"status"`
	Text   string       `json:"text"`
	Cure   string       `json:"cure"`
	ID     string       `json:"id"` // as the person's dialog shows it
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
	Log       Log       `json:"log"`
	Backups   []Backup  `json:"backups,omitempty"`
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
	ReadOnly string   `json:"readonly"` // why nothing can be changed from here, "" = it can
	// Via is the node whose view this is, if it is not this one's own, and Seen
	// when it was fetched.
	Via   string `json:"via,omitempty"`
	Seen  int64  `json:"seen,omitempty"`
	Mode  string `json:"mode"` // of the queue
	Level uint32 `json:"level"`
	// Pauses are what is held up, in words; Paused says that everything is.
	Paused bool    `json:"paused"`
	Class  string  `json:"class,omitempty"` // what the class does, in words; "" = everybody runs freely
	Pauses []Pause `json:"pauses"`
}

// Pause is one thing that is held up.
type Pause struct {
	Scope string `json:"scope"` // all, user/NAME or worker/ID
	Actor string `json:"actor"`
	Why   string `json:"why,omitempty"`
	At    int64  `json:"at"`
}

// Log is the replicated log, for those who look after it.
type Log struct {
	Workshop   string   `json:"workshop"` // its id
	Generation string   `json:"generation"`
	Last       uint64   `json:"last_index"`
	Copied     uint64   `json:"copied_index"` // up to here entries are on two machines; 0 = not known
	Servers    []Server `json:"servers"`
}

// Server is one member of the log.
type Server struct {
	Node    string `json:"node"`
	Part    string `json:"part"` // leader, voter, stand-by or copy
	Index   uint64 `json:"index"`
	Lag     uint64 `json:"lag"`     // entries behind the newest
	Contact int64  `json:"contact"` // when the leader last heard of it, if that was a while ago; 0 = now, or not known
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
	// AtRisk counts the files that are on one machine only, as far as the machines
	// that answer know. Backups are not counted.
	AtRisk int `json:"at_risk"`
}

// Node is one machine.
type Node struct {
	ID      cluster.NodeID `json:"id"`
	Name    string         `json:"name"`
	Roles   []cluster.Role `json:"roles"`
	State   string         `json:"state"` // alive, slow, dead, silent or left
	Since   int64          `json:"since"` // of State, 0 = not known
	Version string         `json:"version"`
	Level   uint32         `json:"level"`
	Leader  bool           `json:"leader"`
	Voter   bool           `json:"voter"`
	Part    string         `json:"part"`              // in the log: leader, voter, stand-by, copy or ""
	Disk    int            `json:"disk"`              // per cent used where the state is kept, -1 = unknown
	Space   *Space         `json:"space,omitempty"`   // the same disk in bytes, nil = unknown
	Seen    int64          `json:"seen"`              // its last report if that was a while ago; 0 = now (alive or slow) or never
	Drained string         `json:"drained,omitempty"` // by whom it gets no new jobs
	Waits   string         `json:"waits,omitempty"`   // what it waits for to be part of the workshop
	Door    string         `json:"door,omitempty"`    // where people come in there now, "" = nowhere
	// What it costs, if its price was given: an hour, and so far.
	Price    int64  `json:"price,omitempty"` // micro-units of Currency
	Spent    int64  `json:"spent,omitempty"`
	Currency string `json:"currency,omitempty"`
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
	Ours     bool             `json:"ours"`    // its agent started it: it can be restarted and its log read
	Starts   int              `json:"starts,omitempty"`
	Load     int              `json:"load"`               // of the GPU, per cent, -1 = unknown
	Heat     int              `json:"heat"`               // degrees Celsius, -1 = unknown
	Models   []string         `json:"models,omitempty"`   // in its memory, as far as its jobs tell
	Swaps    int              `json:"swaps"`              // of the last hour: starts for which models had to be loaded
	Loading  int              `json:"loading_s"`          // seconds that this took, as far as it is known
	Lacks    []string         `json:"lacks,omitempty"`    // of the workshop's templates: "name: what it has not"
	Frontend string           `json:"frontend,omitempty"` // version that this ComfyUI is made for
}

// Backup is a place of backups, as the node sees it that keeps them there.
type Backup struct {
	Node    string `json:"node"`
	Place   string `json:"place"`
	Name    string `json:"name"` // of the last one
	Made    int64  `json:"made"` // 0 = none yet
	Files   int    `json:"files"`
	Bytes   int64  `json:"bytes"`
	Missing int    `json:"missing"`
	Proven  int64  `json:"proven"` // last restore that brought everything back, 0 = none yet
	Problem string `json:"problem,omitempty"`
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
	Percent  int          `json:"percent"`        // -1 = unknown
	At       string       `json:"at"`             // node of the graph that runs
	Reason   string       `json:"reason"`         // why it waits, failed or was cancelled
	Cure     string       `json:"cure,omitempty"` // of a failed one: what can be done
	Outputs  int64        `json:"outputs"`
	Strikes  uint8        `json:"strikes"`
	GPU      int64        `json:"gpu,omitempty"`  // milliseconds that it has held a GPU
	Cost     int64        `json:"cost,omitempty"` // micro-units of Currency
	Currency string       `json:"currency,omitempty"`
	// What is expected while it waits: Start is a time, 0 = not known; Load (of
	// models) and Run are milliseconds.
	Start int64 `json:"expected_start,omitempty"`
	Load  int64 `json:"expected_load,omitempty"`
	Run   int64 `json:"expected_run,omitempty"`
	// Copies is on how many machines the job is known to be, 0 = not known.
	Copies int `json:"copies,omitempty"`
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
	Disk     int64        `json:"disk"`  // bytes of their files
	Bound    int64        `json:"disk_bound,omitempty"`
	Used     Used         `json:"used"` // by their jobs, as far as the table still has them
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
	RetryJob      Verb = "retry" // queue it again, as its user did
	FrontJobs     Verb = "front" // to the very front, in the order of Jobs
	DisablePerson Verb = "disable"
	EnablePerson  Verb = "enable"
	SignOutPerson Verb = "signout" // of every browser, and their links and tokens end
	PauseQueue    Verb = "pause"   // Scope: all, user/NAME or worker/ID
	ResumeQueue   Verb = "resume"  // likewise
	SetMode       Verb = "mode"
	NowJobs       Verb = "now"   // to the very front; running jobs are stopped for them
	SetClass      Verb = "class" // Mode: free, demo, hands-off, sprint (N jobs each), wind-down (Until)
	SetQuota      Verb = "quota" // of User, "" = everybody: Queued, N at work, Minutes of GPU a day; 0 = no bound
	SetDisk       Verb = "disk"  // of User, "" = everybody: their files may take Bytes; 0 = no bound
	BoostPerson   Verb = "boost" // User's jobs go first until Until; 0 ends it
	DrainNode     Verb = "drain" // no new jobs; running ones go on
	UndrainNode   Verb = "undrain"
	ForgetNode    Verb = "forget"
	RestartWorker Verb = "restart-worker" // end its ComfyUI and start it again
	StopWorker    Verb = "stop-worker"    // end it until it is started
	StartWorker   Verb = "start-worker"
	FreeWorker    Verb = "free-worker"    // let it give the GPU's memory back
	ReleaseWorker Verb = "release-worker" // out of quarantine
)

// Verbs lists every verb.
func Verbs() []Verb {
	return []Verb{
		CancelJob, RetryJob, FrontJobs, DisablePerson, EnablePerson, SignOutPerson, PauseQueue, ResumeQueue, SetMode, NowJobs, SetClass, SetQuota, SetDisk, BoostPerson, DrainNode, UndrainNode, ForgetNode,
		RestartWorker, StopWorker, StartWorker, FreeWorker, ReleaseWorker,
	}
}

// Action is what a button sends. Which fields count depends on the verb.
type Action struct {
	Verb   Verb             `json:"verb"`
	User   cluster.User     `json:"user,omitempty"`
	Prompt string           `json:"prompt_id,omitempty"`
	Jobs   []jobs.ID        `json:"jobs,omitempty"`
	Scope  string           `json:"scope,omitempty"`
	Mode   string           `json:"mode,omitempty"`
	Node   string           `json:"node,omitempty"` // name or id
	Why    string           `json:"why,omitempty"`
	Worker cluster.WorkerID `json:"worker,omitempty"`
	Within int64            `json:"within,omitempty"` // of a drain: after so many milliseconds what still runs goes elsewhere; 0 = never
	Lines  int              `json:"lines,omitempty"`  // of a log; 0 = all that is kept
	// Numbers of class, quota and boost; Until is milliseconds since 1970.
	N       int64 `json:"n,omitempty"`
	Queued  int64 `json:"queued,omitempty"`
	Minutes int64 `json:"minutes,omitempty"`
	Bytes   int64 `json:"bytes,omitempty"`
	Until   int64 `json:"until,omitempty"`
}

// filled is v with empty lists in place of missing ones: the page walks them all.
func (v View) filled() View {
	v.Schema = SchemaVersion
	v.Head.Degraded, v.Head.Pauses, v.Log.Servers = list(v.Head.Degraded), list(v.Head.Pauses), list(v.Log.Servers)
	v.Nodes, v.Workers, v.Queue, v.Recent = list(v.Nodes), list(v.Workers), list(v.Queue), list(v.Recent)
	v.Attention, v.People, v.Audit = list(v.Attention), list(v.People), list(v.Audit)
	return v
}

// filled likewise.
func (t Troubles) filled() Troubles {
	t.Schema = SchemaVersion
	t.Requests, t.Jobs, t.Silent = list(t.Requests), list(t.Jobs), list(t.Silent)
	return t
}

func list[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}
