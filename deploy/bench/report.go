//go:build linux

package main

import (
	"fmt"
	"io"
	"maps"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"
)

// what names a figure: the same work on the same sizes.
type what struct {
	work    string // enq, rc or dispatch
	body    int
	clients int
}

const base = "nats-r3" // ratios are against it

// report prints lines as they come and keeps what the summary needs.
type report struct {
	out     io.Writer
	order   []what
	figures map[what]map[string][]figure // by system, one a round; n = 0 where a round failed
	kills   map[string][]killed
	failed  int
}

func newReport(out io.Writer) *report {
	return &report{out: out, figures: map[what]map[string][]figure{}, kills: map[string][]killed{}}
}

func (r *report) env(dir string, dev device, o options) {
	versions := map[string]string{}
	if b, ok := debug.ReadBuildInfo(); ok {
		for _, m := range b.Deps {
			versions[m.Path] = m.Version
		}
	}
	fmt.Fprintf(r.out, "env cpus=%d go=%s dir=%s device=%s nats=%s etcd=%s redis=%s seconds=%g rounds=%d conns=%s started=%s\n",
		runtime.NumCPU(), runtime.Version(), dir, orNone(string(dev)), orNone(versions["github.com/nats-io/nats-server/v2"]),
		orNone(versions["go.etcd.io/etcd/server/v3"]), orNone(redisVersion()), o.seconds, o.rounds, connsText(o.conns),
		time.Now().UTC().Format(time.RFC3339))
	if dev == "" {
		fmt.Fprintln(r.out, "note device=none flushes cannot be counted under this folder: flushes_per_job is 0")
	}
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

func connsText(n int) string {
	if n == 0 {
		return "one_per_client"
	}
	return fmt.Sprint(n)
}

func (r *report) fail(format string, args ...any) {
	r.failed++
	fmt.Fprintf(r.out, "error "+format+"\n", args...)
}

// add keeps and prints the figure of one round (from 0).
func (r *report) add(w what, system string, round int, f figure) {
	if r.figures[w] == nil {
		r.figures[w] = map[string][]figure{}
		r.order = append(r.order, w)
	}
	for len(r.figures[w][system]) <= round {
		r.figures[w][system] = append(r.figures[w][system], figure{})
	}
	r.figures[w][system][round] = f
	fmt.Fprintf(r.out, "cell round=%d %s seconds=%.2f errors=%d n=%d\n", round+1, r.line(w, system, []figure{f}), f.wall.Seconds(), f.errors, f.n)
}

func (r *report) addKill(system string, k killed) {
	r.kills[system] = append(r.kills[system], k)
	fmt.Fprintf(r.out, "killrun system=%s run=%d gap_ms=%.0f recovered=%v acked=%d lost=%d twice=%d never_acked=%d\n",
		system, len(r.kills[system]), ms(k.gap), k.recovered, k.acked, k.lost, k.twice, k.extra)
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// line is the common part of cell and bench lines: medians, and ranges when
// there are several rounds.
func (r *report) line(w what, system string, fs []figure) string {
	var b strings.Builder
	fmt.Fprintf(&b, "system=%s body=%d clients=%d", system, w.body, w.clients)
	put := func(key, format string, get func(figure) float64) {
		m, lo, hi := spread(fs, get)
		fmt.Fprintf(&b, " %s="+format, key, m)
		if len(fs) > 1 {
			fmt.Fprintf(&b, " %s_range="+format+".."+format, key, lo, hi)
		}
	}
	if w.work != "dispatch" {
		put(w.work+"_per_s", "%.0f", func(f figure) float64 { return f.perSec })
	}
	prefix := map[bool]string{true: "dispatch_"}[w.work == "dispatch"]
	put(prefix+"p50_ms", "%.3f", func(f figure) float64 { return f.p50 })
	put(prefix+"p99_ms", "%.3f", func(f figure) float64 { return f.p99 })
	put("flushes_per_job", "%.2f", func(f figure) float64 { return f.flushes })
	put("cpu_us_per_job", "%.0f", func(f figure) float64 { return f.cpu })
	put("client_cpu_us_per_job", "%.0f", func(f figure) float64 { return f.clientCPU })
	put("foreign_cores", "%.2f", func(f figure) float64 { return f.foreign })
	return b.String()
}

// spread is median, least and most.
func spread[T any](all []T, get func(T) float64) (m, lo, hi float64) {
	var v []float64
	for _, x := range all {
		v = append(v, get(x))
	}
	slices.Sort(v)
	n := len(v)
	return (v[(n-1)/2] + v[n/2]) / 2, v[0], v[n-1]
}

func measured(fs []figure) []figure {
	return slices.DeleteFunc(slices.Clone(fs), func(f figure) bool { return f.n == 0 })
}

// summary prints medians over the rounds, then the ratios, each the median of
// the ratios within one round.
func (r *report) summary() {
	for _, w := range r.order {
		for _, s := range slices.Sorted(maps.Keys(r.figures[w])) {
			if fs := measured(r.figures[w][s]); len(fs) > 0 {
				fmt.Fprintf(r.out, "bench %s rounds=%d\n", r.line(w, s, fs), len(fs))
			}
		}
	}
	for _, s := range slices.Sorted(maps.Keys(r.kills)) {
		ks := r.kills[s]
		m, lo, hi := spread(ks, func(k killed) float64 { return ms(k.gap) })
		var acked, lost, twice int
		for _, k := range ks {
			acked, lost, twice = acked+k.acked, lost+k.lost, twice+k.twice
		}
		fmt.Fprintf(r.out, "kill system=%s runs=%d gap_ms=%.0f gap_ms_range=%.0f..%.0f acked=%d lost=%d twice=%d\n", s, len(ks), m, lo, hi, acked, lost, twice)
	}
	for _, w := range r.order {
		for _, s := range slices.Sorted(maps.Keys(r.figures[w])) {
			if s != base {
				r.ratio(w, s)
			}
		}
	}
	for _, s := range slices.Sorted(maps.Keys(r.kills)) {
		if s != base && len(r.kills[base]) > 0 {
			gap := func(k killed) float64 { return ms(k.gap) }
			m, _, _ := spread(r.kills[s], gap)
			b, _, _ := spread(r.kills[base], gap)
			fmt.Fprintf(r.out, "ratio %s/%s kill gap=%.3f\n", s, base, m/b)
		}
	}
}

func (r *report) ratio(w what, system string) {
	var pairs [][2]figure
	for i, f := range r.figures[w][system] {
		if b := r.figures[w][base]; i < len(b) && b[i].n > 0 && f.n > 0 {
			pairs = append(pairs, [2]figure{f, b[i]})
		}
	}
	if len(pairs) == 0 {
		return
	}
	fmt.Fprintf(r.out, "ratio %s/%s %s c=%d body=%d", system, base, w.work, w.clients, w.body)
	put := func(key string, get func(figure) float64) {
		m, lo, hi := spread(pairs, func(p [2]figure) float64 { return get(p[0]) / get(p[1]) })
		fmt.Fprintf(r.out, " %s=%.2f", key, m)
		if len(pairs) > 1 {
			fmt.Fprintf(r.out, " %s_range=%.2f..%.2f", key, lo, hi)
		}
	}
	if w.work != "dispatch" {
		put("per_s", func(f figure) float64 { return f.perSec })
	}
	put("p50", func(f figure) float64 { return f.p50 })
	put("p99", func(f figure) float64 { return f.p99 })
	put("flushes", func(f figure) float64 { return f.flushes })
	put("cpu", func(f figure) float64 { return f.cpu })
	fmt.Fprintf(r.out, " rounds=%d\n", len(pairs))
}

func (r *report) hogged(profile string, h hogged) {
	fmt.Fprintf(r.out, "hogs system=ours profile=%s seconds=%.0f false_elections=%d acked=%d failed=%d worst_ack_ms=%d\n",
		profile, h.seconds, h.campaigns, h.acked, h.failed, h.worst.Milliseconds())
}
