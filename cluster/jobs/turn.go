package jobs

import "github.com/ahelme/comfyume/cluster"

// Turn is what is expected of a job that waits. The policy works it out; every
// page that speaks of waiting shows it.
type Turn struct {
	Position int              `json:"position"`         // 1 = next
	Start    int64            `json:"start,omitempty"`  // when it is expected to begin, milliseconds since 1970; 0 = not known
	Load     int64            `json:"load,omitempty"`   // how long models will be loaded then, milliseconds
	Run      int64            `json:"run,omitempty"`    // and how long it will run
	Worker   cluster.WorkerID `json:"worker,omitempty"` // where, "" = not known
	Reason   string           `json:"reason"`           // what it waits for, a sentence without names of people
}

// Wait is how long the job is expected to wait from now on, in milliseconds: at
// least a second while it waits, 0 = not known.
func (t Turn) Wait(now int64) int64 {
	if t.Start == 0 {
		return 0
	}
	return max(1000, t.Start-now)
}
