package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/ahelme/comfyume/agent/chaos/oracle"
	"github.com/ahelme/comfyume/agent/chaos/world"
)

// unit is one run: everything it does is done in namespaces of its own.
type unit struct {
	Kind    string
	Seed    uint64
	Jobs    int
	Minutes int
	Bug     string
	Net     string
	Profile string
	Binary  string
	Root    string
	Talk    bool
}

// result is what came out of it.
type result struct {
	oracle.Verdict
	Faults     int
	Unwritable float64 // seconds
	Kinds      string  // the same by kind of fault
	Lines      []string
	Notes      []string // for people, nothing wrong
	Seconds    float64
	Error      string // why it could not be run to its end
}

func (r *result) bad() bool { return r.Bad() || r.Error != "" }

func (r *result) first() string {
	if len(r.Why) > 0 {
		return r.Why[0]
	}
	return r.Error
}

func (r *result) line() string {
	return fmt.Sprintf("jobs=%d ops=%d faults=%d lost=%d duplicated=%d misplaced=%d violations=%d unknown=%d stale=%d max_unwritable_s=%.1f",
		r.Jobs, r.Ops, r.Faults, r.Lost, r.Duplicated, r.Misplaced, r.Violations, r.Unknown, r.Stale, r.Unwritable)
}

// maxWhy is how many findings are printed.
const maxWhy = 15

func (r *result) explain(to io.Writer) {
	for _, n := range r.Notes {
		fmt.Fprintln(to, "  note:", n)
	}
	for i, w := range r.Why {
		if i == maxWhy {
			fmt.Fprintf(to, "  and %d more\n", len(r.Why)-i)
			break
		}
		fmt.Fprintln(to, "  found:", w)
	}
	if r.Error != "" {
		fmt.Fprintln(to, "  error:", r.Error)
	}
}

// tally adds results up.
type tally struct {
	result
	bad bool
}

func (t *tally) add(r *result) {
	t.Jobs += r.Jobs
	t.Ops += r.Ops
	t.Faults += r.Faults
	t.Lost += r.Lost
	t.Duplicated += r.Duplicated
	t.Misplaced += r.Misplaced
	t.Violations += r.Violations
	t.Unknown += r.Unknown
	t.Stale += r.Stale
	t.Unwritable = max(t.Unwritable, r.Unwritable)
	t.bad = t.bad || r.bad()
}

// Files of a unit in its folder.
const (
	askedFile  = "unit.json"
	resultFile = "result.json"
	talkFile   = "talk.log"
)

// unit runs one in namespaces of its own.
func (o *options) unit(ctx context.Context, root, name string, u unit) (*result, error) {
	u.Root, u.Net, u.Profile, u.Talk = filepath.Join(root, name), o.net, o.profile, o.talk
	if err := os.MkdirAll(u.Root, 0o700); err != nil {
		return nil, err
	}
	raw, err := json.Marshal(u)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(u.Root, askedFile), raw, 0o600); err != nil {
		return nil, err
	}
	begin := time.Now()
	// It ends by itself: an interrupt reaches it as well.
	cmd := exec.Command("/proc/self/exe", "-unit", filepath.Join(u.Root, askedFile))
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	ended := world.RunApart(cmd)
	raw, err = os.ReadFile(filepath.Join(u.Root, resultFile))
	if err != nil {
		return nil, fmt.Errorf("%s left no result: %w", name, ended)
	}
	r := &result{}
	if err := json.Unmarshal(raw, r); err != nil {
		return nil, err
	}
	r.Seconds = time.Since(begin).Seconds()
	if ctx.Err() != nil && r.Error == "" {
		r.Error = "interrupted"
	}
	return r, nil
}

// inside is the run itself.
func inside(path string) int {
	raw, err := os.ReadFile(path)
	var u unit
	if err == nil {
		err = json.Unmarshal(raw, &u)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		return 1
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	r := &result{}
	if err := u.do(ctx, r); err != nil {
		r.Error = err.Error()
	}
	out, err := json.Marshal(r)
	if err == nil {
		err = os.WriteFile(filepath.Join(u.Root, resultFile), out, 0o600)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		return 1
	}
	return 0
}

func (u *unit) do(ctx context.Context, r *result) error {
	talk, err := os.Create(filepath.Join(u.Root, talkFile))
	if err != nil {
		return err
	}
	defer talk.Close()
	out := io.Writer(talk)
	if u.Talk {
		out = io.MultiWriter(talk, os.Stderr)
	}
	space := world.Here()
	w, err := world.New(world.Config{Root: u.Root, Binary: u.Binary, Space: space, Tailnet: u.Net == "tailnet", Profile: u.Profile, Users: everybody(), Talk: out})
	if err != nil {
		return err
	}
	if !space.Apart {
		r.Notes = append(r.Notes, "partitions and the full disk are left out: "+space.Why)
	}
	defer func() { _ = w.Close() }() // everything ends with this process
	run := map[string]func(context.Context, *world.World, *result) error{
		"seed": u.seed, "bite": u.bite, "leaderkill": u.leaderKill, "killall": u.killAll, "join": u.join, "silent": u.silent, "serverless": u.serverless,
		"shape-two": u.shapeTwo, "shape-three": u.shapeThree, "shape-queues": u.shapeQueues, "shape-fork": u.shapeFork,
	}[u.Kind]
	measured, end := context.WithCancel(ctx)
	m := startMeter(measured, u.Root)
	err = run(ctx, w, r)
	end()
	r.Notes = append(r.Notes, m.String())
	if err != nil {
		w.Dump() // where everything stood
	}
	broken(w, r)
	return err
}
