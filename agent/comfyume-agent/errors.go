package main

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/ahelme/comfyume/agent"
)

type errorsCommand struct {
	Of string `arg:"" name:"user-or-id" help:"A user's name, or the error id that their dialog shows."`
}

// Run says what went wrong for a person, or behind an error id, and what to do.
func (e *errorsCommand) Run(ctx context.Context, t *terminal, g *grammar) error {
	c, err := connect(t, g)
	if err != nil {
		return err
	}
	var r agent.Troubles
	if err := c.get(ctx, "/api/troubles", url.Values{"of": {e.Of}}, &r); err != nil {
		return err
	}
	if g.JSON {
		return emit(t.out, r)
	}
	w := tabwriter.NewWriter(t.out, 0, 4, 2, ' ', 0)
	for _, q := range r.Requests {
		fmt.Fprintf(w, "%s\t%s\t%s %s\t%d\t%s\terror id %s, in the log of %s\n", time.UnixMilli(q.At).Format(time.TimeOnly), q.User, q.Method, q.Path, q.Status, q.Text, orDash(q.ID), q.Node)
		if q.Cure != "" {
			fmt.Fprintf(w, "\t\t-> %s\n", q.Cure)
		}
	}
	for _, j := range r.Jobs {
		fmt.Fprintf(w, "%s\t%s\tjob #%d %s\t%s\t%s\tid %s, worker %s\n", time.UnixMilli(j.Created).Format(time.TimeOnly), j.User, j.Number, j.Title, j.State, strings.ReplaceAll(j.Reason, "\n", " "), j.Prompt, orDash(j.Worker))
		if j.Cure != "" {
			fmt.Fprintf(w, "\t\t-> %s\n", j.Cure)
		}
	}
	if len(r.Requests)+len(r.Jobs) == 0 {
		fmt.Fprintf(w, "nothing went wrong for %s since the doors started\n", r.Of)
	}
	for _, n := range r.Silent {
		fmt.Fprintf(w, "node %s did not answer: what its door refused is missing here\n", n)
	}
	return w.Flush()
}
