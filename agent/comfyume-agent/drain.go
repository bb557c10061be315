package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"

	"github.com/ahelme/comfyume/agent"
)

type nodeDrain struct {
	Name     string        `arg:"" help:"Name or id of the node, or the beginning of one."`
	Undo     bool          `help:"Let it have jobs again."`
	Deadline time.Duration `placeholder:"10m" help:"Stop waiting after so long and exit 1. The drain stays on."`
	HandBack bool          `name:"hand-back" help:"At the deadline jobs that still run there go back to their place in the queue and start again elsewhere. The machine sees to it itself, also when this command is ended."`
}

// drainEvery is how often a waiting drain looks, and drainSays how often it
// says at least how far it is.
const (
	drainEvery = 500 * time.Millisecond
	drainSays  = 30 * time.Second
)

// handBackWithin is how long giving jobs back may take.
const handBackWithin = 10 * time.Second

// drained is what node drain answers with --json.
type drained struct {
	Node    string   `json:"node"`
	Drained bool     `json:"drained"` // it gets no new jobs
	Running []string `json:"running"` // USER/ID of what still runs there
	Waiting int      `json:"waiting"` // jobs in the whole queue
	Took    float64  `json:"took_s"`
}

// Run drains a node, or ends the drain. Ctrl-C ends the waiting and not the
// drain.
func (d *nodeDrain) Run(ctx context.Context, t *terminal, g *grammar) error {
	c, err := connect(t, g)
	if err != nil {
		return err
	}
	v, err := c.view(ctx)
	if err != nil {
		return err
	}
	n, err := findNode(v, d.Name)
	if err != nil {
		return err
	}
	if d.Undo {
		if err := c.act(ctx, agent.Action{Verb: agent.UndrainNode, Node: string(n.ID)}); err != nil {
			return err
		}
		text := "%s gets jobs again"
		if n.Drained == "" {
			text = "%s was not drained"
		}
		return told(t, g, drained{Node: n.Name, Running: []string{}, Waiting: v.Counts.Waiting}, text, n.Name)
	}
	act := agent.Action{Verb: agent.DrainNode, Node: string(n.ID)}
	if d.HandBack {
		act.Within = max(d.Deadline.Milliseconds(), 1)
		d.Deadline += handBackWithin
	}
	if err := c.act(ctx, act); err != nil {
		return err
	}
	return d.wait(ctx, c, t, g, n)
}

// wait looks until no job is left on the node.
func (d *nodeDrain) wait(ctx context.Context, c *client, t *terminal, g *grammar, n agent.Node) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt)
	defer stop()
	begun := time.Now()
	var v agent.View // the newest
	said, saidAt := "", begun
	for {
		newer, err := c.view(ctx)
		switch {
		case ctx.Err() != nil:
			return &exit{exitFailed, fmt.Sprintf("%s: not waiting any longer, %s; the drain stays on", n.Name, remaining(jobsOn(v, n)))}
		case err != nil && !passes(err):
			return err
		case err == nil:
			v = newer
		}
		at := jobsOn(v, n)
		switch ids := strings.Join(idsOf(at), " "); {
		case err != nil:
		case len(at) == 0:
			return d.done(t, g, v, n, time.Since(begun))
		case ids != said || time.Since(saidAt) > drainSays:
			said, saidAt = ids, time.Now()
			fmt.Fprintf(t.err, "%s: no new jobs; %s. Ctrl-C leaves the drain on.\n", n.Name, remaining(at))
		}
		if d.Deadline > 0 && time.Since(begun) > d.Deadline {
			return d.late(t, g, v, n, time.Since(begun))
		}
		select {
		case <-ctx.Done():
		case <-time.After(drainEvery):
		}
	}
}

// passes reports whether an error may be over in a moment: an agent that
// restarts, a leader that is being chosen.
func passes(err error) bool {
	var e *exit
	if errors.As(err, &e) {
		return e.code == exitUnreachable
	}
	return agent.CodeOf(err) == agent.Unavailable || agent.CodeOf(err) == agent.NoLeader
}

// done says that nothing runs there any more, and who is left to run the rest.
func (d *nodeDrain) done(t *terminal, g *grammar, v agent.View, n agent.Node, took time.Duration) error {
	if g.JSON {
		return emit(t.out, drained{Node: n.Name, Drained: true, Running: []string{}, Waiting: v.Counts.Waiting, Took: took.Seconds()})
	}
	fmt.Fprintf(t.out, "%s is drained", n.Name)
	if took > drainEvery {
		fmt.Fprintf(t.out, " after %s", age(took.Milliseconds()))
	}
	others := slices.ContainsFunc(v.Workers, func(w agent.Worker) bool {
		return w.Node != n.Name && agent.Answers(w) && !slices.ContainsFunc(v.Nodes, func(o agent.Node) bool { return o.Name == w.Node && o.Drained != "" })
	})
	fmt.Fprintf(t.out, "; %s", count(v.Counts.Waiting, "job waits", "jobs wait"))
	if !others {
		fmt.Fprint(t.out, ", and no other worker takes jobs")
	}
	fmt.Fprintln(t.out)
	return nil
}

func (d *nodeDrain) late(t *terminal, g *grammar, v agent.View, n agent.Node, took time.Duration) error {
	at := jobsOn(v, n)
	if g.JSON {
		if err := emit(t.out, drained{Node: n.Name, Drained: true, Running: idsOf(at), Waiting: v.Counts.Waiting, Took: took.Seconds()}); err != nil {
			return err
		}
	}
	return &exit{exitFailed, fmt.Sprintf("%s: %s after %s; the drain stays on. Wait on with the same command, cancel the jobs, or end the drain with --undo", n.Name, remaining(at), d.Deadline)}
}

// jobsOn are the jobs that a node's workers hold.
func jobsOn(v agent.View, n agent.Node) (out []agent.Job) {
	for _, j := range v.Queue {
		held := slices.ContainsFunc(v.Workers, func(w agent.Worker) bool { return string(w.ID) == j.Worker && w.Node == n.Name })
		if j.State.Active() && (held || strings.HasPrefix(j.Worker, n.Name+"/")) {
			out = append(out, j)
		}
	}
	return out
}

func idsOf(all []agent.Job) []string {
	out := make([]string, len(all))
	for i, j := range all {
		out[i] = fmt.Sprintf("%s/%s", j.User, j.Prompt)
	}
	return out
}

// maxNamed bounds the jobs that are named in a sentence.
const maxNamed = 4

// remaining is "2 still there (user004 LTX-2 42 %, user011 Flux)".
func remaining(all []agent.Job) string {
	names := make([]string, len(all))
	for i, j := range all {
		names[i] = strings.TrimSpace(fmt.Sprintf("%s %s", j.User, j.Title))
		if j.Percent >= 0 {
			names[i] += fmt.Sprintf(" %d %%", j.Percent)
		}
	}
	if len(all) == 0 {
		return "no job left there"
	}
	return fmt.Sprintf("%s still there (%s)", count(len(all), "job", "jobs"), short(names, maxNamed))
}
