package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/ahelme/comfyume/agent/chaos/oracle"
	"github.com/ahelme/comfyume/agent/chaos/world"
)

// faults breaks things, one after the other in each of two lines: one for the
// nodes that hold the table and one for those that run jobs.
type faults struct {
	w    *world.World
	x    *world.Watch
	book *oracle.Book
	seed uint64

	mu    sync.Mutex
	count map[string]int
	wrong []string
}

// fault does one thing and undoes it.
type fault struct {
	kind string
	do   func(ctx context.Context, rnd *rand.Rand) error
}

func newFaults(seed uint64, w *world.World, x *world.Watch, b *oracle.Book) *faults {
	return &faults{w: w, x: x, book: b, seed: seed, count: map[string]int{}}
}

// run breaks until ctx ends and returns how often it did.
func (f *faults) run(ctx context.Context) int {
	var lines sync.WaitGroup
	lines.Go(func() { f.line(ctx, rand.New(rand.NewPCG(f.seed, 1)), f.core(), 1500, f.x.Mark) })        //nolint:gosec // not a secret
	lines.Go(func() { f.line(ctx, rand.New(rand.NewPCG(f.seed, 2)), f.gpus(), 4000, func(string) {}) }) //nolint:gosec // not a secret
	lines.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, k := range f.count {
		n += k
	}
	return n
}

// line does each kind once, in an order of the seed's, before any comes again.
func (f *faults) line(ctx context.Context, rnd *rand.Rand, kinds []fault, apart int, mark func(kind string)) {
	var bag []fault
	for {
		wait(ctx, time.Duration(apart/2+rnd.IntN(apart))*time.Millisecond)
		if ctx.Err() != nil {
			return
		}
		if len(bag) == 0 {
			bag = slices.Clone(kinds)
			rnd.Shuffle(len(bag), func(i, j int) { bag[i], bag[j] = bag[j], bag[i] })
		}
		one := bag[0]
		bag = bag[1:]
		mark(one.kind)
		// What is begun is undone, whatever ends: no more than its own time.
		err := one.do(context.WithoutCancel(ctx), rnd)
		f.mu.Lock()
		switch {
		case errors.Is(err, errSkipped):
		case err != nil:
			f.wrong = append(f.wrong, fmt.Sprintf("%s: %v", one.kind, err))
			fallthrough
		default:
			f.count[one.kind]++
		}
		f.mu.Unlock()
	}
}

// errSkipped says that a fault was not possible just then.
var errSkipped = errors.New("not now")

// notes are what went wrong with the faults themselves, and how often each was.
func (f *faults) notes() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	kinds := make([]string, 0, len(f.count))
	for k, n := range f.count {
		kinds = append(kinds, fmt.Sprintf("%s=%d", k, n))
	}
	slices.Sort(kinds)
	return append([]string{fmt.Sprint("faults ", kinds)}, f.wrong...)
}

func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// between is a time of the seed's choice.
func between(rnd *rand.Rand, low, high time.Duration) time.Duration {
	return low + time.Duration(rnd.Int64N(int64(high-low)))
}

// core are the faults of nodes that hold the table.
func (f *faults) core() []fault {
	all := []fault{
		{"kill-leader", f.kill(f.leader)},
		{"kill-gateway", f.kill(f.gateway)},
		{"kill-follower", f.kill(f.follower)},
		{"freeze-leader", f.freeze(f.leader)},
		{"freeze-gateway", f.freeze(f.gateway)},
		{"freeze-follower", f.freeze(f.follower)},
		{"transfer", f.transfer},
		{"transfer", f.transfer},
		{"kill-all", f.killAll},
		{"wipe", f.wipe},
		{"kill-leader", f.kill(f.leader)},
		{"snapshot", f.snapshot},
	}
	if f.w.CanCut() {
		all = append(all, fault{"cut-leader", f.cut(f.leader)}, fault{"cut-gateway", f.cut(f.gateway)}, fault{"deaf-leader", f.deafLeader})
	}
	if f.w.CanCut() && f.w.Node("c") != nil && f.pairs() {
		all = append(all, fault{"cut-pair", f.cutPair}, fault{"disk-full", f.diskFull})
	}
	return all
}

// pairs reports whether two nodes can be parted while both hear a third.
func (f *faults) pairs() bool { return !f.w.Tailnet() }

// gpus are the faults of nodes that run jobs.
func (f *faults) gpus() []fault {
	all := []fault{{"kill-gpu", f.kill(f.gpu)}, {"freeze-gpu", f.freeze(f.gpu)}}
	if f.w.CanCut() {
		all = append(all, fault{"cut-gpu", f.cut(f.gpu)})
	}
	if !f.w.Tailnet() {
		all = append(all, fault{"comfyui-exit", f.exit})
	}
	return all
}

type choice func(ctx context.Context, rnd *rand.Rand) *world.Node

func (f *faults) leader(ctx context.Context, _ *rand.Rand) *world.Node { return f.w.Leader(ctx) }

func (f *faults) gateway(_ context.Context, rnd *rand.Rand) *world.Node {
	all := f.w.Those("gateway")
	return all[rnd.IntN(len(all))]
}

func (f *faults) gpu(_ context.Context, rnd *rand.Rand) *world.Node {
	all := f.w.Those("gpu")
	return all[rnd.IntN(len(all))]
}

func (f *faults) follower(ctx context.Context, rnd *rand.Rand) *world.Node {
	lead := f.w.Leader(ctx)
	all := slices.DeleteFunc(f.w.Those("queue"), func(n *world.Node) bool { return n == lead })
	return all[rnd.IntN(len(all))]
}

// kill ends a process as a power cut would, and starts it again.
func (f *faults) kill(who choice) func(context.Context, *rand.Rand) error {
	return func(ctx context.Context, rnd *rand.Rand) error {
		n := who(ctx, rnd)
		if n == nil || !n.Launched() {
			return errSkipped
		}
		f.w.Say("kill %s", n.Name)
		n.Kill()
		wait(ctx, between(rnd, 0, 4*time.Second))
		f.w.Say("start %s", n.Name)
		return errors.Join(n.Launch(), f.opened(ctx, n))
	}
}

// opened waits until a node that was started has opened.
func (f *faults) opened(ctx context.Context, n *world.Node) error {
	return world.Until(ctx, 60*time.Second, n.Name+" is open", func(context.Context) error {
		if !n.Running() {
			return errors.New("it is not")
		}
		return nil
	})
}

// freeze stops a process in its tracks for a while.
func (f *faults) freeze(who choice) func(context.Context, *rand.Rand) error {
	return func(ctx context.Context, rnd *rand.Rand) error {
		n := who(ctx, rnd)
		if n == nil || !n.Running() {
			return errSkipped
		}
		d := between(rnd, time.Second, 12*time.Second)
		f.w.Say("freeze %s for %.1fs", n.Name, d.Seconds())
		if err := n.Freeze(); err != nil {
			return err
		}
		wait(ctx, d)
		f.w.Say("thaw %s", n.Name)
		return n.Thaw()
	}
}

// cut parts a node from all others for a while.
func (f *faults) cut(who choice) func(context.Context, *rand.Rand) error {
	return func(ctx context.Context, rnd *rand.Rand) error {
		n := who(ctx, rnd)
		if n == nil || !n.Running() {
			return errSkipped
		}
		d := between(rnd, 3*time.Second, 12*time.Second)
		f.w.Say("cut off %s for %.1fs", n.Name, d.Seconds())
		heal, err := f.w.Isolate(n)
		wait(ctx, d)
		f.w.Say("heal %s", n.Name)
		return errors.Join(err, heal())
	}
}

// deafLeader lets the leader be heard and hear nothing.
func (f *faults) deafLeader(ctx context.Context, rnd *rand.Rand) error {
	n := f.w.Leader(ctx)
	if n == nil || f.w.Tailnet() {
		return errSkipped
	}
	d := between(rnd, 3*time.Second, 10*time.Second)
	f.w.Say("deafen %s for %.1fs", n.Name, d.Seconds())
	heal, err := f.w.Deafen(f.w.Nodes(), []*world.Node{n})
	wait(ctx, d)
	f.w.Say("heal %s", n.Name)
	return errors.Join(err, heal())
}

// cutPair parts two nodes that both go on hearing the third.
func (f *faults) cutPair(ctx context.Context, rnd *rand.Rand) error {
	all := f.w.Those("queue")
	rnd.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	d := between(rnd, 3*time.Second, 10*time.Second)
	f.w.Say("cut %s from %s for %.1fs", all[0].Name, all[1].Name, d.Seconds())
	heal, err := f.w.Cut(all[:1], all[1:2])
	wait(ctx, d)
	f.w.Say("heal %s and %s", all[0].Name, all[1].Name)
	return errors.Join(err, heal())
}

// transfer hands leadership over.
func (f *faults) transfer(ctx context.Context, rnd *rand.Rand) error {
	n := f.w.Leader(ctx)
	if n == nil {
		return errSkipped
	}
	to := ""
	if rnd.IntN(2) == 0 {
		if o := f.follower(ctx, rnd); o.Running() {
			to = o.Name
		}
	}
	f.w.Say("transfer from %s to %q", n.Name, to)
	one, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	err := n.Transfer(one, to)
	var refused *world.Refused
	if errors.As(err, &refused) { // it may lead no more, or the other not be there
		return errSkipped
	}
	return err
}

// snapshot has a node write its table down: from then on it starts from that.
func (f *faults) snapshot(ctx context.Context, rnd *rand.Rand) error {
	all := f.w.Those("queue")
	n := all[rnd.IntN(len(all))]
	if !n.Running() {
		return errSkipped
	}
	f.w.Say("snapshot of %s", n.Name)
	one, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	err := n.SnapshotNow(one)
	var refused *world.Refused
	switch {
	case errors.As(err, &refused) && refused.Code == "unavailable": // it is being made a member again
		return errSkipped
	case err != nil:
		return err
	}
	n.Kill() // and start from it
	return errors.Join(n.Launch(), f.opened(ctx, n))
}
