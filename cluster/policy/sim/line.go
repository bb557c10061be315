package sim

import (
	"fmt"
	"slices"
)

// Line is the figures in words, times in seconds.
func (f Figures) Line(scenario string) string {
	s := fmt.Sprintf("p50=%.1f p95=%.1f done=%d swaps=%d longest=%.1f", secs(f.P50), secs(f.P95), f.Done, f.Swaps, secs(f.Longest))
	if scenario == "S1" {
		s += fmt.Sprintf(" ab_videos_min=%d ab_gap_max=%.1f l_share_max=%.2f ab_share=%.2f", f.Videos, secs(f.Gap), secs(f.LateShare), secs(f.ABShare))
	}
	return s
}

func secs(ms int64) float64 { return float64(ms) / 1000 }

// Summary of many runs: for each figure the median, and the worst of them.
type Summary struct{ Median, Worst Figures }

// Summarize takes the median of each figure for itself.
func Summarize(all []Figures) Summary {
	var s Summary
	for _, f := range []struct {
		of   func(*Figures) *int64
		more bool // is better
	}{
		{of: func(f *Figures) *int64 { return &f.P50 }},
		{of: func(f *Figures) *int64 { return &f.P95 }},
		{of: func(f *Figures) *int64 { return &f.Done }, more: true},
		{of: func(f *Figures) *int64 { return &f.All }, more: true},
		{of: func(f *Figures) *int64 { return &f.Swaps }},
		{of: func(f *Figures) *int64 { return &f.Longest }},
		{of: func(f *Figures) *int64 { return &f.Videos }, more: true},
		{of: func(f *Figures) *int64 { return &f.Gap }},
		{of: func(f *Figures) *int64 { return &f.LateShare }},
		{of: func(f *Figures) *int64 { return &f.ABShare }},
	} {
		var values []int64
		for i := range all {
			values = append(values, *f.of(&all[i]))
		}
		slices.Sort(values)
		if len(values) == 0 {
			continue
		}
		*f.of(&s.Median), *f.of(&s.Worst) = values[len(values)/2], values[len(values)-1]
		if f.more {
			*f.of(&s.Worst) = values[0]
		}
	}
	return s
}
