package main

import (
	"context"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/ahelme/comfyume/agent"
)

type workerCommands struct {
	Ls      workerList    `cmd:"" help:"List the ComfyUIs of all machines."`
	Log     workerLog     `cmd:"" help:"Print what a worker's ComfyUI printed last, on whichever machine it is."`
	Restart workerRestart `cmd:"" help:"End a worker's ComfyUI and start it again. A job that runs there goes back to its place in the queue."`
	Stop    workerStop    `cmd:"" help:"End a worker's ComfyUI until it is started again."`
	Start   workerStart   `cmd:"" help:"Start a ComfyUI that was stopped."`
	Free    workerFree    `cmd:"" help:"Let an idle ComfyUI give the GPU's memory back."`
	Release workerRelease `cmd:"" help:"Let a worker that was put into quarantine have jobs again."`
}

type workerList struct{}

// Run lists the workers.
func (*workerList) Run(ctx context.Context, t *terminal, g *grammar) error {
	c, err := connect(t, g)
	if err != nil {
		return err
	}
	v, err := c.view(ctx)
	if err != nil {
		return err
	}
	if g.JSON {
		return emit(t.out, struct {
			Workers []agent.Worker `json:"workers"`
		}{v.Workers})
	}
	notes(t.err, v)
	w := tabwriter.NewWriter(t.out, 0, 4, 2, ' ', 0)
	workerTable(w, v.Workers)
	if err := w.Flush(); err != nil {
		return err
	}
	for _, k := range v.Workers {
		if k.Detail != "" {
			fmt.Fprintf(t.out, "%s: %s\n", k.ID, k.Detail)
		}
	}
	return nil
}

// named is the worker that a command is about.
type named struct {
	ID string `arg:"" help:"Worker, as worker ls calls it, e.g. verda-1/0."`
}

type workerLog struct {
	named
	Lines int `short:"n" default:"100" help:"How many lines; 0 = all that are kept (2000)."`
}

// Run prints the log.
func (l *workerLog) Run(ctx context.Context, t *terminal, g *grammar) error {
	c, err := connect(t, g)
	if err != nil {
		return err
	}
	var p agent.Printed
	if err := c.get(ctx, "/api/worker/log", url.Values{"worker": {l.ID}, "lines": {strconv.Itoa(l.Lines)}}, &p); err != nil {
		return err
	}
	if g.JSON {
		return emit(t.out, p)
	}
	for _, line := range p.Lines {
		fmt.Fprintf(t.out, "%s %s\n", time.UnixMilli(line.At).Format(time.TimeOnly), line.Text)
	}
	return nil
}

// ask sends one of the acts.
func (n *named) ask(ctx context.Context, t *terminal, g *grammar, verb agent.Verb, done string) error {
	c, err := connect(t, g)
	if err != nil {
		return err
	}
	if !strings.Contains(n.ID, "/") {
		return &exit{exitUsage, fmt.Sprintf("%q is no worker: a worker is called NODE/NUMBER, see worker ls", n.ID)}
	}
	if err := c.act(ctx, agent.Action{Verb: verb, Worker: agent.WorkerID(n.ID)}); err != nil {
		return err
	}
	return told(t, g, map[string]string{"worker": n.ID, "done": string(verb)}, done, n.ID)
}

type workerRestart struct{ named }

// Run restarts.
func (w *workerRestart) Run(ctx context.Context, t *terminal, g *grammar) error {
	return w.ask(ctx, t, g, agent.RestartWorker, "ComfyUI of %s restarts; see worker ls")
}

type workerStop struct{ named }

// Run stops.
func (w *workerStop) Run(ctx context.Context, t *terminal, g *grammar) error {
	return w.ask(ctx, t, g, agent.StopWorker, "ComfyUI of %s is stopped until worker start")
}

type workerStart struct{ named }

// Run starts.
func (w *workerStart) Run(ctx context.Context, t *terminal, g *grammar) error {
	return w.ask(ctx, t, g, agent.StartWorker, "ComfyUI of %s starts; see worker ls")
}

type workerFree struct{ named }

// Run frees.
func (w *workerFree) Run(ctx context.Context, t *terminal, g *grammar) error {
	return w.ask(ctx, t, g, agent.FreeWorker, "the GPU's memory of %s is free; the next job loads its models anew")
}

type workerRelease struct{ named }

// Run releases.
func (w *workerRelease) Run(ctx context.Context, t *terminal, g *grammar) error {
	return w.ask(ctx, t, g, agent.ReleaseWorker, "%s takes jobs again")
}
