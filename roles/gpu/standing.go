package gpu

import (
	"slices"
	"sync"

	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/roles/comfy"
)

// standing is what was said of the job that runs, for those who missed it.
type standing struct {
	mu    sync.Mutex
	last  jobs.Event // whose job it is
	recap comfy.Recap
}

// say hands an event on to the pages. A page is told of one job after the other,
// as by a ComfyUI: while an earlier one of the same user is on its way home, what
// must not be lost waits.
func (a *attempt) say(e jobs.Event) {
	s := &a.standing
	s.mu.Lock()
	s.last = e
	switch {
	case e.Binary == nil:
		s.recap.Add(comfy.Said{Type: e.Type, Raw: e.Text})
	case e.Droppable:
		s.recap.Add(comfy.Said{Type: comfy.TypePreview, Raw: e.Binary})
	}
	s.mu.Unlock()
	switch {
	case a.mayTell():
		a.w.cfg.Publish(e)
	case !e.Droppable:
		a.untold = append(a.untold, e)
	}
}

// mayTell reports whether it is this job's turn to be told of, and tells what
// has waited for that.
func (a *attempt) mayTell() bool {
	for len(a.first) > 0 {
		if !closed(a.first[0].left) {
			return false
		}
		a.first = a.first[1:]
	}
	for _, e := range a.untold {
		a.w.cfg.Publish(e)
	}
	a.untold = nil
	return true
}

// toldFirst is closed when mayTell may have become true; nil when it is.
func (a *attempt) toldFirst() <-chan struct{} {
	if len(a.first) == 0 {
		return nil
	}
	return a.first[0].left
}

// Standing is what a page must hear that comes in the middle of what the worker
// does, in this order. It may be called at any time.
func (w *Worker) Standing() (out []jobs.Event) {
	w.mu.Lock()
	all := slices.Clone(w.attempts)
	w.mu.Unlock()
	for _, a := range all {
		out = append(out, a.standing.all()...)
	}
	return out
}

func (s *standing) all() (out []jobs.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, said := range s.recap.All() {
		e := jobs.Event{Job: s.last.Job, ClientID: s.last.ClientID, Epoch: s.last.Epoch, Index: s.last.Index, Type: said.Type}
		if said.Binary() {
			e.Binary, e.Droppable = said.Raw, true
		} else {
			e.Text, e.Droppable = said.Raw, said.Type == comfy.TypeProgressState
		}
		out = append(out, e)
	}
	return out
}
