package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/consensus"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/cluster/tailnet/tailnettest"
	"github.com/ahelme/comfyume/ui"
)

// A swarm under test is the very wiring of an agent (network, gossip, log,
// table, steward, verbs) without pages and ComfyUI, on an in-memory network in
// virtual time. Workers are scripts.

// shop is a workshop under test.
type shop struct {
	t      *testing.T
	fabric *tailnettest.Fabric
	root   string
	nodes  map[string]*testNode
}

// testNode is one running node.
type testNode struct {
	*swarm
	shop  *shop
	name  string
	cfg   Config
	stack *stack
	view  ui.Source
	end   []func() // of its workers
}

// inVirtualTime runs f in a bubble; everything it started is stopped after it.
func inVirtualTime(t *testing.T, f func(s *shop)) {
	t.Helper()
	root := t.TempDir() // outside the bubble: its cleanup does not end with it
	synctest.Test(t, func(t *testing.T) {
		s := &shop{t: t, fabric: tailnettest.New(), root: root, nodes: map[string]*testNode{}}
		s.fabric.Delay(5 * time.Millisecond)
		defer func() {
			s.fabric.HealAll()
			for _, name := range slices.Sorted(maps.Keys(s.nodes)) {
				s.nodes[name].stop()
			}
			time.Sleep(2 * time.Minute) // gossip's last probes outlive it
		}()
		f(s)
	})
}

// tag of a node by its roles.
func tagOf(roles []cluster.Role) string {
	c := Config{Roles: roles}
	return c.tag()
}

// start starts a node; the same name again is the same machine.
func (s *shop) start(name, roles string, adjust ...func(*Config)) *testNode {
	s.t.Helper()
	rs, err := cluster.ParseRoles(roles)
	if err != nil {
		s.t.Fatal(err)
	}
	n := &testNode{shop: s, name: name}
	n.cfg = Config{
		Roles: rs, StateDir: filepath.Join(s.root, name), Hostname: name, Vote: consensus.VoteAuto, Profile: consensus.WAN,
		Logger: testLogger(s.t, name), Version: "test", Grace: 10 * time.Second,
	}
	for _, f := range adjust {
		f(&n.cfg)
	}
	n.cfg.Joined = s.fabric.Join("id-"+name, name, tagOf(rs))
	if err := openFolder(n.cfg.StateDir); err != nil {
		s.t.Fatal(err)
	}
	me := n.cfg.Joined.Self()
	n.stack = newStack(n.cfg.Logger)
	n.stack.push("network", func(context.Context) error { return n.cfg.Joined.Close() })
	if n.swarm, err = newSwarm(&n.cfg, n.cfg.Joined, cluster.Member{ID: me.ID, Name: me.Name, Roles: rs, Version: n.cfg.Version, Level: 1}); err != nil {
		s.t.Fatal(err)
	}
	if n.core != nil {
		n.view = &view{swarm: n.swarm, now: time.Now}
		serveView(n.server, n.view)
	} else {
		n.view = &guestView{swarm: n.swarm}
	}
	if err := n.swarm.start(n.stack, notFound()); err != nil {
		s.t.Fatal(err)
	}
	s.nodes[name] = n
	return n
}

// testLogger shows warnings of a failed test.
func testLogger(t *testing.T, name string) *slog.Logger {
	t.Helper()
	level := slog.LevelError
	if testing.Verbose() {
		level = slog.LevelInfo
	}
	return slog.New(slog.NewTextHandler(logTo{t, name}, &slog.HandlerOptions{Level: level}))
}

type logTo struct {
	t    *testing.T
	name string
}

func (l logTo) Write(p []byte) (int, error) {
	l.t.Logf("%s %s: %s", time.Now().Format("15:04:05.000"), l.name, strings.TrimSpace(string(p)))
	return len(p), nil
}

// stop takes a node down as SIGTERM does.
func (n *testNode) stop() {
	if n.stack == nil {
		return
	}
	for _, end := range n.end {
		end()
	}
	n.end = nil
	if err := n.stack.stop(n.cfg.Grace); err != nil && !errors.Is(err, context.Canceled) {
		n.shop.t.Logf("stopping %s: %v", n.name, err)
	}
	n.stack = nil
}

// kill ends a node without a word: its machine has no power any more. What it
// had not flushed is of no matter here: the log flushes before it answers.
func (n *testNode) kill() {
	n.shop.fabric.Kill("id-" + n.name)
	n.stop()
}

// until waits for a condition.
func (s *shop) until(what string, within time.Duration, is func() bool) time.Duration {
	s.t.Helper()
	begin := time.Now()
	for !is() {
		if time.Since(begin) > within {
			s.t.Fatalf("waited %s for %s", within, what)
		}
		time.Sleep(20 * time.Millisecond)
	}
	return time.Since(begin)
}

// leader is the node that leads and knows it.
func (s *shop) leader() *testNode {
	s.t.Helper()
	var found *testNode
	s.until("a leader", 30*time.Second, func() bool {
		for _, n := range s.nodes {
			if n.stack != nil && n.core != nil && n.core.raft.Leads() {
				ctx, cancel := context.WithTimeout(context.Background(), time.Second)
				ok := n.core.raft.Barrier(ctx) == nil
				cancel()
				if ok {
					found = n
					return true
				}
			}
		}
		return false
	})
	return found
}

// settled waits until the log has so many voters and everybody is a member.
func (s *shop) settled(voters, members int) *testNode {
	s.t.Helper()
	s.until(fmt.Sprintf("%d voters of %d members", voters, members), 2*time.Minute, func() bool {
		st := s.leader().core.raft.Status()
		return st.Voters() == voters && len(st.Servers) == members
	})
	return s.leader()
}

// history is a digest that stands for a history blob.
var history = cluster.Ref(strings.Repeat("ab", 32))

// submit queues a job through a node, as its gateway would.
func (n *testNode) submit(prompt string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	_, err := n.core.steward.Admit().Propose(ctx, &jobs.Submit{ID: jobs.ID{User: "ann", Prompt: prompt}, BodyHash: prompt, Body: []byte("body")})
	return err
}

// job is a row as a node knows it.
func (n *testNode) job(prompt string) (j jobs.Job) {
	n.core.machine.Jobs(func(t *jobs.Table) { j, _ = t.Job(jobs.ID{User: "ann", Prompt: prompt}) })
	return j
}

// worker is a script: it takes jobs and runs each for a while.
type worker0 struct {
	n     *testNode
	id    cluster.WorkerID
	takes time.Duration

	mu   sync.Mutex
	runs []string // prompts, as they were started
	late bool     // it goes on with a job that it has lost
}

// work starts a worker on a node.
func (n *testNode) work(takes time.Duration) *worker0 {
	w := &worker0{n: n, id: cluster.WorkerID(n.name + "/0"), takes: takes}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { w.run(ctx) })
	n.end = append(n.end, func() { cancel(); wg.Wait() })
	return w
}

func (w *worker0) run(ctx context.Context) {
	for ctx.Err() == nil {
		a, err := w.n.swarm.work().Claim(ctx, jobs.Claim{Worker: w.id, Node: w.n.self.ID})
		if err != nil || a.Row.ID.Prompt == "" {
			select {
			case <-time.After(200 * time.Millisecond):
			case <-ctx.Done():
			}
			continue
		}
		w.do(ctx, a)
	}
}

// insist repeats a report until it is taken or refused.
func insist(ctx context.Context, report func() error) error {
	for {
		err := report()
		if code := cluster.CodeOf(err); code != cluster.NoLeader && code != cluster.Unavailable || ctx.Err() != nil {
			return err
		}
		time.Sleep(200 * time.Millisecond)
	}
}

func (w *worker0) do(ctx context.Context, a jobs.Assignment) {
	work := w.n.swarm.work()
	if insist(ctx, func() error { _, err := work.Started(ctx, a.Lease); return err }) != nil {
		return
	}
	w.mu.Lock()
	w.runs = append(w.runs, a.Row.ID.Prompt)
	w.mu.Unlock()
	for end := time.Now().Add(w.takes); time.Now().Before(end); {
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return
		}
		one, cancel := context.WithTimeout(ctx, 5*time.Second)
		v, err := work.Renew(one, a.Lease)
		cancel()
		if err == nil && v != jobs.Go && !w.late {
			return
		}
	}
	_ = insist(ctx, func() error { return work.GpuDone(ctx, a.Lease) }) // a late result has no say in that
	_ = insist(ctx, func() error {
		return work.Finish(ctx, jobs.Finish{Lease: a.Lease, State: jobs.Done, History: history, Outputs: 1})
	})
}

func (w *worker0) started() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.runs)
}
