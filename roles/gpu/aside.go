package gpu

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ahelme/comfyume/cluster/jobs"
)

// Why a worker takes no jobs. Each reason is taken away on its own.
const (
	Quarantine   = "quarantine"    // it had trouble; a person lets it go on
	Leaving      = "leaving"       // its machine is drained or about to be taken away
	WrongVersion = "wrong version" // ComfyUI is not what it shall be
)

// errAside ends a claim of a worker that shall take no job.
var errAside = errors.New("this worker stands aside")

// aside is why a worker takes no jobs at present.
type aside struct {
	mu      sync.Mutex
	why     map[string]string
	changed chan struct{} // closed and made anew with each change
}

// reason says why in a sentence, "" if the worker takes jobs, and gives a
// channel that is closed when that changes.
func (a *aside) reason() (string, <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.changed == nil {
		a.changed = make(chan struct{})
	}
	var all []string
	for _, key := range slices.Sorted(maps.Keys(a.why)) {
		all = append(all, a.why[key])
	}
	return strings.Join(all, " "), a.changed
}

// set reports whether the reason is new.
func (a *aside) set(key, why string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.why[key] == why {
		return false
	}
	if a.why == nil {
		a.why = map[string]string{}
	}
	a.why[key] = why
	if why == "" {
		delete(a.why, key)
	}
	if a.changed != nil {
		close(a.changed)
		a.changed = nil
	}
	return true
}

// StandAside keeps the worker from new jobs for a reason, a whole sentence; the
// job that it has goes on. Return takes the reason away.
func (w *Worker) StandAside(key, why string) {
	if w.aside.set(key, why) {
		w.log.Warn("the worker takes no jobs", "why", why)
	}
}

// Return takes a reason away.
func (w *Worker) Return(key string) { w.aside.set(key, "") }

// Aside is why the worker takes no jobs, "" if it does.
func (w *Worker) Aside() string {
	why, _ := w.aside.reason()
	return why
}

// HandBack gives what the worker has back to the queue, at its place and at no
// charge to it. What only has to be stored may still be, for some seconds. It
// does not wait.
func (w *Worker) HandBack(reason string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, a := range w.attempts {
		a.giveUp(&givenUp{reason: reason})
	}
}

// Busy reports whether the worker has a job, be it that only its results are
// still to be stored.
func (w *Worker) Busy() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.attempts) > 0
}

// Free lets ComfyUI give its memory back. Models are loaded anew with the next job.
func (w *Worker) Free(ctx context.Context) error {
	if err := w.client.Free(ctx); err != nil {
		return fmt.Errorf("free the GPU's memory: %w", err)
	}
	_, err := w.systemStats(ctx)
	return err
}

// asideLook is how often a worker that stands aside looks after its ComfyUI.
const asideLook = 5 * time.Second

func (w *Worker) wait(ctx context.Context, changed <-chan struct{}) {
	timer := time.NewTimer(asideLook)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-changed:
	case <-timer.C:
	}
}

// memory is the GPU, and this worker's part of what it has.
func (w *Worker) memory() jobs.Memory {
	s := w.Status()
	return jobs.Memory{Device: s.Device, VRAM: s.VRAMTotal / int64(max(1, w.cfg.Share))}
}
