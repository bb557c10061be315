package sim_test

import (
	"slices"
	"testing"

	"github.com/ahelme/comfyume/cluster/policy"
	"github.com/ahelme/comfyume/cluster/policy/sim"
)

// TestForecastIsHonest compares what a job was told when it came with what
// became of it, once run times are known. A forecast cannot know who will queue
// next, and in fair who comes with loaded models may go first: so the bounds are
// for the three classes together.
func TestForecastIsHonest(t *testing.T) {
	for _, m := range policy.Modes() {
		var off []float64
		near := 0
		for _, s := range sim.Scenarios() {
			for _, j := range sim.Run(sim.Config{Scenario: s, Mode: m, Seed: 2, Stage: staging, Forecast: true}) {
				if j.Ended < 0 || j.Expected == 0 || j.Arrived < 300_000 || j.User == "L" {
					continue
				}
				got, want := float64(j.Expected-j.Arrived), float64(j.Ended-j.Arrived)
				off = append(off, max(got-want, want-got)/want)
				if got <= 2*want && want <= 2*got {
					near++
				}
			}
		}
		slices.Sort(off)
		t.Logf("eta mode=%s jobs=%d median_error=%.2f within_2=%.2f", m, len(off), off[len(off)/2], float64(near)/float64(len(off)))
		if len(off) < 100 || off[len(off)/2] > 0.25 || near*100 < len(off)*90 {
			t.Errorf("%s: of %d forecasts the median is off by %.0f %%, and %d are within a factor of 2", m, len(off), 100*off[len(off)/2], near)
		}
	}
}
