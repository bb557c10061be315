package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/ahelme/comfyume/agent/chaos/oracle"
	"github.com/ahelme/comfyume/agent/chaos/world"
)

// killEvery is how often the leader is killed.
const killEvery = 10 * time.Second

// leaderKill kills the leader again and again while long jobs run on workers
// that nothing happens to: none of them may be begun a second time.
func (u *unit) leaderKill(ctx context.Context, w *world.World, r *result) error {
	if err := six(w, 0); err != nil {
		return err
	}
	if err := up(ctx, w, 3); err != nil {
		return err
	}
	book := oracle.NewBook()
	name, pass := user(1)
	p := oracle.NewPerson(book, oracle.NewSession(book, name, pass, doors(w.Nodes()...)...), u.Seed)
	length := time.Duration(u.Minutes) * time.Minute
	const seconds = 25
	for range 3 * int(length.Seconds()) / seconds {
		j := p.NewJob(oracle.Slow)
		j.Seconds = seconds
		p.Submit(ctx, j)
	}
	x := w.Watch(3)
	life, end := context.WithCancel(ctx)
	defer end()
	knock(life, x, w.Those("gateway"))
	for begin := time.Now(); time.Since(begin) < length && ctx.Err() == nil; wait(ctx, killEvery) {
		n := w.Leader(ctx)
		if n == nil {
			r.Notes = append(r.Notes, "nobody led when the next was to be killed")
			continue
		}
		x.Mark("kill-leader")
		w.Say("kill %s", n.Name)
		n.Kill()
		r.Faults++
		wait(ctx, 2*time.Second)
		x.Mark("restart")
		if err := n.Launch(); err != nil {
			return err
		}
	}
	if err := peace(ctx, w); err != nil {
		return err
	}
	end()
	r.gaps(w, x.End())
	if err := book.Drained(ctx, doors(w.Nodes()...), participants(), 3*time.Minute); err != nil {
		r.Notes = append(r.Notes, err.Error())
	}
	kills := r.Faults
	r.Verdict = book.Judge(ctx, doors(w.Nodes()...), participants(), nil, nil)
	again, taken, err := begunAgain(w)
	if err != nil {
		return err
	}
	r.Violations += len(again)
	r.Why = append(r.Why, again...)
	r.Lines = append(r.Lines, fmt.Sprintf("leaderkill minutes=%d kills=%d jobs=%d attempts=%d requeues_of_healthy=%d lost=%d max_unwritable_s=%.1f%s", u.Minutes, kills, r.Jobs, taken, len(again), r.Lost, r.Unwritable, r.Kinds))
	return ctx.Err()
}

// begunAgain reads in the workers' logs which jobs were begun more than once,
// and how many attempts there were.
func begunAgain(w *world.World) (again []string, taken int, err error) {
	times := map[string]int{}
	for _, n := range w.Those("gpu") {
		f, err := os.Open(n.LogPath())
		if err != nil {
			return nil, 0, err
		}
		lines := bufio.NewScanner(f)
		lines.Buffer(nil, 4<<20)
		for lines.Scan() {
			var l struct{ Msg, User, Job string }
			if json.Unmarshal(lines.Bytes(), &l) == nil && l.Msg == "job taken" {
				taken++
				if times[l.User+"/"+l.Job]++; times[l.User+"/"+l.Job] == 2 {
					again = append(again, fmt.Sprintf("job %s/%s was begun again although its worker lived", l.User, l.Job))
				}
			}
		}
		if err := errors.Join(lines.Err(), f.Close()); err != nil {
			return nil, 0, err
		}
	}
	return again, taken, nil
}

// killAll accepts jobs as fast as it can and kills every process at once.
func (u *unit) killAll(ctx context.Context, w *world.World, r *result) error {
	if err := six(w, 0); err != nil {
		return err
	}
	if err := up(ctx, w, 3); err != nil {
		return err
	}
	t := &trap{w: w, r: r, book: oracle.NewBook(), a: w.Node("a"), b: w.Node("b")}
	for i := range people {
		name, pass := user(i)
		t.people = append(t.people, oracle.NewPerson(t.book, oracle.NewSession(t.book, name, pass, doors(t.a, t.b)...), u.Seed*10+uint64(i))) //nolint:gosec // a small number
	}
	t.queue(ctx, (u.Jobs+people-1)/people, oracle.Slow)
	begin := time.Now()
	if err := t.killAll(ctx); err != nil {
		return err
	}
	back := time.Since(begin)
	t.drain(ctx, time.Duration(u.Jobs)*2*time.Second+time.Minute)
	r.Verdict = t.book.Judge(ctx, doors(t.a, t.b), participants(), nil, nil)
	r.Lines = append(r.Lines, fmt.Sprintf("killall accepted=%d lost=%d duplicated=%d misplaced=%d violations=%d unknown=%d back_s=%.1f", r.Jobs, r.Lost, r.Duplicated, r.Misplaced, r.Violations, r.Unknown, back.Seconds()))
	return ctx.Err()
}
