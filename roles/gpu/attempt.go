package gpu

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/files"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/roles/comfy"
)

// attempt is one try at one job. Its methods are called by its own goroutine
// (work) but for keep and what it calls, and where it is said.
type attempt struct {
	w       *Worker
	row     jobs.Job
	lease   jobs.Lease
	id      string // the prompt's id at ComfyUI: another for each attempt
	undo    *undo
	pace    *pacer
	link    *link             // on which it was prepared
	windows map[string]string // Worker.windows of then
	in      inbox

	ctx     context.Context         // of work
	giveUp  context.CancelCauseFunc // ends the work from outside
	started chan struct{}           // closed when the queue knows that it runs
	freed   func() error            // says, once, that the GPU is free of it; any goroutine may wait for that
	sentOff chan struct{}           // closed when ComfyUI has it, or nothing more is to come
	left    chan struct{}           // closed when nothing more is to come
	holds   atomic.Bool             // it has the turn
	done    atomic.Bool             // ComfyUI has said its last word
	restart string                  // why ComfyUI is restarted after this job

	req   *comfy.PromptRequest // as the user sent it
	graph *comfy.Graph         // as ComfyUI gets it

	stopped  chan struct{} // closed by stop
	stopOnce sync.Once
	busy     atomic.Bool // this side works: evidence enough to renew
	heard    atomic.Bool // ComfyUI has spoken of the job since the last renewal

	sent     bool      // ComfyUI may have it
	spoke    time.Time // when an event of it came last
	accepted time.Time // ComfyUI has said so; zero before
	begun    bool
	over     bool   // ComfyUI has it no more
	deaf     bool   // ComfyUI was asked to stop it and did not
	index    uint64 // of the last commit that events rely on

	class   string                   // of the node that runs
	ran     []string                 // nodes that were executed, in order
	shown   map[string]bool          // nodes whose output was published
	keys    map[string]int           // items named so far
	placed  map[comfy.FileItem]place // files brought home
	told    map[string]comfy.Message // by type: start, cached and ends, with the user's id
	outputs comfy.Object             // by node, with the user's names

	standing standing
	first    []*attempt   // earlier ones of the same user, of which pages are told first
	untold   []jobs.Event // waits for them
}

// place is where a file of ComfyUI's is now, for its user.
type place struct {
	files.Place
	ref cluster.Ref
}

// errLost says that the job is another's now, or nobody's.
var errLost = errors.New("the job is not this worker's any more")

// errStopped says that the user has cancelled the job.
var errStopped = errors.New("the job was cancelled")

// givenUp is an attempt that came to nothing; the job can be tried again.
type givenUp struct {
	strike bool // the job may be the cause
	reason string
}

func (g *givenUp) Error() string { return g.reason }

// stoppedHere is what people read of a job that was under way when ComfyUI died.
const stoppedHere = "ComfyUI stopped while running this job"

// refusal is a job that will fail wherever it is tried.
type refusal struct {
	failure jobs.Failure
}

func (r *refusal) Error() string { return r.failure.Message }

// newAttempt is called by Run.
func (w *Worker) newAttempt(as jobs.Assignment) *attempt {
	id := uuid.NewString()
	a := &attempt{
		w: w, row: as.Row, lease: as.Lease, id: id, undo: newUndo(id), stopped: make(chan struct{}),
		link: w.connection(), windows: w.windows, sentOff: make(chan struct{}), started: make(chan struct{}), left: make(chan struct{}),
		req: &comfy.PromptRequest{}, shown: map[string]bool{}, keys: map[string]int{}, placed: map[comfy.FileItem]place{},
		told: map[string]comfy.Message{},
	}
	a.in = inbox{id: id, wake: make(chan struct{}, 1), over: a.lastHeard}
	a.pace = newPacer(a.say)
	a.freed = sync.OnceValue(a.free)
	return a
}

// work does one job to its end, whatever that is.
func (a *attempt) work(ctx context.Context) {
	w := a.w
	log := w.log.With("user", a.row.ID.User, "job", a.row.ID.Prompt, "attempt", a.id)
	log.Info("job taken", "epoch", a.lease.Epoch)
	jobCtx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	a.ctx, a.giveUp = jobCtx, cancel
	w.enlist(a)
	a.first = a.earlier(func(b *attempt) bool { return b.row.ID.User == a.row.ID.User })
	defer a.leave()
	var keeper sync.WaitGroup
	keeper.Go(func() { a.keep(jobCtx, cancel) })
	err := a.run(jobCtx)
	if err != nil && a.holds.Load() { // nothing more is asked for before it is known how ComfyUI is
		w.upset.Store(true)
		w.recheck()
	}
	err = a.conclude(jobCtx, err)
	if err != nil && context.Cause(jobCtx) != nil && ctx.Err() == nil {
		err = context.Cause(jobCtx) // what ended the work, not what failed of it
	}
	cancel(nil)
	keeper.Wait()
	if err != nil {
		log.Warn("attempt ended without a result", "err", err)
		a.letGo(ctx, err)
	}
	if a.restart != "" && w.cfg.Process != nil {
		w.endProcess("ComfyUI is restarted: " + a.restart) // what it knew of the job is read by now
	} else {
		a.vacate(ctx)
	}
}

// leave lets others go on.
func (a *attempt) leave() {
	again := false
	if a.holds.Load() {
		again = !a.w.probed
		a.w.upset.Store(false)
	}
	a.w.deafen(&a.in)
	a.sendOff()
	a.handOver()
	close(a.left)
	a.w.delist(a)
	if again {
		a.w.recheck()
	}
}

// sendOff says that Run may ask for more.
func (a *attempt) sendOff() {
	if !closed(a.sentOff) {
		close(a.sentOff)
	}
}

// closed is for channels that one goroutine closes, its own.
func closed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// lastHeard notes that ComfyUI is done with the job. After one that went well the
// next is sent at once, whatever is still to be brought home. The socket's
// reader calls it.
func (a *attempt) lastHeard(well bool) {
	a.done.Store(true)
	if well {
		a.handOver()
		go func() { _ = a.freed() }() // report hears of what it comes to
	}
}

// endProcess restarts ComfyUI; what waits for it is not sent to the old one.
func (w *Worker) endProcess(why string) {
	w.connection().doomed.Store(true)
	w.cfg.Process.Restart(why)
}

// run works until the job is reported; nil means that it is.
func (a *attempt) run(ctx context.Context) error {
	a.busy.Store(true)
	body, err := a.prepare(ctx)
	if errors.Is(err, errNoSecrets) {
		return a.w.insist(ctx, func(ctx context.Context) error { return a.w.cfg.Queue.Hold(ctx, a.lease, "sign in again") })
	}
	if err != nil {
		return err
	}
	if a.stopping() {
		return errStopped
	}
	if err := a.queueUp(ctx); err != nil {
		return err
	}
	a.holds.Store(true)
	a.show(Staging)
	l := a.w.connection()
	if l.dead() || l.doomed.Load() {
		// Nobody would hear the prompt's events.
		return &givenUp{reason: "ComfyUI stopped before it was sent this job"}
	}
	if l != a.link { // what was uploaded may be gone
		a.link = l
		if body, err = a.prepare(ctx); err != nil {
			return err
		}
	}
	a.w.listen(&a.in)
	a.busy.Store(false)
	if err := a.follow(ctx, body); err != nil {
		return err
	}
	a.busy.Store(true)
	ctx, cancel := linger(ctx, a.w.cfg.Patience.Bye)
	defer cancel()
	return a.report(ctx)
}

// linger gives what is nearly done some time after ctx has ended, unless the job
// was lost.
func linger(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	longer, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	var timer *time.Timer
	var mu sync.Mutex
	stop := context.AfterFunc(ctx, func() {
		cause := context.Cause(ctx)
		if errors.Is(cause, errLost) {
			cancel(cause)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		timer = time.AfterFunc(d, func() { cancel(cause) })
	})
	return longer, func() {
		stop()
		mu.Lock()
		defer mu.Unlock()
		if timer != nil {
			timer.Stop()
		}
		cancel(nil)
	}
}

// conclude reports the ends that need no ComfyUI.
func (a *attempt) conclude(ctx context.Context, err error) error {
	var refused *refusal
	switch {
	case errors.Is(err, errStopped):
		return a.finish(ctx, a.interrupted(), nil)
	case errors.As(err, &refused):
		return a.finish(ctx, a.failed(refused.failure), nil)
	}
	return err
}

// letGo ends an attempt without a result: ComfyUI is told to stop, and the job
// is put back unless it is lost.
func (a *attempt) letGo(ctx context.Context, why error) {
	// A ComfyUI that hangs answers nothing for seconds: the job does not wait for it.
	var aside sync.WaitGroup
	defer aside.Wait()
	aside.Go(a.interrupt)
	if errors.Is(why, errLost) {
		return
	}
	give := &givenUp{strike: true, reason: "The GPU worker had a problem with this job"}
	if !errors.As(why, &give) && ctx.Err() != nil {
		give = &givenUp{reason: "this node was stopped"}
	}
	requeue := func(ctx context.Context) error {
		return a.w.cfg.Queue.Requeue(ctx, a.lease, give.strike, give.reason)
	}
	err := a.w.insist(ctx, requeue)
	if ctx.Err() != nil && err != nil && !errors.Is(err, errLost) {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), a.w.cfg.Patience.Bye)
		defer cancel()
		err = a.w.insist(last, requeue)
	}
	if err != nil && !errors.Is(err, errLost) {
		a.w.log.Error("giving a job back", "user", a.row.ID.User, "job", a.row.ID.Prompt, "err", err)
	}
}

// stop notes that the user has cancelled.
func (a *attempt) stop() { a.stopOnce.Do(func() { close(a.stopped) }) }

func (a *attempt) stopping() bool {
	select {
	case <-a.stopped:
		return true
	default:
		return false
	}
}

// maxDefects is how often a report is repeated that fails for no known reason.
const maxDefects = 10

// insist repeats a report until it is taken or refused, or ctx ends. That the
// lease is gone is errLost.
func (w *Worker) insist(ctx context.Context, report func(context.Context) error) error {
	pause := w.backoff()
	for n := 1; ; n++ {
		err := report(ctx)
		switch code := cluster.CodeOf(err); {
		case err == nil:
			return nil
		case code == cluster.Stale, code == cluster.NotFound:
			return fmt.Errorf("%w: %w", errLost, err)
		case code == cluster.NoLeader, code == cluster.Unavailable:
		case code == cluster.Internal && n < maxDefects:
		default:
			return err
		}
		if !pause.wait(ctx) {
			return context.Cause(ctx)
		}
	}
}
