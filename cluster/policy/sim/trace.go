package sim

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"slices"
)

// event is one line of a trace.
type event struct {
	at   int64
	rank int // of those at one moment: ends, arrivals, assignments, starts
	job  int
	text string
}

// WriteTrace writes what happened, one line an event, for a reader that knows
// nothing of this package.
func WriteTrace(w io.Writer, c Config, all []Job) error {
	s := c.Scenario
	loops := map[string]int{}
	for _, p := range s.People {
		loops[string(p.Name)] = 0
		if p.Loop {
			loops[string(p.Name)] = 1
		}
	}
	var events []event
	for n, j := range all {
		add := func(at int64, rank int, text string, args ...any) {
			if at >= 0 && at <= s.Length {
				events = append(events, event{at, rank, n, fmt.Sprintf(text, args...)})
			}
		}
		add(j.Ended, 0, "end")
		add(j.Arrived, 1, "arrive user=%s loops=%d model=%s run_ms=%d", j.User, loops[string(j.User)], j.Work.Model, j.Work.Run)
		add(j.Assigned, 2, "assign gpu=%d", j.GPU)
		add(j.Started, 3, "start gpu=%d", j.GPU)
	}
	slices.SortFunc(events, func(a, b event) int {
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.rank, b.rank), cmp.Compare(a.job, b.job))
	})
	out := bufio.NewWriter(w)
	fmt.Fprintf(out, "run scenario=%s mode=%s seed=%d gpus=%d swap_ms=%d length_ms=%d people=%d\n", s.Name, c.Mode, c.Seed, s.GPUs, s.Swap, s.Length, len(s.People))
	for _, e := range events {
		fmt.Fprintf(out, "t=%d job=%d %s\n", e.at, e.job, e.text)
	}
	return out.Flush()
}
