package main

import (
	"context"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/ahelme/comfyume/agent"
)

type nodeCommands struct {
	Ls     nodeList   `cmd:"" help:"List the machines of the workshop."`
	Show   nodeShow   `cmd:"" help:"Show one machine."`
	Drain  nodeDrain  `cmd:"" help:"Give a machine no new jobs and wait until those that run there are done."`
	Forget nodeForget `cmd:"" help:"Take a machine that is gone out of the workshop for good."`
	Invite nodeInvite `cmd:"" help:"Make a key with which one rented machine joins."`
	Leave  nodeLeave  `cmd:"" help:"Take this machine out of the workshop for good, tidily, and end its agent."`
}

type nodeList struct{}

// Run lists the nodes.
func (*nodeList) Run(ctx context.Context, t *terminal, g *grammar) error {
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
			Nodes []agent.Node `json:"nodes"`
		}{v.Nodes})
	}
	notes(t.err, v)
	w := tabwriter.NewWriter(t.out, 0, 4, 2, ' ', 0)
	nodeTable(w, v)
	return w.Flush()
}

// nodeTable writes one line per machine.
func nodeTable(w *tabwriter.Writer, v agent.View) {
	fmt.Fprintln(w, "NODE\tROLES\tSTATE\tIN THE LOG\tLAST SEEN\tVERSION\tLEVEL\tDISK\tNOTE")
	for _, n := range v.Nodes {
		disk := "-"
		if n.Disk >= 0 {
			disk = fmt.Sprintf("%d %%", n.Disk)
		}
		if n.Space != nil && n.Space.Full >= 0 {
			disk += ", 90 % " + agent.FullWords(n.Space.Full)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s\t%s\n", n.Name, roles(n), n.State, orDash(n.Part), seen(v, n), orDash(n.Version), n.Level, disk, nodeNote(n))
	}
}

func roles(n agent.Node) string {
	out := make([]string, len(n.Roles))
	for i, r := range n.Roles {
		out[i] = string(r)
	}
	return strings.Join(out, ",")
}

// nodeNote is where people come in there, and what holds the node up.
func nodeNote(n agent.Node) string {
	var out []string
	if n.Door != "" {
		out = append(out, "door "+n.Door)
	}
	if n.Drained != "" {
		out = append(out, "drained by "+n.Drained)
	}
	if n.Waits != "" {
		out = append(out, n.Waits)
	}
	return orDash(strings.Join(out, "; "))
}

// findNode takes a name, an id, or a beginning of either that only one node has.
func findNode(v agent.View, word string) (agent.Node, error) {
	var whole, begins []agent.Node
	for _, n := range v.Nodes {
		switch {
		case n.Name == word, string(n.ID) == word:
			whole = append(whole, n)
		case strings.HasPrefix(n.Name, word), strings.HasPrefix(string(n.ID), word):
			begins = append(begins, n)
		}
	}
	if len(whole) > 0 {
		begins = whole
	}
	switch len(begins) {
	case 0:
		return agent.Node{}, &exit{exitNotFound, fmt.Sprintf("there is no node %q: see node ls", word)}
	case 1:
		return begins[0], nil
	}
	names := make([]string, len(begins))
	for i, n := range begins {
		names[i] = fmt.Sprintf("%s (%s)", n.Name, n.ID)
	}
	return agent.Node{}, &exit{exitFailed, fmt.Sprintf("%q may be %s: give more of the name, or the id", word, strings.Join(names, " or "))}
}

type nodeShow struct {
	Name string `arg:"" help:"Name or id of the node, or the beginning of one."`
}

// Run shows one node and its workers.
func (s *nodeShow) Run(ctx context.Context, t *terminal, g *grammar) error {
	c, err := connect(t, g)
	if err != nil {
		return err
	}
	v, err := c.view(ctx)
	if err != nil {
		return err
	}
	n, err := findNode(v, s.Name)
	if err != nil {
		return err
	}
	workers := []agent.Worker{}
	for _, k := range v.Workers {
		if k.Node == n.Name {
			workers = append(workers, k)
		}
	}
	if g.JSON {
		return emit(t.out, struct {
			Node    agent.Node     `json:"node"`
			Workers []agent.Worker `json:"workers"`
		}{n, workers})
	}
	notes(t.err, v)
	w := tabwriter.NewWriter(t.out, 0, 4, 2, ' ', 0)
	describeNode(w, v, n)
	if len(workers) > 0 {
		fmt.Fprintln(w)
		workerTable(w, workers)
	}
	return w.Flush()
}

func describeNode(w *tabwriter.Writer, v agent.View, n agent.Node) {
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(w, "%s\t%s\n", name, value)
		}
	}
	state := n.State
	if n.Since > 0 {
		state += ", for " + age(v.Now-n.Since)
	}
	line("name", n.Name)
	line("id", string(n.ID))
	line("roles", roles(n))
	line("state", state)
	line("in the log", orDash(n.Part))
	line("last seen", seen(v, n))
	line("version", n.Version)
	line("level", strconv.FormatUint(uint64(n.Level), 10))
	if n.Disk >= 0 {
		line("disk", fmt.Sprintf("%d %% used where the state is kept", n.Disk))
	}
	if s := n.Space; s != nil {
		line("disk 90 % full", agent.FullWords(s.Full))
		line("files", fmt.Sprintf("%d, %s", s.Blobs, humanize.Bytes(uint64(s.Bytes))))
	}
	if n.Price > 0 {
		line("costs", fmt.Sprintf("%s an hour, %s so far", agent.Money(n.Price, n.Currency), agent.Money(n.Spent, n.Currency)))
	}
	line("waits for", n.Waits)
	if n.Drained != "" {
		line("drained by", n.Drained+"; end it with: comfyume-agent node drain --undo "+n.Name)
	}
}

type nodeForget struct {
	asking
	Name string `arg:"" help:"Name or id of the node."`
}

// Run forgets a node. Which one is left to the agent: before there is a table
// the node may stand in no list.
func (f *nodeForget) Run(ctx context.Context, t *terminal, g *grammar) error {
	c, err := connect(t, g)
	if err != nil {
		return err
	}
	v, err := c.view(ctx)
	if err != nil {
		return err
	}
	word := f.Name
	if n, err := findNode(v, f.Name); err == nil {
		f.Name, word = n.Name, string(n.ID)
		fmt.Fprintf(t.err, "%s (%s) leaves the workshop for good. %s If it comes back it joins anew.\n", n.Name, roles(n), takesAway(n, "What stands only on its disk is lost to the workshop: files that no other machine holds, and changes that were on one machine only."))
		if n.Leader || n.Voter {
			fmt.Fprintf(t.err, "It has a vote, which is taken from it. %s\n", v.Head.Survives)
		}
	}
	if err := f.confirm(t, fmt.Sprintf("Forget %s?", f.Name)); err != nil {
		return err
	}
	if err := c.post(ctx, "/api/node/forget", url.Values{"node": {word}}, struct{}{}, nil); err != nil {
		return err
	}
	return told(t, g, map[string]string{"forgotten": f.Name}, "%s is forgotten", f.Name)
}

// takesAway says what goes with a node: one that only runs jobs holds nothing.
func takesAway(n agent.Node, core string) string {
	for _, r := range n.Roles {
		if r != agent.RoleGPU {
			return core
		}
	}
	return "It only runs jobs and holds no part of the table; what runs there starts again elsewhere."
}

type nodeInvite struct {
	GPU bool          `name:"gpu" required:"" help:"The machine will run jobs (role gpu). Other nodes are not invited: they join with a key of your own."`
	TTL time.Duration `name:"ttl" default:"24h" help:"How long the key can be used to join."`
}

// Run makes a key and prints the one command that uses it.
func (i *nodeInvite) Run(ctx context.Context, t *terminal, g *grammar) error {
	c, err := connect(t, g)
	if err != nil {
		return err
	}
	var inv agent.Invitation
	if err := c.post(ctx, "/api/node/invite", url.Values{"ttl": {i.TTL.String()}}, struct{}{}, &inv); err != nil {
		return err
	}
	if g.JSON {
		return emit(t.out, inv)
	}
	if inv.Key != "" {
		fmt.Fprintf(t.err, "The key lets one machine in and is shown once; it ends at %s.\n", inv.Expires.Format(time.DateTime))
		fmt.Fprintf(t.out, "key      %s\n", inv.Key)
	}
	fmt.Fprintf(t.out, "command  %s\n", inv.Command)
	return nil
}

type nodeLeave struct{ asking }

// Run takes this node out.
func (l *nodeLeave) Run(ctx context.Context, t *terminal, g *grammar) error {
	c, err := connect(t, g)
	if err != nil {
		return err
	}
	v, err := c.view(ctx)
	if err != nil {
		return err
	}
	what := "Jobs that run here start again elsewhere, and files that only this machine holds are missing from then on; its state folder stays on disk."
	if n, err := findNode(v, v.Head.Node); err == nil {
		what = takesAway(n, what)
	}
	fmt.Fprintf(t.err, "%s leaves the workshop for good and its agent ends. %s To take it away for an hour, stop the agent instead.\n", v.Head.Node, what)
	if err := l.confirm(t, fmt.Sprintf("Take %s out?", v.Head.Node)); err != nil {
		return err
	}
	if err := c.patient().post(ctx, "/api/node/leave", nil, struct{}{}, nil); err != nil {
		return err
	}
	return told(t, g, map[string]string{"left": v.Head.Node}, "%s has left the workshop; its agent ends", v.Head.Node)
}
