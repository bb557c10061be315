package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"text/tabwriter"

	"github.com/dustin/go-humanize"

	"github.com/ahelme/comfyume/agent"
)

type diskCommand struct {
	Block bool   `help:"For scripts: measure this machine's disk and exit 1 if it is 90 % full or more. No agent needs to run."`
	Path  string `arg:"" optional:"" type:"path" help:"With --block: a folder on the disk to measure. Default: the state folder."`
}

// Run lists the disks of all machines, or measures this one's.
func (d *diskCommand) Run(ctx context.Context, t *terminal, g *grammar) error {
	if d.Block {
		return d.block(t, g)
	}
	if d.Path != "" {
		return &exit{exitUsage, "a folder is measured with --block; without it the machines of the workshop are listed"}
	}
	v, err := diskView(ctx, t, g)
	if err != nil {
		return err
	}
	if g.JSON {
		return emit(t.out, struct {
			Nodes []agent.Node `json:"nodes"`
		}{v.Nodes})
	}
	notes(t.err, v)
	w := tabwriter.NewWriter(t.out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "NODE\tUSED\tFREE\tTOTAL\t90 % FULL\tFILES\tSIZE\tBEING WRITTEN\tTRASH\tDAMAGED\tMISSING\tREAD AGAIN")
	for _, n := range v.Nodes {
		diskRow(w, n)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return risk(t, v)
}

// risk says how many files are on one machine only.
func risk(t *terminal, v agent.View) error {
	var keepers []string
	for _, n := range v.Nodes {
		if n.Space != nil && n.Space.Keeper {
			keepers = append(keepers, n.Name)
		}
	}
	var err error
	switch {
	case len(keepers) == 1:
		_, err = fmt.Fprintf(t.out, "at risk: %s, only %s keeps files\n", count(v.Counts.AtRisk, "file", "files"), keepers[0])
	case len(keepers) > 1:
		_, err = fmt.Fprintf(t.out, "at risk: %s that only one of the machines that answer has\n", count(v.Counts.AtRisk, "file", "files"))
	}
	return err
}

// diskView is what the agent shows, or this machine alone while none runs.
func diskView(ctx context.Context, t *terminal, g *grammar) (v agent.View, err error) {
	c, err := connect(t, g)
	if err == nil {
		v, err = c.view(ctx)
	}
	var away *exit
	if !errors.As(err, &away) || away.code != exitUnreachable {
		return v, err
	}
	dir := stateDir(t, g)
	s, merr := agent.MeasureDisk(dir)
	if merr != nil {
		return v, err // that no agent runs is what there is to say
	}
	fmt.Fprintf(t.err, "no agent answers here: only the disk of %s is shown\n", dir)
	v.Nodes = []agent.Node{{Name: "this machine", Disk: s.Used, Space: &s}}
	return v, nil
}

func diskRow(w *tabwriter.Writer, n agent.Node) {
	s := n.Space
	if s == nil || s.Used < 0 {
		fmt.Fprintf(w, "%s\t-\t-\t-\t-\t-\t-\t-\t-\t-\t-\t-\n", n.Name)
		return
	}
	kept := "-\t-\t-\t-\t-\t-\t-"
	if s.Keeper || s.Blobs > 0 {
		kept = fmt.Sprintf("%d\t%s\t%d\t%d\t%d\t%d\t%s", s.Blobs, size(s.Bytes), s.Partial, s.Trash, s.Damaged, s.Missing, orDash(moment(s.Scrubbed)))
	}
	fmt.Fprintf(w, "%s\t%d %%\t%s\t%s\t%s\t%s\n", n.Name, s.Used, size(s.Free), size(s.Total), agent.FullWords(s.Full), kept)
}

// filesOf is what a person's files take, and may take.
func filesOf(p agent.Person) string {
	if p.Bound == 0 {
		return size(p.Disk)
	}
	return size(p.Disk) + " of " + size(p.Bound)
}

func size(n int64) string { return humanize.Bytes(uint64(max(0, n))) }

// block is one line and an exit code.
func (d *diskCommand) block(t *terminal, g *grammar) error {
	dir := d.Path
	if dir == "" {
		dir = stateDir(t, g)
	}
	s, err := agent.MeasureDisk(dir)
	if err != nil {
		return &exit{exitFailed, fmt.Sprintf("the disk of %s cannot be measured: %v", dir, err)}
	}
	line := strconv.Itoa(s.Used) + " % used, " + size(s.Free) + " of " + size(s.Total) + " free: " + dir
	if s.Used >= agent.DiskFull {
		return &exit{exitFailed, fmt.Sprintf("the disk is full: %s; the bound is %d %%", line, agent.DiskFull)}
	}
	return told(t, g, s, "%s", line)
}
