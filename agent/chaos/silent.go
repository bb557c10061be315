package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ahelme/comfyume/agent/chaos/oracle"
	"github.com/ahelme/comfyume/agent/chaos/world"
)

// silent lets the leader's machine vanish without a word while long jobs run and
// a worker waits at it for the next: connections to it are not refused, they
// have no answer. No job that runs may be begun again, and the idle worker and
// people's changes must find the new leader.
func (u *unit) silent(ctx context.Context, w *world.World, r *result) error {
	if !w.CanCut() {
		return errors.New("a silent leader needs partitions: nodes cannot be parted here")
	}
	if err := six(w, 0); err != nil {
		return err
	}
	if err := up(ctx, w, 3); err != nil {
		return err
	}
	lead := w.Leader(ctx)
	if lead == nil {
		return errors.New("nobody leads")
	}
	at := w.Node("a")
	if lead == at {
		at = w.Node("b")
	}
	t := &trap{w: w, r: r, book: oracle.NewBook(), a: at, b: at}
	name, pass := user(1)
	p := oracle.NewPerson(t.book, oracle.NewSession(t.book, name, pass, doors(at)...), u.Seed)
	if err := t.occupy(ctx, p, 2, 40); err != nil {
		return err
	}
	x := w.Watch(3)
	life, end := context.WithCancel(ctx)
	defer end()
	knock(life, x, []*world.Node{at})
	w.Say("%s falls silent", lead.Name)
	heal, err := w.Isolate(lead)
	if err != nil {
		return err
	}
	r.Faults++
	silence := time.Now()
	last := p.NewJob(oracle.Plain)
	p.Submit(ctx, last)
	t.drain(ctx, 90*time.Second)
	waited := time.Duration(0)
	if s, err := at.Job(ctx, last.User, last.ID); err == nil {
		waited = time.UnixMilli(s.Job.Started).Sub(silence)
	}
	end()
	r.gaps(w, x.End())
	if err := errors.Join(heal(), peace(ctx, w)); err != nil {
		return err
	}
	r.Verdict = t.book.Judge(ctx, doors(w.Nodes()...), participants(), nil, nil)
	again, _, err := begunAgain(w)
	r.Violations += len(again)
	r.Why = append(r.Why, again...)
	r.Lines = append(r.Lines, fmt.Sprintf("silent requeues_of_healthy=%d idle_worker_waited_s=%.1f lost=%d max_unwritable_s=%.1f", len(again), waited.Seconds(), r.Lost, r.Unwritable))
	return errors.Join(err, ctx.Err())
}

// occupy has jobs of some seconds run.
func (t *trap) occupy(ctx context.Context, p *oracle.Person, n int, seconds float64) error {
	for range n {
		j := p.NewJob(oracle.Slow)
		j.Seconds = seconds
		p.Submit(ctx, j)
		if _, err := t.running(ctx, j, 1, 20*time.Second); err != nil {
			return err
		}
	}
	return nil
}
