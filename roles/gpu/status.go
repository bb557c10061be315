package gpu

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/roles/comfy"
)

// Phase is what a worker is doing.
type Phase string

// The phases.
const (
	Waiting Phase = "waiting for ComfyUI"
	Probing Phase = "probing"
	Idle    Phase = "idle"
	Staging Phase = "staging"
	Running Phase = "running"
	Storing Phase = "storing"
	Aside   Phase = "takes no jobs" // Problem says why
)

// Takes reports whether a worker in this phase gets jobs, now or next.
func (p Phase) Takes() bool { return p != Waiting && p != Probing && p != Aside }

// Status is a worker at a moment, for pages.
type Status struct {
	Phase     Phase     `json:"phase"`
	Since     time.Time `json:"since"` // of the phase
	Problem   string    `json:"problem,omitempty"`
	Version   string    `json:"comfyui_version"`
	Frontend  string    `json:"frontend_version"` // that this ComfyUI is made for
	Device    string    `json:"device"`
	VRAMTotal int64     `json:"vram_total"` // bytes
	VRAMFree  int64     `json:"vram_free"`  // bytes, when last asked
	Job       *jobs.ID  `json:"job,omitempty"`
	NodeID    string    `json:"node_id,omitempty"` // of the graph, that runs now
	Value     float64   `json:"value"`             // of that node's progress
	Max       float64   `json:"max"`
	Connected bool      `json:"connected"` // the socket is open
}

// Status says what the worker is doing. It never blocks.
func (w *Worker) Status() Status {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.status
	if s.Job != nil {
		id := *s.Job
		s.Job = &id
	}
	return s
}

// note changes the status; entering another phase notes the time.
func (w *Worker) note(change func(*Status)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	before := w.status.Phase
	change(&w.status)
	if w.status.Phase != before {
		w.status.Since = time.Now()
	}
}

// trouble shows on pages what went wrong, until ComfyUI is ready again.
func (w *Worker) trouble(err error) {
	w.note(func(s *Status) { s.Problem = sentence(w.client.URL(), err) })
}

// sentence says for people why ComfyUI or the queue cannot be had.
func sentence(url string, err error) string {
	var known *cluster.Error
	var status *comfy.StatusError
	var timeout net.Error
	switch {
	case errors.As(err, &known):
		return known.Message
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Sprintf("Nothing answers at %s. Is ComfyUI running there?", url)
	case errors.As(err, &status):
		return fmt.Sprintf("%s answered %d to %s. Is that a ComfyUI?", url, status.Status, status.Path)
	case errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout():
		return fmt.Sprintf("%s does not answer in time. It may be loading.", url)
	}
	return fmt.Sprintf("%s: %v", url, err)
}
