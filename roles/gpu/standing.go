package gpu

import (
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

// say hands an event on to the pages.
func (w *Worker) say(e jobs.Event) {
	s := &w.standing
	s.mu.Lock()
	s.last = e
	switch {
	case e.Binary == nil:
		s.recap.Add(comfy.Said{Type: e.Type, Raw: e.Text})
	case e.Droppable:
		s.recap.Add(comfy.Said{Type: comfy.TypePreview, Raw: e.Binary})
	}
	s.mu.Unlock()
	w.cfg.Publish(e)
}

// fallSilent forgets a job that is over here.
func (w *Worker) fallSilent() {
	w.standing.mu.Lock()
	defer w.standing.mu.Unlock()
	w.standing.last, w.standing.recap = jobs.Event{}, comfy.Recap{}
}

// Standing is what a page must hear that comes in the middle of the job that
// runs, in this order. It may be called at any time.
func (w *Worker) Standing() []jobs.Event {
	s := &w.standing
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []jobs.Event
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
