package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/ahelme/comfyume/agent"
)

type backupCommands struct {
	Init    backupInit    `cmd:"" help:"Prepare the places of --keep for this workshop, once, and print the recovery kit."`
	Run     backupRun     `cmd:"" help:"Make a backup now."`
	Ls      backupList    `cmd:"" help:"The backups, the newest first."`
	Status  backupStatus  `cmd:"" help:"How the backups of each place are, and when a restore was last proven."`
	Verify  backupVerify  `cmd:"" help:"Read every byte of a backup and compare it with its digest."`
	Drill   backupDrill   `cmd:"" help:"Prove a restore: bring everything back into an empty folder with the kit alone, and compare."`
	Restore backupRestore `cmd:"" help:"Put the workshop back to a backup; on an empty machine, make it the lost one; or write files into a folder."`
}

// backupAsked is the body of the requests.
type backupAsked struct {
	Name    string `json:"name,omitempty"`
	Place   string `json:"place,omitempty"`
	Key     string `json:"key,omitempty"`
	NewKit  bool   `json:"new_kit,omitempty"`
	Confirm bool   `json:"confirm,omitempty"`
	User    string `json:"user,omitempty"`
	Path    string `json:"path,omitempty"`
}

type backupInit struct {
	Kit    string `placeholder:"FILE" help:"Write the recovery kit into this new file instead of printing it."`
	NewKit bool   `help:"Make a new key although there is one: what is stored from now on needs the new kit."`
}

// Run prepares the places.
func (i *backupInit) Run(ctx context.Context, t *terminal, g *grammar) error {
	c, err := connect(t, g)
	if err != nil {
		return err
	}
	var file *os.File
	if i.Kit != "" { // before the key is made: it is shown once
		if file, err = os.OpenFile(i.Kit, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
			return &exit{exitUsage, fmt.Sprintf("the kit cannot be written: %v. Name a file that is not there yet; nothing was done", err)}
		}
		defer file.Close()
	}
	var out agent.BackupInit
	if err := c.patient().post(ctx, "/api/backup/init", nil, backupAsked{NewKit: i.NewKit}, &out); err != nil {
		if file != nil {
			err = errors.Join(err, os.Remove(i.Kit))
		}
		return err
	}
	if out.Problem != "" {
		fmt.Fprintf(t.err, "Not prepared: %s. When that is mended, say backup init again.\n", out.Problem)
	}
	switch {
	case out.Kit == "" && file != nil:
		if err := os.Remove(i.Kit); err != nil {
			return err
		}
		fmt.Fprintln(t.err, "No kit was written: the one that was made before stays valid. If nobody has it: comfyume-agent backup init --new-kit")
	case file != nil:
		_, err := file.WriteString(out.Kit)
		if err := errors.Join(err, file.Sync()); err != nil {
			return fmt.Errorf("write the kit: %w; make another with --new-kit", err)
		}
		out.Kit = ""
		fmt.Fprintf(t.err, "The recovery kit is in %s. Take it off this machine: whoever has it can read everything, and without it what is secret is lost with the machines.\n", i.Kit)
	case out.Kit != "" && !g.JSON:
		fmt.Fprintln(t.err, "The recovery kit follows. It is shown once: keep it off the machines of the workshop, whoever has it can read everything.")
		fmt.Fprint(t.out, out.Kit)
		fmt.Fprintln(t.err, "Without it what is secret in the backups is lost with the machines.")
		return nil
	}
	return told(t, g, out, "%s: ready; make the first backup: comfyume-agent backup run", strings.Join(out.Places, ", "))
}

type backupRun struct{}

// Run makes one.
func (*backupRun) Run(ctx context.Context, t *terminal, g *grammar) error {
	c, err := connect(t, g)
	if err != nil {
		return err
	}
	var out []agent.Backup
	if err := c.patient().post(ctx, "/api/backup/run", nil, backupAsked{}, &out); err != nil {
		return err
	}
	for _, b := range out {
		if err := told(t, g, b, "made %s (%s, %s) in %s", b.Name, count(b.Files, "file", "files"), humanize.Bytes(uint64(max(0, b.Bytes))), b.Place); err != nil {
			return err
		}
	}
	return nil
}

type backupList struct{}

// Run lists them.
func (*backupList) Run(ctx context.Context, t *terminal, g *grammar) error {
	c, err := connect(t, g)
	if err != nil {
		return err
	}
	var out agent.BackupList
	if err := c.patient().get(ctx, "/api/backup", nil, &out); err != nil {
		return err
	}
	if g.JSON {
		return emit(t.out, out)
	}
	if out.Problem != "" {
		fmt.Fprintln(t.err, out.Problem)
	}
	if len(out.Backups) == 0 {
		fmt.Fprintf(t.err, "there is no backup in %s yet: comfyume-agent backup run\n", strings.Join(out.Places, ", "))
		return nil
	}
	w := tabwriter.NewWriter(t.out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tMADE\tBY\tFILES\tSIZE\tMISSING\tPLACE")
	for _, b := range out.Backups {
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%d\t%s\n", b.Name, b.Made.Local().Format(time.DateTime), b.Node, b.Files, humanize.Bytes(uint64(max(0, b.Bytes))), b.Missing, b.Place)
	}
	return w.Flush()
}

type backupStatus struct{}

// Run shows each place. It exits 3 when one is not in order.
func (*backupStatus) Run(ctx context.Context, t *terminal, g *grammar) error {
	c, err := connect(t, g)
	if err != nil {
		return err
	}
	var out agent.BackupStates
	if err := c.get(ctx, "/api/backup/status", nil, &out); err != nil {
		return err
	}
	if g.JSON {
		return emit(t.out, out)
	}
	bad := false
	for _, b := range out.Places {
		fmt.Fprintln(t.out, backupWords(b))
		bad = bad || b.Problem != ""
	}
	for _, d := range out.Drills {
		fmt.Fprintln(t.out, d)
	}
	if bad {
		return &exit{code: exitDegraded}
	}
	return nil
}

type backupVerify struct {
	Name string `arg:"" optional:"" help:"Which one, as backup ls names it. Default: the newest."`
	At   string `name:"place" placeholder:"PLACE" help:"In which place, or a part of its name. Default: the first."`
}

// Run reads one again.
func (v *backupVerify) Run(ctx context.Context, t *terminal, g *grammar) error {
	c, err := connect(t, g)
	if err != nil {
		return err
	}
	var out agent.BackupCheck
	if err := c.patient().post(ctx, "/api/backup/verify", nil, backupAsked{Name: v.Name, Place: v.At}, &out); err != nil {
		return err
	}
	if bad := len(out.Damaged) + out.Backup.Missing; bad > 0 {
		return &exit{exitFailed, fmt.Sprintf("backup %s is not whole: %d files are damaged or gone, %d were not to be had when it was made. The next backup copies them again where they still are: comfyume-agent backup run", out.Backup.Name, len(out.Damaged), out.Backup.Missing)}
	}
	return told(t, g, out, "%s is whole: %s, %s, every byte read", out.Backup.Name, count(out.Backup.Files, "file", "files"), humanize.Bytes(uint64(max(0, out.Backup.Bytes))))
}

// withKit is part of commands that need what the kit holds.
type withKit struct {
	EnvFile string   `placeholder:"KIT" help:"The recovery kit, or another file of KEY=value lines."`
	Keep    []string `placeholder:"PLACE" help:"Where the backups are, if the kit does not say it."`
}

// values are the settings with the kit's.
func (k withKit) values(t *terminal, g *grammar) (*agent.Values, error) {
	given := map[string]string{}
	if k.EnvFile != "" {
		given["env-file"] = k.EnvFile
	}
	if len(k.Keep) > 0 {
		given["keep"] = strings.Join(k.Keep, ",")
	}
	if g.StateDir != nil {
		given["state-dir"] = *g.StateDir
	}
	v, err := agent.Load(given, t.env)
	if err != nil {
		return nil, &exit{exitUsage, err.Error()}
	}
	return v, nil
}

type backupDrill struct {
	withKit
	At string `name:"place" placeholder:"PLACE" help:"In which place, or a part of its name. Default: the first."`
}

// Run proves a restore.
func (d *backupDrill) Run(ctx context.Context, t *terminal, g *grammar) error {
	v, err := d.values(t, g)
	if err != nil {
		return err
	}
	c, err := connect(t, g)
	if err != nil {
		return err
	}
	var out agent.Drill
	if err := c.patient().post(ctx, "/api/backup/drill", nil, backupAsked{Place: d.At, Key: v.RecoveryKey()}, &out); err != nil {
		return err
	}
	if err := told(t, g, out, "%s", out.String()); err != nil {
		return err
	}
	if !out.Proven() {
		return &exit{exitFailed, "not everything came back as it was: comfyume-agent backup verify names the files; then backup run, and drill again"}
	}
	return nil
}
