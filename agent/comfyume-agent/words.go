package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/ahelme/comfyume/agent"
)

// age is a span of milliseconds as the dashboard says it: 4s, 3m12, 2h05, 3d.
func age(ms int64) string {
	s := max(0, (ms+500)/1000)
	switch {
	case s < 60:
		return fmt.Sprintf("%ds", s)
	case s < 3600:
		return fmt.Sprintf("%dm%02d", s/60, s%60)
	case s < 86400:
		return fmt.Sprintf("%dh%02d", s/3600, s%3600/60)
	}
	return fmt.Sprintf("%dd", s/86400)
}

// justNow is how old a report may be to be called that: nodes report every
// second or so.
const justNow = 3000

// ago is how long before now something was, 0 = never.
func ago(now, at int64) string {
	switch {
	case at == 0:
		return "-"
	case now-at < justNow:
		return "now"
	}
	return age(now-at) + " ago"
}

// seen is when a node was last heard of. One that reports all the while has no
// time of it.
func seen(v agent.View, n agent.Node) string {
	if n.Seen == 0 && (n.State == "alive" || n.State == "slow") {
		return "now"
	}
	return ago(v.Now, n.Seen)
}

func moment(ms int64) string {
	if ms == 0 {
		return ""
	}
	return time.UnixMilli(ms).Format(time.DateTime)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// count is a number with its words: 1 voter, 3 voters.
func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// short keeps a list of names readable.
func short(names []string, most int) string {
	if over := len(names) - most; over > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), over)
	}
	return strings.Join(names, ", ")
}

// leader says who leads.
func leader(v agent.View) string {
	if v.Head.Leader == "" {
		return "no leader"
	}
	return fmt.Sprintf("leader %s (term %d, %s)", v.Head.Leader, v.Head.Term, count(v.Head.Voters, "voter", "voters"))
}

// notes says what one must know to read a view right: whose it is, how old,
// and why nothing can be changed.
func notes(out io.Writer, v agent.View) {
	if v.Head.Via != "" {
		fmt.Fprintf(out, "shown by %s, %s old\n", v.Head.Via, age(v.Now-v.Head.Seen))
	}
	if v.Head.ReadOnly != "" {
		fmt.Fprintf(out, "READ-ONLY  %s\n", v.Head.ReadOnly)
	}
}

// pausedWhy is why a job of a user that waits is held up, "" if it is not.
func pausedWhy(v agent.View, u agent.User) string {
	for _, p := range v.Head.Pauses {
		switch p.Scope {
		case "all":
			return "the queue is paused"
		case "user/" + string(u):
			return string(u) + " is paused"
		}
	}
	return ""
}

// held says what people hold up.
func held(out io.Writer, v agent.View) {
	for _, p := range v.Head.Pauses {
		what := p.Scope
		if what == "all" {
			what = "the queue"
		}
		fmt.Fprintf(out, "PAUSED     %s, by %s %s", what, p.Actor, ago(v.Now, p.At))
		if p.Why != "" {
			fmt.Fprintf(out, ": %s", p.Why)
		}
		fmt.Fprintln(out)
	}
}
