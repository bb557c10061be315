package queue_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/cluster/state"
	"github.com/ahelme/comfyume/roles/queue"
)

const ttl = 15 * time.Second

var history = cluster.Ref(strings.Repeat("ab", 32))

// journal is a log of one node: each call is one entry of the real machine.
type journal struct {
	machine *state.Machine
	mu      sync.Mutex
	index   uint64
	entries [][]cluster.Command
	before  hook
	after   hook
}

type hook func(cmds []cluster.Command) error

// ahead sets what may refuse a call, or do something just before it.
func (j *journal) ahead(f hook) { j.mu.Lock(); defer j.mu.Unlock(); j.before = f }

// spoil sets what may take away the answer of a call that was committed.
func (j *journal) spoil(f hook) { j.mu.Lock(); defer j.mu.Unlock(); j.after = f }

func (j *journal) hooks() (before, after hook) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.before, j.after
}

func (j *journal) Propose(ctx context.Context, cmds ...cluster.Command) (cluster.Outcome, error) {
	if err := ctx.Err(); err != nil {
		return cluster.Outcome{}, err
	}
	before, after := j.hooks()
	if before != nil {
		if err := before(cmds); err != nil {
			return cluster.Outcome{}, err
		}
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	raw := make([][]byte, len(cmds))
	for i, c := range cmds {
		var err error
		if raw[i], err = state.Encode(c, "", "test"); err != nil {
			return cluster.Outcome{}, err
		}
	}
	j.index++
	j.entries = append(j.entries, cmds)
	answers := j.machine.Apply(j.index, time.Now().UnixMilli(), raw)
	body, err := state.DecodeAnswer(answers[len(answers)-1])
	if err == nil && after != nil {
		err = after(cmds)
	}
	if err != nil {
		return cluster.Outcome{}, err
	}
	return cluster.Outcome{Index: j.index, Body: body}, nil
}

func (j *journal) count() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.entries)
}

// stage is a steward over a real machine, inside a synctest bubble.
type stage struct {
	t       *testing.T
	ctx     context.Context
	machine *state.Machine
	log     *journal
	s       *queue.Steward
	leads   atomic.Bool
	news    chan bool
	stop    func()

	set   sync.Mutex
	rules queue.Rules
	gone  map[cluster.NodeID]bool
}

// obey sets what people have set.
func (p *stage) obey(r queue.Rules) { p.set.Lock(); defer p.set.Unlock(); p.rules = r }

// slander lets gossip believe that a node is gone.
func (p *stage) slander(n cluster.NodeID) { p.set.Lock(); defer p.set.Unlock(); p.gone[n] = true }

// play runs f with a steward that leads, and stops everything afterwards.
func play(t *testing.T, f func(*stage)) {
	synctest.Test(t, func(t *testing.T) {
		m := state.New(slog.New(slog.DiscardHandler))
		p := &stage{t: t, machine: m, log: &journal{machine: m}, gone: map[cluster.NodeID]bool{}}
		p.leads.Store(true)
		p.start()
		f(p)
		p.stop()
		synctest.Wait()
	})
}

// start runs a new steward over the table as it is: a new process or leader.
func (p *stage) start() {
	p.t.Helper()
	p.news = make(chan bool)
	s, err := queue.New(queue.Config{
		Jobs: p.machine, Propose: p.log, Leads: p.leads.Load, Leading: p.news,
		Watch: func() queue.Watcher { return p.machine.Watch() },
		Rules: func() queue.Rules { p.set.Lock(); defer p.set.Unlock(); return p.rules },
		Gone:  func(n cluster.NodeID) bool { p.set.Lock(); defer p.set.Unlock(); return p.gone[n] },
	})
	if err != nil {
		p.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(p.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	p.s, p.ctx = s, ctx
	p.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			p.t.Errorf("Run: %v", err)
		}
	})
	synctest.Wait()
}

func id(prompt string) jobs.ID { return jobs.ID{User: "user001", Prompt: prompt} }

func submit(prompt string, classes ...string) *jobs.Submit {
	return &jobs.Submit{ID: id(prompt), BodyHash: "h" + prompt, Body: []byte("body of " + prompt), Classes: classes, Priority: jobs.Normal}
}

// do commits something past the steward.
func (p *stage) do(cmds ...cluster.Command) {
	p.t.Helper()
	if _, err := p.log.Propose(p.t.Context(), cmds...); err != nil {
		p.t.Fatal(err)
	}
	synctest.Wait()
}

// call is a Claim that waits.
type call struct {
	p      *stage
	got    chan jobs.Assignment
	failed chan error
	hangUp context.CancelFunc
}

func (p *stage) claim(worker string, classes ...string) *call {
	p.t.Helper()
	return p.ask(worker, nil, classes)
}

// claimHolding is a claim of a worker that goes on with what it has.
func (p *stage) claimHolding(worker string, holds ...jobs.Lease) *call {
	p.t.Helper()
	return p.ask(worker, holds, nil)
}

func (p *stage) ask(worker string, holds []jobs.Lease, classes []string) *call {
	p.t.Helper()
	c := jobs.Claim{Worker: cluster.WorkerID(worker), Node: cluster.NodeID("node-" + worker), Holds: holds}
	if classes != nil {
		c.Classes = map[string]bool{}
		for _, name := range classes {
			c.Classes[name] = true
		}
	}
	return p.askWith(c)
}

func (p *stage) askWith(c jobs.Claim) *call {
	ctx, cancel := context.WithCancel(p.ctx)
	out := &call{p: p, got: make(chan jobs.Assignment, 1), failed: make(chan error, 1), hangUp: cancel}
	s := p.s
	go func() {
		a, err := s.Claim(ctx, c)
		if err != nil {
			out.failed <- err
			return
		}
		out.got <- a
	}()
	synctest.Wait()
	return out
}

// gets returns the lease that the call was answered with.
func (c *call) gets(prompt string) jobs.Lease {
	c.p.t.Helper()
	synctest.Wait()
	select {
	case a := <-c.got:
		if a.Job.Prompt != prompt || string(a.Row.Body) != "body of "+prompt || a.Row.Worker != a.Worker || a.Row.Epoch != a.Epoch {
			c.p.t.Fatalf("got %+v with row %+v, want %s", a.Lease, a.Row, prompt)
		}
		return a.Lease
	case err := <-c.failed:
		c.p.t.Fatalf("claim ended with %v, want %s", err, prompt)
	default:
		c.p.t.Fatalf("claim still waits, want %s", prompt)
	}
	return jobs.Lease{}
}

// waits checks that nothing has come.
func (c *call) waits() {
	c.p.t.Helper()
	synctest.Wait()
	select {
	case a := <-c.got:
		c.p.t.Fatalf("got %+v, want nothing yet", a.Lease)
	case err := <-c.failed:
		c.p.t.Fatalf("claim ended with %v, want it to wait", err)
	default:
	}
}

// fails checks that the call ended with an error of that code.
func (c *call) fails(code cluster.Code) {
	c.p.t.Helper()
	synctest.Wait()
	select {
	case err := <-c.failed:
		if cluster.CodeOf(err) != code {
			c.p.t.Fatalf("claim ended with %v, want %s", err, code)
		}
	default:
		c.p.t.Fatalf("claim did not end, want %s", code)
	}
}

func (p *stage) row(prompt string) jobs.Job {
	p.t.Helper()
	var row jobs.Job
	var ok bool
	p.machine.Jobs(func(t *jobs.Table) { row, ok = t.Job(id(prompt)) })
	if !ok {
		p.t.Fatalf("no row %s", prompt)
	}
	return row
}

// is checks a row: its state, worker and epoch.
func (p *stage) is(prompt, want string) {
	p.t.Helper()
	r := p.row(prompt)
	if got := fmt.Sprintf("%s %s %d", r.State, r.Worker, r.Epoch); got != want {
		p.t.Fatalf("%s is %q (reason %q), want %q", prompt, got, r.Reason, want)
	}
}

func (p *stage) started(l jobs.Lease) {
	p.t.Helper()
	index, err := p.s.Started(p.t.Context(), l)
	if err != nil || index == 0 {
		p.t.Fatalf("Started = %d, %v", index, err)
	}
}

func (p *stage) finish(l jobs.Lease) error {
	return p.s.Finish(p.t.Context(), jobs.Finish{Lease: l, State: jobs.Done, History: history, Outputs: 1})
}

func (p *stage) verdict(l jobs.Lease, want jobs.Verdict) {
	p.t.Helper()
	if v, err := p.s.Renew(p.t.Context(), l); v != want || err != nil {
		p.t.Fatalf("Renew = %q, %v, want %q", v, err, want)
	}
}

// pass lets virtual time go by.
func (p *stage) pass(d time.Duration) {
	time.Sleep(d) // virtual: inside a bubble nothing waits for real
	synctest.Wait()
}
