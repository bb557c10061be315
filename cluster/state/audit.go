package state

import (
	"cmp"
	"fmt"
	"time"

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
	case *people.Give:
		what = fmt.Sprintf("gave %s a %s", c.Name, passName(c.Pass.Kind))
	case *people.EndPass:
		what = fmt.Sprintf("ended a %s of %s", passName(c.Pass.Kind), c.Name)
		if c.All {
			what = fmt.Sprintf("signed %s out everywhere", c.Name)
		}
	case *jobs.Submit:
		what = fmt.Sprintf("queued job %s", c.ID)
	case *jobs.Cancel:
		what = fmt.Sprintf("cancelled %d jobs", len(c.IDs))
		if len(c.IDs) == 1 {
			what = fmt.Sprintf("cancelled job %s", c.IDs[0])
		}
	case *jobs.Front:
		what = fmt.Sprintf("moved %d jobs to the front", len(c.IDs))
		if len(c.IDs) == 1 {
			what = fmt.Sprintf("moved job %s to the front", c.IDs[0])
		}
	case *jobs.Now:
		what = fmt.Sprintf("asked for %d jobs now", len(c.IDs))
		if len(c.IDs) == 1 {
			what = fmt.Sprintf("asked for job %s now", c.IDs[0])
		}
	case *jobs.Preempt:
		what = fmt.Sprintf("stopped job %s: %s", c.Lease.Job, c.Reason)
	case *SetClass:
		what = "set the class to " + c.Mode
		if c.N > 0 {
			what += fmt.Sprintf(" of %d jobs", c.N)
		}
		if c.Until > 0 {
			what += " until " + time.UnixMilli(c.Until).UTC().Format("15:04 UTC")
		}
	case *SetQuota:
		what = fmt.Sprintf("set the quota of %s: %d queued, %d at work, %d GPU minutes a day", cmp.Or(string(c.Quota.User), "everybody"), c.Quota.Queued, c.Quota.Running, c.Quota.Minutes)
	case *SetDisk:
		what = fmt.Sprintf("set the disk space of %s to %d MB", cmp.Or(string(c.User), "everybody"), c.Bytes/1e6)
	case *SetBoost:
		what = fmt.Sprintf("boosted %s", c.User)
		if c.Until <= m.now {
			what = fmt.Sprintf("ended the boost of %s", c.User)
		}
	case *jobs.Adopt:
		what = fmt.Sprintf("brought back %d jobs", len(c.Rows))
	case *SetInstructor:
		what = "set the instructor's password"
	case *SetMode:
		what = fmt.Sprintf("set the queue's mode to %s", c.Mode)
	case *SetPause:
		what = "paused " + string(c.Scope)
		if c.Undo {
			what = "resumed " + string(c.Scope)
		} else if c.Why != "" {
			what += ": " + c.Why
		}
	case *DrainNode:
		what = "drained " + m.nodeName(c.ID)
		if c.Undo {
			what = "ended the drain of " + m.nodeName(c.ID)
		}
	case *Acted:
		what = c.What
	case *LeaveNode:
		what = "forgot " + m.nodeName(c.ID)
	default:
		if what = describeNext(cmd); what == "" {
			return
		}
	}
	m.audit = append(m.audit, Audit{At: m.now, Actor: env.Actor, What: what})
	if over := len(m.audit) - maxAudit; over > 0 {
		m.audit = append([]Audit(nil), m.audit[over:]...)
	}
}

// passName is how people call a pass.
func passName(k people.PassKind) string {
	if k == people.Link {
		return "sign-in link"
	}
	return string(k)
}

// nodeName is how people call a node. The lock is held.
func (m *Machine) nodeName(id cluster.NodeID) string {
	if n, ok := m.nodes.rows[id]; ok {
		return "node " + n.Name
	}
	return "node " + string(id)
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
