package jobs_test

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

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
			if d, ok := strings.CutPrefix(line, "wait "); ok {
				wait, err := time.ParseDuration(d)
				if err != nil {
					return err.Error()
				}
				results = append(results, "waited "+d)
				now += wait.Milliseconds()
				continue
			}
			results = append(results, run(&tab, line, now))
		}
		fmt.Fprintf(&out, "%s\n----\n%s\n%s\n", head, strings.Join(results, "\n"), show(tab))
	}
	return strings.ReplaceAll(out.String(), "\n\n\n", "\n\n")
}

// run reads "verb user/prompt key=value ..." and applies it.
func run(tab **jobs.Table, line string, now int64) string {
	verb, rest, _ := strings.Cut(line, " ")
	ids, args := words(rest)
	var cmd cluster.Command
	var err error
	switch verb {
	case "restore":
		*tab = jobs.Restore((*tab).Snapshot())
		return "ok"
	case "outputs": // what the file table asks before it names them
		if err := (*tab).CheckLease(lease(ids, args)); err != nil {
			return fmt.Sprintf("refused %s: %v", cluster.CodeOf(err), err)
		}
		return "ok"
	case "adopt":
		cmd = adoption(rest)
	default:
		cmd, err = command(verb, ids, args)
	}
	if err != nil {
		return err.Error()
	}
	mutate, touched, err := (*tab).Plan(cmd, now)
	if err != nil {
		return fmt.Sprintf("refused %s: %v", cluster.CodeOf(err), err)
	}
	switch a := mutate().(type) {
	case jobs.Accepted:
		return fmt.Sprintf("accepted number=%d replay=%v", a.Number, a.Replay)
	case jobs.Touched:
		return fmt.Sprintf("touched %v", a.IDs)
	case jobs.Finished:
		if a.Orphan {
			return "kept as an orphan"
		}
	}
	return fmt.Sprintf("ok touched=%d", len(touched))
}

// words splits "user/prompt ... key=value ...".
func words(s string) (ids []jobs.ID, args map[string]string) {
	args = map[string]string{}
	for _, w := range strings.Fields(s) {
		if k, v, ok := strings.Cut(w, "="); ok {
			args[k] = v
			continue
		}
		u, p, _ := strings.Cut(w, "/")
		ids = append(ids, jobs.ID{User: cluster.User(u), Prompt: p})
	}
	return ids, args
}

func lease(ids []jobs.ID, args map[string]string) jobs.Lease {
	l := jobs.Lease{Worker: cluster.WorkerID(args["worker"]), Epoch: number(args["epoch"])}
	if len(ids) > 0 {
		l.Job = ids[0]
	}
	return l
}

func number(s string) uint64 {
	n, _ := strconv.ParseUint(s, 10, 64)
	return n
}

// adoption reads rows of another table, divided by "|".
func adoption(s string) *jobs.Adopt {
	c := &jobs.Adopt{Reason: "salvaged"}
	for part := range strings.SplitSeq(s, "|") {
		ids, args := words(part)
		l := lease(ids, args)
		j := jobs.Job{
			ID: l.Job, Seq: 99, Order: 99, Number: 99, State: jobs.State(args["as"]), Body: []byte("b"), Worker: l.Worker, Epoch: l.Epoch,
			Priority: jobs.Normal, APINodes: args["api"] == "yes",
		}
		switch j.State {
		case jobs.Running:
			j.Started = 7
		case jobs.Done:
			j.Body, j.History, j.EndNumber, j.Ended, j.Finished = nil, ref("a"), 99, 7, l.Epoch
		case jobs.Failed: // by strikes
			j.EndNumber, j.Ended, j.Failure = 99, 7, &jobs.Failure{Type: "worker_lost", Message: "no"}
		}
		c.Rows = append(c.Rows, j)
	}
	return c
}

func ref(s string) cluster.Ref { return cluster.Ref(strings.Repeat(s, 64)) }

func command(verb string, ids []jobs.ID, args map[string]string) (cluster.Command, error) {
	lease := lease(ids, args)
	id := lease.Job
	switch verb {
	case "submit":
		return &jobs.Submit{
			ID: id, BodyHash: "h" + args["body"], Body: []byte("b" + args["body"]), Priority: jobs.Priority(number(cmp.Or(args["priority"], "2"))),
			Front: args["front"] == "yes", APINodes: args["api"] == "yes", MaxWaiting: number(args["limit"]),
		}, nil
	case "assign":
		return &jobs.Assign{Lease: lease}, nil
	case "started":
		return &jobs.Started{Lease: lease}, nil
	case "gpudone":
		return &jobs.GpuDone{Lease: lease}, nil
	case "finish":
		c := &jobs.Finish{Lease: lease, State: jobs.State(args["as"]), History: ref(cmp.Or(args["history"], "a")), Outputs: 1}
		if c.State == jobs.Failed {
			c.Failure = &jobs.Failure{Type: "ValueError", Message: "no"}
		}
		return c, nil
	case "requeue":
		return &jobs.Requeue{Lease: lease, Strike: args["strike"] == "yes", Reason: args["reason"]}, nil
	case "cancel":
		return &jobs.Cancel{IDs: ids, Reason: args["reason"]}, nil
	case "front":
		return &jobs.Front{IDs: ids, User: cluster.User(args["user"])}, nil
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

// show prints every row as it came, then the queue and the orphans.
func show(tab *jobs.Table) string {
	var b strings.Builder
	s := tab.Snapshot()
	for _, j := range s.Rows {
		fmt.Fprintf(&b, "  %-10s %-10s order=%d epoch=%d strikes=%d", j.ID, j.State, j.Order, j.Epoch, j.Strikes)
		if j.Worker != "" {
			fmt.Fprintf(&b, " worker=%s", j.Worker)
		}
		for _, a := range j.Past {
			fmt.Fprintf(&b, " past=%d@%s", a.Epoch, a.Worker)
		}
		if j.NotBefore > 0 {
			fmt.Fprintf(&b, " not_before=%v", time.Duration(j.NotBefore)*time.Millisecond)
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
	for _, o := range s.Orphans {
		fmt.Fprintf(&b, "  orphan: %s epoch=%d worker=%s %s at=%v\n", o.Job, o.Epoch, o.Worker, o.State, time.Duration(o.At)*time.Millisecond)
	}
	return b.String()
}
