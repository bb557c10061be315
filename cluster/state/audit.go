package state

import (
	"fmt"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/cluster/people"
)

// Audit is one line of who did what.
type Audit struct {
	At    int64  `cbor:"1,keyasint" json:"at"` // table milliseconds
	Actor string `cbor:"2,keyasint" json:"actor"`
	What  string `cbor:"3,keyasint" json:"what"`
}

// maxAudit bounds the lines kept in the table.
const maxAudit = 2000

// note writes the audit line of a command that people give. Ordinary work
// (submits, progress of jobs) is not audited: the job rows tell it.
func (m *Machine) note(env Envelope, cmd cluster.Command) {
	if env.Actor == "" {
		return
	}
	var what string
	switch c := cmd.(type) {
	case *people.Put:
		what = fmt.Sprintf("set the password of %s", c.Name)
	case *people.Disable:
		what = fmt.Sprintf("disabled %s", c.Name)
		if c.Undo {
			what = fmt.Sprintf("enabled %s", c.Name)
		}
	case *jobs.Cancel:
		what = fmt.Sprintf("cancelled %d jobs", len(c.IDs))
		if len(c.IDs) == 1 {
			what = fmt.Sprintf("cancelled job %s", c.IDs[0])
		}
	default:
		return
	}
	m.audit = append(m.audit, Audit{At: m.now, Actor: env.Actor, What: what})
	if over := len(m.audit) - maxAudit; over > 0 {
		m.audit = append([]Audit(nil), m.audit[over:]...)
	}
}

// Audits returns the newest n lines, newest first.
func (m *Machine) Audits(n int) []Audit {
	m.mu.RLock()
	defer m.mu.RUnlock()
	out := make([]Audit, 0, min(n, len(m.audit)))
	for i := len(m.audit) - 1; i >= 0 && len(out) < n; i-- {
		out = append(out, m.audit[i])
	}
	return out
}
