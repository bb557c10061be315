package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"

	"github.com/dustin/go-humanize"

	"github.com/ahelme/comfyume/agent"
)

type importCommands struct {
	V1 importV1 `cmd:"" name:"v1" help:"Bring the predecessor's workshop (v1) into this one: its files, accounts and settings. Reports every file and key; doing it twice doubles nothing."`
}

type importV1 struct {
	UserData string `placeholder:"DIR" help:"Its user_data, with userNNN/ of each person: workflows and settings are taken."`
	Outputs  string `placeholder:"DIR" help:"Its outputs, with userNNN/ of each person."`
	Inputs   string `placeholder:"DIR" help:"Its inputs, with userNNN/ of each person."`
	Env      string `placeholder:"FILE" help:"Its .env: accounts are made, and what the other keys are called today is said."`
	Htpasswd string `placeholder:"FILE" help:"Its htpasswd file: accounts are made with the old passwords."`
	WriteEnv string `placeholder:"FILE" help:"Write the settings of --env into a new file that this node can be started with."`
	DryRun   bool   `help:"Say what would be done, and change nothing."`
}

// Validate asks for something to import.
func (i *importV1) Validate() error {
	if i.UserData+i.Outputs+i.Inputs+i.Env+i.Htpasswd == "" {
		return errors.New("give at least one of --user-data, --outputs, --inputs, --env and --htpasswd")
	}
	if i.WriteEnv != "" && i.Env == "" {
		return errors.New("--write-env needs --env")
	}
	return nil
}

// Run brings over what was named. Accounts come first: files are taken only of
// people who have one.
func (i *importV1) Run(ctx context.Context, t *terminal, g *grammar) error {
	begin, env, err := i.read()
	if err != nil {
		return err
	}
	if err := i.writeEnv(env); err != nil {
		return err
	}
	c, err := connect(t, g)
	if err != nil {
		return err
	}
	c = c.patient()
	var ready agent.V1Ready
	if err := c.post(ctx, "/api/import/v1", nil, begin, &ready); err != nil {
		return err
	}
	report := &v1Report{t: t, json: g.JSON, dry: i.DryRun}
	report.keys(env)
	report.accounts(ready.Accounts)
	tree := &v1Tree{people: map[agent.User]bool{}, report: report}
	defer tree.close()
	for _, u := range ready.People {
		tree.people[u] = true
	}
	if err := i.walk(tree); err != nil {
		return err
	}
	run := &v1Run{c: c, report: report, dry: i.DryRun, made: map[agent.User]bool{}}
	if i.DryRun {
		for _, a := range ready.Accounts {
			run.made[a.Name] = a.State == agent.V1Made
		}
	}
	stopped := run.bring(ctx, tree.found, ready.Room)
	if err := report.end(env, ready.Accounts); err != nil || stopped != nil {
		return errors.Join(stopped, err)
	}
	if report.missed > 0 {
		return &exit{exitFailed, fmt.Sprintf("%s not brought over: see the lines that say \"missed\", and import again", count(report.missed, "thing was", "things were"))}
	}
	return nil
}

// read reads the files with accounts and keys, before anything is changed.
func (i *importV1) read() (agent.V1Begin, *agent.V1Env, error) {
	begin := agent.V1Begin{DryRun: i.DryRun}
	var env *agent.V1Env
	if i.Env != "" {
		var err error
		if env, err = agent.ReadV1Env(i.Env); err != nil {
			return begin, nil, &exit{exitUsage, err.Error()}
		}
		begin.Accounts = env.Accounts
	}
	if i.Htpasswd != "" {
		raw, err := os.ReadFile(i.Htpasswd)
		if err != nil {
			return begin, nil, &exit{exitUsage, fmt.Sprintf("the htpasswd file cannot be read: %v", err)}
		}
		begin.Htpasswd = string(raw)
	}
	return begin, env, nil
}

// writeEnv makes the new env file. One that exists is left alone, unless it is the
// same.
func (i *importV1) writeEnv(env *agent.V1Env) error {
	if i.WriteEnv == "" {
		return nil
	}
	text, err := env.EnvFile()
	if err != nil {
		return &exit{exitUsage, err.Error()}
	}
	if i.DryRun {
		return nil
	}
	if old, err := os.ReadFile(i.WriteEnv); err == nil && bytes.Equal(old, text) {
		return nil
	}
	f, err := os.OpenFile(i.WriteEnv, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return &exit{exitUsage, fmt.Sprintf("--write-env makes a new file: %v", err)}
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Sync(), f.Close())
}

func (i *importV1) walk(tree *v1Tree) error {
	for _, f := range []v1Area{
		{dir: i.UserData, place: userdata},
		{dir: i.Inputs, loose: true, whole: true, place: media(agent.V1Input)},
		{dir: i.Outputs, whole: true, place: media(agent.V1Output)},
	} {
		if f.dir == "" {
			continue
		}
		if err := tree.folder(f); err != nil {
			return err
		}
	}
	return nil
}

// v1Run sends files to the agent.
type v1Run struct {
	c      *client
	report *v1Report
	dry    bool
	made   map[agent.User]bool // in a dry run: whose accounts are not there yet
}

// bring looks first what is new, so that there is room for it, and takes it then.
// The error is why it stopped; what does not work for one file is in the report.
func (r *v1Run) bring(ctx context.Context, found []v1Found, room int64) error {
	var fresh []v1Found
	need := int64(0)
	for _, f := range found {
		if f.Area == agent.V1Settings {
			fresh = append(fresh, f)
			continue
		}
		if err := f.digest(); err != nil {
			r.report.miss(f.source, "it cannot be read: "+why(err))
			continue
		}
		p := agent.V1Place{Path: f.Path}
		if !r.made[f.User] {
			if err := r.c.get(ctx, "/api/import/v1/file", f.Query(), &p); err != nil {
				if stops(err) {
					return stoppedAt(f, err)
				}
				r.report.miss(f.source, err.Error())
				continue
			}
		}
		if p.Already || r.dry {
			r.report.place(f, p)
		}
		if p.Already {
			continue
		}
		need += f.Size
		if !r.dry {
			fresh = append(fresh, f)
		}
	}
	if need > room {
		return &exit{exitFailed, fmt.Sprintf("no file was taken: they need %s and the agent's disk has room for %s (a tenth of it stays free); make room, or import the folders one at a time", humanize.Bytes(uint64(need)), humanize.Bytes(uint64(room)))}
	}
	return r.take(ctx, fresh)
}

func (r *v1Run) take(ctx context.Context, fresh []v1Found) error {
	files, size := r.report.taken, r.report.bytes
	for _, f := range fresh {
		if err := r.one(ctx, f); err != nil {
			if stops(err) {
				return stoppedAt(f, err)
			}
			r.report.miss(f.source, err.Error())
		}
	}
	if files, size = r.report.taken-files, r.report.bytes-size; files == 0 || r.dry {
		return nil
	}
	return r.c.post(ctx, "/api/import/v1/done", nil, map[string]int64{"files": int64(files), "bytes": size}, nil)
}

// one takes one file.
func (r *v1Run) one(ctx context.Context, f v1Found) error {
	in, err := f.root.Open(f.rel)
	if err != nil {
		return errors.New("it cannot be read: " + why(err))
	}
	defer in.Close()
	if f.Area == agent.V1Settings {
		raw, err := io.ReadAll(in)
		if err != nil {
			return errors.New("it cannot be read: " + why(err))
		}
		var kept agent.V1Kept
		query := url.Values{"user": {string(f.User)}}
		if r.dry {
			query.Set("dry", "true")
		}
		if err := r.c.call(ctx, http.MethodPost, "/api/import/v1/settings", query, raw, &kept); err != nil {
			return err
		}
		r.report.settings(f, kept)
		return nil
	}
	var p agent.V1Place
	status, raw, err := r.c.raw(ctx, http.MethodPost, "/api/import/v1/file", f.Query(), in)
	switch {
	case err != nil:
		return err
	case status != http.StatusOK:
		return refusal(status, raw)
	}
	if err := decode(raw, &p); err != nil {
		return err
	}
	r.report.place(f, p)
	return nil
}

// stops reports whether the files that follow would fare no better.
func stops(err error) bool {
	var e *exit
	if errors.As(err, &e) {
		return true
	}
	switch agent.CodeOf(err) {
	case agent.NoLeader, agent.Unavailable, agent.NoSpace, agent.Unauthorized, agent.Forbidden:
		return true
	}
	return false
}

func stoppedAt(f v1Found, err error) error {
	const format = "the import stopped at %s: %w. What was taken stays; import again to go on"
	var e *exit
	if errors.As(err, &e) {
		return &exit{e.code, fmt.Errorf(format, plain(f.source), err).Error()}
	}
	return fmt.Errorf(format, plain(f.source), err)
}
