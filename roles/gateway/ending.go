package gateway

import (
	"cmp"
	"context"
	"maps"
	"slices"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/roles/comfy"
)

// changed tells a user's pages what the table now says of some of their jobs.
// Jobs end here and nowhere else: from the committed row, after everything that
// the worker published of them, in the order terminal event, status, executing
// without a node. History is readable before the first of the three.
func (h *hub) changed(ctx context.Context, u cluster.User, ids []jobs.ID) {
	rows := make([]jobs.Job, 0, len(ids))
	h.g.cfg.Tables.Jobs(func(t *jobs.Table) {
		for _, id := range ids {
			if j, ok := t.Job(id); ok {
				rows = append(rows, j)
			}
		}
	})
	slices.SortFunc(rows, func(a, b jobs.Job) int { return cmp.Compare(a.EndNumber, b.EndNumber) })
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
	status := comfy.Status(h.g.remaining(u), "")
	told := map[*sock]bool{} // who has heard the new count
	for i, j := range ends {
		l := a.live[j.ID.Prompt]
		delete(a.live, j.ID.Prompt)
		if j.State == jobs.Cancelled && j.Started == 0 && l == nil {
			continue // never ran: as in ComfyUI, only the queue's length tells
		}
		if j.ClientID != "" {
			h.finish(a, j, l != nil && l.started, terminals[i], status, told)
		}
	}
	for s := range a.socks {
		if !told[s] {
			s.send(status)
		}
	}
}

// finish sends a job's last messages to its own pages; status goes between the
// terminal event and the very last. Pages ignore the end of what never began.
func (h *hub) finish(a *audience, j *jobs.Job, started bool, terminal, status comfy.Message, told map[*sock]bool) {
	first, last := comfy.ExecutionStart(j.ID.Prompt, cmp.Or(j.Started, j.Created)), comfy.ExecutingDone(j.ID.Prompt)
	heard := false
	for s := range a.socks {
		if s.client != j.ClientID {
			continue
		}
		heard, told[s] = true, true
		if !started {
			s.send(first)
		}
		s.send(terminal)
		s.send(status)
		s.send(last)
	}
	if !heard {
		// Whether the page that comes back knows that it began is not known.
		h.keepEnd(a, j.ClientID, parcel{h.g.cfg.Now(), [][]byte{first.Encode(), terminal.Encode(), last.Encode()}})
	}
}

// keepEnd keeps how a job ended for a client id that is away. The oldest give
// way.
func (h *hub) keepEnd(a *audience, client string, p parcel) {
	newest := func(ps []parcel) int64 { return ps[len(ps)-1].at.UnixNano() }
	maps.DeleteFunc(a.late, func(_ string, ps []parcel) bool { return p.at.UnixNano()-newest(ps) > keepLate.Nanoseconds() })
	if a.late[client] == nil && len(a.late) >= lateUsers {
		delete(a.late, slices.MinFunc(slices.Collect(maps.Keys(a.late)), func(x, y string) int { return cmp.Compare(newest(a.late[x]), newest(a.late[y])) }))
	}
	all := append(a.late[client], p)
	a.late[client] = all[max(0, len(all)-latePerOne):]
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
