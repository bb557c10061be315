package queue

import (
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/cluster/policy"
)

// forecastFor is how long a forecast is good while the
// table does not move.
const forecastFor = 400 * time.Millisecond

// Forecast is what is expected of the jobs that wait, nil when this node does
// not lead. It must not be changed.
func (s *Steward) Forecast() *policy.Forecast {
	if !s.leads() {
		return nil
	}
	rules := s.rules()
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.moved.Swap(false) && s.forecast != nil && now.Sub(s.forecastAt) < forecastFor {
		return s.forecast
	}
	s.jobs.Jobs(func(t *jobs.Table) {
		v, byWorker := s.view(t, rules)
		v.Coming = nil // to those who read it, a job waits until its worker is in the table
		if len(byWorker) == 0 {
			v.Busy = s.busy(holding(t))
		}
		// A worker whose claim is just being answered asks and is not idle.
		for _, c := range s.claims {
			if _, idle := byWorker[c.Worker]; !idle && !has(v.Busy, c.Worker) {
				v.Busy = append(v.Busy, c.Claim)
			}
		}
		s.forecast, s.forecastAt = policy.Look(v), now
		s.nameStubborn(t, s.forecast)
	})
	return s.forecast
}

func has(list []jobs.Claim, w cluster.WorkerID) bool {
	for _, c := range list {
		if c.Worker == w {
			return true
		}
	}
	return false
}
