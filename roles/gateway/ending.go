package gateway

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

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
	ends, moved := h.settle(u, rows)

	// Reading history blobs must not hold up the other pages' events.
	terminals := make([]comfy.Message, len(ends))
	for i, j := range ends {
		terminals[i] = h.terminal(ctx, j)
		h.g.secrets.drop(j.ID)
	}

	h.mu.Lock()
	defer h.mu.Unlock()
	a := h.audience(u)
	status := comfy.Status(h.g.remaining(u), "")
	told := map[*sock]bool{} // who has heard the new count
	for i, j := range ends {
		l := a.live[j.ID.Prompt]
		delete(a.live, j.ID.Prompt)
		if j.State == jobs.Cancelled && j.Started == 0 && l == nil {
			continue // never ran: as in ComfyUI, only the queue's length tells
		}
		if j.ClientID != "" {
			h.finish(a, j, l != nil && l.Started(), terminals[i], status, told)
		}
	}
	for s := range a.socks {
		if moved && !told[s] {
			s.send(status)
		}
	}
}

// settle notes how jobs stand and returns those whose end is news. moved says
// that the queue is another than the pages know.
func (h *hub) settle(u cluster.User, rows []jobs.Job) (ends []*jobs.Job, moved bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	a := h.audience(u)
	for i := range rows {
		j := &rows[i]
		before, known := a.open[j.ID.Prompt]
		if !j.State.Ended() {
			now := standingOf(j)
			moved = moved || !known || before != now
			a.open[j.ID.Prompt] = now
			continue
		}
		delete(a.open, j.ID.Prompt)
		a.started(j.ClientID, j.ID.Prompt)
		moved = moved || known
		// A row that ended long ago moves only when it is hidden from history. One
		// that is read late may have ended by then, and its end is still to come as a
		// change of its own.
		if (known || !j.Hidden) && a.told.add(j.ID.Prompt) {
			ends, moved = append(ends, j), true
		}
	}
	return ends, moved
}

func standingOf(j *jobs.Job) standing { return standing{executing: executing(j), order: j.Order} }

// finish sends a job's last messages to the pages that hear of it; status goes
// between the terminal event and the very last. Pages ignore the end of what
// never began.
func (h *hub) finish(a *audience, j *jobs.Job, started bool, terminal, status comfy.Message, told map[*sock]bool) {
	first, last := comfy.ExecutionStart(j.ID.Prompt, cmp.Or(j.Started, j.Created)), comfy.ExecutingDone(j.ID.Prompt)
	own := false // its own page was there
	for s := range a.socks {
		if !s.hears(j) {
			continue
		}
		own, told[s] = own || s.client == j.ClientID, true
		if !started {
			s.send(first)
		}
		s.send(terminal)
		s.send(status)
		s.send(last)
	}
	switch {
	case own:
		h.tell(a, j.ID, j.ClientID)
	case !a.heard.has(j.ID.Prompt):
		// Whether the page that comes back knows that it began is not known.
		a.keep(j.ClientID, parcel{h.g.cfg.Now(), j.ID.Prompt, []comfy.Message{first, terminal, last}})
	}
}

// tell lets the other gateways know that a page has heard how its job ended.
func (h *hub) tell(a *audience, id jobs.ID, client string) {
	a.heard.add(id.Prompt)
	if h.g.cfg.Tell != nil {
		h.g.cfg.Tell(jobs.Event{Job: id, ClientID: client, Type: jobs.EventHeard})
	}
}

// missed tells a page how its jobs ended while it was away. Of those that ended
// before this gateway was there it is not known whether the page was told: it
// gets the one message that does no harm twice.
func (h *hub) missed(a *audience, s *sock) {
	since := h.g.cfg.Now().Add(-keepLate)
	var before []jobs.Job
	h.g.cfg.Tables.Jobs(func(t *jobs.Table) {
		before = t.Recent(latePerOne, func(j *jobs.Job) bool {
			_, open := a.open[j.ID.Prompt] // its end is about to be told
			return j.ID.User == s.user && j.ClientID == s.client && j.Started > 0 && j.Ended > since.UnixMilli() &&
				!open && !a.told.has(j.ID.Prompt) && !a.heard.has(j.ID.Prompt)
		})
	})
	for _, j := range slices.Backward(before) {
		s.send(comfy.ExecutingDone(j.ID.Prompt))
	}
	for _, p := range a.late[s.client] {
		if p.at.Before(since) {
			continue
		}
		for _, m := range p.frames {
			s.send(m)
		}
		h.tell(a, jobs.ID{User: s.user, Prompt: p.prompt}, s.client)
	}
	delete(a.late, s.client)
}

// forget drops the end of a job of which its page has heard at another gateway.
func (a *audience) forget(client, prompt string) {
	a.heard.add(prompt)
	left := slices.DeleteFunc(a.late[client], func(p parcel) bool { return p.prompt == prompt })
	if a.late[client] = left; len(left) == 0 {
		delete(a.late, client)
	}
}

// How long the end of a job is kept for a page that was away, for how many
// client ids of one user, and how many ends for one of them: scripts take a new
// client id each time and never come back.
const (
	keepLate   = 10 * time.Minute
	lateUsers  = 100
	latePerOne = 20
)

// keep keeps how a job ended for a client id that is away. The oldest give way.
func (a *audience) keep(client string, p parcel) {
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
