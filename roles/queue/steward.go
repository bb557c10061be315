// Package queue is the steward of the job table: on the node that leads it
// holds the workers' requests for work, lets policy decide, and takes a job
// away from a worker that stopped answering. It promises that what it decides
// is only a hint until it is committed, so a steward that dies loses nothing
// but the time of a lease. It refuses to know the graph, ComfyUI and the pages.
package queue

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/cluster/policy"
)

// DefaultLeaseTTL is how long a worker may be silent before it loses its job.
const DefaultLeaseTTL = 15 * time.Second

// amnesty is what a job gets above the TTL under a new leader: its worker may
// first have to find out who leads.
const amnesty = 15 * time.Second

// beat is how often leases are looked at when nothing else happens.
const beat = time.Second

// patience bounds one proposal of the steward's own, so that a cluster without
// a quorum does not stop it from noticing that it leads no more.
const patience = 10 * time.Second

// errStopping answers claims when Run has ended.
var errStopping = cluster.Errorf(cluster.Unavailable, "this node is stopping")

// Reader gives a look at the job table; state.Machine is one.
type Reader interface {
	Jobs(f func(*jobs.Table))
}

// Watcher tells what moved; state.Watcher is one.
type Watcher interface {
	Next(ctx context.Context) (cluster.Change, error)
	Close()
}

// Config is what a steward needs.
type Config struct {
	Jobs    Reader
	Propose cluster.Proposer
	Watch   func() Watcher
	Leads   func() bool  // whether this node leads now
	Leading <-chan bool  // news of it; may be nil, then Leads is asked each second
	Rules   func() Rules // what people have set; nil = fifo, nothing paused
	// Gone reports whether a node is believed to be gone. It is advice: a job is
	// taken back on it only when its worker has been silent as well. Nil = never.
	Gone     func(cluster.NodeID) bool
	Logger   *slog.Logger  // nil discards
	LeaseTTL time.Duration // 0 = DefaultLeaseTTL
}

// Rules is what people have set.
type Rules struct {
	Mode     policy.Mode // "" = fifo
	Paused   policy.Pause
	Draining map[cluster.NodeID]bool
	Kinds    map[cluster.WorkerID]string // what GPU the workers have, for estimates; nil = all the same
	Class    policy.Class
	Boosted  map[cluster.User]bool
	Limits   func(cluster.User) policy.Limits // nil: nobody is bounded
}

// Steward runs the queue. All methods are safe for concurrent use.
type Steward struct {
	jobs    Reader
	propose cluster.Proposer
	watch   func() Watcher
	leads   func() bool
	news    <-chan bool
	log     *slog.Logger
	ttl     time.Duration
	rules   func() Rules
	gone    func(cluster.NodeID) bool

	kick    chan struct{}  // one token: look again
	commits sync.WaitGroup // of what was decided

	committing atomic.Int32 // how many of them go on
	passed     time.Time    // when the last pass ended; Run's own

	// mu is taken before the table's own lock, never inside a view of it.
	mu      sync.Mutex
	stopped bool      // Run has ended
	leading bool      // this term's clocks have been set
	began   time.Time // when they were
	claims  []*claim
	clocks  map[jobs.ID]clock
	lost    map[jobs.Lease]string // to be taken back, and why
	workers map[cluster.WorkerID]*worker
	memory  policy.Memory

	unstaged time.Time                // when a job that was given ahead last went back
	recalled map[jobs.Lease]time.Time // of those, so that their workers are told

	emptied  map[cluster.WorkerID]time.Time // whose job was taken for another, and when
	stubborn map[cluster.WorkerID]bool      // of those, who did not stop in time

	moved      atomic.Bool // the table has, since the forecast was made
	forecast   *policy.Forecast
	forecastAt time.Time
}

// New checks the configuration and returns a steward that does nothing before Run.
func New(c Config) (*Steward, error) {
	if c.Jobs == nil || c.Propose == nil || c.Watch == nil || c.Leads == nil {
		return nil, errors.New("queue: Jobs, Propose, Watch and Leads are needed")
	}
	if c.LeaseTTL < 0 {
		return nil, cluster.Errorf(cluster.Invalid, "a lease of %s is not possible", c.LeaseTTL)
	}
	if c.LeaseTTL == 0 {
		c.LeaseTTL = DefaultLeaseTTL
	}
	if c.Rules == nil {
		c.Rules = func() Rules { return Rules{} }
	}
	if c.Gone == nil {
		c.Gone = func(cluster.NodeID) bool { return false }
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return &Steward{
		jobs: c.Jobs, propose: c.Propose, watch: c.Watch, leads: c.Leads, news: c.Leading,
		log: c.Logger.With("component", "queue"), ttl: c.LeaseTTL, rules: c.Rules, gone: c.Gone,
		kick:   make(chan struct{}, 1),
		clocks: map[jobs.ID]clock{}, lost: map[jobs.Lease]string{}, workers: map[cluster.WorkerID]*worker{},
		emptied: map[cluster.WorkerID]time.Time{}, stubborn: map[cluster.WorkerID]bool{}, recalled: map[jobs.Lease]time.Time{},
	}, nil
}

// Run stewards until ctx ends. It returns nil then, else what stopped it.
func (s *Steward) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	w := s.watch()
	watched := make(chan error, 1)
	go func() {
		watched <- s.follow(ctx, w)
	}()
	defer w.Close()
	tick := time.NewTicker(beat)
	defer tick.Stop()
	news := s.news
	for {
		s.pass(ctx)
		select {
		case <-ctx.Done():
			cancel()
			<-watched
			s.resign()
			return nil
		case err := <-watched:
			cancel() // resign waits for what is being committed
			s.resign()
			if err == nil {
				return nil
			}
			return fmt.Errorf("watch the job table: %w", err)
		case _, ok := <-news:
			if !ok {
				news = nil
			}
			s.newTerm()
		case <-tick.C:
		case <-s.kick:
		}
	}
}

// follow turns changes of the table into kicks until ctx ends.
func (s *Steward) follow(ctx context.Context, w Watcher) error {
	for {
		if _, err := w.Next(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		s.moved.Store(true)
		s.wake()
	}
}

// wake asks for another pass. It never waits.
func (s *Steward) wake() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// newTerm forgets the clocks: whatever they said was said under another leader.
func (s *Steward) newTerm() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leading = false
}

// gather is how long a pass waits for more to decide on while something is being
// committed: what is decided meanwhile gets into the next entry in any case.
const gather = time.Millisecond

// crowded reports whether it is too early for a pass; one comes in time.
func (s *Steward) crowded() bool {
	wait := gather - time.Since(s.passed)
	if s.committing.Load() == 0 || wait <= 0 {
		return false
	}
	time.AfterFunc(wait, s.wake)
	return true
}

// pass does everything that can be done now.
func (s *Steward) pass(ctx context.Context) {
	if s.crowded() {
		return
	}
	defer func() { s.passed = time.Now() }()
	if !s.leads() {
		s.follower()
		return
	}
	for _, r := range s.overdue() {
		s.takeBack(ctx, r)
	}
	s.unstage(ctx)
	s.dispatch(ctx)
	s.urge(ctx)
}

// follower keeps claims for the length of a lease, in case this node is about
// to lead, and then sends them away to look for the leader.
func (s *Steward) follower() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leading = false
	clear(s.lost)
	now := time.Now()
	var keep []*claim
	for _, c := range s.claims {
		if !c.inFlight && now.Sub(c.since) >= s.ttl {
			c.refuse(cluster.Errorf(cluster.NoLeader, "this node does not lead; ask the one that does"))
			continue
		}
		keep = append(keep, c)
	}
	s.claims = keep
}

// resign answers every claim at the end of Run, so that nobody waits for a
// steward that is gone. What is being committed gets its own answer first.
func (s *Steward) resign() {
	s.commits.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped, s.leading = true, false
	for _, c := range s.claims {
		c.refuse(errStopping)
	}
	s.claims = nil
}
