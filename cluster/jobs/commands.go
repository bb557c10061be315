package jobs

import "github.com/ahelme/comfyume/cluster"

// The kinds of this table.
const (
	KindSubmit  cluster.Kind = 100
	KindAssign  cluster.Kind = 101
	KindStarted cluster.Kind = 102
	KindGpuDone cluster.Kind = 103
	KindFinish  cluster.Kind = 104
	KindRequeue cluster.Kind = 105
	KindCancel  cluster.Kind = 106
	KindForget  cluster.Kind = 107
	KindHold    cluster.Kind = 108
	KindRelease cluster.Kind = 109
	KindFront   cluster.Kind = 110
	KindAdopt   cluster.Kind = 111
)

// Submit accepts a prompt. Answer: Accepted. The same id with the same body is
// answered as the first time; with another body it is a Conflict. Waiting jobs
// over MaxWaiting (0 = no limit) are refused with Quota.
type Submit struct {
	ID         ID             `cbor:"1,keyasint"`
	ClientID   string         `cbor:"2,keyasint"`
	BodyHash   string         `cbor:"3,keyasint"`
	Body       []byte         `cbor:"4,keyasint"`
	Inputs     []Input        `cbor:"5,keyasint,omitempty"`
	Classes    []string       `cbor:"6,keyasint,omitempty"`
	WorkflowID string         `cbor:"7,keyasint,omitempty"`
	Title      string         `cbor:"8,keyasint,omitempty"`
	Priority   Priority       `cbor:"9,keyasint"`
	APINodes   bool           `cbor:"10,keyasint,omitempty"`
	Secrets    cluster.NodeID `cbor:"11,keyasint,omitempty"`
	Front      bool           `cbor:"12,keyasint,omitempty"` // before the user's own waiting jobs of that priority
	MaxWaiting uint64         `cbor:"13,keyasint,omitempty"`
	// Since level 2; see Job. A proposer leaves them out below that.
	Models []string `cbor:"14,keyasint,omitempty"`
	Form   string   `cbor:"15,keyasint,omitempty"`
}

// MaxBody is the largest compressed body a row may hold, in bytes.
const MaxBody = 256 << 10

// Accepted answers a Submit.
type Accepted struct {
	Number int64  `cbor:"1,keyasint"`
	Seq    uint64 `cbor:"2,keyasint"`
	Replay bool   `cbor:"3,keyasint"` // it had been accepted before
	Epoch  uint64 `cbor:"4,keyasint"`
}

// Assign gives a waiting job to a worker. Epoch must be one above the row's.
type Assign struct {
	Lease Lease `cbor:"1,keyasint"`
}

// Started says that the worker has begun executing.
type Started struct {
	Lease Lease `cbor:"1,keyasint"`
}

// GpuDone says that the GPU is free again and outputs are being stored.
type GpuDone struct {
	Lease Lease `cbor:"1,keyasint"`
}

// Finish ends an attempt and the job. State is Done, Failed or Cancelled. A
// job that is being cancelled ends cancelled unless it is Done already. The
// result of an attempt that was given up ends the job too while no newer one has
// started; else it is kept as an Orphan. Answer: Finished.
type Finish struct {
	Lease       Lease       `cbor:"1,keyasint"`
	State       State       `cbor:"2,keyasint"`
	Failure     *Failure    `cbor:"3,keyasint,omitempty"`
	History     cluster.Ref `cbor:"4,keyasint"`
	Outputs     int64       `cbor:"5,keyasint"`
	Previewable int64       `cbor:"6,keyasint"`
	Preview     []byte      `cbor:"7,keyasint,omitempty"` // JSON, at most MaxPreview
}

// Finished answers a Finish.
type Finished struct {
	Orphan bool `cbor:"1,keyasint"` // the result came too late: it is kept aside and not shown
}

// MaxPreview bounds Finish.Preview.
const MaxPreview = 2 << 10

// Requeue takes an attempt away from its worker. The job keeps its place. With
// Strike it counts against the job: the next attempt waits, longer each time,
// and the third strike fails it. Graphs with API nodes that had started fail instead of running (and costing) twice.
type Requeue struct {
	Lease  Lease  `cbor:"1,keyasint"`
	Strike bool   `cbor:"2,keyasint"`
	Reason string `cbor:"3,keyasint"`
	// NoRoom says that the GPU's memory was too small for it.
	NoRoom *Memory `cbor:"4,keyasint,omitempty"`
}

// MaxStrikes fails a job.
const MaxStrikes = 3

// delay is how long a job waits after its last strike, in milliseconds.
func delay(strikes uint8) int64 {
	if strikes == 1 {
		return 10_000
	}
	return 60_000
}

// Cancel asks for jobs to end. Waiting ones are cancelled at once, running ones
// become cancelling until their worker confirms. Unknown and ended ids are
// ignored. Answer: Touched.
type Cancel struct {
	IDs    []ID   `cbor:"1,keyasint"`
	Reason string `cbor:"2,keyasint"`
}

// Touched answers Cancel, Forget, Release, Front and Adopt: the ids that moved.
type Touched struct {
	IDs []ID `cbor:"1,keyasint"`
}

// Forget removes ended jobs of a user from their history; All takes them all.
type Forget struct {
	User cluster.User `cbor:"1,keyasint"`
	IDs  []string     `cbor:"2,keyasint,omitempty"`
	All  bool         `cbor:"3,keyasint,omitempty"`
}

// Hold parks an assigned job that cannot begin (its tokens are gone).
type Hold struct {
	Lease  Lease  `cbor:"1,keyasint"`
	Reason string `cbor:"2,keyasint"`
}

// Release puts held jobs of a user back, with the gateway that now has the tokens.
type Release struct {
	User    cluster.User   `cbor:"1,keyasint"`
	Secrets cluster.NodeID `cbor:"2,keyasint"`
}

// Front moves jobs that wait (pending or assigned) to the front in the given
// order, all in one entry. Without User that is the very front, before everybody
// and in every mode (see Job.Fronted). With User they go before that user's
// other jobs of the same priority: those exchange their places, and nobody
// else's moves. Other ids are ignored: unknown, running or ended ones, other
// users', and with User those that stand at the very front. Answer: Touched.
type Front struct {
	IDs  []ID         `cbor:"1,keyasint"`
	User cluster.User `cbor:"2,keyasint,omitempty"`
}

// Adopt brings in rows that another table had accepted. A job that had not ended
// waits at the end of the queue; its epoch goes on from where it was and what
// its leases there report is refused. One that was being cancelled ends cancelled,
// and one that may not be run twice ends failed. An ended job goes to its user's
// history. Ids that are known are left alone. Answer: Touched with the others.
type Adopt struct {
	Rows   []Job  `cbor:"1,keyasint"`
	Reason string `cbor:"2,keyasint"` // shown with the waiting ones
}

// Kind of Submit.
func (Submit) Kind() cluster.Kind { return KindSubmit }

// Kind of Assign.
func (Assign) Kind() cluster.Kind { return KindAssign }

// Kind of Started.
func (Started) Kind() cluster.Kind { return KindStarted }

// Kind of GpuDone.
func (GpuDone) Kind() cluster.Kind { return KindGpuDone }

// Kind of Finish.
func (Finish) Kind() cluster.Kind { return KindFinish }

// Kind of Requeue.
func (Requeue) Kind() cluster.Kind { return KindRequeue }

// Kind of Cancel.
func (Cancel) Kind() cluster.Kind { return KindCancel }

// Kind of Forget.
func (Forget) Kind() cluster.Kind { return KindForget }

// Kind of Hold.
func (Hold) Kind() cluster.Kind { return KindHold }

// Kind of Release.
func (Release) Kind() cluster.Kind { return KindRelease }

// Kind of Front.
func (Front) Kind() cluster.Kind { return KindFront }

// Kind of Adopt.
func (Adopt) Kind() cluster.Kind { return KindAdopt }
