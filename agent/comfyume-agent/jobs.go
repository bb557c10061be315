package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/ahelme/comfyume/agent"
)

type jobCommands struct {
	Show   jobShow   `cmd:"" help:"Show one job."`
	Cancel jobCancel `cmd:"" help:"Cancel one job."`
	Retry  jobRetry  `cmd:"" help:"Queue an ended job's workflow again, for its user; prints the new id."`
	Now    jobNow    `cmd:"" help:"Have waiting jobs begin now: a running job that loses little is stopped and put back at its place."`
	Move   jobMove   `cmd:"" help:"Move waiting jobs to the front, in the order in which they are named."`
}

type jobShow struct {
	ID string `arg:"" help:"Prompt id, its beginning, or USER/ID."`
}

// Run shows a job's row.
func (j *jobShow) Run(ctx context.Context, t *terminal, g *grammar) error {
	c, err := connect(t, g)
	if err != nil {
		return err
	}
	var r agent.JobReport
	if err := c.get(ctx, "/api/job", url.Values{"id": {j.ID}}, &r); err != nil {
		return err
	}
	if g.JSON {
		return emit(t.out, r)
	}
	w := tabwriter.NewWriter(t.out, 0, 4, 2, ' ', 0)
	describeJob(w, r)
	return w.Flush()
}

func describeJob(w *tabwriter.Writer, r agent.JobReport) {
	line := func(name, value string) {
		if value != "" && value != "0" {
			fmt.Fprintf(w, "%s\t%s\n", name, value)
		}
	}
	line("id", r.Job.Prompt)
	line("user", string(r.Job.User))
	line("state", string(r.Job.State))
	line("place", strconv.Itoa(r.Job.Position))
	if r.Job.State.Waiting() && r.Job.Start > 0 {
		line("begins", time.UnixMilli(r.Job.Start).Format("15:04:05")+", runs about "+runs(r.Job))
	}
	line("workflow", r.Job.Title)
	line("why", r.Job.Reason)
	line("worker", r.Job.Worker)
	if r.Job.Percent >= 0 {
		line("progress", fmt.Sprintf("%d %%, node %s", r.Job.Percent, orDash(r.Job.At)))
	}
	line("attempt", strconv.FormatUint(r.Epoch, 10))
	line("before on", strings.Join(r.Past, ", "))
	line("lost attempts", strconv.Itoa(int(r.Job.Strikes)))
	line("outputs", strconv.FormatInt(r.Job.Outputs, 10))
	line("queued", moment(r.Job.Created))
	line("started", moment(r.Job.Started))
	line("ended", moment(r.Job.Ended))
	switch r.Job.Copies {
	case 1:
		line("safe", "on one machine only so far")
	case 2:
		line("safe", "on two machines")
	}
	for _, o := range r.Orphans {
		line("late result", fmt.Sprintf("attempt %d on %s: %s, %s, came %s; kept for a day, shown to nobody", o.Epoch, o.Worker, o.State, count(int(o.Outputs), "output", "outputs"), moment(o.At)))
	}
}

type jobCancel struct {
	ID string `arg:"" help:"Prompt id, its beginning, or USER/ID."`
}

// Run cancels a job.
func (j *jobCancel) Run(ctx context.Context, t *terminal, g *grammar) error {
	c, err := connect(t, g)
	if err != nil {
		return err
	}
	var id agent.JobID
	if err := c.post(ctx, "/api/job/cancel", url.Values{"id": {j.ID}}, struct{}{}, &id); err != nil {
		return err
	}
	return told(t, g, id, "cancelled %s", id)
}

type jobRetry struct {
	ID string `arg:"" help:"Prompt id, its beginning, or USER/ID."`
}

// Run queues a job again.
func (j *jobRetry) Run(ctx context.Context, t *terminal, g *grammar) error {
	c, err := connect(t, g)
	if err != nil {
		return err
	}
	var id agent.JobID
	if err := c.post(ctx, "/api/job/retry", url.Values{"id": {j.ID}}, struct{}{}, &id); err != nil {
		return err
	}
	return told(t, g, id, "%s", id.Prompt)
}

type jobMove struct {
	IDs   []string `arg:"" name:"id" help:"Prompt ids, their beginnings, or USER/ID."`
	First bool     `help:"To the very front, in every mode."`
}

// Validate wants to know where to.
func (j *jobMove) Validate() error {
	if !j.First {
		return errors.New("say where to: --first")
	}
	return nil
}

// Run moves jobs to the front.
func (j *jobMove) Run(ctx context.Context, t *terminal, g *grammar) error {
	return moveJobs(ctx, t, g, j.IDs, agent.FrontJobs, "moved to the front: %s")
}

type jobNow struct {
	IDs []string `arg:"" name:"id" help:"Prompt ids, their beginnings, or USER/ID."`
}

// Run has jobs begin now.
func (j *jobNow) Run(ctx context.Context, t *terminal, g *grammar) error {
	return moveJobs(ctx, t, g, j.IDs, agent.NowJobs, "begins as soon as a GPU is free, running jobs are stopped for it: %s")
}

// moveJobs moves jobs. All must wait: what is said to have moved, has.
func moveJobs(ctx context.Context, t *terminal, g *grammar, ids []string, verb agent.Verb, said string) error {
	c, err := connect(t, g)
	if err != nil {
		return err
	}
	moved := struct {
		Jobs []agent.JobID `json:"jobs"`
	}{}
	var names []string
	for _, id := range ids {
		var r agent.JobReport
		if err := c.get(ctx, "/api/job", url.Values{"id": {id}}, &r); err != nil {
			return err
		}
		switch {
		case r.Job.State == agent.Held:
			return &exit{exitFailed, fmt.Sprintf("job %s/%s is held until its user signs in again and has no place in the queue; nothing was moved", r.Job.User, r.Job.Prompt)}
		case !r.Job.State.Waiting():
			return &exit{exitFailed, fmt.Sprintf("job %s/%s does not wait any more, it is %s; nothing was moved", r.Job.User, r.Job.Prompt, r.Job.State)}
		}
		key := agent.JobID{User: r.Job.User, Prompt: r.Job.Prompt}
		moved.Jobs, names = append(moved.Jobs, key), append(names, key.String())
	}
	if err := c.act(ctx, agent.Action{Verb: verb, Jobs: moved.Jobs}); err != nil {
		return err
	}
	return told(t, g, moved, said, strings.Join(names, ", "))
}
