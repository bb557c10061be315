package sim

import (
	"slices"

	"github.com/ahelme/comfyume/cluster"
)

// Figures are what a run is judged by. Times are milliseconds, shares per mille.
type Figures struct {
	P50, P95  int64 // of the waits of those who loop, arrival to start
	Done      int64 // their jobs that ended in time
	All       int64 // everybody's
	Swaps     int64
	Longest   int64 // their longest wait, those who still wait included
	Videos    int64 // S1: the fewer of A's and B's
	Gap       int64 // S1: A's or B's longest time between two starts
	LateShare int64 // S1: of L's GPU time, in equal shares (1000 = one), in the worst ten minutes
	ABShare   int64 // S1: A's and B's part of all GPU time
}

// Judge works the figures out.
func Judge(s Scenario, all []Job) Figures {
	var f Figures
	loops := map[cluster.User]bool{}
	for _, p := range s.People {
		loops[p.Name] = p.Loop
	}
	var waits []int64
	for _, j := range all {
		if j.Started >= 0 && j.Swapped {
			f.Swaps++
		}
		ended := j.Ended >= 0 && j.Ended <= s.Length
		if ended {
			f.All++
		}
		if !loops[j.User] {
			continue
		}
		if ended {
			f.Done++
		}
		wait := s.Length - j.Arrived
		if j.Started >= 0 {
			wait = j.Started - j.Arrived
			waits = append(waits, wait)
		}
		f.Longest = max(f.Longest, wait)
	}
	slices.Sort(waits)
	f.P50, f.P95 = quantile(waits, 50), quantile(waits, 95)
	if s.Name == "S1" {
		f.film(s, all)
	}
	return f
}

// film judges those who queue many at once.
func (f *Figures) film(s Scenario, all []Job) {
	f.Videos = int64(len(all))
	var ab, total int64
	for _, u := range []cluster.User{"A", "B"} {
		n, last := int64(0), int64(0)
		for _, j := range byStart(all, u) {
			f.Gap, last = max(f.Gap, j.Started-last), j.Started
			if j.Ended >= 0 {
				n++
			}
		}
		f.Gap, f.Videos = max(f.Gap, s.Length-last), min(f.Videos, n)
	}
	for _, j := range all {
		took := within(j, 0, s.Length, s.Length)
		total += took
		if j.User == "A" || j.User == "B" {
			ab += took
		}
	}
	f.ABShare = ab * 1000 / max(1, total)
	const window = 10 * minute
	equal := window * int64(s.GPUs) / int64(len(s.People))
	late := byStart(all, "L")
	for from := int64(0); from+window <= s.Length; from += second {
		had := int64(0)
		for _, j := range late {
			had += within(j, from, from+window, s.Length)
		}
		f.LateShare = max(f.LateShare, had*1000/equal)
	}
}

// within is how much of a window a job had a GPU.
func within(j Job, from, to, end int64) int64 {
	if j.Started < 0 {
		return 0
	}
	if j.Ended >= 0 {
		end = j.Ended
	}
	return max(0, min(to, end)-max(from, j.Started))
}

func byStart(all []Job, u cluster.User) (out []Job) {
	for _, j := range all {
		if j.User == u && j.Started >= 0 {
			out = append(out, j)
		}
	}
	slices.SortFunc(out, func(a, b Job) int { return int(a.Started - b.Started) })
	return out
}

// quantile of sorted numbers: the nearest rank.
func quantile(sorted []int64, percent int) int64 {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[max(0, (len(sorted)*percent+99)/100-1)]
}
