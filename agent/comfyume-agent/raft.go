package main

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/ahelme/comfyume/agent"
)

type raftCommands struct {
	Ls       raftList         `cmd:"" help:"Who holds the workshop's table, how far each is, and what would survive what."`
	Transfer raftTransfer     `cmd:"" help:"Hand leadership to another node that votes. Nothing is lost."`
	Promote  raftPromote      `cmd:"" help:"On a stand-by whose voters are gone for good: lead from here. Says first what may be lost."`
	Recover  raftRecover      `cmd:"" help:"On a voter whose other voters are gone for good: lead from here. Says first what may be lost."`
	Remove   nodeForget       `cmd:"" help:"The same as node forget."`
	Salvage  raftSalvage      `cmd:"" help:"What this node had accepted in a history that was given up; with a name, bring it back."`
	Snapshot snapshotCommands `cmd:"" help:"The table as a file."`
}

type raftList struct{}

// Run shows the replicated log.
func (*raftList) Run(ctx context.Context, t *terminal, g *grammar) error {
	c, err := connect(t, g)
	if err != nil {
		return err
	}
	v, err := c.view(ctx)
	if err != nil {
		return err
	}
	if g.JSON {
		return emit(t.out, struct {
			Leader   string    `json:"leader"`
			Term     uint64    `json:"term"`
			Voters   int       `json:"voters"`
			Level    uint32    `json:"level"`
			Survives string    `json:"survives"`
			ReadOnly string    `json:"readonly"`
			Log      agent.Log `json:"log"`
		}{v.Head.Leader, v.Head.Term, v.Head.Voters, v.Head.Level, v.Head.Survives, v.Head.ReadOnly, v.Log})
	}
	notes(t.err, v)
	w := tabwriter.NewWriter(t.out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "NODE\tPART\tINDEX\tBEHIND BY\tLAST CONTACT")
	for _, s := range v.Log.Servers {
		index, lag := "-", "-"
		if s.Index > 0 {
			index, lag = fmt.Sprint(s.Index), fmt.Sprint(s.Lag)
		}
		contact := ago(v.Now, s.Contact)
		for _, n := range v.Nodes {
			if s.Contact == 0 && n.Name == s.Node {
				contact = seen(v, n)
			}
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", s.Node, s.Part, index, lag, contact)
	}
	fmt.Fprintln(w)
	fmt.Fprintf(w, "leader\t%s\n", strings.TrimPrefix(leader(v), "leader "))
	fmt.Fprintf(w, "workshop\t%s\n", orDash(v.Log.Workshop))
	fmt.Fprintf(w, "generation\t%s\n", v.Log.Generation)
	fmt.Fprintf(w, "level\t%d\n", v.Head.Level)
	fmt.Fprintf(w, "newest entry\t%d\n", v.Log.Last)
	copied := "not known: no second machine counts as a copy"
	if v.Log.Copied > 0 {
		copied = fmt.Sprintf("up to entry %d", v.Log.Copied)
	}
	fmt.Fprintf(w, "on two machines\t%s\n", copied)
	fmt.Fprintf(w, "survives\t%s\n", orDash(v.Head.Survives))
	return w.Flush()
}

type raftTransfer struct {
	Name string `arg:"" optional:"" help:"Node that shall lead. Without it the best one is chosen."`
}

// handOver bounds the wait for the new leader to be known here.
const handOver = 5 * time.Second

// Run hands leadership over.
func (r *raftTransfer) Run(ctx context.Context, t *terminal, g *grammar) error {
	c, err := connect(t, g)
	if err != nil {
		return err
	}
	v, err := c.view(ctx)
	if err != nil {
		return err
	}
	to := ""
	if r.Name != "" {
		n, err := findNode(v, r.Name)
		switch {
		case err != nil:
			return err
		case n.Leader:
			return told(t, g, map[string]string{"leader": n.Name}, "%s leads already", n.Name)
		}
		to = string(n.ID)
	}
	if v.Head.Leader != "" && v.Head.Voters == 1 {
		return &exit{exitFailed, fmt.Sprintf("%s is the only node that votes: there is nobody to hand over to, see raft ls", v.Head.Leader)}
	}
	was := v.Head.Leader
	if err := c.post(ctx, "/api/raft/transfer", url.Values{"to": {to}}, struct{}{}, nil); err != nil {
		return err
	}
	for limit := time.Now().Add(handOver); time.Now().Before(limit); time.Sleep(100 * time.Millisecond) {
		if v, err = c.view(ctx); err == nil && v.Head.Leader != "" && v.Head.Leader != was {
			return told(t, g, map[string]string{"leader": v.Head.Leader}, "%s leads now; nothing is lost", v.Head.Leader)
		}
	}
	return &exit{exitNoLeader, fmt.Sprintf("%s has handed over and no other leader is known here yet: see raft ls in a moment", was)}
}

// taking is what promote and recover share.
type taking struct {
	asking
	Force bool `help:"Although a voter still answers. That makes two histories, and one of them is set aside."`
}

type raftPromote struct{ taking }

// Run makes a stand-by lead.
func (r *raftPromote) Run(ctx context.Context, t *terminal, g *grammar) error {
	return r.take(ctx, t, g, "promote")
}

type raftRecover struct{ taking }

// Run makes a voter lead alone.
func (r *raftRecover) Run(ctx context.Context, t *terminal, g *grammar) error {
	return r.take(ctx, t, g, "recover")
}

// take says what taking over would mean, asks, and does it.
func (k *taking) take(ctx context.Context, t *terminal, g *grammar, verb string) error {
	c, err := connect(t, g)
	if err != nil {
		return err
	}
	q := url.Values{"verb": {verb}}
	if k.Force {
		q.Set("force", "true")
	}
	var f agent.Forecast
	if err := c.get(ctx, "/api/raft/take", q, &f); err != nil {
		return err
	}
	if !f.Allowed {
		return &exit{exitFailed, f.Text}
	}
	fmt.Fprintln(t.err, f.Text)
	if err := k.confirm(t, "Lead from here?"); err != nil {
		return err
	}
	if err := c.post(ctx, "/api/raft/take", q, struct{}{}, &f); err != nil {
		return err
	}
	return told(t, g, f, "%s", f.Text)
}
