package consensus_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/consensus"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/cluster/peer"
	"github.com/ahelme/comfyume/cluster/people"
	"github.com/ahelme/comfyume/cluster/state"
)

// node is a log with its machine, running until stop.
type node struct {
	log     *consensus.Log
	machine *state.Machine
	stop    func()
}

func start(t testing.TB, dir string) *node {
	t.Helper()
	quiet := slog.New(slog.DiscardHandler)
	m := state.New(quiet)
	l, err := consensus.Open(consensus.Config{Dir: dir, Node: "n1", Machine: m, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	if l.Lineage().Cluster == "" {
		if err := l.Form(); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	n := &node{log: l, machine: m}
	var once sync.Once
	n.stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("stop: %v", err)
			}
		})
	}
	t.Cleanup(n.stop)
	n.lead(t)
	return n
}

// lead waits until the node leads.
func (n *node) lead(t testing.TB) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for !n.log.Leads() {
		select {
		case <-n.log.Leading():
		case <-deadline:
			t.Fatal("nobody leads after 10 s")
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := n.log.Barrier(ctx); err != nil {
		t.Fatal(err)
	}
}

func (n *node) propose(t testing.TB, cmds ...cluster.Command) cluster.Outcome {
	t.Helper()
	out, err := peer.Proposals{Log: n.log}.Propose(t.Context(), cmds...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (n *node) names() (out []cluster.User) {
	n.machine.People(func(p *people.Table) {
		for _, one := range p.People() {
			out = append(out, one.Name)
		}
	})
	return out
}

func TestAcknowledgedSurvivesRestart(t *testing.T) {
	dir := t.TempDir()
	n := start(t, dir)
	for i := range 20 {
		n.propose(t, &people.Put{Name: cluster.User(fmt.Sprintf("user%03d", i)), Hash: "h"})
	}
	_, image, err := n.log.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	if err := image.Close(); err != nil {
		t.Fatal(err)
	}
	n.propose(t, &people.Put{Name: "after-the-snapshot", Hash: "h"})
	n.stop()
	n = start(t, dir)
	if got := n.names(); len(got) != 21 || got[0] != "after-the-snapshot" {
		t.Errorf("after a restart: %v", got)
	}
}

func TestCommandsOfOneCallStandTogether(t *testing.T) {
	n := start(t, t.TempDir())
	id := jobs.ID{User: "ann", Prompt: "p"}
	out := n.propose(t,
		&jobs.Submit{ID: id, BodyHash: "h", Body: []byte("b")},
		&jobs.Assign{Lease: jobs.Lease{Job: id, Worker: "w", Epoch: 1}})
	n.machine.Jobs(func(j *jobs.Table) {
		row, ok := j.Job(id)
		if !ok || row.State != jobs.Assigned || row.Created != row.Assigned {
			t.Errorf("got %+v: want it assigned at the instant it was made", row)
		}
	})
	if applied, _ := n.machine.Applied(); applied != out.Index {
		t.Errorf("applied %d, answered %d", applied, out.Index)
	}
}

func TestManyProposersShareEntries(t *testing.T) {
	n := start(t, t.TempDir())
	before := n.log.Status().Last
	const clients, each = 64, 20
	var wg sync.WaitGroup
	errs := make(chan error, clients)
	for c := range clients {
		wg.Go(func() {
			for i := range each {
				id := jobs.ID{User: cluster.User(fmt.Sprintf("user%03d", c)), Prompt: fmt.Sprint(i)}
				if _, err := (peer.Proposals{Log: n.log}).Propose(t.Context(), &jobs.Submit{ID: id, BodyHash: "h", Body: []byte("b")}); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Fatal(err)
	}
	n.machine.Jobs(func(j *jobs.Table) {
		if got := j.Count().Waiting; got != clients*each {
			t.Errorf("%d jobs, want %d", got, clients*each)
		}
	})
	if entries := n.log.Status().Last - before; entries >= clients*each/2 {
		t.Errorf("%d entries for %d proposals: they do not share entries", entries, clients*each)
	}
}

func TestSecondAgentOnTheSameFolderIsToldSo(t *testing.T) {
	dir := t.TempDir()
	start(t, dir)
	_, err := consensus.Open(consensus.Config{Dir: dir, Node: "n1", Machine: state.New(slog.New(slog.DiscardHandler))})
	if cluster.CodeOf(err) != cluster.Conflict {
		t.Errorf("got %v", err)
	}
}

func TestTooLargeAndStoppedAreSaid(t *testing.T) {
	n := start(t, t.TempDir())
	_, _, err := n.log.Propose(t.Context(), make([]byte, 600<<10))
	if cluster.CodeOf(err) != cluster.TooLarge {
		t.Errorf("a large change: %v", err)
	}
	n.stop()
	_, _, err = n.log.Propose(t.Context(), []byte("x"))
	if !errors.Is(err, &cluster.Error{Code: cluster.NoLeader}) {
		t.Errorf("after stop: %v", err)
	}
}

func BenchmarkPropose(b *testing.B) {
	for _, clients := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			n := start(b, b.TempDir())
			body := make([]byte, 1024)
			b.SetParallelism(clients / 2)
			var mu sync.Mutex
			i := 0
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					mu.Lock()
					i++
					id := jobs.ID{User: "bench", Prompt: fmt.Sprint(i)}
					mu.Unlock()
					if _, err := (peer.Proposals{Log: n.log}).Propose(context.Background(), &jobs.Submit{ID: id, BodyHash: "h", Body: body}); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}
