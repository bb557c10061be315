package gpu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/roles/comfy"
)

// vigil is the watch over a prompt at ComfyUI, from sending it until ComfyUI is
// done with it.
type vigil struct {
	*attempt
	body   json.RawMessage
	posted chan error // answers of post
	posts  int        // how often it was sent
	due    bool       // an answer is to come
	moved  bool       // the connection was made anew while it was to come
	spawn  func(func())
	quiet  *time.Timer // runs while nothing is heard
	grace  <-chan time.Time
	absent int // looks in a row at which ComfyUI did not know a prompt that had begun
}

// follow sends the prompt and relays its events until ComfyUI has ended it,
// which is nil.
func (a *attempt) follow(ctx context.Context, body json.RawMessage) error {
	aside, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	v := &vigil{attempt: a, body: body, posted: make(chan error, 1), quiet: time.NewTimer(a.w.cfg.Patience.Silence)}
	defer v.quiet.Stop()
	a.spoke = time.Now()
	v.spawn = func(f func()) { wg.Go(f) }
	v.post(aside)
	a.sendOff()
	for !a.over {
		if err := v.step(ctx, aside); err != nil {
			return err
		}
	}
	a.pace.release()
	return nil
}

// step takes one thing that has happened.
func (v *vigil) step(ctx, aside context.Context) error {
	stopped := v.stopped
	if v.grace != nil {
		stopped = nil // it is known
	}
	lost := v.w.connection().lost
	if !v.holds.Load() {
		lost = nil // all that is to come has come
	}
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-v.in.wake:
		return v.events(ctx)
	case <-lost:
		if err := v.events(ctx); err != nil || v.over || v.done.Load() {
			return err
		}
		return v.reconnect(ctx)
	case err := <-v.posted:
		return v.answered(ctx, aside, err)
	case <-v.pace.due.C:
		v.pace.fire()
	case <-v.toldFirst():
		v.mayTell()
	case <-stopped:
		v.grace = time.After(v.w.cfg.Patience.Stop)
		v.interrupt()
		v.quiet.Reset(0) // a prompt that only waited at ComfyUI ends without a word
	case <-v.grace:
		v.deaf = true
		return fmt.Errorf("%w; ComfyUI has not stopped it yet", errStopped)
	case <-v.quiet.C:
		if rest := v.patience() - time.Since(v.spoke); rest > 0 && v.grace == nil {
			v.quiet.Reset(rest)
			return nil
		}
		err := v.look(ctx)
		v.quiet.Reset(v.patience())
		return err
	}
	return nil
}

// patience is how long silence lasts before ComfyUI is asked.
func (v *vigil) patience() time.Duration {
	if v.grace != nil {
		return min(time.Second, v.w.cfg.Patience.Stop/4)
	}
	return v.w.cfg.Patience.Silence
}

// events handles what has come in.
func (v *vigil) events(ctx context.Context) error {
	for _, e := range v.in.take() {
		if err := v.event(ctx, e); err != nil {
			return err
		}
		if v.over {
			return nil
		}
		if context.Cause(ctx) != nil {
			return context.Cause(ctx)
		}
	}
	return nil
}

// post sends the prompt. Its events may come before its answer.
func (v *vigil) post(ctx context.Context) {
	v.posts++
	v.sent, v.due, v.moved = true, true, false
	v.spawn(func() {
		r, err := v.w.client.Prompt(ctx, v.body)
		if err == nil && r.PromptID != v.id {
			err = otherID(r.PromptID)
		}
		v.posted <- err
	})
}

// otherID is the id that an old ComfyUI chose in place of ours.
type otherID string

func (o otherID) Error() string { return fmt.Sprintf("ComfyUI calls the prompt %q", string(o)) }

// maxPosts is how often a prompt is sent whose fate is unknown each time.
const maxPosts = 3

// answered takes the answer to the prompt.
func (v *vigil) answered(ctx, aside context.Context, err error) error {
	var other otherID
	var refused *comfy.PromptError
	var status *comfy.StatusError
	v.due = false
	switch {
	case err == nil && v.moved:
		// The ComfyUI that took it may have ended since.
		v.accepted = time.Now()
		where, lookErr := v.locate(ctx)
		if lookErr != nil {
			return v.reconnect(ctx)
		}
		return v.resumed(ctx, where)
	case err == nil:
		v.accepted = time.Now()
		if v.stopping() {
			v.interrupt() // it may not have been there when it was stopped
		}
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.As(err, &refused):
		// The gateway has let it pass, so what this ComfyUI can do has changed.
		v.over, v.w.probed = true, false
		return v.rejected(refused)
	case errors.As(err, &other):
		v.id = string(other) // to be stopped; its events cannot be told apart
		return &refusal{jobs.Failure{Type: "comfyui_too_old", Message: "This ComfyUI is too old: it does not accept prompt ids. Version 0.3.45 or newer is needed."}}
	case errors.As(err, &status) && status.Status < http.StatusInternalServerError:
		v.over = true
		return &refusal{jobs.Failure{Type: "prompt_refused", Message: fmt.Sprintf("ComfyUI did not take this workflow (answer %d).", status.Status)}}
	}
	// Whether it was taken is not known. Sent again blindly it might run twice.
	v.w.log.Warn("sending a prompt", "attempt", v.id, "err", err)
	where, lookErr := v.locate(ctx)
	switch {
	case lookErr != nil:
		return v.reconnect(ctx)
	case where != nowhere:
		v.accepted = time.Now()
		return v.found(ctx, where)
	case v.posts >= maxPosts:
		v.over = true
		return &givenUp{strike: true, reason: "ComfyUI does not answer when it is sent this job"}
	}
	v.post(aside)
	return nil
}

// whereabouts is where ComfyUI has a prompt.
type whereabouts int

const (
	nowhere whereabouts = iota
	waits               // in its queue
	runs
	past // in its history
)

// locate asks for the queue first: a prompt that leaves it is in history.
func (a *attempt) locate(ctx context.Context) (whereabouts, error) {
	ctx, cancel := context.WithTimeout(ctx, max(callTimeout, a.w.cfg.Patience.Lost/2))
	defer cancel()
	q, err := a.w.client.Queue(ctx)
	if err != nil {
		return nowhere, fmt.Errorf("look for a job in ComfyUI: %w", err)
	}
	switch {
	case q.IsRunning(a.id):
		return runs, nil
	case q.IsPending(a.id):
		return waits, nil
	}
	_, ok, err := a.w.client.History(ctx, a.id)
	if err != nil {
		return nowhere, fmt.Errorf("look for a job in ComfyUI: %w", err)
	}
	if ok {
		return past, nil
	}
	return nowhere, nil
}

// look is for a prompt from which nothing was heard for a while. A ComfyUI that
// does not answer is not dead: Python can be busy. The socket tells.
func (v *vigil) look(ctx context.Context) error {
	where, err := v.locate(ctx)
	if err != nil {
		v.w.log.Debug("ComfyUI is silent", "err", err)
		return nil
	}
	if where != nowhere {
		v.absent = 0
		if where == runs && v.stuck() {
			v.deaf = true
			return &givenUp{strike: true, reason: fmt.Sprintf("it showed no progress for %s on %s", time.Since(v.spoke).Round(time.Second), v.w.cfg.ID)}
		}
		return v.found(ctx, where)
	}
	v.absent++
	switch {
	case v.due && !v.begun: // it is on its way
		return nil
	case v.stopping():
		v.over = true
		return errStopped
	case v.begun && v.absent > 1, !v.begun && time.Since(v.accepted) > v.w.cfg.Patience.Start:
		v.over = true
		return &givenUp{strike: true, reason: "ComfyUI has lost this job"}
	}
	return nil
}

// stuck reports whether a job that runs has been without progress for too long.
// A model that is read from a slow disk, or a node that never reports, is given
// more time as long as something is seen to work.
func (v *vigil) stuck() bool {
	silent := time.Since(v.spoke)
	if v.grace != nil || silent < v.w.cfg.Patience.Stuck {
		return false
	}
	return silent > 4*v.w.cfg.Patience.Stuck || v.w.cfg.Working == nil || !v.w.cfg.Working()
}

// found goes on with what ComfyUI has.
func (v *vigil) found(ctx context.Context, where whereabouts) error {
	switch where {
	case past:
		// What was sent before still counts; it is in the inbox by now.
		if err := v.events(ctx); err != nil || v.over {
			return err
		}
		v.over = true
		return v.begin(ctx, v.ownStart())
	case runs:
		if err := v.events(ctx); err != nil || v.over {
			return err
		}
		return v.begin(ctx, v.ownStart()) // its start was missed
	}
	return nil
}

// reconnect is for a lost socket: ComfyUI may have died, or only the
// connection.
func (v *vigil) reconnect(ctx context.Context) error {
	v.w.log.Warn("the connection to ComfyUI is lost while it has a job", "user", v.row.ID.User, "job", v.row.ID.Prompt)
	v.note(func(s *Status) { s.Connected, s.Problem = false, "The connection to ComfyUI was lost; trying again." })
	limit, cancel := context.WithTimeout(ctx, v.w.cfg.Patience.Lost)
	defer cancel()
	pause := v.w.backoff()
	for {
		if v.w.replaced() {
			// Whatever answers next knows nothing of this job.
			v.over = true
			if v.stopping() {
				return errStopped
			}
			return &givenUp{strike: true, reason: stoppedHere}
		}
		err := v.w.dial(limit)
		if err == nil {
			var where whereabouts
			if where, err = v.locate(limit); err == nil {
				v.note(func(s *Status) { s.Problem = "" })
				return v.resumed(ctx, where)
			}
		}
		v.w.log.Debug("reconnecting", "err", err)
		if !pause.wait(limit) {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			v.over = true
			return &givenUp{strike: true, reason: stoppedHere}
		}
	}
}

// resumed goes on over a new connection.
func (v *vigil) resumed(ctx context.Context, where whereabouts) error {
	if where == nowhere {
		if v.due && !v.begun {
			v.moved = true
			return nil // the answer, or its failure, says more
		}
		v.over = true
		if v.stopping() {
			return errStopped
		}
		return &givenUp{strike: true, reason: stoppedHere}
	}
	if v.accepted.IsZero() {
		v.accepted = time.Now()
	}
	if v.stopping() {
		v.interrupt()
	}
	return v.found(ctx, where)
}
