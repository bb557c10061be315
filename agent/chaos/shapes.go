package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ahelme/comfyume/agent/chaos/oracle"
	"github.com/ahelme/comfyume/agent/chaos/world"
)

// waiting is how many jobs wait when a machine is lost.
const waitingJobs = 100

// stage is a workshop of some shape, with one person and a paused queue.
type stage struct {
	w    *world.World
	r    *result
	book *oracle.Book
	seed uint64
	// before is how many jobs an earlier book had.
	before int
}

// stand builds the shape.
func (u *unit) stand(ctx context.Context, w *world.World, r *result, votes int, nodes ...world.Options) (*stage, error) {
	for _, o := range nodes {
		if _, err := w.Add(o); err != nil {
			return nil, err
		}
	}
	s := &stage{w: w, r: r, book: oracle.NewBook(), seed: u.Seed}
	return s, up(ctx, w, votes)
}

// person is somebody who comes in at some doors.
func (s *stage) person(i int, at ...*world.Node) *oracle.Person {
	name, pass := user(i)
	s.seed++
	return oracle.NewPerson(s.book, oracle.NewSession(s.book, name, pass, doors(at...)...), s.seed)
}

// queue queues jobs as one.
func (s *stage) queue(ctx context.Context, p *oracle.Person, n int) {
	for range n {
		p.Submit(ctx, p.NewJob(oracle.Plain))
	}
}

// pauseAt pauses the queue.
func pauseAt(ctx context.Context, n *world.Node) error {
	return n.Act(ctx, "pause", map[string]any{"scope": "all"})
}

// resumeAt lets it go on, as soon as that is accepted; took is how long that
// was not so.
func resumeAt(ctx context.Context, n *world.Node, since time.Time, within time.Duration) (took time.Duration, err error) {
	err = world.Until(ctx, within, n.Name+" accepts a change", func(ctx context.Context) error {
		return n.Act(ctx, "resume", map[string]any{"scope": "all"})
	})
	return time.Since(since), err
}

// finish waits until all is done, judges at a door and writes the line. kept is
// how many jobs were still there.
func (s *stage) finish(ctx context.Context, shape string, kept int, command string, writable time.Duration, since time.Time, at ...*world.Node) error {
	if err := s.book.Drained(ctx, doors(at...), participants(), 3*time.Minute); err != nil {
		s.r.Notes = append(s.r.Notes, err.Error())
	}
	done := time.Since(since)
	s.r.Verdict = s.book.Judge(ctx, doors(at...), participants(), nil, nil)
	s.r.Lines = append(s.r.Lines, fmt.Sprintf("shape name=%s jobs=%d kept=%d command=%q writable_s=%.1f done_s=%.1f lost=%d duplicated=%d", shape, cmp.Or(s.before, s.r.Jobs), kept, command, writable.Seconds(), done.Seconds(), s.r.Lost, s.r.Duplicated))
	return ctx.Err()
}

// shapeTwo is mello and a rented machine: one voter.
func (u *unit) shapeTwo(ctx context.Context, w *world.World, r *result) error {
	s, err := u.stand(ctx, w, r, 1, world.Options{Name: "mello", Roles: "gateway,queue"}, world.Options{Name: "verda", Roles: "gpu"})
	if err != nil {
		return err
	}
	mello := w.Node("mello")
	if err := pauseAt(ctx, mello); err != nil {
		return err
	}
	s.queue(ctx, s.person(1, mello), waitingJobs)
	since := time.Now()
	w.Say("mello and its disk vanish")
	if err := mello.Vanish(); err != nil {
		return err
	}
	// Nobody else holds the table: what was accepted is gone until there are
	// backups. A new machine begins a new workshop.
	again, err := w.Add(world.Options{Name: "mello2", Roles: "gateway,queue", Args: []string{"--form"}})
	if err == nil {
		err = again.Launch()
	}
	if err != nil {
		return err
	}
	writable, err := resumeAt(ctx, again, since, time.Minute)
	if err != nil {
		return err
	}
	lost := s.book.Accepted()
	s.before, s.book = lost, oracle.NewBook() // what was lost is known; the new workshop is judged
	verda := w.Node("verda")
	byItself := ready(ctx, w, 1, 15*time.Second) == nil
	command := "--form on a new machine"
	if !byItself {
		command += ", and the worker restarted"
		verda.Kill()
		if err := errors.Join(verda.Launch(), ready(ctx, w, 1, time.Minute)); err != nil {
			return err
		}
	}
	s.queue(ctx, s.person(1, again), 3)
	err = s.finish(ctx, "mello+verda", 0, command, writable, since, again)
	r.Notes = append(r.Notes, fmt.Sprintf("mello+verda keeps none of the %d jobs when mello's machine and disk are lost: there are no backups yet", lost))
	return err
}

// shapeThree is mello, a rented machine and a Mac as stand-by.
func (u *unit) shapeThree(ctx context.Context, w *world.World, r *result) error {
	s, err := u.stand(ctx, w, r, 1, world.Options{Name: "mello", Roles: "gateway,queue"}, world.Options{Name: "verda", Roles: "gpu"}, world.Options{Name: "mac", Roles: "queue", Args: []string{"--voter=never"}})
	if err != nil {
		return err
	}
	mello, mac := w.Node("mello"), w.Node("mac")
	if err := errors.Join(standsBy(ctx, mello, "mac"), pauseAt(ctx, mello)); err != nil {
		return err
	}
	s.queue(ctx, s.person(1, mello), waitingJobs)
	since := time.Now()
	w.Say("mello and its disk vanish")
	if err := mello.Vanish(); err != nil {
		return err
	}
	if err := promote(ctx, mac); err != nil {
		return err
	}
	v, err := mac.Status(ctx)
	if err != nil {
		return err
	}
	writable, err := resumeAt(ctx, mac, since, time.Minute)
	if err != nil {
		return err
	}
	// A new machine takes mello's place at the door, by the usual command.
	again, err := w.Add(world.Options{Name: "mello2", Roles: "gateway,queue"})
	if err == nil {
		err = again.Launch()
	}
	if err == nil {
		err = open(ctx, again)
	}
	if err != nil {
		return err
	}
	return s.finish(ctx, "mello+verda+mac", v.Counts.Waiting, "raft promote on mac; a new gateway by its usual command", writable, since, again)
}

// standsBy waits until a node holds everything without a vote.
func standsBy(ctx context.Context, lead *world.Node, name string) error {
	return world.Until(ctx, 30*time.Second, name+" stands by", func(ctx context.Context) error {
		v, err := lead.Status(ctx)
		if err != nil {
			return err
		}
		for _, n := range v.Nodes {
			if n.Name == name && n.Part == "stand-by" && v.Log.Copied+5 >= v.Log.Last {
				return nil
			}
		}
		return fmt.Errorf("copied %d of %d", v.Log.Copied, v.Log.Last)
	})
}

// promote takes the table over as soon as that is allowed.
func promote(ctx context.Context, n *world.Node) error {
	return world.Until(ctx, 30*time.Second, n.Name+" takes the table over", func(ctx context.Context) error {
		return n.Promote(ctx, false)
	})
}

// open waits until a node serves.
func open(ctx context.Context, n *world.Node) error {
	return world.Until(ctx, time.Minute, n.Name+" is part of the table", func(ctx context.Context) error {
		v, err := n.Status(ctx)
		if err == nil && v.Head.ReadOnly != "" {
			err = errors.New(v.Head.ReadOnly)
		}
		return err
	})
}

// shapeQueues is three nodes that vote.
func (u *unit) shapeQueues(ctx context.Context, w *world.World, r *result) error {
	s, err := u.stand(ctx, w, r, 3, world.Options{Name: "a", Roles: "gateway,queue"}, world.Options{Name: "b", Roles: "gateway,queue"}, world.Options{Name: "c", Roles: "queue"}, world.Options{Name: "g1", Roles: "gpu"})
	if err != nil {
		return err
	}
	a, b := w.Node("a"), w.Node("b")
	if l := w.Leader(ctx); l != nil && l != a {
		if err := l.Transfer(ctx, "a"); err != nil {
			return err
		}
	}
	if err := pauseAt(ctx, a); err != nil {
		return err
	}
	s.queue(ctx, s.person(1, a, b), waitingJobs)
	since := time.Now()
	w.Say("a and its disk vanish")
	if err := a.Vanish(); err != nil {
		return err
	}
	writable, err := resumeAt(ctx, b, since, time.Minute)
	if err != nil {
		return err
	}
	v, err := b.Status(ctx)
	if err != nil {
		return err
	}
	kept := v.Counts.Waiting + v.Counts.Running + v.Counts.Done
	return s.finish(ctx, "three-queue-nodes", kept, "none", writable, since, b)
}

// shapeFork promotes a stand-by while the old voter lives on the other side of a
// partition, and heals it: one history, and what the other side had accepted is
// brought back.
func (u *unit) shapeFork(ctx context.Context, w *world.World, r *result) error {
	if !w.CanCut() {
		return errors.New("promoting while the old voter lives needs partitions: nodes cannot be parted here")
	}
	s, err := u.stand(ctx, w, r, 1, world.Options{Name: "mello", Roles: "gateway,queue"}, world.Options{Name: "verda", Roles: "gpu"}, world.Options{Name: "mac", Roles: "gateway,queue", Args: []string{"--voter=never"}})
	if err != nil {
		return err
	}
	mello, mac := w.Node("mello"), w.Node("mac")
	if err := errors.Join(standsBy(ctx, mello, "mac"), pauseAt(ctx, mello)); err != nil {
		return err
	}
	s.queue(ctx, s.person(1, mello, mac), 5)
	w.Say("cut off mello")
	heal, err := w.Isolate(mello)
	if err != nil {
		return err
	}
	since := time.Now()
	s.queue(ctx, s.person(2, mello), 10)
	if err := promote(ctx, mac); err != nil {
		return err
	}
	s.queue(ctx, s.person(3, mac), 10)
	writable, err := resumeAt(ctx, mac, since, time.Minute)
	if err = errors.Join(err, heal()); err != nil {
		return err
	}
	w.Say("healed")
	listed, err := s.bringBack(ctx, mello)
	if err != nil {
		return err
	}
	if err := s.finish(ctx, "promoted-while-the-old-voter-lived", listed+15, "raft promote on mac; raft salvage on mello", writable, since, mello, mac); err != nil {
		return err
	}
	r.Lines = append(r.Lines, fmt.Sprintf("shape-fork salvage_listed=%d one_history=%t", listed, oneHistory(ctx, mello, mac)))
	return nil
}

// bringBack waits until a node has left its history for the later one, and
// brings back what only it had accepted.
func (s *stage) bringBack(ctx context.Context, n *world.Node) (listed int, err error) {
	var left []world.Left
	err = world.Until(ctx, time.Minute, n.Name+" has joined the later generation", func(ctx context.Context) error {
		if left, err = n.LeftBehind(ctx); err != nil {
			return err
		}
		v, err := n.Status(ctx)
		switch {
		case err != nil:
			return err
		case len(left) == 0 || v.Head.ReadOnly != "":
			return fmt.Errorf("%d histories were left: %s", len(left), v.Head.ReadOnly)
		}
		return nil
	})
	for _, l := range left {
		listed += len(l.Jobs)
		err = errors.Join(err, n.Salvage(ctx, l.Name))
	}
	return listed, err
}

func oneHistory(ctx context.Context, nodes ...*world.Node) bool {
	first := ""
	for _, n := range nodes {
		v, err := n.Status(ctx)
		if err != nil || first != "" && v.Log.Generation != first {
			return false
		}
		first = v.Log.Generation
	}
	return true
}
