// Package world is a workshop of real agent processes on this machine, to which
// things are done: they are killed, stopped, parted from each other, deprived
// of their disk. It promises that nothing outside its own namespaces and its
// own folder is touched, that every process ends with it, and that what it
// knows of a node (does it run, whom can it reach) is what was done to it. It
// refuses to judge.
//
//	space*.go   namespaces of its own       cut.go      partitions
//	node.go     one process                 site.go     its site, asked
//	watch.go    who could accept a write    tailnet*.go a tailnet of its own
package world

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Config of a World.
type Config struct {
	Root    string // folder for everything; must exist
	Binary  string // the agent
	Space   Space
	Tailnet bool   // nodes on a test tailnet, not on the loopback network
	Profile string // of raft: wan or site; "" = wan
	Users   map[string]string
	Talk    io.Writer // what is done, for people; nil discards
}

// Pass of the instructor, in every world.
const (
	Instructor     = "admin"
	InstructorPass = "secret-admin"
)

// World is a set of nodes and what parts them.
type World struct {
	cfg  Config
	net  network
	talk io.Writer

	cutting sync.Mutex // one set of rules after the other
	mu      sync.Mutex
	nodes   []*Node
	cuts    map[pair]int // how many partitions part them
	begin   time.Time
	watched *Watch // told when anything changes; nil without one
}

// network is how nodes are given addresses and parted.
type network interface {
	// join gives a node its addresses and the settings to use them.
	join(n *Node) error
	// cut makes exactly these pairs deaf: the second does not hear the first.
	cut(deaf []pair) error
	canCut() bool
	close() error
}

// pair is a direction: what from says does not reach to.
type pair struct{ from, to string }

// New makes an empty world.
func New(cfg Config) (*World, error) {
	if cfg.Talk == nil {
		cfg.Talk = io.Discard
	}
	w := &World{cfg: cfg, talk: cfg.Talk, cuts: map[pair]int{}, begin: time.Now()}
	var err error
	if cfg.Tailnet {
		w.net, err = newTailnet(w)
	} else {
		w.net, err = newLoopback(w)
	}
	return w, err
}

// Tailnet reports whether the nodes are on a tailnet.
func (w *World) Tailnet() bool { return w.cfg.Tailnet }

// Say tells people what happens.
func (w *World) Say(format string, args ...any) {
	fmt.Fprintf(w.talk, "%7.2fs %s\n", time.Since(w.begin).Seconds(), fmt.Sprintf(format, args...))
}

// Add makes a node; it is not started.
func (w *World) Add(o Options) (*Node, error) {
	n := &Node{w: w, o: o, Name: o.Name, Dir: filepath.Join(w.cfg.Root, o.Name)}
	if err := os.MkdirAll(n.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of %s: %w", o.Name, err)
	}
	if err := w.net.join(n); err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.nodes = append(w.nodes, n)
	return n, nil
}

// Nodes are all that were added, in that order.
func (w *World) Nodes() []*Node {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]*Node(nil), w.nodes...)
}

// Those are the nodes of a role.
func (w *World) Those(role string) (out []*Node) {
	for _, n := range w.Nodes() {
		if n.Has(role) {
			out = append(out, n)
		}
	}
	return out
}

// Node by name; nil when there is none.
func (w *World) Node(name string) *Node {
	for _, n := range w.Nodes() {
		if n.Name == name {
			return n
		}
	}
	return nil
}

// Start launches nodes one after the other and waits for none.
func (w *World) Start(nodes ...*Node) error {
	for _, n := range nodes {
		if err := n.Launch(); err != nil {
			return err
		}
	}
	return nil
}

// Leader is the node that leads as most of those say who can be asked; nil when
// nobody does.
func (w *World) Leader(ctx context.Context) *Node {
	var name string
	var term uint64
	for _, n := range w.Nodes() {
		if !n.Core() || !n.Running() {
			continue
		}
		one, cancel := context.WithTimeout(ctx, time.Second)
		v, err := n.Status(one)
		cancel()
		if err == nil && v.Head.Leader != "" && v.Head.Term >= term {
			name, term = v.Head.Leader, v.Head.Term
		}
	}
	return w.Node(name)
}

// Until asks again and again until cond is nil; its last error is returned when
// the time is over.
func Until(ctx context.Context, within time.Duration, what string, cond func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for {
		err := cond(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("after %s it is still not so that %s: %w", within, what, err)
		}
	}
}

// Formed waits until a leader is known with that many votes.
func (w *World) Formed(ctx context.Context, votes int, within time.Duration) error {
	return Until(ctx, within, fmt.Sprintf("%d nodes vote", votes), func(ctx context.Context) error {
		l := w.Leader(ctx)
		if l == nil {
			return errors.New("nobody leads")
		}
		v, err := l.Status(ctx)
		if err == nil && v.Head.Voters != votes {
			err = fmt.Errorf("%d vote", v.Head.Voters)
		}
		return err
	})
}

// Ended lists the nodes whose process ended although nobody killed it.
func (w *World) Ended() (out []string) {
	for _, n := range w.Nodes() {
		if why := n.endedWhy(); why != "" {
			out = append(out, n.Name+": "+why)
		}
	}
	return out
}

// Dump ends every process in a way that leaves in its log what each of its
// goroutines was doing.
func (w *World) Dump() {
	for _, n := range w.Nodes() {
		n.dump()
	}
}

// Close kills everything.
func (w *World) Close() error {
	for _, n := range w.Nodes() {
		n.Kill()
	}
	return w.net.close()
}

// Logs are the paths of what the nodes have printed.
func (w *World) Logs() (out []string) {
	for _, n := range w.Nodes() {
		out = append(out, n.LogPath())
	}
	return out
}

// loopback is the network of agents on one machine.
type loopback struct {
	w     *World
	hall  string
	doors int
}

func newLoopback(w *World) (*loopback, error) {
	l := &loopback{w: w, hall: filepath.Join(w.cfg.Root, "hall")}
	return l, os.MkdirAll(l.hall, 0o700)
}

func (l *loopback) join(n *Node) error {
	l.doors++
	var err error
	if n.door, err = l.w.cfg.Space.addr(8800 + l.doors); err != nil {
		return err
	}
	if n.site, err = l.w.cfg.Space.addr(7180 + l.doors); err != nil {
		return err
	}
	n.args = []string{"--network=loopback", "--loopback-dir=" + l.hall}
	return nil
}

// addressOf is a node's own address on the loopback network, as it left it in
// its state folder.
func (l *loopback) addressOf(n *Node) (netip.Addr, error) {
	v, err := n.registered(l.hall)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("find the address of %s: %w", n.Name, err)
	}
	return v, nil
}

func (l *loopback) canCut() bool { return l.w.cfg.Space.Apart }

// cut drops what is about to be received: a sender is told nothing, as on a
// real network.
func (l *loopback) cut(deaf []pair) error {
	var b strings.Builder
	for _, p := range deaf {
		from, err := l.addressOf(l.w.Node(p.from))
		if err != nil {
			return err
		}
		to, err := l.addressOf(l.w.Node(p.to))
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "  ip saddr %s ip daddr %s drop\n", from, to)
	}
	return firewall("ip", "input", b.String())
}

func (l *loopback) close() error { return nil }
