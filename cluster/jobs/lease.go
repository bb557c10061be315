package jobs

import "github.com/ahelme/comfyume/cluster"

// Claim is a worker asking for work.
type Claim struct {
	Worker  cluster.WorkerID `cbor:"1,keyasint" json:"worker"`
	Node    cluster.NodeID   `cbor:"2,keyasint" json:"node"`
	Classes map[string]bool  `cbor:"3,keyasint" json:"classes"` // node classes it can run; nil = unknown, takes anything
	Memory  Memory           `cbor:"20,keyasint,omitempty" json:"memory"`
	// Models are the model files that it lists, with slashes; nil = unknown, takes
	// anything. What needs one that another worker lists is not for this one.
	Models map[string]bool `cbor:"22,keyasint" json:"models"`
	// Holds are jobs that the worker has and goes on with: it asks ahead. What else
	// the table says it holds is taken back.
	Holds []Lease `cbor:"21,keyasint,omitempty" json:"holds,omitempty"`
}

// Can reports whether the claiming worker has every class the job needs, and a
// GPU on which it has not run out of memory yet.
func (c Claim) Can(j *Job) bool {
	for _, m := range j.NoRoom {
		if !c.Memory.Roomier(m) {
			return false
		}
	}
	if c.Classes == nil {
		return true
	}
	for _, class := range j.Classes {
		if !c.Classes[class] {
			return false
		}
	}
	return true
}

// Roomier reports whether a job that ran out of memory on o may fit: it is
// another kind of GPU, and has more of it as far as that is known.
func (m Memory) Roomier(o Memory) bool {
	return m.Device != o.Device && (m.VRAM > o.VRAM || m.VRAM == 0 || o.VRAM == 0)
}

// Lease is the right to report on one attempt of a job.
type Lease struct {
	Job    ID               `cbor:"1,keyasint" json:"job"`
	Worker cluster.WorkerID `cbor:"2,keyasint" json:"worker"`
	Epoch  uint64           `cbor:"3,keyasint" json:"epoch"`
}

// Assignment is a lease with what the worker needs to begin.
type Assignment struct {
	Lease
	Row Job // with Body
}

// Verdict answers a renewal.
type Verdict string

// The verdicts.
const (
	Go   Verdict = "go"   // carry on
	Stop Verdict = "stop" // the user cancelled: interrupt, then Finish as cancelled
	Lost Verdict = "lost" // the lease is not yours any more: interrupt and forget
)

// Event is something a participant's page should see of a running job. Events
// are pictures and progress: they never enter the log, and losing one loses no
// work. Text is a whole ComfyUI message {"type":...,"data":...}, Binary a whole
// binary frame; prompt ids in both are already the user's.
type Event struct {
	Job       ID
	ClientID  string
	Epoch     uint64
	Type      string // the message's type, or "preview" for a frame
	Text      []byte
	Binary    []byte
	Index     uint64 // the commit this event relies on: show it only after applying that
	Droppable bool   // a slow page may miss it (previews and progress)
}

// EventHeard is the Type of an event between gateways: the page that queued the
// job has heard how it ended, and need not be told when it connects elsewhere.
const EventHeard = "heard"
