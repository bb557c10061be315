package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/ahelme/comfyume/agent"
)

type queueCommands struct {
	Ls     queueList   `cmd:"" help:"List the jobs that wait or run."`
	Pause  queuePause  `cmd:"" help:"Start no new jobs: of everybody, of one user, or on one worker. What runs goes on to its end."`
	Resume queueResume `cmd:"" help:"End a pause."`
	Class  queueClass  `cmd:"" help:"Print or choose what the class does: free, demo, hands-off, sprint N, wind-down HH:MM."`
	Quota  queueQuota  `cmd:"" help:"Bound what a user may queue, have at work, use of the GPUs in 24 hours, and keep as files."`
	Boost  queueBoost  `cmd:"" help:"Let a user's jobs go before others' for a while."`
	Mode   queueMode   `cmd:"" help:"Print the rule by which waiting jobs are ordered, or choose it: fair, fifo, round-robin or priority."`
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
		return emit(t.out, list)
	}
	v, err := c.view(ctx)
	if err != nil {
		return err
	}
	notes(t.err, v)
	held(t.err, v)
	w := tabwriter.NewWriter(t.out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "#\tUSER\tSTATE\tWORKFLOW\tQUEUED\tBEGINS\tRUNS\tWORKER\tPROGRESS\tID\tWHY")
	for _, j := range list.Jobs {
		place, progress := "-", "-"
		if j.Position > 0 {
			place = strconv.Itoa(j.Position)
		}
		if j.Percent >= 0 {
			progress = fmt.Sprintf("%d %%", j.Percent)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", place, j.User, j.State, orDash(j.Title), humanize.Time(time.UnixMilli(j.Created)), begins(v.Now, j), runs(j), orDash(j.Worker), progress, j.Prompt, whyWaits(v, j))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if list.More > 0 {
		fmt.Fprintf(t.err, "and %d more\n", list.More)
	}
	return nil
}

// begins is in how long a waiting job is expected to start.
func begins(now int64, j agent.Job) string {
	if !j.State.Waiting() || j.Start == 0 {
		return "-"
	}
	return fmt.Sprintf("in %s", time.Duration(max(1, (j.Start-now)/1000))*time.Second)
}

// runs is how long it is expected to take then.
func runs(j agent.Job) string {
	if !j.State.Waiting() || j.Run == 0 {
		return "-"
	}
	return (time.Duration(max(1000, j.Load+j.Run)) * time.Millisecond).Round(time.Second).String()
}

// whyWaits is what holds a job up, and what one should know of it.
func whyWaits(v agent.View, j agent.Job) string {
	var out []string
	if j.Copies == 1 && !j.State.Ended() {
		out = append(out, "on one machine only")
	}
	if j.State.Waiting() && !strings.Contains(j.Reason, "paused") {
		out = append(out, pausedWhy(v, j.User))
	}
	out = append(out, j.Reason)
	return strings.Join(slices.DeleteFunc(out, func(s string) bool { return s == "" }), "; ")
}

// scoped is what a pause holds up, said in one of three ways.
type scoped struct {
	Scope  string `arg:"" optional:"" help:"all (the default), user/NAME or worker/ID."`
	User   string `placeholder:"NAME" help:"The same as user/NAME."`
	Worker string `placeholder:"ID" help:"The same as worker/ID."`
}

// Validate refuses two scopes at once.
func (s *scoped) Validate() error {
	given := 0
	for _, w := range []string{s.Scope, s.User, s.Worker} {
		if w != "" {
			given++
		}
	}
	if given > 1 {
		return errors.New("give one of SCOPE, --user and --worker")
	}
	if kind, name, _ := strings.Cut(s.scope(), "/"); kind != "all" && (kind != "user" && kind != "worker" || name == "") {
		return fmt.Errorf("%q cannot be paused: use all, user/NAME or worker/ID", s.Scope)
	}
	return nil
}

func (s *scoped) scope() string {
	switch {
	case s.User != "":
		return "user/" + s.User
	case s.Worker != "":
		return "worker/" + s.Worker
	case s.Scope != "":
		return s.Scope
	}
	return "all"
}

// check finds what the scope names: a pause of nobody would say that it worked.
func (s *scoped) check(v agent.View) error {
	kind, name, _ := strings.Cut(s.scope(), "/")
	switch {
	case kind == "user" && !slices.ContainsFunc(v.People, func(p agent.Person) bool { return string(p.Name) == name }):
		return &exit{exitNotFound, fmt.Sprintf("there is no user %q: see user ls", name)}
	case kind == "worker" && !slices.ContainsFunc(v.Workers, func(w agent.Worker) bool { return string(w.ID) == name }):
		return &exit{exitNotFound, fmt.Sprintf("there is no worker %q: see status", name)}
	}
	return nil
}

// what is the scope as people say it.
func (s *scoped) what() string {
	if s.scope() == "all" {
		return "the queue"
	}
	return s.scope()
}

func (s *scoped) paused(v agent.View) bool {
	return slices.ContainsFunc(v.Head.Pauses, func(p agent.Pause) bool { return p.Scope == s.scope() })
}

// pauseAnswer is what pause and resume say with --json.
type pauseAnswer struct {
	Scope  string `json:"scope"`
	Paused bool   `json:"paused"`
}

type queuePause struct {
	scoped
	Why string `placeholder:"TEXT" help:"Everybody who looks sees it."`
}

// maxWhy is the longest reason that is kept, in bytes.
const maxWhy = 200

// Run holds up a scope.
func (q *queuePause) Run(ctx context.Context, t *terminal, g *grammar) error {
	if len(q.Why) > maxWhy {
		return &exit{exitUsage, fmt.Sprintf("--why takes at most %d signs, this is %d", maxWhy, len(q.Why))}
	}
	c, err := connect(t, g)
	if err != nil {
		return err
	}
	v, err := c.view(ctx)
	if err != nil {
		return err
	}
	if err := q.check(v); err != nil {
		return err
	}
	if err := c.act(ctx, agent.Action{Verb: agent.PauseQueue, Scope: q.scope(), Why: q.Why}); err != nil {
		return err
	}
	resume := "comfyume-agent queue resume"
	if q.scope() != "all" {
		resume += " " + q.scope()
	}
	return told(t, g, pauseAnswer{q.scope(), true}, "%s is paused: jobs are accepted and wait, what runs goes on. End it with: %s", q.what(), resume)
}

type queueResume struct{ scoped }

// Run lets a scope go on.
func (q *queueResume) Run(ctx context.Context, t *terminal, g *grammar) error {
	c, err := connect(t, g)
	if err != nil {
		return err
	}
	v, err := c.view(ctx)
	if err != nil {
		return err
	}
	if !q.paused(v) {
		if err := q.check(v); err != nil {
			return err
		}
	}
	if err := c.act(ctx, agent.Action{Verb: agent.ResumeQueue, Scope: q.scope()}); err != nil {
		return err
	}
	if !g.JSON {
		for _, p := range v.Head.Pauses {
			if p.Scope != q.scope() {
				fmt.Fprintf(t.err, "still paused: %s\n", p.Scope)
			}
		}
	}
	if !q.paused(v) {
		return told(t, g, pauseAnswer{q.scope(), false}, "%s was not paused", q.what())
	}
	return told(t, g, pauseAnswer{q.scope(), false}, "%s goes on", q.what())
}

type queueMode struct {
	Mode string `arg:"" optional:"" help:"fair, fifo, round-robin or priority."`
}

// Run prints or chooses the mode. Which modes there are is the agent's to say.
func (q *queueMode) Run(ctx context.Context, t *terminal, g *grammar) error {
	c, err := connect(t, g)
	if err != nil {
		return err
	}
	if q.Mode != "" {
		if err := c.post(ctx, "/api/queue/mode", url.Values{"mode": {q.Mode}}, struct{}{}, nil); err != nil {
			return err
		}
	}
	v, err := c.view(ctx)
	if err != nil {
		return err
	}
	if !g.JSON {
		notes(t.err, v)
	}
	return told(t, g, map[string]string{"mode": v.Head.Mode}, "%s", v.Head.Mode)
}
