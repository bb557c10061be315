package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ahelme/comfyume/agent/chaos/oracle"
	"github.com/ahelme/comfyume/agent/chaos/world"
)

// trap is a small world with its people, in which a schedule is played.
type trap struct {
	w      *world.World
	r      *result
	book   *oracle.Book
	people []*oracle.Person
	a, b   *world.Node
	docs   []*oracle.Diary
}

// schedule is the shortest way to catch a bug. gpus is how many nodes it needs
// that run jobs; finds is what must be found: anything else is another bug.
type schedule struct {
	gpus  int
	play  func(ctx context.Context, t *trap) error
	finds func(v oracle.Verdict) int
}

func schedules() map[string]schedule {
	lost := func(v oracle.Verdict) int { return v.Lost }
	duplicated := func(v oracle.Verdict) int { return v.Duplicated }
	misplaced := func(v oracle.Verdict) int { return v.Misplaced }
	violations := func(v oracle.Verdict) int { return v.Violations }
	return map[string]schedule{
		"ack-before-commit": {1, catchAck, lost},
		"lost-dedupe":       {1, catchDedupe, duplicated},
		"stale-epoch":       {2, catchEpoch, violations},
		"stale-read":        {0, catchRead, violations},
		"requeue-dropped":   {2, catchRequeue, lost},
		"double-finish":     {1, catchFinish, duplicated},
		"wrong-owner":       {1, catchOwner, misplaced},
		"snapshot-table":    {1, catchSnapshot, lost},
	}
}

// bite plays the schedule of a bug, whether that is planted or not.
func (u *unit) bite(ctx context.Context, w *world.World, r *result) error {
	s := schedules()[u.Bug]
	for _, o := range []world.Options{{Name: "a", Roles: "gateway,queue"}, {Name: "b", Roles: "gateway,queue"}, {Name: "c", Roles: "queue"}} {
		if _, err := w.Add(o); err != nil {
			return err
		}
	}
	for i := range s.gpus {
		if _, err := w.Add(world.Options{Name: fmt.Sprintf("g%d", i+1), Roles: "gpu"}); err != nil {
			return err
		}
	}
	if err := up(ctx, w, 3); err != nil {
		return err
	}
	w.Say("ready")
	t := &trap{w: w, r: r, book: oracle.NewBook(), a: w.Node("a"), b: w.Node("b")}
	for i := range 2 {
		name, pass := user(i)
		t.people = append(t.people, oracle.NewPerson(t.book, oracle.NewSession(t.book, name, pass, doors(t.a, t.b)...), uint64(i+1))) //nolint:gosec // a small number
	}
	bounded, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	if err := s.play(bounded, t); err != nil {
		return err
	}
	faults := r.Faults
	r.Verdict = t.book.Judge(ctx, doors(t.a, t.b), participants(), t.docs, nil)
	r.Faults = faults
	for _, why := range r.Why {
		w.Say("found: %s", why)
	}
	return ctx.Err()
}

// queue queues n jobs of a kind for each of the people.
func (t *trap) queue(ctx context.Context, n int, kind oracle.Kind) (out []*oracle.Job) {
	for range n {
		for _, p := range t.people {
			j := p.NewJob(kind)
			if p.Submit(ctx, j) {
				out = append(out, j)
			}
		}
	}
	return out
}

// drain waits until every job has ended; that some have not is for the judge.
func (t *trap) drain(ctx context.Context, within time.Duration) {
	if err := t.book.Drained(ctx, doors(t.a, t.b), participants(), within); err != nil {
		t.w.Say("%v", err)
	}
}

// killAll ends every process at once and starts them again.
func (t *trap) killAll(ctx context.Context) error {
	t.w.Say("kill all")
	done := make(chan struct{})
	for _, n := range t.w.Nodes() {
		go func() { n.Kill(); done <- struct{}{} }()
	}
	for range t.w.Nodes() {
		<-done
	}
	t.r.Faults++
	return up(ctx, t.w, 3)
}

// catchAck accepts jobs and a document and pulls every plug at once.
func catchAck(ctx context.Context, t *trap) error {
	t.queue(ctx, 5, oracle.Slow)
	t.write(ctx, 2*time.Second)
	if err := t.killAll(ctx); err != nil {
		return err
	}
	t.drain(ctx, 60*time.Second)
	return nil
}

// write lets a diary be written for a while.
func (t *trap) write(ctx context.Context, d time.Duration) {
	diary := &oracle.Diary{User: "user001", Folder: fmt.Sprintf("diary%d", len(t.docs))}
	t.docs = append(t.docs, diary)
	one, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	diary.Write(one, t.book, oracle.NewSession(t.book, "user001", "secret-user001", doors(t.a, t.b)...), 100*time.Millisecond)
}

// catchDedupe queues jobs again whose answer it says it has not heard.
func catchDedupe(ctx context.Context, t *trap) error {
	all := t.queue(ctx, 2, oracle.Plain)
	t.drain(ctx, 30*time.Second)
	for _, j := range all {
		for _, p := range t.people {
			if p.Session.User == j.User {
				p.Submit(ctx, j)
			}
		}
	}
	t.drain(ctx, 30*time.Second)
	return nil
}

// running waits until a job runs, in its nth attempt or a later one.
func (t *trap) running(ctx context.Context, j *oracle.Job, epoch uint64, within time.Duration) (show world.JobShow, err error) {
	return show, world.Until(ctx, within, fmt.Sprintf("%s runs in attempt %d", j, epoch), func(ctx context.Context) error {
		if show, err = t.a.Job(ctx, j.User, j.ID); err != nil {
			return err
		}
		if show.Job.State != "running" || show.Epoch < epoch {
			return fmt.Errorf("it is %s in attempt %d", show.Job.State, show.Epoch)
		}
		return nil
	})
}

// holder is the node whose worker has a job.
func (t *trap) holder(s world.JobShow) (*world.Node, error) {
	for _, n := range t.w.Those("gpu") {
		if s.Job.Worker == n.Name+"/0" {
			return n, nil
		}
	}
	return nil, fmt.Errorf("there is no worker %q", s.Job.Worker)
}

// catchEpoch cuts a worker off until another has begun its job, and lets it
// come back while both are at it: what it brings must not count.
func catchEpoch(ctx context.Context, t *trap) error {
	if !t.w.CanCut() {
		return errors.New("nodes cannot be parted here")
	}
	p := t.people[0]
	j := p.NewJob(oracle.Slow)
	j.Seconds = 20
	p.Submit(ctx, j)
	s, err := t.running(ctx, j, 1, 20*time.Second)
	if err != nil {
		return err
	}
	first, err := t.holder(s)
	if err != nil {
		return err
	}
	t.w.Say("cut off %s", first.Name)
	heal, err := t.w.Isolate(first)
	if err != nil {
		return err
	}
	t.r.Faults++
	second, err := t.running(ctx, j, s.Epoch+1, 40*time.Second)
	if err = errors.Join(err, heal()); err != nil {
		return err
	}
	t.w.Say("healed: %s runs it in attempt %d", second.Job.Worker, second.Epoch)
	t.drain(ctx, 60*time.Second)
	end, err := t.a.Job(ctx, j.User, j.ID)
	if err != nil {
		return err
	}
	if took := time.Duration(end.Job.Ended-second.Job.Started) * time.Millisecond; end.Epoch == second.Epoch && took < 19*time.Second {
		t.book.Violate("%s takes 20 s and ended %.1f s after its attempt %d had begun: the result of an attempt that was given up was taken", j, took.Seconds(), second.Epoch)
	}
	return nil
}

// catchRead writes at one door and reads at the other, which is cut off.
func catchRead(ctx context.Context, t *trap) error {
	if !t.w.CanCut() {
		return errors.New("nodes cannot be parted here")
	}
	if t.w.Leader(ctx) == t.b {
		if err := t.b.Transfer(ctx, "a"); err != nil {
			return err
		}
	}
	t.write(ctx, 2*time.Second)
	t.w.Say("cut off b")
	heal, err := t.w.Isolate(t.b)
	if err != nil {
		return err
	}
	t.r.Faults++
	t.write(ctx, 10*time.Second)
	return heal()
}

// catchRequeue kills a worker for good while it has a job.
func catchRequeue(ctx context.Context, t *trap) error {
	p := t.people[0]
	j := p.NewJob(oracle.Slow)
	j.Seconds = 6
	p.Submit(ctx, j)
	s, err := t.running(ctx, j, 1, 20*time.Second)
	if err != nil {
		return err
	}
	n, err := t.holder(s)
	if err != nil {
		return err
	}
	t.w.Say("kill %s", n.Name)
	n.Kill()
	t.r.Faults++
	t.drain(ctx, 50*time.Second)
	return nil
}

// catchFinish lets a few jobs end.
func catchFinish(ctx context.Context, t *trap) error {
	t.queue(ctx, 2, oracle.Plain)
	t.drain(ctx, 30*time.Second)
	return nil
}

// catchOwner lets two people's jobs end.
func catchOwner(ctx context.Context, t *trap) error { return catchFinish(ctx, t) }

// catchSnapshot lets every node go on from its snapshot.
func catchSnapshot(ctx context.Context, t *trap) error {
	t.queue(ctx, 2, oracle.Plain)
	t.write(ctx, time.Second)
	t.drain(ctx, 30*time.Second)
	for _, n := range t.w.Those("queue") {
		if err := n.SnapshotNow(ctx); err != nil {
			return fmt.Errorf("snapshot of %s: %w", n.Name, err)
		}
	}
	return t.killAll(ctx)
}
