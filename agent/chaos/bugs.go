package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// bug is a defect that is built into an agent by Go's -overlay: the tree stays
// clean. See bite.go for how each is caught.
type bug struct {
	Name  string
	What  string
	Edits []edit
}

// edit replaces a text that stands exactly once in a file of the tree.
type edit struct {
	File, Old, New string
}

// bugs are all that can be planted.
func bugs() []bug {
	return []bug{
		{"ack-before-commit", "an entry is acknowledged before it is on the disk", []edit{{
			"cluster/consensus/disk.go",
			"\treturn g.retry(func() error { return g.store.StoreLogs(ls) })\n}\n",
			"\tdue := time.Now().Add(3 * time.Second)\n\tlate <- func() { time.Sleep(time.Until(due)); _ = g.store.StoreLogs(ls) }\n\treturn nil\n}\n" +
				"\nvar late = func() chan func() {\n\tc := make(chan func(), 10000)\n\tgo func() {\n\t\tfor f := range c {\n\t\t\tf()\n\t\t}\n\t}()\n\treturn c\n}()\n",
		}}},
		{"lost-dedupe", "the same prompt id is taken for a new job", []edit{{
			"cluster/jobs/plan.go",
			"\tif old, ok := t.rows[c.ID]; ok {\n",
			"\tif old, ok := t.rows[c.ID]; ok && old.BodyHash != c.BodyHash {\n",
		}}},
		{"stale-epoch", "reports of an attempt that was given up are taken", []edit{
			{"cluster/jobs/job.go", "l.Worker != \"\" && j.Epoch == l.Epoch && j.Worker == l.Worker &&", "l.Worker != \"\" && l.Epoch <= j.Epoch &&"},
			{"cluster/jobs/finish.go", "\tif !late && j.State.Active() {\n", "\tif j.State.Active() {\n"},
			{"roles/queue/claims.go", "return j.Epoch == l.Epoch && j.Worker == l.Worker && j.State.Active()", "return l.Epoch <= j.Epoch && j.State.Active()"},
		}},
		{"stale-read", "a gateway that is behind answers without waiting", []edit{{
			"roles/gateway/session.go",
			"if history != mine || seen <= index || seen > index+furthest {",
			"if true || history != mine || seen <= index || seen > index+furthest {",
		}}},
		{"requeue-dropped", "the job of a lost worker never goes back", []edit{{
			"roles/queue/leases.go",
			"_, err := s.propose.Propose(ctx, &jobs.Requeue{Lease: r.lease, Reason: r.reason})",
			"err := context.Cause(ctx)",
		}}},
		{"double-finish", "a result whose answer was lost is reported again and entered twice", []edit{
			{"roles/queue/reports.go", "\tif _, err := s.report(ctx, f.Lease, &f); err != nil {\n", "\t_, _ = s.report(ctx, f.Lease, &f)\n\tif _, err := s.report(ctx, f.Lease, &f); err != nil {\n"},
			{"cluster/jobs/finish.go", "return func() any { return Finished{} }, nil, nil // the same report again", "return t.finishInTime(j, c, now)"},
		}},
		{"wrong-owner", "outputs are entered for another user", []edit{{
			"cluster/files/media.go",
			"\t\th := t.home(c.User)\n\t\tplaces := make([]Place, len(c.Outputs))\n",
			"\t\towner := cluster.User(\"user001\")\n\t\tif c.User == owner {\n\t\t\towner = \"user002\"\n\t\t}\n\t\th := t.home(owner)\n\t\tplaces := make([]Place, len(c.Outputs))\n",
		}}},
		{"snapshot-table", "the files are not in the snapshot", []edit{{
			"cluster/state/machine.go",
			"Files: m.files.Snapshot(), ",
			"",
		}}},
	}
}

func bugNames() (out []string) {
	for _, b := range bugs() {
		out = append(out, b.Name)
	}
	return out
}

func bugNamed(name string) (bug, bool) {
	for _, b := range bugs() {
		if b.Name == name {
			return b, true
		}
	}
	return bug{}, false
}

// overlay writes the files with the bug in them and the table that tells the go
// tool to use them. tree is the module's folder.
func (b bug) overlay(tree, dir string) (string, error) {
	replace, text := map[string]string{}, map[string]string{}
	for _, e := range b.Edits {
		path, err := filepath.Abs(filepath.Join(tree, e.File))
		if err != nil {
			return "", err
		}
		if text[path] == "" {
			raw, err := os.ReadFile(path)
			if err != nil {
				return "", fmt.Errorf("plant %s: %w", b.Name, err)
			}
			text[path] = string(raw)
		}
		if n := strings.Count(text[path], e.Old); n != 1 {
			return "", fmt.Errorf("plant %s: its text stands %d times in %s", b.Name, n, e.File)
		}
		text[path] = strings.Replace(text[path], e.Old, e.New, 1)
	}
	for path, t := range text {
		to := filepath.Join(dir, strings.ReplaceAll(strings.TrimPrefix(path, "/"), "/", "-"))
		if err := os.WriteFile(to, []byte(t), 0o600); err != nil {
			return "", err
		}
		replace[path] = to
	}
	raw, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	table := filepath.Join(dir, "overlay.json")
	return table, os.WriteFile(table, raw, 0o600)
}

// build makes an agent with the bug.
func (b bug) build(ctx context.Context, root string) (string, error) {
	dir := filepath.Join(root, "planted-"+b.Name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	table, err := b.overlay(".", dir)
	if err != nil {
		return "", err
	}
	return build(ctx, filepath.Join(dir, "agent"), "-overlay", table)
}
