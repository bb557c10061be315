package gpu

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
)

// callTimeout bounds one small call to ComfyUI.
const callTimeout = 5 * time.Second

// keep renews the lease until ctx ends, but only while there is evidence that
// the job goes on: a job in a dead ComfyUI must become another worker's.
func (a *attempt) keep(ctx context.Context, lost context.CancelCauseFunc) {
	var wg sync.WaitGroup
	defer wg.Wait()
	if a.w.cfg.Await != nil {
		wg.Go(func() { a.await(ctx, lost) })
	}
	tick := time.NewTicker(a.w.cfg.RenewEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if !a.evidence(ctx) {
			continue
		}
		v, err := a.w.cfg.Queue.Renew(ctx, a.lease)
		a.judge(v, err, lost)
	}
}

// await hears of a verdict as soon as it is made.
func (a *attempt) await(ctx context.Context, lost context.CancelCauseFunc) {
	pause := a.w.backoff()
	for ctx.Err() == nil {
		v, err := a.w.cfg.Await(ctx, a.lease)
		a.judge(v, err, lost)
		if err == nil && v != jobs.Go {
			return
		}
		pause.wait(ctx)
	}
}

func (a *attempt) judge(v jobs.Verdict, err error, lost context.CancelCauseFunc) {
	code := cluster.CodeOf(err)
	switch {
	case code == cluster.Stale, code == cluster.NotFound, err == nil && v == jobs.Lost:
		lost(errLost)
	case err == nil && v == jobs.Stop:
		a.stop()
	}
}

func (a *attempt) evidence(ctx context.Context) bool {
	if a.busy.Load() || a.done.Load() || a.heard.Swap(false) {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	q, err := a.w.client.Queue(ctx)
	return err == nil && (q.IsRunning(a.id) || q.IsPending(a.id))
}

// interrupt stops the job at ComfyUI, whether it runs or waits there. It also
// works when this node is being stopped.
func (a *attempt) interrupt() {
	if !a.sent || a.over || a.done.Load() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	// First out of the queue: what begins to run in between is then interrupted.
	err := errors.Join(a.w.client.DeleteQueued(ctx, a.id), a.w.client.Interrupt(ctx, a.id))
	if err != nil {
		a.w.log.Debug("interrupting", "attempt", a.id, "err", err)
	}
}

// vacate waits until ComfyUI is rid of the job: some code is deaf to
// interruption, and the next job would only wait behind it.
func (a *attempt) vacate(ctx context.Context) {
	pause := a.w.backoff()
	began := time.Now()
	for a.sent && !a.over && !a.done.Load() && ctx.Err() == nil && !a.w.connection().dead() {
		where, err := a.locate(ctx)
		if err == nil && where != waits && where != runs {
			break
		}
		if err == nil {
			if p := a.w.cfg.Process; p != nil && (a.deaf || time.Since(began) > a.w.cfg.Patience.Stop) {
				// The next step of the ladder: SIGTERM, then SIGKILL.
				a.w.endProcess("ComfyUI is restarted: it did not stop a job of " + string(a.row.ID.User))
				break
			}
			a.note(func(s *Status) {
				s.Phase, s.Problem = Waiting, "ComfyUI still runs a job that was stopped. If this lasts, restart ComfyUI."
			})
			a.interrupt()
		}
		pause.wait(ctx)
	}
	if a.sent && !a.w.connection().dead() {
		a.forget(ctx)
	}
}

// forget takes the job out of ComfyUI's history, which shows all users' prompts
// to whoever asks it. Nothing depends on it.
func (a *attempt) forget(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	if err := a.w.client.DeleteHistory(ctx, a.id); err != nil {
		a.w.log.Debug("clearing ComfyUI's history", "attempt", a.id, "err", err)
	}
	if _, err := a.w.systemStats(ctx); err != nil {
		a.w.log.Debug("looking after a job", "err", err)
	}
}
