package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/ahelme/comfyume/agent/chaos/oracle"
	"github.com/ahelme/comfyume/agent/chaos/world"
)

// joinWithin is how soon a machine that joined must have begun its first job.
const joinWithin = 5 * time.Second

// join starts a workshop by three commands and lets two machines join that run
// jobs, by one command each.
func (u *unit) join(ctx context.Context, w *world.World, r *result) error {
	for _, o := range []world.Options{{Name: "a", Roles: "gateway,queue"}, {Name: "b", Roles: "gateway,queue"}, {Name: "c", Roles: "queue"}, {Name: "g1", Roles: "gpu"}, {Name: "g2", Roles: "gpu"}} {
		if _, err := w.Add(o); err != nil {
			return err
		}
	}
	begin := time.Now()
	if err := w.Start(w.Node("a"), w.Node("b"), w.Node("c")); err != nil {
		return err
	}
	if err := w.Formed(ctx, 3, 90*time.Second); err != nil {
		return err
	}
	formed := time.Since(begin)
	if err := ready(ctx, w, 3, 90*time.Second); err != nil { // the doors open when the accounts are entered
		return err
	}
	book := oracle.NewBook()
	name, pass := user(1)
	p := oracle.NewPerson(book, oracle.NewSession(book, name, pass, doors(w.Nodes()...)...), u.Seed)
	// The first job waits at the door until it is known what can be run.
	if err := w.Start(w.Node("g1")); err != nil {
		return err
	}
	bounded, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	for range 6 {
		j := p.NewJob(oracle.Slow)
		j.Seconds = 4
		p.Submit(bounded, j)
	}
	if err := w.Start(w.Node("g2")); err != nil {
		return err
	}
	var took []time.Duration
	for _, n := range []*world.Node{w.Node("g1"), w.Node("g2")} {
		d, err := firstJob(ctx, n)
		if err != nil {
			return err
		}
		took = append(took, d)
		if d > joinWithin {
			book.Violate("%s began its first job %.1f s after its ComfyUI was up", n.Name, d.Seconds())
		}
	}
	if err := book.Drained(ctx, doors(w.Nodes()...), participants(), time.Minute); err != nil {
		r.Notes = append(r.Notes, err.Error())
	}
	r.Verdict = book.Judge(ctx, doors(w.Nodes()...), participants(), nil, nil)
	r.Lines = append(r.Lines, fmt.Sprintf("join formed_s=%.1f first_job_after_comfyui_s=%.2f second_machine_s=%.2f jobs=%d lost=%d", formed.Seconds(), took[0].Seconds(), took[1].Seconds(), r.Jobs, r.Lost))
	return ctx.Err()
}

// firstJob is how long after its ComfyUI answered a machine began a job.
func firstJob(ctx context.Context, n *world.Node) (d time.Duration, err error) {
	return d, world.Until(ctx, time.Minute, n.Name+" has begun a job", func(context.Context) error {
		raw, err := os.ReadFile(n.LogPath())
		if err != nil {
			return err
		}
		var connected, taken time.Time
		for line := range bytes.Lines(raw) {
			var l struct {
				Time time.Time
				Msg  string
			}
			if json.Unmarshal(line, &l) != nil {
				continue
			}
			switch {
			case l.Msg == "connected to ComfyUI" && connected.IsZero():
				connected = l.Time
			case l.Msg == "job taken" && taken.IsZero():
				taken = l.Time
			}
		}
		if taken.IsZero() {
			return errors.New("it has not")
		}
		d = taken.Sub(connected)
		return nil
	})
}
