// Command chaos breaks a workshop of real processes on purpose and judges it
// from outside. It promises that every run is bounded and that its seed decides
// what is done, and it ends with 1 if anything that was promised at a door was
// not kept. It refuses to touch anything outside its own namespaces.
//
//	main.go    what to run           unit.go   one run, in namespaces of its own
//	seed.go    jobs and faults       faults.go the faults
//	bugs.go    bugs to plant         bite.go   the shortest way to catch each
//	people.go disks.go meter.go      parts of all that
//	leaderkill.go shapes.go join.go silent.go  scenarios
//
// See world (the processes) and oracle (the outside).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
)

// options are what was asked for.
type options struct {
	seeds, first, jobs, minutes int
	bug, scenario, net, profile string
	keep, talk                  bool
}

func main() {
	var o options
	unitFile := flag.String("unit", "", "internal: run what this file says")
	flag.IntVar(&o.seeds, "seeds", 3, "how many runs, each with its own faults")
	flag.IntVar(&o.first, "seed", 1, "the first seed")
	flag.IntVar(&o.jobs, "jobs", 200, "how many jobs in each run")
	flag.IntVar(&o.minutes, "minutes", 10, "length of the scenario leaderkill")
	flag.StringVar(&o.bug, "bug", "", "plant bugs: a name, several with commas, all, or none (the same schedules without one)")
	flag.StringVar(&o.scenario, "scenario", "", "leaderkill, shapes, killall, join, silent or serverless")
	flag.StringVar(&o.net, "net", "loopback", "loopback or tailnet")
	flag.StringVar(&o.profile, "profile", "wan", "of raft: wan or site")
	flag.BoolVar(&o.keep, "keep", false, "keep the folder of every run")
	flag.BoolVar(&o.talk, "talk", false, "say on stderr what is done")
	flag.Parse()
	if *unitFile != "" {
		os.Exit(inside(*unitFile))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := o.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		os.Exit(1)
	}
}

// errFound says that something was found; it has been printed.
var errFound = errors.New("something that was promised was not kept")

func (o *options) run(ctx context.Context) error {
	if o.net != "loopback" && o.net != "tailnet" || o.profile != "wan" && o.profile != "site" || flag.NArg() > 0 {
		return errors.New("use -net loopback|tailnet, -profile wan|site; see -h")
	}
	root, err := os.MkdirTemp("", "chaos-")
	if err != nil {
		return err
	}
	switch {
	case o.bug != "":
		err = o.bite(ctx, root)
	case o.scenario != "":
		err = o.play(ctx, root)
	default:
		err = o.sow(ctx, root)
	}
	if err == nil && !o.keep || o.bug != "" && !o.keep {
		return errors.Join(err, os.RemoveAll(root))
	}
	fmt.Fprintln(os.Stderr, "chaos: the logs are in", root)
	return err
}

// agent builds the agent of this tree, or takes the one that was built.
func agent(ctx context.Context, root string) (string, error) {
	if bin := os.Getenv("COMFYUME_AGENT_BIN"); bin != "" {
		return filepath.Abs(bin)
	}
	return build(ctx, filepath.Join(root, "agent"))
}

// build uses the flags of the Makefile, so that what it compiled is not compiled
// again.
func build(ctx context.Context, to string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", append(append([]string{"build", "-trimpath", "-ldflags=-s -w"}, args...), "-o", to, "./agent/comfyume-agent")...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the agent: %w\n%s", err, out)
	}
	return to, nil
}

// sow runs the seeds, one after the other.
func (o *options) sow(ctx context.Context, root string) error {
	bin, err := agent(ctx, root)
	if err != nil {
		return err
	}
	var total tally
	for seed := o.first; seed < o.first+o.seeds && ctx.Err() == nil; seed++ {
		r, err := o.unit(ctx, root, fmt.Sprintf("seed-%d", seed), unit{Kind: "seed", Seed: uint64(seed), Jobs: o.jobs, Binary: bin}) //nolint:gosec // a small number
		if err != nil {
			return err
		}
		total.add(r)
		fmt.Printf("chaos seed=%d %s\n", seed, r.line())
		if r.Kinds != "" {
			fmt.Printf("chaos-unwritable seed=%d%s\n", seed, r.Kinds)
		}
		r.explain(os.Stderr)
	}
	fmt.Printf("chaos %s\n", total.line())
	if total.bad || ctx.Err() != nil {
		return errFound
	}
	return nil
}

// play runs a scenario.
func (o *options) play(ctx context.Context, root string) error {
	bin, err := agent(ctx, root)
	if err != nil {
		return err
	}
	units := map[string][]string{
		"leaderkill": {"leaderkill"}, "killall": {"killall"}, "join": {"join"}, "silent": {"silent"}, "serverless": {"serverless"},
		"shapes": {"shape-two", "shape-three", "shape-queues", "shape-fork"},
	}[o.scenario]
	if units == nil {
		return fmt.Errorf("there is no scenario %q", o.scenario)
	}
	bad := false
	for _, kind := range units {
		r, err := o.unit(ctx, root, kind, unit{Kind: kind, Seed: uint64(o.first), Jobs: o.jobs, Minutes: o.minutes, Binary: bin}) //nolint:gosec // a small number
		if err != nil {
			return err
		}
		for _, line := range r.Lines {
			fmt.Println(line)
		}
		r.explain(os.Stderr)
		bad = bad || r.bad()
	}
	if bad {
		return errFound
	}
	return nil
}

// bite plants bugs and wants each to be caught.
func (o *options) bite(ctx context.Context, root string) error {
	chosen := bugs()
	if o.bug != "all" && o.bug != "none" {
		chosen = nil
		for name := range strings.SplitSeq(o.bug, ",") {
			one, ok := bugNamed(name)
			if !ok {
				return fmt.Errorf("there is no bug %q; there are %s", name, strings.Join(bugNames(), ", "))
			}
			chosen = append(chosen, one)
		}
	}
	clean := ""
	if o.bug == "none" {
		var err error
		if clean, err = agent(ctx, root); err != nil {
			return err
		}
	}
	caught, wrong := 0, false
	for _, b := range chosen {
		bin := clean
		if bin == "" {
			var err error
			if bin, err = b.build(ctx, root); err != nil {
				return err
			}
		}
		r, err := o.unit(ctx, root, b.Name, unit{Kind: "bite", Bug: b.Name, Seed: 1, Binary: bin})
		if err != nil {
			return err
		}
		switch {
		case schedules()[b.Name].finds(r.Verdict) > 0:
			caught++
			fmt.Printf("bite-%s caught seconds=%.0f: %s\n", b.Name, r.Seconds, r.first())
		case r.bad():
			fmt.Printf("bite-%s something else was found seconds=%.0f: %s\n", b.Name, r.Seconds, r.first())
		default:
			fmt.Printf("bite-%s nothing found seconds=%.0f\n", b.Name, r.Seconds)
		}
		wrong = wrong || r.bad()
	}
	planted := len(chosen)
	if o.bug == "none" {
		planted = 0
	}
	fmt.Printf("bite planted=%d caught=%d\n", planted, caught)
	// Several must all be found. With one, the run is that of a broken agent and
	// fails as it must; with none, nothing may be found.
	if several := planted > 1; several && caught != planted || !several && wrong {
		return errFound
	}
	return nil
}
