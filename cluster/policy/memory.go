package policy

import "github.com/ahelme/comfyume/cluster/jobs"

// Memory is what whoever decides again and again has to remember: since when
// jobs have been passed over. Its zero value remembers nothing. A new leader
// begins with that: a job may be passed over once more.
type Memory struct {
	passed map[jobs.ID]int64
}

// Passed is for View.Passed.
func (m *Memory) Passed() map[jobs.ID]int64 { return m.passed }

// Note takes in what was decided at now and forgets the jobs that wait no more.
func (m *Memory) Note(t *jobs.Table, d Decision, now int64) {
	if m.passed == nil {
		m.passed = map[jobs.ID]int64{}
	}
	for _, a := range d.Assign {
		delete(m.passed, a.Lease.Job)
	}
	for _, id := range d.Passed {
		if _, known := m.passed[id]; !known {
			m.passed[id] = now
		}
	}
	for id := range m.passed {
		if j, ok := t.Job(id); !ok || j.State != jobs.Pending {
			delete(m.passed, id)
		}
	}
}
