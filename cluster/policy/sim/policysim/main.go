// Command policysim prints how each queue mode serves the three scenarios:
// medians over many seeds, then the worst of them. With -trace it plays one seed
// and writes every arrival, assignment, start and end, for policycheck.
package main

import (
	"bufio"
	"flag"
	"fmt"
	"os"
	"runtime"
	"sync"

	"github.com/ahelme/comfyume/cluster/policy"
	"github.com/ahelme/comfyume/cluster/policy/sim"
)

// ahead is how long before a job's end a worker is given the next one.
var ahead = policy.StageAhead.Milliseconds()

func main() {
	seeds := flag.Int("seeds", 30, "how many seeds")
	seed := flag.Uint64("seed", 1, "the first seed")
	trace := flag.String("trace", "", "write what happens with that one seed to this file")
	mode := flag.String("mode", "", "only this mode")
	var b policy.Bounds
	flag.DurationVar(&b.Ahead, "ahead", 0, "try another bound of fair: how far a user may be ahead")
	flag.DurationVar(&b.Deferred, "deferred", 0, "likewise: for how long a job may be passed over")
	flag.DurationVar(&b.Guard, "guard", 0, "likewise: for how long a user may go without a start")
	flag.Parse()
	var err error
	if *trace != "" {
		err = one(*trace, *seed)
	} else {
		all(*seed, *seeds, policy.Mode(*mode), b)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// all prints every scenario in every mode.
func all(first uint64, seeds int, only policy.Mode, b policy.Bounds) {
	for _, s := range sim.Scenarios() {
		for _, m := range policy.Modes() {
			if only != "" && m != only {
				continue
			}
			sum := sim.Summarize(many(s, m, first, seeds, b))
			fmt.Printf("sim scenario=%s mode=%s seeds=%d %s\n", s.Name, m, seeds, sum.Median.Line(s.Name))
			fmt.Printf("sim_worst scenario=%s mode=%s %s\n", s.Name, m, sum.Worst.Line(s.Name))
		}
	}
}

func many(s sim.Scenario, m policy.Mode, first uint64, seeds int, b policy.Bounds) []sim.Figures {
	out := make([]sim.Figures, seeds)
	next := make(chan int)
	var work sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		work.Go(func() {
			for i := range next {
				c := sim.Config{Scenario: s, Mode: m, Seed: first + uint64(i), Stage: ahead, Bounds: b}
				out[i] = sim.Judge(s, sim.Run(c))
			}
		})
	}
	for i := range seeds {
		next <- i
	}
	close(next)
	work.Wait()
	return out
}

// one plays one seed and keeps its trace.
func one(path string, seed uint64) error {
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("write the trace: %w", err)
	}
	defer f.Close()
	w := bufio.NewWriter(f)
	for _, s := range sim.Scenarios() {
		for _, m := range policy.Modes() {
			c := sim.Config{Scenario: s, Mode: m, Seed: seed, Stage: ahead}
			jobs := sim.Run(c)
			if err := sim.WriteTrace(w, c, jobs); err != nil {
				return fmt.Errorf("write the trace: %w", err)
			}
			fmt.Printf("sim scenario=%s mode=%s seed=%d %s\n", s.Name, m, seed, sim.Judge(s, jobs).Line(s.Name))
		}
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("write the trace: %w", err)
	}
	return f.Close()
}
