package gpu

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/roles/comfy"
)

// What makes a worker suspect that it, and no job, is the cause.
const (
	oomLimit  = 3
	oomWithin = 10 * time.Minute
)

// elsewhere deals with a job that ran out of memory: the memory is freed, so
// that the next job finds it, and the job goes to a GPU with more if there is
// one. It reports whether it does.
func (a *attempt) elsewhere(ctx context.Context) (bool, error) {
	w := a.w
	m := w.memory()
	free, cancel := context.WithTimeout(ctx, callTimeout)
	if err := w.Free(free); err != nil {
		w.log.Warn("after a job that ran out of memory", "err", err)
	}
	cancel()
	a.restart = w.suspect()
	var moved bool
	err := w.insist(ctx, func(ctx context.Context) (err error) {
		moved, err = w.cfg.Queue.OutOfMemory(ctx, a.lease, m)
		return err
	})
	if err != nil {
		return false, fmt.Errorf("look for a GPU with more memory: %w", err)
	}
	if moved {
		w.log.Warn("a job was too large for this GPU and goes to a larger one", "user", a.row.ID.User, "job", a.row.ID.Prompt, "device", m.Device)
	}
	return moved, nil
}

// suspect counts jobs that ran out of memory: several in a short time mean that
// ComfyUI holds on to memory, or that something else does. It returns why
// ComfyUI is to be restarted, or "".
func (w *Worker) suspect() string {
	now := time.Now()
	w.mu.Lock()
	w.ooms = append(w.ooms, now)
	for len(w.ooms) > 0 && now.Sub(w.ooms[0]) > oomWithin {
		w.ooms = w.ooms[1:]
	}
	few := len(w.ooms) < oomLimit
	if !few {
		w.ooms = nil
	}
	w.mu.Unlock()
	if few {
		return ""
	}
	why := fmt.Sprintf("%d jobs ran out of GPU memory here within %d minutes.", oomLimit, int(oomWithin.Minutes()))
	w.StandAside(Quarantine, why+" See what else uses the GPU, then let it go on: comfyume-agent worker release "+string(w.cfg.ID))
	return why
}

// tooLarge is the end of a job for which no GPU has enough memory.
func (a *attempt) tooLarge(e comfy.ExecutionErrorData) ending {
	m := a.w.memory()
	where := ""
	if m.Device != "" {
		where = " (" + m.Device
		if m.VRAM > 0 {
			where += ", " + humanize.IBytes(uint64(m.VRAM))
		}
		where += ")"
	}
	advice := "The GPU ran out of memory" + where + ", and no other GPU here has more. Use a smaller picture or batch, fewer frames, or a smaller model, then queue again."
	e.ExceptionMessage = strings.TrimRight(e.ExceptionMessage, "\n") + "\n" + advice + "\n"
	f := &jobs.Failure{Type: e.ExceptionType, Message: advice, NodeID: e.NodeID, NodeType: e.NodeType}
	return ending{state: jobs.Failed, failure: f, last: comfy.ExecutionError(e), outOfMemory: true}
}
