package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ahelme/comfyume/agent/chaos/oracle"
	"github.com/ahelme/comfyume/agent/chaos/world"
)

// jobsEvery is how far apart two jobs of everybody together are: so many come
// in while things break.
const jobsEvery = 400 * time.Millisecond

// crowd is everybody who uses the doors in a run.
type crowd struct {
	book     *oracle.Book
	doors    []oracle.Door
	diaries  []*oracle.Diary
	quarrels []*oracle.Quarrel
	pages    []*oracle.Page
	watching sync.WaitGroup
	close    context.CancelFunc // of the pages
	queueing sync.WaitGroup
	writing  sync.WaitGroup
	endDocs  context.CancelFunc
}

// gather lets everybody begin. jobs are shared out.
func gather(ctx context.Context, seed uint64, jobs, exits int, at []oracle.Door) *crowd {
	c := &crowd{book: oracle.NewBook(), doors: at}
	session := func(i int) *oracle.Session {
		name, pass := user(i)
		turned := append(append([]oracle.Door(nil), at[i%len(at):]...), at[:i%len(at)]...)
		return oracle.NewSession(c.book, name, pass, turned...)
	}
	docs, end := context.WithCancel(ctx)
	c.endDocs = end
	open, shut := context.WithCancel(context.WithoutCancel(ctx))
	c.close = shut
	for i := range people {
		name, pass := user(i)
		p := oracle.NewPage(c.book, name, pass, at[i%len(at)], at[(i+1)%len(at)])
		c.pages = append(c.pages, p)
		c.watching.Go(func() { p.Open(open) })
	}
	for i := range people {
		p := oracle.NewPerson(c.book, session(i), seed*100+uint64(i))
		p.Jobs, p.Every = jobs/people, jobsEvery*people
		if i < jobs%people {
			p.Jobs++
		}
		if i == 0 {
			p.Exits = exits
		}
		c.queueing.Go(func() { p.Run(ctx) })
	}
	for i := range people {
		name, _ := user(i)
		d := &oracle.Diary{User: name}
		c.diaries = append(c.diaries, d)
		c.writing.Go(func() { d.Write(docs, c.book, session(i), 300*time.Millisecond) })
		c.writing.Go(func() { d.Read(docs, c.book, session(i+people), 200*time.Millisecond) })
	}
	for i := range 2 {
		name, _ := user(i)
		q := &oracle.Quarrel{User: name}
		c.quarrels = append(c.quarrels, q)
		for k := range 3 {
			c.writing.Go(func() {
				q.Take(docs, c.book, session(i), 250*time.Millisecond, seed*1000+uint64(10*i+k))
			})
		}
	}
	return c
}

// Bounds of a run.
const (
	queueWithin  = 4 * time.Minute // beyond the time that queueing takes anyway
	drainWithin  = 4 * time.Minute
	settleWithin = 90 * time.Second
)

// seed is the standard run: jobs and documents while things break, then peace,
// then judgement.
func (u *unit) seed(ctx context.Context, w *world.World, r *result) error {
	if err := six(w, u.disk(w)); err != nil {
		return err
	}
	if err := up(ctx, w, 3); err != nil {
		return err
	}
	w.Say("ready")
	x := w.Watch(3)
	life, end := context.WithCancel(ctx)
	defer end()
	knock(life, x, w.Those("gateway"))
	within := time.Duration(u.Jobs)*jobsEvery + queueWithin
	bounded, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	exits := 0
	if u.Jobs >= 150 {
		exits = 1
	}
	c := gather(bounded, u.Seed, u.Jobs, exits, doors(w.Nodes()...))
	faults := newFaults(u.Seed, w, x, c.book)
	done := make(chan int, 1)
	breaking, calm := context.WithCancel(bounded)
	go func() { done <- faults.run(breaking) }()
	c.queueing.Wait()
	w.Say("all jobs are accepted: no more faults")
	calm()
	r.Faults = <-done
	c.endDocs()
	c.writing.Wait()
	if err := bounded.Err(); err != nil && ctx.Err() == nil {
		r.Notes = append(r.Notes, fmt.Sprintf("not all jobs were accepted within %s", within))
	}
	if err := peace(ctx, w); err != nil {
		return fmt.Errorf("after the faults: %w", err)
	}
	r.Notes = append(r.Notes, faults.notes()...)
	end()
	r.gaps(w, x.End())
	c.judge(ctx, w, r)
	return ctx.Err()
}

// gaps notes how long it was unwritable.
func (r *result) gaps(w *world.World, gaps []world.Gap) {
	if len(gaps) == 0 {
		return
	}
	r.Unwritable, r.Kinds = gaps[0].Took.Seconds(), world.ByKind(gaps)
	for _, g := range gaps[:min(3, len(gaps))] {
		w.Say("unwritable: %s for %.1fs from %s after %s", g.Door, g.Took.Seconds(), g.From.Format("15:04:05.000"), g.Kind)
	}
}

// disk is the size of c's own disk, 0 where it cannot have one.
func (u *unit) disk(w *world.World) int64 {
	if !w.CanCut() {
		return 0
	}
	return smallDisk
}

// peace brings everything back and waits until it is whole.
func peace(ctx context.Context, w *world.World) error {
	var all error
	for _, n := range w.Nodes() {
		all = errors.Join(all, n.Unfill(), n.Thaw())
	}
	if all = errors.Join(all, w.Start(w.Nodes()...)); all != nil {
		return all
	}
	return ready(ctx, w, 3, settleWithin)
}

// judge waits until everything has ended and is everywhere, and judges.
func (c *crowd) judge(ctx context.Context, w *world.World, r *result) {
	if err := c.book.Drained(ctx, c.doors, participants(), drainWithin); err != nil {
		r.Notes = append(r.Notes, err.Error())
	}
	w.Say("drained")
	wait(ctx, 2*time.Second) // what pages are told may be on its way
	for _, p := range c.pages {
		p.Judge()
	}
	c.close()
	c.watching.Wait()
	_, stale := c.book.Counted()
	v := c.book.Judge(ctx, c.doors, participants(), c.diaries, c.quarrels)
	v.Stale = stale
	r.Verdict = v
	for what, n := range c.book.Odd() {
		r.Notes = append(r.Notes, fmt.Sprintf("%d times %s", n, what))
	}
	w.Say("judged: %s", r.line())
	for _, why := range r.Why {
		w.Say("found: %s", why)
	}
}
