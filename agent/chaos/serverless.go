package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/ahelme/comfyume/agent/chaos/oracle"
	"github.com/ahelme/comfyume/agent/chaos/world"
)

// The platform of the scenario serverless: how many containers it has at most,
// how long one without a request lives, how long a request waits for one that
// starts, and how often one is killed for no reason.
const (
	maxReplicas = 5
	idleFor     = 3 * time.Second
	startWithin = 20 * time.Second
	spotEvery   = 3 * time.Second
)

// platform starts a container when a request comes and there are fewer than
// requests, hands the request to any that runs (its load balancer is blind), and
// ends those to which none has come for a while.
type platform struct {
	w    *world.World
	ln   net.Listener
	spot *rand.Rand

	mu       sync.Mutex
	replicas []*replica
	open     int
	starts   int
	ends     int
	kills    int
}

type replica struct {
	node  *world.Node
	addr  string // of its /work
	open  int
	freed time.Time
}

func newPlatform(w *world.World, seed uint64) (*platform, error) {
	p := &platform{w: w, spot: rand.New(rand.NewPCG(seed, 5))}
	var err error
	if p.ln, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return nil, err
	}
	for i := range maxReplicas {
		addr := fmt.Sprintf("127.0.0.1:%d", 9701+i)
		n, err := w.Add(world.Options{Name: fmt.Sprintf("r%d", i+1), Roles: "gpu", Args: []string{"--probe-listen=" + addr}})
		if err != nil {
			return nil, err
		}
		p.replicas = append(p.replicas, &replica{node: n, addr: addr})
	}
	return p, nil
}

// run serves until ctx ends.
func (p *platform) run(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /work", p.work)
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go p.scale(ctx)
	go func() { <-ctx.Done(); srv.Close() }()
	if err := srv.Serve(p.ln); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// work hands a request on to a container.
func (p *platform) work(w http.ResponseWriter, r *http.Request) {
	to, err := p.choose()
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	defer p.done(to)
	for end := time.Now().Add(startWithin); ; {
		req, err := http.NewRequestWithContext(r.Context(), http.MethodPost, "http://"+to.addr+"/work", nil)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			w.WriteHeader(resp.StatusCode)
			_, _ = io.Copy(w, resp.Body) // what became of it is the agent's to find out
			resp.Body.Close()
			return
		}
		if r.Context().Err() != nil || time.Now().After(end) || !to.node.Launched() {
			http.Error(w, "the container has ended", http.StatusBadGateway)
			return
		}
		<-time.After(100 * time.Millisecond)
	}
}

func (p *platform) choose() (*replica, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open++
	var up, down []*replica
	for _, r := range p.replicas {
		if r.node.Launched() {
			up = append(up, r)
		} else {
			down = append(down, r)
		}
	}
	if len(up) < p.open && len(down) > 0 {
		fresh := down[p.spot.IntN(len(down))]
		if err := errors.Join(fresh.node.Wipe(), fresh.node.Launch()); err != nil { // a container begins with an empty disk
			p.open--
			return nil, err
		}
		p.starts++
		up = append(up, fresh)
	}
	if len(up) == 0 {
		p.open--
		return nil, errors.New("no container can be started")
	}
	to := up[p.spot.IntN(len(up))]
	to.open++
	return to, nil
}

func (p *platform) done(r *replica) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open--
	if r.open--; r.open == 0 {
		r.freed = time.Now()
	}
}

// scale ends idle containers, and kills others.
func (p *platform) scale(ctx context.Context) {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	next := time.Now().Add(spotEvery)
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		var idle, victim *replica
		p.mu.Lock()
		for _, i := range p.spot.Perm(len(p.replicas)) {
			r := p.replicas[i]
			switch {
			case !r.node.Launched():
				r.freed = time.Time{}
			case r.open == 0 && r.freed.IsZero():
				r.freed = time.Now() // the balancer gave its request to another
			case r.open == 0 && time.Since(r.freed) > idleFor:
				idle = r
			}
		}
		if time.Now().After(next) { // one that does not run is spared: the last one is not always hit
			next = time.Now().Add(time.Duration((0.5 + p.spot.Float64()) * float64(spotEvery)))
			if victim = p.replicas[p.spot.IntN(len(p.replicas))]; victim == idle || !victim.node.Launched() {
				victim = nil
			} else {
				p.kills++
			}
		}
		if idle != nil {
			p.ends++
		}
		p.mu.Unlock()
		if idle != nil {
			p.w.Say("%s ends: no request is open", idle.node.Name)
			if err := idle.node.Stop(10 * time.Second); err != nil {
				p.w.Say("%v", err)
			}
		}
		if victim != nil {
			p.w.Say("kill %s", victim.node.Name)
			victim.node.Kill()
		}
	}
}

// serverless has containers that come when jobs do, behind a balancer that knows
// nothing of them, and that are killed at random.
func (u *unit) serverless(ctx context.Context, w *world.World, r *result) error {
	p, err := newPlatform(w, u.Seed)
	if err != nil {
		return err
	}
	wake := []string{"--wake=http://" + p.ln.Addr().String() + "/work", fmt.Sprintf("--wake-replicas=%d", maxReplicas)}
	var core []*world.Node
	for _, o := range []world.Options{{Name: "a", Roles: "gateway,queue", Args: wake}, {Name: "b", Roles: "gateway,queue", Args: wake}, {Name: "c", Roles: "queue", Args: wake}} {
		n, err := w.Add(o)
		if err != nil {
			return err
		}
		core = append(core, n)
	}
	if err := w.Start(core...); err != nil {
		return err
	}
	if err := ready(ctx, w, 3, 90*time.Second); err != nil {
		return err
	}
	life, end := context.WithCancel(ctx)
	defer end()
	served := make(chan error, 1)
	go func() { served <- p.run(life) }()

	t := &trap{w: w, r: r, book: oracle.NewBook(), a: w.Node("a"), b: w.Node("b")}
	for i := range people {
		name, pass := user(i)
		t.people = append(t.people, oracle.NewPerson(t.book, oracle.NewSession(t.book, name, pass, doors(t.a, t.b)...), u.Seed*10+uint64(i))) //nolint:gosec // a small number
	}
	begin := time.Now()
	first := t.people[0].NewJob(oracle.Slow)
	t.people[0].Submit(ctx, first)
	if _, err := t.running(ctx, first, 1, time.Minute); err != nil {
		return fmt.Errorf("from no container to one: %w", err)
	}
	woke := time.Since(begin)
	t.queue(ctx, (u.Jobs-1+people-1)/people, oracle.Slow)
	t.drain(ctx, time.Duration(u.Jobs)*2*time.Second+2*time.Minute)
	took := time.Since(begin)
	end()
	if err := <-served; err != nil {
		return err
	}
	r.Verdict = t.book.Judge(ctx, doors(t.a, t.b), participants(), nil, nil)
	p.mu.Lock()
	defer p.mu.Unlock()
	r.Faults = p.kills
	r.Lines = append(r.Lines, fmt.Sprintf("serverless replicas=%d jobs=%d lost=%d duplicated=%d misplaced=%d violations=%d unknown=%d starts=%d scaled_in=%d kills=%d first_job_runs_s=%.1f took_s=%.0f",
		maxReplicas, r.Jobs, r.Lost, r.Duplicated, r.Misplaced, r.Violations, r.Unknown, p.starts, p.ends, p.kills, woke.Seconds(), took.Seconds()))
	return ctx.Err()
}
