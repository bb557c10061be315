package gateway

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/fasthttp/websocket"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/roles/comfy"
)

// hub knows every open socket and what each running job last said, so that a
// page that comes late sees what the others see. A client id is only ever
// looked up within its user: pages choose it themselves, and it survives in a
// browser tab from one user to the next.
type hub struct {
	g *Gateway

	serving sync.WaitGroup // one for each open socket

	mu     sync.Mutex
	closed bool
	users  map[cluster.User]*audience
}

type audience struct {
	socks map[*sock]bool
	live  map[string]*live    // running jobs by prompt id
	open  map[string]bool     // jobs that have not ended, as last seen
	late  map[string][]parcel // by client id: how jobs ended while nobody listened
}

// live is what a job has said so far, for a page that connects in the middle.
type live struct {
	started   bool // execution_start was relayed
	start     []byte
	cached    []byte
	executing []byte
	state     []byte // last progress_state
	preview   []byte // last binary frame
}

type parcel struct {
	at     time.Time
	frames [][]byte
}

// keepLate is how long the end of a job is kept for a page that was away, for
// how many client ids of one user, and how many ends for one of them: scripts
// take a new client id each time and never come back.
const (
	keepLate   = 10 * time.Minute
	lateUsers  = 100
	latePerOne = 20
)

func newHub(g *Gateway) *hub { return &hub{g: g, users: map[cluster.User]*audience{}} }

func (h *hub) audience(u cluster.User) *audience {
	a := h.users[u]
	if a == nil {
		a = &audience{socks: map[*sock]bool{}, live: map[string]*live{}, open: map[string]bool{}, late: map[string][]parcel{}}
		h.users[u] = a
	}
	return a
}

// begin learns what the table says now; nothing is missed from here on. end
// must be called.
func (h *hub) begin(ctx context.Context) (w Watcher, end func()) {
	w = h.g.cfg.Watch()
	cancel := h.g.cfg.Subscribe(h.event)
	h.g.caps.reload(ctx)
	h.loadOpen()
	return w, func() { cancel(); w.Close() }
}

// run relays table changes until ctx ends.
func (h *hub) run(ctx context.Context, w Watcher) error {
	for {
		ch, err := w.Next(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("watch the table: %w", err)
		}
		if ch.Tables["models"] > 0 || ch.Tables["all"] > 0 {
			h.g.caps.reload(ctx)
		}
		if ch.Tables["all"] > 0 {
			h.loadOpen()
		}
		byUser := map[cluster.User][]jobs.ID{}
		for id := range ch.Jobs {
			byUser[id.User] = append(byUser[id.User], id)
		}
		for u, ids := range byUser {
			h.changed(ctx, u, ids)
		}
	}
}

// loadOpen learns which jobs have not ended: their end will be news.
func (h *hub) loadOpen() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.g.cfg.Tables.Jobs(func(t *jobs.Table) {
		for _, j := range t.Active() {
			h.audience(j.ID.User).open[j.ID.Prompt] = true
		}
		t.Waiting(func(j *jobs.Job) bool { h.audience(j.ID.User).open[j.ID.Prompt] = true; return true })
	})
}

// join adds a socket and tells it where things stand: first of all status with
// its id, because a page without it queues for nobody.
func (h *hub) join(s *sock) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return false
	}
	h.serving.Add(1)
	a := h.audience(s.user)
	a.socks[s] = true
	// Counted under the lock: a 0 that a submit has overtaken makes a page that
	// queues by itself queue again.
	s.send(comfy.Status(h.g.remaining(s.user), s.client))
	h.replay(a, s)
	return true
}

// replay gives a page the present state of its running jobs and the ends it
// missed. A job whose end is about to be told counts as running.
func (h *hub) replay(a *audience, s *sock) {
	var running []jobs.Job
	h.g.cfg.Tables.Jobs(func(t *jobs.Table) {
		running = slices.DeleteFunc(t.Open(s.user), func(j jobs.Job) bool { return !executing(&j) || j.Started == 0 })
		for prompt := range a.live {
			if j, ok := t.Job(jobs.ID{User: s.user, Prompt: prompt}); ok && j.State.Ended() {
				running = append(running, j)
			}
		}
	})
	running = slices.DeleteFunc(running, func(j jobs.Job) bool { return j.ClientID != s.client })
	for _, p := range a.late[s.client] {
		if h.g.cfg.Now().Sub(p.at) < keepLate {
			for _, f := range p.frames {
				s.enqueue(frame{websocket.TextMessage, f}, false)
			}
		}
	}
	delete(a.late, s.client)
	for i := range running {
		l := a.live[running[i].ID.Prompt]
		if l == nil || l.start == nil {
			s.send(comfy.ExecutionStart(running[i].ID.Prompt, running[i].Started))
		}
		if l == nil {
			continue
		}
		for _, f := range [][]byte{l.start, l.cached, l.state, l.executing} {
			if f != nil {
				s.enqueue(frame{websocket.TextMessage, f}, false)
			}
		}
		if l.preview != nil {
			h.sendBinary(s, l.preview, nil, true)
		}
	}
}

func (h *hub) leave(s *sock) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.audience(s.user).socks, s)
}

// closeAll says goodbye to every page and waits until all sockets are done.
func (h *hub) closeAll() {
	h.mu.Lock()
	h.closed = true
	var all []*sock
	for _, a := range h.users {
		for s := range a.socks {
			all = append(all, s)
		}
	}
	h.mu.Unlock()
	var wg sync.WaitGroup
	for _, s := range all {
		wg.Go(s.close)
	}
	wg.Wait()
	h.serving.Wait()
}

// event relays what a worker says of a running job to the pages that queued it.
// It is called in order for each job and must not block. A worker that lost the
// job, or reports after its end, is not heard.
func (h *hub) event(ev jobs.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.past(ev) {
		return
	}
	a := h.audience(ev.Job.User)
	l := a.live[ev.Job.Prompt]
	if l == nil || ev.Type == comfy.TypeExecutionStart {
		l = &live{}
		a.live[ev.Job.Prompt] = l
	}
	l.remember(ev)
	shared := ev.Type == comfy.TypeProgress || ev.Type == comfy.TypeProgressState
	var downgraded []byte
	for s := range a.socks {
		if s.client != ev.ClientID && (ev.ClientID != "" || !shared) {
			continue
		}
		if ev.Binary != nil {
			downgraded = h.sendBinary(s, ev.Binary, downgraded, ev.Droppable)
			continue
		}
		s.enqueue(frame{websocket.TextMessage, ev.Text}, ev.Droppable)
	}
}

// past reports whether an event is of an attempt that is over.
func (h *hub) past(ev jobs.Event) (over bool) {
	h.g.cfg.Tables.Jobs(func(t *jobs.Table) {
		j, ok := t.Job(ev.Job)
		over = ok && (j.State.Ended() || ev.Epoch < j.Epoch)
	})
	return over
}

func (l *live) remember(ev jobs.Event) {
	switch ev.Type {
	case comfy.TypeExecutionStart:
		l.started, l.start = true, ev.Text
	case comfy.TypeExecutionCached:
		l.cached = ev.Text
	case comfy.TypeExecuting:
		l.executing = ev.Text
	case comfy.TypeProgressState:
		l.state = ev.Text
	default:
		if ev.Binary != nil {
			l.preview = ev.Binary
		}
	}
}

// sendBinary sends a frame as the page negotiated: previews with metadata
// become plain ones for those who did not ask. It returns the plain form so
// that it is made once.
func (h *hub) sendBinary(s *sock, raw, plain []byte, droppable bool) []byte {
	if s.wantsMetadata() {
		s.enqueue(frame{websocket.BinaryMessage, raw}, droppable)
		return plain
	}
	if plain == nil {
		f, err := comfy.ParseFrame(raw)
		if err != nil {
			return nil
		}
		plain = raw
		if f.Event == comfy.EventPreviewMetadata {
			plain = f.Downgrade().Encode()
		}
	}
	s.enqueue(frame{websocket.BinaryMessage, plain}, droppable)
	return plain
}

// Sockets counts the open pages of each user.
func (g *Gateway) Sockets() map[cluster.User]int {
	g.hub.mu.Lock()
	defer g.hub.mu.Unlock()
	out := map[cluster.User]int{}
	for u, a := range g.hub.users {
		if len(a.socks) > 0 {
			out[u] = len(a.socks)
		}
	}
	return out
}
