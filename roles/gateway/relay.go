package gateway

import (
	"unicode/utf8"

	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/roles/comfy"
)

// event relays what a worker says of a running job to the pages that hear of it.
// It is called in order for each job and must not block. A worker that lost the
// job, or reports after its end, is not heard; what was known already is not told
// again.
func (h *hub) event(ev jobs.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	a := h.audience(ev.Job.User)
	if ev.Type == jobs.EventHeard {
		a.forget(ev.ClientID, ev.Job.Prompt)
		return
	}
	j, ok := h.row(ev)
	if ok && (j.State.Ended() || ev.Epoch < j.Epoch) {
		return
	}
	if !sound(ev) {
		h.g.log.Debug("passing over an event", "job", ev.Job, "type", ev.Type)
		return
	}
	l := a.live[ev.Job.Prompt]
	if l == nil {
		l = &live{}
		a.live[ev.Job.Prompt] = l
	}
	l.job = j
	said := saidBy(ev)
	if !l.Add(said) {
		return
	}
	if ok && ev.Type == comfy.TypeExecutionStart {
		h.dequeued(a, &j)
	}
	if ev.Type == comfy.TypeExecutionStart {
		a.started(ev.ClientID, ev.Job.Prompt)
	}
	shared := ev.ClientID == "" && (ev.Type == comfy.TypeProgress || ev.Type == comfy.TypeProgressState)
	var plain []byte
	for s := range a.socks {
		if shared || s.hears(&j) {
			plain = h.give(s, ev.Job.Prompt, said, plain)
		}
	}
	if said.Type == comfy.TypeFrame {
		a.shed()
	}
}

// sound reports whether an event is what a worker may say of its job. It comes
// from machines that are rented and run what participants sent: it may be about
// nothing else, and what only a gateway knows (counts and ends) it may not say.
func sound(ev jobs.Event) bool {
	if ev.Binary != nil {
		f, err := comfy.ParseFrame(ev.Binary)
		if err != nil {
			return false
		}
		id, named := f.PromptID()
		return !named || id == ev.Job.Prompt
	}
	m, err := comfy.ParseMessage(ev.Text)
	if err != nil || m.Type != ev.Type || m.Ends() || m.Terminal() || !utf8.Valid(ev.Text) {
		return false
	}
	switch m.Type {
	case comfy.TypeStatus, comfy.TypeFeatureFlags, comfy.TypeNotification, comfy.TypeLogs:
		return false
	}
	id, named := m.PromptID()
	return !named || id == ev.Job.Prompt
}

func saidBy(ev jobs.Event) comfy.Said {
	switch {
	case ev.Binary == nil:
		return comfy.Said{Type: ev.Type, Raw: ev.Text}
	case ev.Droppable:
		return comfy.Said{Type: comfy.TypePreview, Raw: ev.Binary}
	}
	return comfy.Said{Type: comfy.TypeFrame, Raw: ev.Binary}
}

// row is a job as the table has it; where it does not have it yet, who it is.
func (h *hub) row(ev jobs.Event) (j jobs.Job, ok bool) {
	h.g.cfg.Tables.Jobs(func(t *jobs.Table) { j, ok = t.Job(ev.Job) })
	if !ok {
		j = jobs.Job{ID: ev.Job, ClientID: ev.ClientID}
	}
	return j, ok
}

// dequeued tells a user's pages that a job has begun, before it speaks: as a
// ComfyUI does when it takes it from the queue.
func (h *hub) dequeued(a *audience, j *jobs.Job) {
	now := standing{executing: true, order: j.Order}
	if a.open[j.ID.Prompt] == now {
		return
	}
	a.open[j.ID.Prompt] = now
	status := comfy.Status(h.g.remaining(j.ID.User), "")
	for s := range a.socks {
		s.send(status)
	}
}

// give sends a page what a job says, as it negotiated: previews with metadata
// become plain ones for those who did not ask. It returns the plain form so that
// it is made once.
func (h *hub) give(s *sock, prompt string, said comfy.Said, plain []byte) []byte {
	f := frame{op: opText, lane: lanes[said.Type], prompt: prompt, data: said.Raw}
	if !said.Binary() {
		s.enqueue(f)
		return plain
	}
	f.op = opBinary
	if !s.metadata {
		if plain == nil {
			parsed, err := comfy.ParseFrame(said.Raw)
			if err != nil {
				return nil
			}
			plain = said.Raw
			if parsed.Event == comfy.EventPreviewMetadata {
				plain = parsed.Downgrade().Raw
			}
		}
		f.data = plain
	}
	s.enqueue(f)
	return plain
}
