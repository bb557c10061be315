package agent

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/consensus"
	"github.com/ahelme/comfyume/cluster/peer"
	"github.com/ahelme/comfyume/cluster/tailnet"
)

// The verbs before there is a shared history.
const (
	verbHello peer.Verb = "hello"
	verbForm  peer.Verb = "form"
)

// greeting is what a node says of itself to whoever asks.
type greeting struct {
	Node    cluster.NodeID  `cbor:"1,keyasint"`
	Name    string          `cbor:"2,keyasint"`
	Lineage cluster.Lineage `cbor:"3,keyasint"`
	Leader  cluster.NodeID  `cbor:"4,keyasint"`
	CanForm bool            `cbor:"5,keyasint"` // it could hold the first vote
}

// forming finds the history that others hold, or begins one: join first, form
// second. The same command line does for the first day, a restart and growth.
// Two nodes that start at the same moment do not form twice: who forms has
// the word of every node that it can reach, and a node that gave its word, or
// has begun to form, gives it to nobody else.
type forming struct {
	self   tailnet.Peer
	canRun bool // this node may hold the first vote
	force  bool // --form
	log    *slog.Logger
	raft   *consensus.Log
	client *peer.Client
	peers  func(ctx context.Context) ([]tailnet.Peer, error)

	mu       sync.Mutex
	began    bool // this node is forming
	promised cluster.NodeID
	until    time.Time // of the promise
	ignored  map[cluster.NodeID]bool
	waits    string // what it waits for, for people
	foreign  string // another workshop that was met, for people
}

// The pace of looking around.
const (
	greetWithin = 2 * time.Second
	promiseFor  = 15 * time.Second
	settle      = 700 * time.Millisecond // before a node that sees nobody forms alone
	lookAround  = 500 * time.Millisecond
)

// run returns when this node is part of a history.
func (f *forming) run(ctx context.Context) error {
	for f.raft.Lineage().Cluster == "" {
		if err := f.look(ctx); err != nil && ctx.Err() == nil {
			f.log.Debug("looking for the workshop", "err", err)
			f.wait(fmt.Sprintf("the network cannot be asked who is there: %v", err))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(lookAround + rand.N(lookAround/2)):
		}
	}
	f.wait("")
	return nil
}

func (f *forming) wait(what string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if what != "" && what != f.waits {
		f.log.Info("not part of the workshop's table yet", "waits", what)
	}
	f.waits = what
}

// waitsFor is what people are told, "" when it waits for nothing.
func (f *forming) waitsFor() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return cmp.Or(f.waits, f.foreign)
}

// ignore lets forming go on without a node that is gone for good.
func (f *forming) ignore(id cluster.NodeID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ignored == nil {
		f.ignored = map[cluster.NodeID]bool{}
	}
	f.ignored[id] = true
}

// met is who answered and who did not.
type met struct {
	greetings []greeting
	silent    []tailnet.Peer
}

// greetAll asks every core machine that is not ignored.
func (f *forming) greetAll(ctx context.Context) (met, error) {
	all, err := f.peers(ctx)
	if err != nil {
		return met{}, err
	}
	var m met
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, p := range all {
		f.mu.Lock()
		skip := f.ignored[p.ID]
		f.mu.Unlock()
		if skip || !slices.Contains(p.Tags, cluster.TagCore) {
			continue
		}
		wg.Go(func() {
			var g greeting
			err := error(cluster.Errorf(cluster.Unavailable, "offline"))
			if p.Online {
				one, cancel := context.WithTimeout(ctx, greetWithin)
				err = f.client.Call(one, p.ID, verbHello, struct{}{}, &g)
				cancel()
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				m.silent = append(m.silent, p)
				return
			}
			m.greetings = append(m.greetings, g)
		})
	}
	wg.Wait()
	slices.SortFunc(m.greetings, func(a, b greeting) int { return cmp.Compare(a.Node, b.Node) })
	slices.SortFunc(m.silent, func(a, b tailnet.Peer) int { return cmp.Compare(a.Name, b.Name) })
	return m, nil
}

// look joins, forms, or says what it waits for.
func (f *forming) look(ctx context.Context) error {
	m, err := f.greetAll(ctx)
	if err != nil {
		return err
	}
	lines := map[cluster.WorkshopID][]greeting{}
	for _, g := range m.greetings {
		if g.Lineage.Cluster != "" {
			lines[g.Lineage.Cluster] = append(lines[g.Lineage.Cluster], g)
		}
	}
	switch len(lines) {
	case 0:
		return f.first(ctx, m)
	case 1:
		for _, gs := range lines {
			latest := slices.MaxFunc(gs, func(a, b greeting) int { return a.Lineage.Generation.Compare(b.Lineage.Generation) })
			f.log.Info("joining the workshop", "lineage", latest.Lineage, "found_at", latest.Name)
			return f.raft.Join(latest.Lineage)
		}
	}
	var names []string
	for id, gs := range lines {
		names = append(names, fmt.Sprintf("%s has %s", gs[0].Name, id))
	}
	slices.Sort(names)
	f.wait("there are two workshops on this network (" + strings.Join(names, ", ") + "): stop the nodes of one of them")
	return nil
}

// first is for a network on which nobody has a history.
func (f *forming) first(ctx context.Context, m met) error {
	if len(m.silent) > 0 && !f.force {
		var names []string
		for _, p := range m.silent {
			names = append(names, p.Name)
		}
		f.wait(fmt.Sprintf("%s may hold the workshop and does not answer: start it; if it is gone for good, node forget NAME here, or start this node with --form", strings.Join(names, ", ")))
		return nil
	}
	lowest := cluster.NodeID("")
	if f.canRun {
		lowest = f.self.ID
	}
	name := f.self.Name
	for _, g := range m.greetings {
		if g.CanForm && (lowest == "" || g.Node < lowest) {
			lowest, name = g.Node, g.Name
		}
	}
	switch lowest {
	case "":
		f.wait("no node with the role queue is there: start one (it may not be --voter=never)")
		return nil
	case f.self.ID:
		return f.form(ctx, m)
	}
	f.wait(fmt.Sprintf("%s is about to form the workshop", name))
	return nil
}

// form begins a history if everybody who can be reached agrees.
func (f *forming) form(ctx context.Context, m met) error {
	f.mu.Lock()
	if f.promised != "" && time.Now().Before(f.until) {
		f.mu.Unlock()
		f.wait("another node is about to form the workshop")
		return nil
	}
	f.began = true
	f.mu.Unlock()
	formed := false
	defer func() {
		f.mu.Lock()
		f.began = formed
		f.mu.Unlock()
	}()
	for _, g := range m.greetings {
		one, cancel := context.WithTimeout(ctx, greetWithin)
		err := f.client.Call(one, g.Node, verbForm, struct{}{}, nil)
		cancel()
		if err != nil {
			f.wait(fmt.Sprintf("%s does not agree that this node forms the workshop yet", g.Name))
			return nil
		}
	}
	if len(m.greetings) == 0 && !f.alone(ctx) {
		return nil
	}
	if err := f.raft.Form(); err != nil {
		return err
	}
	formed = true
	return nil
}

// alone looks once more, for nodes that start at this moment. A machine that
// can have no others is not kept waiting.
func (f *forming) alone(ctx context.Context) bool {
	if f.self.Addr.IsLoopback() && f.self.Addr.As4()[1] == 0 {
		return true // 127.0.0.1: a network without others
	}
	select {
	case <-ctx.Done():
		return false
	case <-time.After(settle):
	}
	again, err := f.greetAll(ctx)
	return err == nil && len(again.greetings) == 0 && (len(again.silent) == 0 || f.force)
}

// serve answers those who look around.
func (f *forming) serve(s *peer.Server) {
	peer.HandleAnyLine(s, verbHello, peer.Workers, func(context.Context, peer.Who, struct{}) (greeting, error) {
		return greeting{
			Node: f.self.ID, Name: f.self.Name, Lineage: f.raft.Lineage(), Leader: f.raft.Leader(), CanForm: f.canRun,
		}, nil
	})
	peer.HandleAnyLine(s, verbForm, peer.CoreOnly, func(_ context.Context, who peer.Who, _ struct{}) (struct{}, error) {
		f.mu.Lock()
		defer f.mu.Unlock()
		switch {
		case f.raft.Lineage().Cluster != "", f.began:
			return struct{}{}, cluster.Errorf(cluster.Conflict, "node %s has the workshop already, or is forming it", f.self.Name)
		case f.promised != "" && f.promised != who.Node && time.Now().Before(f.until):
			return struct{}{}, cluster.Errorf(cluster.Conflict, "node %s has given its word to another node", f.self.Name)
		}
		f.promised, f.until = who.Node, time.Now().Add(promiseFor)
		return struct{}{}, nil
	})
}
