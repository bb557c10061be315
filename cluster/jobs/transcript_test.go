package jobs_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
)

var update = flag.Bool("update", false, "rewrite the expected parts of testdata/*.txt")

// TestTranscripts plays the stories in testdata: each line above "----" is a
// command, what stands below is what it answered and how the table looks then.
func TestTranscripts(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			raw, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			got := play(string(raw))
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != string(raw) {
				t.Errorf("%s does not hold; run with -update and review the difference\n--- got\n%s", path, got)
			}
		})
	}
}

// play runs a transcript and returns it with what really happened.
func play(text string) string {
	tab := jobs.New()
	now := int64(0)
	var out strings.Builder
	for block := range strings.SplitSeq(strings.TrimSpace(text), "\n\n") {
		head, _, _ := strings.Cut(block, "\n----")
		var results []string
		for line := range strings.SplitSeq(head, "\n") {
			if line == "" || strings.HasPrefix(line, "#") {
				continue
			}
			now += 1000
			results = append(results, run(&tab, line, now))
		}
		fmt.Fprintf(&out, "%s\n----\n%s\n%s\n", head, strings.Join(results, "\n"), show(tab))
	}
	return strings.ReplaceAll(out.String(), "\n\n\n", "\n\n")
}

// run reads "verb user/prompt key=value ..." and applies it.
func run(tab **jobs.Table, line string, now int64) string {
	f := strings.Fields(line)
	if f[0] == "restore" {
		*tab = jobs.Restore((*tab).Snapshot())
		return "ok"
	}
	args := map[string]string{}
	var ids []jobs.ID
	for _, a := range f[1:] {
		if k, v, ok := strings.Cut(a, "="); ok {
			args[k] = v
			continue
		}
		u, p, _ := strings.Cut(a, "/")
		ids = append(ids, jobs.ID{User: cluster.User(u), Prompt: p})
	}
	cmd, err := command(f[0], ids, args)
	if err != nil {
		return err.Error()
	}
	mutate, touched, err := (*tab).Plan(cmd, now)
	if err != nil {
		return fmt.Sprintf("refused %s: %v", cluster.CodeOf(err), err)
	}
	answer := mutate()
	switch a := answer.(type) {
	case jobs.Accepted:
		return fmt.Sprintf("accepted number=%d replay=%v", a.Number, a.Replay)
	case jobs.Touched:
		return fmt.Sprintf("touched %v", a.IDs)
	}
	return fmt.Sprintf("ok touched=%d", len(touched))
}

func command(verb string, ids []jobs.ID, args map[string]string) (cluster.Command, error) {
	epoch, _ := strconv.ParseUint(args["epoch"], 10, 64)
	var id jobs.ID
	if len(ids) > 0 {
		id = ids[0]
	}
	lease := jobs.Lease{Job: id, Worker: cluster.WorkerID(args["worker"]), Epoch: epoch}
	switch verb {
	case "submit":
		limit, _ := strconv.ParseUint(args["limit"], 10, 64)
		return &jobs.Submit{
			ID: id, BodyHash: "h" + args["body"], Body: []byte("b" + args["body"]), Priority: jobs.Normal,
			Front: args["front"] == "yes", APINodes: args["api"] == "yes", MaxWaiting: limit,
		}, nil
	case "assign":
		return &jobs.Assign{Lease: lease}, nil
	case "started":
		return &jobs.Started{Lease: lease}, nil
	case "gpudone":
		return &jobs.GpuDone{Lease: lease}, nil
	case "finish":
		c := &jobs.Finish{Lease: lease, State: jobs.State(args["as"]), History: cluster.Ref(strings.Repeat("a", 64)), Outputs: 1}
		if c.State == jobs.Failed {
			c.Failure = &jobs.Failure{Type: "ValueError", Message: "no"}
		}
		return c, nil
	case "requeue":
		return &jobs.Requeue{Lease: lease, Strike: args["strike"] == "yes", Reason: args["reason"]}, nil
	case "cancel":
		return &jobs.Cancel{IDs: ids, Reason: args["reason"]}, nil
	case "forget":
		c := &jobs.Forget{User: id.User, All: args["all"] == "yes"}
		for _, i := range ids {
			c.IDs = append(c.IDs, i.Prompt)
		}
		return c, nil
	case "hold":
		return &jobs.Hold{Lease: lease, Reason: args["reason"]}, nil
	case "release":
		return &jobs.Release{User: id.User, Secrets: cluster.NodeID(args["node"])}, nil
	}
	return nil, fmt.Errorf("no such verb %q", verb)
}

// show prints every row in queue order, then the ended ones.
func show(tab *jobs.Table) string {
	var b strings.Builder
	for _, j := range tab.Snapshot().Rows {
		fmt.Fprintf(&b, "  %-10s %-10s order=%d epoch=%d strikes=%d", j.ID, j.State, j.Order, j.Epoch, j.Strikes)
		if j.Worker != "" {
			fmt.Fprintf(&b, " worker=%s", j.Worker)
		}
		if j.EndNumber > 0 {
			fmt.Fprintf(&b, " end=%d", j.EndNumber)
		}
		if j.Hidden {
			b.WriteString(" hidden")
		}
		if j.Failure != nil {
			fmt.Fprintf(&b, " failure=%q", j.Failure.Message)
		}
		b.WriteString("\n")
	}
	var queue []string
	tab.Waiting(func(j *jobs.Job) bool { queue = append(queue, j.ID.String()); return true })
	fmt.Fprintf(&b, "  queue: %s\n", strings.Join(queue, " "))
	return b.String()
}
