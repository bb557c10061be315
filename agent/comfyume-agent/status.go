package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"path"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/ahelme/comfyume/agent"
)

type statusCommand struct {
	Watch bool `short:"w" help:"Go on showing it, once a second, until Ctrl-C."`
}

// Run prints one screen. It exits 3 when the node is not ready or degraded
// and 5 when there is no leader, so that scripts can tell.
func (s *statusCommand) Run(ctx context.Context, t *terminal, g *grammar) error {
	c, err := connect(t, g)
	if err != nil {
		return err
	}
	if !s.Watch {
		return s.once(ctx, c, t, g.JSON)
	}
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt)
	defer stop()
	for {
		if !g.JSON {
			fmt.Fprint(t.out, "\x1b[H\x1b[2J")
		}
		var quiet *exit
		if err := s.once(ctx, c, t, g.JSON); err != nil && ctx.Err() == nil && (!errors.As(err, &quiet) || quiet.code == exitUnreachable) {
			fmt.Fprintln(t.err, err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Second):
		}
	}
}

func (*statusCommand) once(ctx context.Context, c *client, t *terminal, asJSON bool) error {
	status, raw, err := c.raw(ctx, http.MethodGet, "/api/status", nil, nil)
	if err != nil {
		return err
	}
	if status != http.StatusOK {
		return refusal(status, raw)
	}
	var v agent.View
	if err := json.Unmarshal(raw, &v); err != nil {
		return fmt.Errorf("read the agent's answer: %w", err)
	}
	if asJSON {
		if _, err := t.out.Write(raw); err != nil {
			return err
		}
	} else if err := screen(t.out, v); err != nil {
		return err
	}
	switch {
	case v.Head.Leader == "":
		return &exit{code: exitNoLeader}
	case !v.Head.Ready || len(v.Head.Degraded) > 0:
		return &exit{code: exitDegraded}
	}
	return nil
}

// screen writes everything that matters in one look.
func screen(out io.Writer, v agent.View) error {
	state := "ready"
	if !v.Head.Ready {
		state = "NOT READY"
	} else if len(v.Head.Degraded) > 0 {
		state = "ready, but degraded: " + strings.Join(v.Head.Degraded, ", ")
	}
	queue := "queue running"
	if v.Head.Paused {
		queue = "queue PAUSED"
	}
	fmt.Fprintf(out, "workshop   %s   %s   %s, %s\n", leader(v), state, queue, orDash(v.Head.Mode))
	notes(out, v)
	if v.Head.Survives != "" {
		fmt.Fprintf(out, "survives   %s\n", v.Head.Survives)
	}
	held(out, v)
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	nodeTable(w, v)
	if err := w.Flush(); err != nil {
		return err
	}
	workerTable(w, v.Workers)
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(out, "QUEUE      %d waiting, %d running, %d done, %d failed, %d cancelled\n", v.Counts.Waiting, v.Counts.Running, v.Counts.Done, v.Counts.Failed, v.Counts.Cancelled)
	fmt.Fprintf(out, "PEOPLE     %d of %d online\n", v.Counts.Online, v.Counts.People)
	for _, b := range v.Backups {
		fmt.Fprintf(out, "BACKUP     %s\n", backupWords(b))
	}
	for _, k := range v.Workers {
		for _, l := range k.Lacks {
			fmt.Fprintf(out, "- %s lacks for template %s\n", k.ID, l)
		}
	}
	for _, p := range v.Attention {
		what := p.What
		if p.User != "" {
			what = string(p.User) + ": " + what
		}
		if p.Cure != "" {
			what += "   -> " + p.Cure
		}
		fmt.Fprintf(out, "! %s\n", what)
	}
	return nil
}

// backupWords say how the backups in a place are.
func backupWords(b agent.BackupState) string {
	text := b.Place + ": none yet"
	if b.Made > 0 {
		text = fmt.Sprintf("%s: %s, %s, %s", b.Place, humanize.Time(time.UnixMilli(b.Made)), count(b.Files, "file", "files"), humanize.Bytes(uint64(max(0, b.Bytes))))
	}
	if b.Proven > 0 {
		text += ", last proven restore " + time.UnixMilli(b.Proven).Format(time.DateTime)
	} else {
		text += ", no restore proven yet"
	}
	if b.Problem != "" {
		text += "; " + b.Problem
	}
	return text
}

// resident names the first of the models in a GPU's memory.
func resident(models []string) string {
	switch len(models) {
	case 0:
		return "-"
	case 1:
		return path.Base(models[0])
	}
	return fmt.Sprintf("%s and %d more", path.Base(models[0]), len(models)-1)
}

// swaps says how often models were loaded, and how long that took.
func swaps(k agent.Worker) string {
	if k.Loading == 0 {
		return strconv.Itoa(k.Swaps)
	}
	return fmt.Sprintf("%d, %d s", k.Swaps, k.Loading)
}

// workerTable writes one line per ComfyUI process.
func workerTable(w *tabwriter.Writer, all []agent.Worker) {
	fmt.Fprintln(w, "WORKER\tSTATE\tCOMFYUI\tDEVICE\tVRAM\tLOAD\tHEAT\tMODELS\tSWAPS/H\tJOB")
	for _, k := range all {
		job, vram := "-", "-"
		if k.Job != nil {
			job = k.Job.String()
			if k.Percent >= 0 {
				job += fmt.Sprintf(" %d %%", k.Percent)
			}
		}
		if k.VRAM > 0 {
			vram = humanize.Bytes(uint64(k.VRAM))
		}
		load, heat := "-", "-"
		if k.Load >= 0 && k.Heat >= 0 && k.Load+k.Heat > 0 {
			load, heat = fmt.Sprintf("%d %%", k.Load), fmt.Sprintf("%d C", k.Heat)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", k.ID, k.State, orDash(k.ComfyUI), orDash(k.Device), vram, load, heat, resident(k.Models), swaps(k), job)
	}
}
