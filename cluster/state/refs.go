package state

import (
	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
)

// Refs lists the blobs that rows which moved refer to; those of every row when
// Tables["all"] is set. Doubles are not folded.
func (m *Machine) Refs(ch cluster.Change) (out []cluster.Ref) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	of := func(j *jobs.Job) {
		if j.History != "" {
			out = append(out, j.History)
		}
		for _, in := range j.Inputs {
			out = append(out, in.Ref)
		}
	}
	all := ch.Tables["all"] > 0
	if all {
		m.jobs.Rows(func(j *jobs.Job) bool { of(j); return true })
	}
	for id := range ch.Jobs {
		if j, ok := m.jobs.Job(id); ok && !all {
			of(&j)
		}
	}
	out = append(out, m.files.Refs(ch.Users, all)...)
	if all || ch.Tables["models"] > 0 {
		for _, w := range m.models.Workers() {
			out = append(out, w.Caps)
		}
	}
	return out
}
