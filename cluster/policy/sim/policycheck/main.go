// Command policycheck reads a trace of policysim and works every figure out
// again, on its own: it shares no code with what it checks. It refuses a trace
// in which a GPU runs two jobs at once or none while one waits, a job runs for
// longer or shorter than it should, or an end has no beginning.
//
//	policycheck TRACE [FIGURES]
//
// FIGURES is what policysim printed; each of its lines must be found again.
package main

import (
	"bufio"
	"fmt"
	"math"
	"os"
	"sort"
	"strconv"
	"strings"
)

// job as the trace tells of it; -1 = not yet.
type job struct {
	user, model        string
	loops              bool
	run                int
	arrive, start, end int
	gpu                int
	swapped            bool
}

// run is one part of the trace.
type run struct {
	scenario, mode, seed       string
	gpus, swap, length, people int
	jobs                       map[int]*job
	loaded                     map[int]string
	busy                       map[int]int // gpu -> job
	now                        int
}

func main() {
	if len(os.Args) < 2 {
		fail("usage: policycheck TRACE [FIGURES]")
	}
	var printed []string
	f, err := os.Open(os.Args[1])
	if err != nil {
		fail(err.Error())
	}
	defer f.Close()
	var r *run
	in := bufio.NewScanner(f)
	for n := 1; in.Scan(); n++ {
		field := fields(in.Text())
		if strings.HasPrefix(in.Text(), "run ") {
			if r != nil {
				printed = append(printed, r.figures())
			}
			r = begin(field)
			continue
		}
		if err := r.event(in.Text(), field); err != "" {
			fail(fmt.Sprintf("%s line %d: %s", os.Args[1], n, err))
		}
	}
	if r == nil || in.Err() != nil {
		fail("this is no trace")
	}
	printed = append(printed, r.figures())
	for _, line := range printed {
		fmt.Println("check " + line)
	}
	if len(os.Args) > 2 {
		compare(os.Args[2], printed)
	}
}

// compare looks for each line that was printed among those worked out here.
func compare(path string, found []string) {
	raw, err := os.ReadFile(path)
	if err != nil {
		fail(err.Error())
	}
	known := map[string]bool{}
	for _, line := range found {
		known[line] = true
	}
	n := 0
	for _, line := range strings.Split(string(raw), "\n") {
		said, ok := strings.CutPrefix(line, "sim ")
		if !ok {
			continue
		}
		if n++; !known[said] {
			fail("printed, but not what the trace says: " + said)
		}
	}
	if n != len(found) {
		fail(fmt.Sprintf("%d lines were printed and %d runs traced", n, len(found)))
	}
	fmt.Printf("check lines=%d differences=0\n", n)
}

func fail(text string) {
	fmt.Fprintln(os.Stderr, "policycheck: "+text)
	os.Exit(1)
}

// fields are the NAME=VALUE words of a line.
func fields(line string) map[string]string {
	out := map[string]string{}
	for _, w := range strings.Fields(line) {
		if name, value, ok := strings.Cut(w, "="); ok {
			out[name] = value
		}
	}
	return out
}

func number(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		fail("not a number: " + s)
	}
	return n
}

func begin(f map[string]string) *run {
	return &run{
		scenario: f["scenario"], mode: f["mode"], seed: f["seed"], gpus: number(f["gpus"]), swap: number(f["swap_ms"]), length: number(f["length_ms"]),
		people: number(f["people"]), jobs: map[int]*job{}, loaded: map[int]string{}, busy: map[int]int{},
	}
}

// event takes one line and says what is wrong with it.
func (r *run) event(line string, f map[string]string) string {
	if r == nil {
		return "an event before its run"
	}
	at, id := number(f["t"]), number(f["job"])
	if at < r.now {
		return "time goes back"
	}
	if at > r.now {
		if err := r.idle(); err != "" {
			return err
		}
		r.now = at
	}
	j := r.jobs[id]
	kind := strings.Fields(line)[2]
	if (j == nil) != (kind == "arrive") {
		return "a job arrives once, before anything else"
	}
	switch kind {
	case "arrive":
		r.jobs[id] = &job{user: f["user"], model: f["model"], loops: f["loops"] == "1", run: number(f["run_ms"]), arrive: at, start: -1, end: -1, gpu: -1}
	case "assign":
		if j.gpu = number(f["gpu"]); j.start >= 0 {
			return "assigned after its start"
		}
	case "start":
		g := number(f["gpu"])
		if _, taken := r.busy[g]; taken || j.start >= 0 || j.gpu != g || g >= r.gpus {
			return "this GPU is taken, or not the one it was assigned to, or the job started before"
		}
		j.start, j.swapped = at, r.loaded[g] != j.model
		r.busy[g], r.loaded[g] = id, j.model
	case "end":
		took := j.run
		if j.swapped {
			took += r.swap
		}
		if j.start < 0 || j.end >= 0 || at-j.start != took {
			return fmt.Sprintf("it should have ended %d ms after its start", took)
		}
		j.end = at
		delete(r.busy, j.gpu)
	default:
		return "what is that?"
	}
	return ""
}

// idle looks for a GPU that stands still while a job waits.
func (r *run) idle() string {
	if len(r.busy) == r.gpus {
		return ""
	}
	for _, j := range r.jobs {
		if j.start < 0 {
			return fmt.Sprintf("a GPU is idle from %d while a job of %s waits", r.now, j.user)
		}
	}
	return ""
}

// figures works out what policysim prints.
func (r *run) figures() string {
	var waits []float64
	done, swaps, longest := 0, 0, 0
	for _, j := range r.jobs {
		if j.swapped {
			swaps++
		}
		if !j.loops {
			continue
		}
		if j.end >= 0 {
			done++
		}
		if j.start < 0 {
			longest = max(longest, r.length-j.arrive)
			continue
		}
		waits = append(waits, float64(j.start-j.arrive))
		longest = max(longest, j.start-j.arrive)
	}
	sort.Float64s(waits)
	out := fmt.Sprintf("scenario=%s mode=%s seed=%s p50=%.1f p95=%.1f done=%d swaps=%d longest=%.1f", r.scenario, r.mode, r.seed, rank(waits, 0.50)/1000, rank(waits, 0.95)/1000, done, swaps, float64(longest)/1000)
	if r.scenario == "S1" {
		out += r.film()
	}
	return out
}

// rank is the nearest-rank quantile.
func rank(sorted []float64, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	at := int(math.Ceil(q*float64(len(sorted))-1e-9)) - 1
	return sorted[max(0, at)]
}

// film is about A, B and L of the first scenario.
func (r *run) film() string {
	starts := map[string][]int{}
	videos := map[string]int{}
	var ab, total float64
	for _, j := range r.jobs {
		if j.start < 0 {
			continue
		}
		starts[j.user] = append(starts[j.user], j.start)
		if j.end >= 0 {
			videos[j.user]++
		}
		took := float64(r.had(j, 0, r.length))
		if total += took; j.user == "A" || j.user == "B" {
			ab += took
		}
	}
	gap := 0
	for _, u := range []string{"A", "B"} {
		at := append([]int{0}, starts[u]...)
		at = append(at, r.length)
		sort.Ints(at)
		for i := 1; i < len(at); i++ {
			gap = max(gap, at[i]-at[i-1])
		}
	}
	share := 0
	equal := 600_000 * r.gpus / r.people
	for from := 0; from+600_000 <= r.length; from += 1000 {
		had := 0
		for _, j := range r.jobs {
			if j.user == "L" && j.start >= 0 {
				had += r.had(j, from, from+600_000)
			}
		}
		share = max(share, had*1000/equal)
	}
	return fmt.Sprintf(" ab_videos_min=%d ab_gap_max=%.1f l_share_max=%.2f ab_share=%.2f", min(videos["A"], videos["B"]), float64(gap)/1000, float64(share)/1000, math.Floor(ab*1000/math.Max(1, total))/1000)
}

// had is how much of a window a job had its GPU.
func (r *run) had(j *job, from, to int) int {
	end := j.end
	if end < 0 {
		end = r.length
	}
	return max(0, min(end, to)-max(j.start, from))
}
