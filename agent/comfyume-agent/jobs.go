package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/ahelme/comfyume/agent"
)

type queueCommands struct {
	Ls queueList `cmd:"" help:"List the jobs that wait or run."`
}

type queueList struct {
	State string `placeholder:"STATE" help:"Only this state; 'all' adds the newest ended jobs."`
	User  string `placeholder:"NAME" help:"Only this user's."`
	Limit int    `placeholder:"N" help:"At most so many."`
}

// Run lists jobs, in queue order.
func (q *queueList) Run(ctx context.Context, t *terminal, g *grammar) error {
	c, err := connect(t, g)
	if err != nil {
		return err
	}
	query := url.Values{"state": {q.State}, "user": {q.User}, "limit": {strconv.Itoa(q.Limit)}}
	var list agent.JobList
	if err := c.get(ctx, "/api/jobs", query, &list); err != nil {
		return err
	}
	if g.JSON {
		return json.NewEncoder(t.out).Encode(list)
	}
	w := tabwriter.NewWriter(t.out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "#\tUSER\tSTATE\tWORKFLOW\tQUEUED\tWORKER\tPROGRESS\tID\tWHY")
	for _, j := range list.Jobs {
		place, progress := "-", "-"
		if j.Position > 0 {
			place = strconv.Itoa(j.Position)
		}
		if j.Percent >= 0 {
			progress = fmt.Sprintf("%d %%", j.Percent)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", place, j.User, j.State, orDash(j.Title), humanize.Time(time.UnixMilli(j.Created)), orDash(j.Worker), progress, j.Prompt, j.Reason)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if list.More > 0 {
		fmt.Fprintf(t.err, "and %d more\n", list.More)
	}
	return nil
}

type jobCommands struct {
	Show   jobShow   `cmd:"" help:"Show one job."`
	Cancel jobCancel `cmd:"" help:"Cancel one job."`
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
		return json.NewEncoder(t.out).Encode(r)
	}
	w := tabwriter.NewWriter(t.out, 0, 4, 2, ' ', 0)
	line := func(name, value string) {
		if value != "" && value != "0" {
			fmt.Fprintf(w, "%s\t%s\n", name, value)
		}
	}
	line("id", r.Job.Prompt)
	line("user", string(r.Job.User))
	line("state", string(r.Job.State))
	line("workflow", r.Job.Title)
	line("why", r.Job.Reason)
	line("worker", r.Job.Worker)
	line("attempt", strconv.FormatUint(r.Epoch, 10))
	line("lost attempts", strconv.Itoa(int(r.Job.Strikes)))
	line("outputs", strconv.FormatInt(r.Job.Outputs, 10))
	line("queued", moment(r.Job.Created))
	line("started", moment(r.Job.Started))
	line("ended", moment(r.Job.Ended))
	return w.Flush()
}

func moment(ms int64) string {
	if ms == 0 {
		return ""
	}
	return time.UnixMilli(ms).Format(time.DateTime)
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
	if g.JSON {
		return json.NewEncoder(t.out).Encode(id)
	}
	fmt.Fprintf(t.out, "cancelled %s\n", id)
	return nil
}
