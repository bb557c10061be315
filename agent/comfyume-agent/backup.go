package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/ahelme/comfyume/agent"
)

type backupCommands struct {
	Init    backupInit    `cmd:"" help:"Prepare the folder of --keep for this workshop, once."`
	Run     backupRun     `cmd:"" help:"Make a backup now."`
	Ls      backupList    `cmd:"" help:"The backups, the newest first."`
	Verify  backupVerify  `cmd:"" help:"Read every byte of a backup and compare it with its digest."`
	Restore backupRestore `cmd:"" help:"Put the workshop back to a backup. Says first what is lost."`
}

type backupInit struct{}

// Run prepares the folder.
func (*backupInit) Run(ctx context.Context, t *terminal, g *grammar) error {
	c, err := connect(t, g)
	if err != nil {
		return err
	}
	var out agent.BackupList
	if err := c.post(ctx, "/api/backup/init", nil, struct{}{}, &out); err != nil {
		return err
	}
	if !g.JSON {
		fmt.Fprintln(t.err, "Its backups hold workflows, pictures and accounts with their password hashes: keep the folder private. They can be read without this program, see the guide.")
	}
	return told(t, g, out, "%s is ready; make the first backup: comfyume-agent backup run", out.Folder)
}

type backupRun struct{}

// Run makes one.
func (*backupRun) Run(ctx context.Context, t *terminal, g *grammar) error {
	c, err := connect(t, g)
	if err != nil {
		return err
	}
	var out agent.Backup
	if err := c.patient().post(ctx, "/api/backup/run", nil, struct{}{}, &out); err != nil {
		return err
	}
	return told(t, g, out, "made %s (%s, %s)", out.Name, count(out.Files, "file", "files"), humanize.Bytes(uint64(max(0, out.Bytes))))
}

type backupList struct{}

// Run lists them.
func (*backupList) Run(ctx context.Context, t *terminal, g *grammar) error {
	c, err := connect(t, g)
	if err != nil {
		return err
	}
	var out agent.BackupList
	if err := c.get(ctx, "/api/backup", nil, &out); err != nil {
		return err
	}
	if g.JSON {
		return emit(t.out, out)
	}
	if out.Problem != "" {
		fmt.Fprintln(t.err, out.Problem)
	}
	if len(out.Backups) == 0 {
		fmt.Fprintf(t.err, "there is no backup in %s yet: comfyume-agent backup run\n", out.Folder)
		return nil
	}
	w := tabwriter.NewWriter(t.out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tMADE\tBY\tFILES\tSIZE\tMISSING")
	for _, b := range out.Backups {
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%d\n", b.Name, b.Made.Local().Format(time.DateTime), b.Node, b.Files, humanize.Bytes(uint64(max(0, b.Bytes))), b.Missing)
	}
	return w.Flush()
}

type backupVerify struct {
	Name string `arg:"" optional:"" help:"Which one, as backup ls names it. Default: the newest."`
}

// Run reads one again.
func (v *backupVerify) Run(ctx context.Context, t *terminal, g *grammar) error {
	c, err := connect(t, g)
	if err != nil {
		return err
	}
	var out agent.BackupCheck
	if err := c.patient().post(ctx, "/api/backup/verify", url.Values{"name": {v.Name}}, struct{}{}, &out); err != nil {
		return err
	}
	if bad := len(out.Damaged) + out.Backup.Missing; bad > 0 {
		return &exit{exitFailed, fmt.Sprintf("backup %s is not whole: %d files are damaged or gone, %d were not to be had when it was made. The next backup copies them again where they still are: comfyume-agent backup run", out.Backup.Name, len(out.Damaged), out.Backup.Missing)}
	}
	return told(t, g, out, "%s is whole: %s, %s, every byte read", out.Backup.Name, count(out.Backup.Files, "file", "files"), humanize.Bytes(uint64(max(0, out.Backup.Bytes))))
}

type backupRestore struct {
	asking
	Name string `arg:"" optional:"" help:"Which one, as backup ls names it. Default: the newest."`
}

// Run says what is lost, asks, and goes back.
func (r *backupRestore) Run(ctx context.Context, t *terminal, g *grammar) error {
	c, err := connect(t, g)
	if err != nil {
		return err
	}
	c = c.patient()
	var said struct {
		Text string `json:"text"`
	}
	if err := c.call(ctx, http.MethodPost, "/api/backup/restore", url.Values{"name": {r.Name}}, []byte("{}"), &said); err != nil {
		return err
	}
	fmt.Fprintln(t.err, said.Text)
	if err := r.confirm(t, "Put the workshop back, everywhere?"); err != nil {
		return err
	}
	if err := c.call(ctx, http.MethodPost, "/api/backup/restore", url.Values{"name": {r.Name}, "confirm": {"true"}}, []byte("{}"), &said); err != nil {
		return err
	}
	return told(t, g, said, "%s Files are read from the backup as they are asked for, and copied here by and by.", said.Text)
}
