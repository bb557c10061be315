package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/ahelme/comfyume/agent"
)

type raftSalvage struct {
	asking
	Name string `arg:"" optional:"" help:"Name of the history, as the list says it."`
}

// Run lists the histories that this node left behind, or brings one back.
func (s *raftSalvage) Run(ctx context.Context, t *terminal, g *grammar) error {
	c, err := connect(t, g)
	if err != nil {
		return err
	}
	c = c.patient()
	var list agent.LeftBehind
	if err := c.get(ctx, "/api/raft/salvage", nil, &list); err != nil {
		return err
	}
	if s.Name == "" {
		return s.list(t, g, list.Left)
	}
	i := slices.IndexFunc(list.Left, func(l agent.Left) bool { return l.Name == s.Name })
	if i < 0 {
		return &exit{exitNotFound, fmt.Sprintf("this node left no history %q behind: see raft salvage", s.Name)}
	}
	found := list.Left[i]
	describeLeft(t.err, found)
	if len(found.Jobs)+len(found.Docs)+found.Files == 0 {
		return told(t, g, found, "%s has nothing to bring back", s.Name)
	}
	fmt.Fprintln(t.err, "Jobs that had not ended run again. Nothing that is in the table now is replaced: documents of the same name come back as \"NAME (salvaged)\", files under salvaged/. Passwords stay as they are.")
	if err := s.confirm(t, "Bring this back?"); err != nil {
		return err
	}
	var rest agent.Left
	if err := c.post(ctx, "/api/raft/salvage", url.Values{"name": {s.Name}}, struct{}{}, &rest); err != nil {
		return err
	}
	return told(t, g, rest, "brought back: %s, %s, %s", count(len(found.Jobs), "job", "jobs"), count(len(found.Docs), "document", "documents"), count(found.Files, "file", "files"))
}

func (s *raftSalvage) list(t *terminal, g *grammar, all []agent.Left) error {
	if g.JSON {
		return emit(t.out, agent.LeftBehind{Schema: 1, Left: all})
	}
	if len(all) == 0 {
		fmt.Fprintln(t.err, "this node left no history behind; other nodes may have, ask them too")
		return nil
	}
	w := tabwriter.NewWriter(t.out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tGENERATION\tLEFT\tJOBS\tDOCUMENTS\tFILES\tPASSWORDS")
	for _, l := range all {
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%d\t%d\n", l.Name, l.Lineage.Generation, l.Left.Format(time.DateTime), len(l.Jobs), len(l.Docs), l.Files, len(l.Accounts))
	}
	fmt.Fprintln(t.err, "The numbers are what the table lacks. Bring one back with: comfyume-agent raft salvage NAME")
	return w.Flush()
}

// maxListed bounds the jobs and documents that are named one by one.
const maxListed = 20

func describeLeft(out io.Writer, l agent.Left) {
	fmt.Fprintf(out, "%s (generation %s, left %s) has what the table lacks: %s, %s, %s\n", l.Name, l.Lineage.Generation, l.Left.Format(time.DateTime),
		count(len(l.Jobs), "job", "jobs"), count(len(l.Docs), "document", "documents"), count(l.Files, "file", "files"))
	for _, part := range []struct {
		noun string
		all  []string
	}{{"job", l.Jobs}, {"document", l.Docs}} {
		for i, name := range part.all {
			if i == maxListed {
				fmt.Fprintf(out, "  and %d more\n", len(part.all)-i)
				break
			}
			fmt.Fprintf(out, "  %s %s\n", part.noun, name)
		}
	}
	if len(l.Accounts) > 0 {
		fmt.Fprintf(out, "  other passwords of %s: set them again with user passwd if they are missed\n", short(l.Accounts, maxListed))
	}
}

type snapshotCommands struct {
	Save    snapshotSave    `cmd:"" help:"Write the table as it is now to a file. Pictures and models are not in it."`
	Restore snapshotRestore `cmd:"" help:"Put the table back to what a file holds. Says first what is lost."`
}

type snapshotSave struct {
	File string `arg:"" type:"path" help:"File to write; it must not exist."`
}

// Run writes the table to a file that is whole or not there.
func (s *snapshotSave) Run(ctx context.Context, t *terminal, g *grammar) error {
	if _, err := os.Lstat(s.File); err == nil {
		return &exit{exitFailed, fmt.Sprintf("%s exists already: name another file", s.File)}
	}
	c, err := connect(t, g)
	if err != nil {
		return err
	}
	r, err := c.patient().open(ctx, http.MethodGet, "/api/raft/snapshot", nil, nil)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK {
		raw, err := io.ReadAll(io.LimitReader(r.Body, maxAnswer))
		if err != nil {
			return c.silent(http.MethodGet, err)
		}
		return refusal(r.StatusCode, raw)
	}
	n, err := writeWhole(s.File, r.Body)
	if err != nil {
		return &exit{exitFailed, fmt.Sprintf("the snapshot was not written: %v", err)}
	}
	if !g.JSON {
		fmt.Fprintln(t.err, "It holds jobs, workflows, accounts with their password hashes, and the names of files: keep it private. The files themselves are not in it.")
	}
	return told(t, g, map[string]any{"file": s.File, "bytes": n}, "saved %s (%s)", s.File, humanize.Bytes(uint64(n)))
}

// writeWhole writes beside the file, and gives it its name when all is on disk.
func writeWhole(path string, body io.Reader) (n int64, err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".comfyume-snapshot-*") // readable by its owner only
	if err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	n, err = io.Copy(f, body)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return n, err
	}
	return n, os.Rename(f.Name(), path)
}

type snapshotRestore struct {
	asking
	File string `arg:"" type:"path" help:"File that snapshot save wrote."`
}

// beginning is enough of a snapshot to tell what it is, in bytes.
const beginning = 2 << 20

// Run says what is lost, asks, and puts the table back.
func (s *snapshotRestore) Run(ctx context.Context, t *terminal, g *grammar) error {
	f, err := os.Open(s.File)
	if err != nil {
		return &exit{exitFailed, fmt.Sprintf("the snapshot cannot be read: %v", err)}
	}
	defer f.Close()
	c, err := connect(t, g)
	if err != nil {
		return err
	}
	c = c.patient()
	text, err := s.send(ctx, c, nil, io.LimitReader(f, beginning))
	if err != nil {
		return err
	}
	fmt.Fprintln(t.err, text)
	if err := s.confirm(t, "Put the table back, everywhere?"); err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("read the snapshot again: %w", err)
	}
	if text, err = s.send(ctx, c, url.Values{"confirm": {"true"}}, f); err != nil {
		return err
	}
	return told(t, g, map[string]string{"text": text}, "%s", text)
}

func (*snapshotRestore) send(ctx context.Context, c *client, q url.Values, body io.Reader) (string, error) {
	status, raw, err := c.raw(ctx, http.MethodPost, "/api/raft/snapshot", q, body)
	if err != nil {
		return "", err
	}
	if status != http.StatusOK {
		return "", refusal(status, raw)
	}
	var said struct {
		Text string `json:"text"`
	}
	err = decode(raw, &said)
	return said.Text, err
}
