// Command benchnode is one voter of the queue without gateway, workers and
// gossip: the log, the table and the steward as the product wires them, behind
// the protocol of deploy/bench/wire.go. make bench starts three of them beside
// its peers. It is for measuring only: nodes are told each other's addresses
// and nobody is checked.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/consensus"
	"github.com/ahelme/comfyume/cluster/peer"
	"github.com/ahelme/comfyume/cluster/state"
	"github.com/ahelme/comfyume/roles/queue"
)

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// joinWithin bounds how long three empty nodes take to become one cluster.
const joinWithin = 20 * time.Second

func run(ctx context.Context) error {
	id := flag.Int("id", 0, "this node's number, from 1; the first forms the cluster")
	dir := flag.String("dir", "", "its empty folder")
	listen := flag.String("listen", "", "where it serves the bench")
	peers := flag.String("peers", "", "N=HOST:PORT of every node's log, with commas between")
	profile := flag.String("profile", string(consensus.WAN), "wan or site")
	flag.Parse()
	raftProfile, err := consensus.ParseProfile(*profile)
	if err != nil {
		return err
	}
	addrs, err := parsePeers(*peers)
	if err != nil {
		return err
	}
	wires, err := listenWires(nodeID(*id), addrs)
	if err != nil {
		return err
	}
	logger := slog.New(slog.NewTextHandler(os.Stderr, nil))
	// The bench counts elections by what raft says of them, which is for the debug log.
	elections := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	machine := state.New(logger)
	log, err := consensus.Open(consensus.Config{
		Dir: *dir, Node: wires.self, Level: state.Level, Machine: machine, Logger: elections, Profile: raftProfile,
		Stream: func(incarnation string) (consensus.Stream, error) {
			return &way{wires: wires, incarnation: incarnation, closed: make(chan struct{})}, nil
		},
	})
	if err != nil {
		return err
	}
	propose := peer.Proposals{Log: log, Replica: machine}
	steward, err := queue.New(queue.Config{
		Jobs: machine, Propose: propose, Watch: func() queue.Watcher { return machine.Watch() },
		Leads: log.Leads, Leading: log.Leading(), Logger: logger,
	})
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	b := &bench{log: log, machine: machine, steward: steward, admit: steward.Admit()}
	if *id == 1 {
		if err := log.Form(); err != nil {
			return err
		}
		wires.admit = func(ctx context.Context, who cluster.NodeID, incarnation string) (cluster.Lineage, error) {
			return log.Lineage(), admit(ctx, log, who, incarnation)
		}
	}
	ended := make(chan error)
	for what, part := range map[string]func() error{
		"log":    func() error { return log.Run(ctx) },
		"queue":  func() error { return steward.Run(ctx) },
		"wires":  wires.serve,
		"server": func() error { return b.serve(ln) },
	} {
		go func() { ended <- fmt.Errorf("%s ended: %w", what, part()) }()
	}
	if *id != 1 {
		if err := join(log, wires); err != nil {
			return err
		}
	}
	return <-ended
}

func nodeID(n int) cluster.NodeID { return cluster.NodeID("n" + strconv.Itoa(n)) }

// parsePeers reads N=HOST:PORT,...
func parsePeers(s string) (map[cluster.NodeID]string, error) {
	out := map[cluster.NodeID]string{}
	for p := range strings.SplitSeq(s, ",") {
		n, addr, ok := strings.Cut(p, "=")
		number, err := strconv.Atoi(n)
		if !ok || err != nil {
			return nil, fmt.Errorf("--peers: %q is not N=HOST:PORT", p)
		}
		out[nodeID(number)] = addr
	}
	return out, nil
}

// admit makes a newcomer a voter at once: there is nothing to catch up with.
func admit(ctx context.Context, log *consensus.Log, who cluster.NodeID, incarnation string) error {
	if incarnation == "" {
		return nil
	}
	if err := log.Add(ctx, who, incarnation); err != nil {
		return err
	}
	return log.Promote(ctx, consensus.Server{Node: who, Incarnation: incarnation})
}

// join asks the first node what there is to join, and to be let in.
func join(log *consensus.Log, w *wires) error {
	to, err := patiently(func() (cluster.Lineage, error) { return w.ask(joining{Node: w.self}) })
	if err == nil {
		err = log.Join(to)
	}
	if err == nil {
		_, err = patiently(func() (cluster.Lineage, error) {
			return w.ask(joining{Node: w.self, Incarnation: log.Incarnation()})
		})
	}
	if err != nil {
		return fmt.Errorf("join the first node: %w", err)
	}
	return nil
}

// patiently repeats what fails: the first node may not listen or lead yet.
func patiently(f func() (cluster.Lineage, error)) (l cluster.Lineage, err error) {
	for end := time.Now().Add(joinWithin); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if l, err = f(); err == nil {
			return l, nil
		}
	}
	return l, err
}
