package gateway

import (
	"context"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/roles/comfy"
	"github.com/fasthttp/websocket"
)

// changed tells a user's pages what the table now says of some of their jobs.
// Jobs end here and nowhere else: from the committed row, after everything that
// the worker published of them, in the order terminal event, status, executing
// without a node. History is readable before the first of the three.
func (h *hub) changed(ctx context.Context, u cluster.User, ids []jobs.ID) {
	rows := make([]jobs.Job, 0, len(ids))
	remaining := 0
	h.g.cfg.Tables.Jobs(func(t *jobs.Table) {
		for _, id := range ids {
			if j, ok := t.Job(id); ok {
				rows = append(rows, j)
			}
		}
		remaining = t.Remaining(u)
	})
	var ends []*jobs.Job
	h.mu.Lock()
	a := h.audience(u)
	for i := range rows {
		j := &rows[i]
		if !j.State.Ended() {
			a.open[j.ID.Prompt] = true
			continue
		}
		known := a.open[j.ID.Prompt]
		delete(a.open, j.ID.Prompt)
		// A row that ended long ago moves only when it is hidden from history.
		if known || !j.Hidden {
			ends = append(ends, j)
		}
	}
	h.mu.Unlock()

	// Reading history blobs must not hold up the other pages' events.
	terminals := make([]comfy.Message, len(ends))
	for i, j := range ends {
		terminals[i] = h.terminal(ctx, j)
		h.g.secrets.drop(j.ID)
	}

	h.mu.Lock()
	defer h.mu.Unlock()
	status := comfy.Status(remaining, "")
	for i, j := range ends {
		l := a.live[j.ID.Prompt]
		delete(a.live, j.ID.Prompt)
		if j.State == jobs.Cancelled && j.Started == 0 && l == nil {
			continue // never ran: as in ComfyUI, only the queue's length tells
		}
		var first []comfy.Message
		if l == nil || !l.started {
			first = append(first, comfy.ExecutionStart(j.ID.Prompt, j.Created)) // pages ignore the end of what never began
		}
		h.finish(a, j, append(first, terminals[i]), status)
	}
	for s := range a.socks {
		s.send(status)
	}
}

// finish sends a job's last messages to its own pages; status goes between the
// terminal event and the very last.
func (h *hub) finish(a *audience, j *jobs.Job, before []comfy.Message, status comfy.Message) {
	last := comfy.ExecutingDone(j.ID.Prompt)
	heard := false
	for s := range a.socks {
		if s.client != j.ClientID || j.ClientID == "" {
			continue
		}
		heard = true
		for _, m := range before {
			s.send(m)
		}
		s.send(status)
		s.send(last)
	}
	if heard || j.ClientID == "" {
		return
	}
	p := parcel{at: h.g.cfg.Now()}
	for _, m := range append(before, last) {
		p.frames = append(p.frames, frame{websocket.TextMessage, m.Encode()}.data)
	}
	late := append(a.late[j.ClientID], p)
	if len(late) > 20 {
		late = late[len(late)-20:]
	}
	if len(a.late) < 100 || a.late[j.ClientID] != nil {
		a.late[j.ClientID] = late
	}
}

func (h *hub) terminal(ctx context.Context, j *jobs.Job) comfy.Message {
	if j.History == "" {
		return terminalOf(j, nil)
	}
	e, err := h.g.histories.entry(ctx, j)
	if err != nil {
		h.g.log.Error("a job's history cannot be read", "job", j.ID, "err", err)
		return terminalOf(j, nil)
	}
	return terminalOf(j, &e)
}
