package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/ahelme/comfyume/agent"
)

type backupRestore struct {
	asking
	withKit
	Name  string `arg:"" optional:"" help:"Which one, as backup ls names it, or a time (\"2026-03-01 14:30\"): the newest one from before. Default: the newest."`
	User  string `placeholder:"NAME" help:"Only this person's files: they come back beside what the person has now, nothing is replaced."`
	File  string `placeholder:"PATH" help:"Only this file or folder of theirs, e.g. output/film.mp4 or documents/workflows."`
	Plain string `placeholder:"FOLDER" help:"Change nothing in the workshop: write the files under their own names into this folder. Needs no running agent and no key."`
	At    string `name:"place" placeholder:"PLACE" help:"From which place, or a part of its name. Default: the first."`
}

// Run restores into a folder, into the running workshop, or prepares an empty
// machine to be the one that was lost.
func (r *backupRestore) Run(ctx context.Context, t *terminal, g *grammar) error {
	v, err := r.values(t, g)
	if err != nil {
		return err
	}
	if r.Plain != "" {
		return r.plain(ctx, t, g, v)
	}
	if r.User != "" || r.File != "" {
		return r.person(ctx, t, g)
	}
	c, err := connect(t, g)
	var gone *exit
	if errors.As(err, &gone) && gone.code == exitUnreachable {
		return r.machine(ctx, t, g, v)
	}
	if err != nil {
		return err
	}
	c = c.patient()
	var said struct {
		Text string `json:"text"`
	}
	ask := backupAsked{Name: r.Name, Place: r.At, Key: v.RecoveryKey()}
	if err := c.post(ctx, "/api/backup/restore", nil, ask, &said); err != nil {
		return err
	}
	fmt.Fprintln(t.err, said.Text)
	if err := r.confirm(t, "Put the workshop back, everywhere?"); err != nil {
		return err
	}
	ask.Confirm = true
	if err := c.post(ctx, "/api/backup/restore", nil, ask, &said); err != nil {
		return err
	}
	return told(t, g, said, "%s Files are read from the backup as they are asked for, and copied here by and by.", said.Text)
}

// person brings files of one person back into the running workshop.
func (r *backupRestore) person(ctx context.Context, t *terminal, g *grammar) error {
	c, err := connect(t, g)
	if err != nil {
		return err
	}
	var out agent.BackupFiles
	if err := c.patient().post(ctx, "/api/backup/files", nil, backupAsked{Name: r.Name, Place: r.At, User: r.User, Path: r.File}, &out); err != nil {
		return err
	}
	for _, one := range out.Renamed {
		fmt.Fprintln(t.err, "another file has the name now:", one)
	}
	for _, one := range out.Failed {
		fmt.Fprintln(t.err, "not restored:", one)
	}
	if err := told(t, g, out, "backup %s: %s of %s came back, %d were there already", out.Backup, count(out.Taken, "file", "files"), r.User, out.Already); err != nil {
		return err
	}
	if len(out.Failed) > 0 {
		return &exit{exitFailed, count(len(out.Failed), "file was", "files were") + " not restored: the reasons stand above; try an older backup"}
	}
	return nil
}

// machine makes an empty state folder that of the machine that made the backup.
func (r *backupRestore) machine(ctx context.Context, t *terminal, g *grammar, v *agent.Values) error {
	out, err := agent.RestoreMachine(ctx, v, r.Name)
	if err != nil {
		return &exit{exitFailed, err.Error()}
	}
	text := fmt.Sprintf("This machine is %s now, as of %s (backup %s, %s). Start the agent as it was started there", out.Node, humanize.Time(out.Made), out.Backup, count(out.Jobs, "job", "jobs"))
	if out.Env != "" {
		text += fmt.Sprintf("; its settings are in %s: comfyume-agent --env-file=%s", out.Env, out.Env)
	}
	return told(t, g, out, "%s. Do not start the old one as well, should it come back: empty its state folder first.", text)
}

func (r *backupRestore) plain(ctx context.Context, t *terminal, g *grammar, v *agent.Values) error {
	begin := time.Now()
	name, tally, err := agent.RestorePlain(ctx, v, r.Name, r.User, r.File, r.Plain)
	if err != nil {
		return &exit{exitFailed, err.Error()}
	}
	if n := len(tally.Mismatched); n > 0 {
		for _, p := range tally.Mismatched {
			fmt.Fprintln(t.err, "not restored:", p)
		}
		return &exit{exitFailed, fmt.Sprintf("%d of %d files of backup %s were not restored: they are damaged there, or another file of that name is in the folder. Try an older backup, or an empty folder", n, tally.Files, name)}
	}
	return told(t, g, tally, "%s of backup %s in %s (%s, every one compared, %s)", count(tally.Restored, "file", "files"), name, r.Plain, humanize.Bytes(uint64(max(0, tally.Bytes))), time.Since(begin).Round(time.Millisecond))
}
