// Package gpu drives one ComfyUI: it claims jobs, brings their inputs, runs
// them, and brings every result home before it says that there is one. It
// promises that a job it has claimed is reported, put back or given up on word
// of the queue, whatever ComfyUI or the network does, and that a participant
// sees their own names and ids only. It refuses to choose jobs and to keep files;
// starting and ending ComfyUI is package comfyui's.
//
//	Queue.Claim -> stage.go -> POST /prompt -> follow.go --Publish--> pages
//	                 |                           |    |
//	               blobs                     relay.go outputs.go -> blobs
//	                                                  |
//	     keep.go renews and hears of cancels      finish.go -> Queue.Finish
//
// Run claims; each job is a goroutine of its own. Who has the turn (turn.go) has
// ComfyUI: the next job is brought meanwhile and sent when ComfyUI is done with
// the one before, whose results may still be on their way home.
package gpu

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/blob"
	"github.com/ahelme/comfyume/cluster/files"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/cluster/models"
	"github.com/ahelme/comfyume/roles/comfy"
)

// Queue is where work comes from and is reported to. Errors carry cluster
// codes: Stale and NotFound mean that the lease is gone; NoLeader and
// Unavailable that asking again helps. Every report may be repeated.
type Queue interface {
	// Claim waits until there is a job for the worker or ctx ends.
	Claim(ctx context.Context, c jobs.Claim) (jobs.Assignment, error)
	// Started says that ComfyUI has begun. index is the commit.
	Started(ctx context.Context, l jobs.Lease) (index uint64, err error)
	// Renew says that there is evidence of progress and asks whether to go on.
	Renew(ctx context.Context, l jobs.Lease) (jobs.Verdict, error)
	// GpuDone says that only storing is left.
	GpuDone(ctx context.Context, l jobs.Lease) error
	// Outputs enters stored files and returns the user's names in the same order.
	Outputs(ctx context.Context, l jobs.Lease, out []files.NewOutput) (places []files.Place, index uint64, err error)
	Finish(ctx context.Context, f jobs.Finish) error
	Requeue(ctx context.Context, l jobs.Lease, strike bool, reason string) error
	// OutOfMemory gives a job back that was too large for the GPU. False: no other
	// GPU has more, the job is still this worker's and shall fail.
	OutOfMemory(ctx context.Context, l jobs.Lease, m jobs.Memory) (elsewhere bool, err error)
	Hold(ctx context.Context, l jobs.Lease, reason string) error
}

// Process is the ComfyUI behind a worker, where this machine started it.
type Process interface {
	// Generation numbers the run that is on, 0 when it does not run.
	Generation() int
	// Restart ends it, politely at first, and starts it again. It does not wait.
	Restart(why string)
}

// Depot is where bytes are kept that must outlive this machine.
type Depot interface {
	// Fetch brings an input of a job into Blobs.
	Fetch(ctx context.Context, l jobs.Lease, ref cluster.Ref) error
	// Keep takes a blob out of Blobs and returns when it is kept: verified, on a
	// machine that counts. The zero lease is for what belongs to no job.
	Keep(ctx context.Context, l jobs.Lease, ref cluster.Ref) error
	// Kept reports whether, and how large, it is.
	Kept(ctx context.Context, l jobs.Lease, ref cluster.Ref) (int64, bool)
}

// here is the Depot of a machine that keeps bytes itself.
type here struct{ blobs blob.Store }

func (here) Fetch(context.Context, jobs.Lease, cluster.Ref) error { return nil }
func (here) Keep(context.Context, jobs.Lease, cluster.Ref) error  { return nil }
func (h here) Kept(ctx context.Context, _ jobs.Lease, ref cluster.Ref) (int64, bool) {
	return h.blobs.Has(ctx, ref)
}

// Config says which ComfyUI a Worker drives and for whom.
type Config struct {
	ID   cluster.WorkerID // required
	Node cluster.NodeID
	// URL is ComfyUI's root, "http://127.0.0.1:8188". Required.
	URL   string
	Queue Queue      // required
	Blobs blob.Store // of this machine; required
	// Depot brings bytes between Blobs and the machines that keep them. Nil means
	// that Blobs is such a machine's.
	Depot Depot
	// Secrets asks the gateway that took a submit in for the user's tokens; false
	// when they are gone. Nil means that they always are.
	Secrets func(ctx context.Context, l jobs.Lease) (map[string]string, bool, error)
	// Publish hands an event on to the user's pages. It must not block for long.
	// Nil drops them.
	Publish func(jobs.Event)
	// Flush waits until the pages' gateways have what was published. It gives up
	// after a while on one that does not answer. Nil means that they have.
	Flush func(ctx context.Context)
	// Register enters the worker or its new capabilities. Nil means that nobody
	// wants to know.
	Register func(ctx context.Context, w models.Worker) error
	// Await waits until the verdict on a lease is another than Go. It makes
	// cancels quick; nil means that they are heard of with the next renewal.
	Await func(ctx context.Context, l jobs.Lease) (jobs.Verdict, error)
	// Process is the ComfyUI at URL if it can be restarted from here; nil when it
	// was started by others.
	Process Process
	// Working reports signs of work that ComfyUI itself does not tell: its
	// processor time, the GPU's load. Nil = never.
	Working func() bool
	// Version is what ComfyUI must be of; "" takes any.
	Version string
	// Share is how many workers share the GPU's memory; 0 means one.
	Share int
	// Logger hears of jobs and troubles, never of prompts. Nil discards.
	Logger *slog.Logger
	// RenewEvery is how often a lease is renewed; 0 means 1 s: a cancel is heard
	// of then at the latest.
	RenewEvery time.Duration
	// Patience says how long to wait for what; its zero value is for production.
	Patience Patience
}

// Patience is how long a worker waits before it draws a conclusion. A zero
// field has the standard value.
type Patience struct {
	Lost    time.Duration // ComfyUI silent on all ways while it has a job: 20 s
	Start   time.Duration // a prompt was accepted, not begun, and is not queued: 2 min
	Stop    time.Duration // an interrupted job ends: 5 s
	Stuck   time.Duration // a running job shows no progress: 10 min; four times as long while ComfyUI is seen working
	Silence time.Duration // no event of a running job before ComfyUI is asked: 10 s
	Refresh time.Duration // between two looks at the capabilities while idle: 5 min
	Bye     time.Duration // for giving a job back when this node is stopped: 5 s
	Backoff time.Duration // the first pause before another try: 0.2 s
}

// Worker drives one ComfyUI.
type Worker struct {
	cfg    Config
	log    *slog.Logger
	client *comfy.Client

	turn  chan struct{} // room for one: whoever has put it in has ComfyUI
	upset atomic.Bool   // what has the turn came to nothing, and is being ended

	// Used by whoever has the turn.
	classes  map[string]bool   // Run alone writes it, and reads it without the turn
	models   map[string]bool   // likewise: the model files that it lists
	windows  map[string]string // likewise: names with slashes -> as this ComfyUI lists them
	mirrored *mirrored         // what pages may ask of models and custom nodes
	probed   bool              // what classes says is of this connection
	run      int               // generation of the process at the other end, 0 = not ours
	known    string            // digest of what was last registered
	inbox    *inbox            // of the job that has the turn, on this connection and on the next

	mu       sync.Mutex
	link     *link // changed by whoever has the turn
	status   Status
	attempts []*attempt              // what is held, oldest first
	shown    *attempt                // whose doings the status tells
	reclaim  context.CancelCauseFunc // withdraws the claim that waits, nil without one
	ooms     []time.Time             // when jobs ran out of memory

	aside aside
}

// New checks the configuration; it makes no call.
func New(cfg Config) (*Worker, error) {
	if cfg.ID == "" || cfg.Queue == nil || cfg.Blobs == nil {
		return nil, errors.New("start a GPU worker: an id, a queue and a blob store are needed")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Secrets == nil {
		cfg.Secrets = func(context.Context, jobs.Lease) (map[string]string, bool, error) { return nil, false, nil }
	}
	if cfg.Depot == nil {
		cfg.Depot = here{cfg.Blobs}
	}
	if cfg.Flush == nil {
		cfg.Flush = func(context.Context) {}
	}
	if cfg.Publish == nil {
		cfg.Publish = func(jobs.Event) {}
	}
	if cfg.Register == nil {
		cfg.Register = func(context.Context, models.Worker) error { return nil }
	}
	if cfg.RenewEvery == 0 {
		cfg.RenewEvery = time.Second
	}
	cfg.Patience.fill()
	log := cfg.Logger.With("component", "gpu", "worker", string(cfg.ID))
	client, err := comfy.NewClient(comfy.ClientConfig{BaseURL: cfg.URL, Logger: log})
	if err != nil {
		return nil, fmt.Errorf("start a GPU worker: %w", err)
	}
	w := &Worker{cfg: cfg, log: log, client: client, turn: make(chan struct{}, 1)}
	w.status = Status{Phase: Waiting, Since: time.Now()}
	return w, nil
}

func (p *Patience) fill() {
	for _, f := range []struct {
		value    *time.Duration
		standard time.Duration
	}{
		{&p.Lost, 20 * time.Second},
		{&p.Start, 2 * time.Minute},
		{&p.Stop, 5 * time.Second},
		{&p.Stuck, 10 * time.Minute},
		{&p.Silence, 10 * time.Second},
		{&p.Refresh, 5 * time.Minute},
		{&p.Bye, 5 * time.Second},
		{&p.Backoff, 200 * time.Millisecond},
	} {
		if *f.value == 0 {
			*f.value = f.standard
		}
	}
}

// Run works until ctx ends, whatever becomes of ComfyUI. What is held then is
// given back.
func (w *Worker) Run(ctx context.Context) error {
	defer w.hangUp()
	var working sync.WaitGroup
	defer working.Wait()
	pause := w.backoff()
	for ctx.Err() == nil {
		if err := w.ready(ctx); err != nil {
			if ctx.Err() == nil {
				w.log.Debug("ComfyUI is not ready", "err", err)
			}
			pause.wait(ctx)
			continue
		}
		if why, changed := w.aside.reason(); why != "" {
			w.wait(ctx, changed)
			continue
		}
		asked := time.Now()
		a, err := w.claim(ctx)
		if err == nil || time.Since(asked) > longestPause {
			pause.reset() // the queue is there
		}
		switch {
		case ctx.Err() != nil && err != nil, errors.Is(err, errAgain), errors.Is(err, errAside):
		case err == nil && a.Row.ID.Prompt != "":
			job := w.newAttempt(a)
			working.Go(func() { job.work(ctx) })
			<-job.sentOff // one job is brought at a time
		case err != nil && w.Busy(): // it matters only when the GPU is free
			w.log.Debug("asking for work ahead", "err", err)
			w.idle(ctx, pause)
		case err != nil:
			w.log.Debug("asking for work", "err", err)
			w.trouble(err)
			pause.wait(ctx)
		}
	}
	return nil
}

// errAgain ends a claim that shall be made anew: the connection is gone or the
// capabilities are due.
var errAgain = errors.New("look after ComfyUI first")

// ready connects and probes as far as it is needed, when no job has ComfyUI. A
// job that has it and lost the connection, or came to nothing, is waited for.
func (w *Worker) ready(ctx context.Context) error {
	if !w.take() {
		if !w.connection().dead() && !w.upset.Load() {
			return nil
		}
		select {
		case w.turn <- struct{}{}:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	defer w.pass()
	if w.connection().dead() {
		w.note(func(s *Status) { s.Phase, s.Job = Waiting, nil })
		if err := w.dial(ctx); err != nil {
			w.trouble(err)
			return err
		}
	}
	if !w.probed {
		w.note(func(s *Status) { s.Phase = Probing })
		if err := w.probe(ctx); err != nil {
			w.trouble(err)
			return err
		}
	}
	w.note(func(s *Status) {
		s.Job, s.NodeID, s.Value, s.Max = nil, "", 0, 0
		if s.Phase, s.Problem = Idle, ""; w.Aside() != "" {
			s.Phase, s.Problem = Aside, w.Aside()
		}
	})
	return nil
}

// claim waits for a job while the connection stands.
func (w *Worker) claim(ctx context.Context) (jobs.Assignment, error) {
	why, changed := w.aside.reason()
	if why != "" {
		return jobs.Assignment{}, errAside
	}
	ctx, cancel := context.WithTimeoutCause(ctx, w.cfg.Patience.Refresh, errAgain)
	defer cancel()
	ctx, lost := context.WithCancelCause(ctx)
	defer lost(nil)
	defer w.withdrawable(lost)()
	stop := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		select {
		case <-w.connection().lost:
			lost(errAgain)
		case <-changed:
			lost(errAside)
		case <-stop:
		}
	})
	a, err := w.cfg.Queue.Claim(ctx, jobs.Claim{Worker: w.cfg.ID, Node: w.cfg.Node, Classes: w.classes, Models: w.models, Memory: w.memory(), Holds: w.holds()})
	close(stop)
	watch.Wait()
	if err == nil {
		return a, nil
	}
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errAside):
		return jobs.Assignment{}, errAside
	case errors.Is(cause, errAgain):
		if w.take() { // else a job has ComfyUI, and whoever follows it looks
			w.probed = false
			w.pass()
		}
		return jobs.Assignment{}, errAgain
	}
	return jobs.Assignment{}, fmt.Errorf("claim: %w", err)
}
