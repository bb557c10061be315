package gateway

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/cluster/people"
	"github.com/ahelme/comfyume/roles/comfy"
)

// hub knows every open socket and what each running job last said, so that a
// page that comes late sees what the others see. A client id is only ever
// looked up within its user: pages choose it themselves, and it survives in a
// browser tab from one user to the next.
type hub struct {
	g    *Gateway
	pond *pond // set by begin

	serving sync.WaitGroup // one for each open socket

	mu     sync.Mutex
	closed bool
	users  map[cluster.User]*audience
}

// maxSockets is how many sockets one user may have open.
const maxSockets = 1000

func newHub(g *Gateway) *hub { return &hub{g: g, users: map[cluster.User]*audience{}} }

// begin learns what the table says now; nothing is missed from here on. end
// must be called, after closeAll.
func (h *hub) begin(ctx context.Context) (w Watcher, end func(), err error) {
	if h.pond, err = newPond(); err != nil {
		return nil, nil, err
	}
	w = h.g.cfg.Watch()
	cancel := h.g.cfg.Subscribe(h.event)
	h.g.caps.reload(ctx)
	h.mu.Lock()
	for _, j := range h.unfinished() {
		h.audience(j.ID.User).open[j.ID.Prompt] = standingOf(&j)
	}
	h.mu.Unlock()
	over := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(h.pond.run)
	wg.Go(func() { h.look(over) })
	return w, func() { cancel(); w.Close(); close(over); h.pond.close(); wg.Wait() }, nil
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
		all := ch.Tables["all"] > 0
		if all || ch.Tables["models"] > 0 {
			h.g.caps.reload(ctx)
		}
		if all || ch.Tables["people"] > 0 {
			h.dismiss()
		}
		moved := ch.Jobs
		if all {
			moved = h.everything()
		}
		byUser := map[cluster.User][]jobs.ID{}
		for id := range moved {
			byUser[id.User] = append(byUser[id.User], id)
		}
		for u, ids := range byUser {
			h.changed(ctx, u, ids)
		}
	}
}

// unfinished are the jobs that have not ended.
func (h *hub) unfinished() (out []jobs.Job) {
	var all []people.Person
	h.g.cfg.Tables.People(func(t *people.Table) { all = t.People() })
	h.g.cfg.Tables.Jobs(func(t *jobs.Table) {
		for i := range all {
			out = append(out, t.Open(all[i].Name)...)
		}
	})
	return out
}

// everything is each job that has not ended, by the table or as the pages know.
func (h *hub) everything() map[jobs.ID]bool {
	out := map[jobs.ID]bool{}
	for _, j := range h.unfinished() {
		out[j.ID] = true
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for u, a := range h.users {
		for prompt := range a.open {
			out[jobs.ID{User: u, Prompt: prompt}] = true
		}
	}
	return out
}

// dismiss closes what is open for those whose sign-in counts no more: who was
// shut out, has another password, or has signed out; or whose token has ended.
func (h *hub) dismiss() {
	h.g.desk.dismiss(h.g.cfg.SignIn.Holds)
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, a := range h.users {
		for s := range a.socks {
			if !h.g.cfg.SignIn.Holds(s.id) {
				go s.bye(closePolicy, "sign in again")
			}
		}
	}
}

// lookEvery is how often all sockets are looked after.
const lookEvery = 5 * time.Second

// look sends pings and drops pages that are gone, and jobs of which nothing is
// known any more.
func (h *hub) look(over <-chan struct{}) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-over:
			return
		case <-tick.C:
		}
		h.dismiss() // what has run out makes no change of the table
		for _, s := range h.sweep() {
			s.look(time.Now())
		}
	}
}

func (h *hub) sweep() (all []*sock) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for u, a := range h.users {
		for s := range a.socks {
			all = append(all, s)
		}
		h.g.cfg.Tables.Jobs(func(t *jobs.Table) {
			for prompt := range a.live {
				if j, ok := t.Job(jobs.ID{User: u, Prompt: prompt}); !ok || j.State.Ended() && a.told.has(prompt) {
					delete(a.live, prompt)
				}
			}
		})
	}
	return all
}

// crowded reports whether a user has as many sockets as there may be.
func (h *hub) crowded(u cluster.User) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	a := h.users[u]
	return a != nil && len(a.socks) >= maxSockets
}

// join adds a socket and tells it where things stand: first of all status with
// its id, because a page without it queues for nobody.
func (h *hub) join(s *sock) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	a := h.audience(s.user)
	if h.closed || len(a.socks) >= maxSockets {
		return false
	}
	h.serving.Add(1)
	a.socks[s] = true
	// Counted under the lock: a 0 that a submit has overtaken makes a page that
	// queues by itself queue again.
	s.send(comfy.Status(h.g.remaining(s.user), s.client))
	h.missed(a, s)
	for _, l := range h.running(a, s.user) {
		if l.job.ClientID == s.client {
			h.recount(s, l)
		}
	}
	return true
}

// greet takes a page's feature flags. Only the stock page has any: it may be a
// second device of somebody who went on elsewhere, and follows what other pages
// of theirs have queued before it came. Programs keep to their own jobs.
func (h *hub) greet(s *sock, metadata bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s.metadata, s.came = metadata, h.g.cfg.Now().UnixMilli()
	s.send(comfy.FeatureFlags(h.g.flags()))
	h.g.cfg.Tables.Jobs(func(t *jobs.Table) {
		for _, j := range t.Open(s.user) {
			s.upTo = max(s.upTo, j.Number)
		}
	})
	for _, l := range h.running(h.audience(s.user), s.user) {
		switch {
		case l.job.ClientID == s.client && metadata: // the preview, with its node
			for _, said := range l.All() {
				if said.Type == comfy.TypePreview {
					h.give(s, l.job.ID.Prompt, said, nil)
				}
			}
		case l.job.ClientID != s.client && s.hears(&l.job):
			h.recount(s, l)
		}
	}
}

// hears reports whether a socket hears of a job: its own page does, and one that
// came after a page of the same user had queued it.
func (s *sock) hears(j *jobs.Job) bool {
	before := j.Number <= s.upTo || j.Created < s.came
	return j.ClientID == s.client || before && j.ClientID != "" && j.WorkflowID != ""
}

// running is what a user's jobs that execute have said, in the order of the
// queue. A job whose end is about to be told is one of them.
func (h *hub) running(a *audience, u cluster.User) (out []*live) {
	h.g.cfg.Tables.Jobs(func(t *jobs.Table) {
		for _, j := range t.Open(u) {
			if executing(&j) && j.Started != 0 {
				out = append(out, &live{job: j})
			}
		}
		for prompt := range a.live {
			if j, ok := t.Job(jobs.ID{User: u, Prompt: prompt}); ok && j.State.Ended() {
				out = append(out, &live{job: j})
			}
		}
	})
	for _, l := range out {
		if known := a.live[l.job.ID.Prompt]; known != nil {
			l.Recap = known.Recap
		}
	}
	slices.SortFunc(out, func(x, y *live) int { return cmp.Compare(x.job.Seq, y.job.Seq) })
	return out
}

// recount tells a page of a running job.
func (h *hub) recount(s *sock, l *live) {
	if !l.Started() {
		s.send(comfy.ExecutionStart(l.job.ID.Prompt, l.job.Started))
	}
	for _, said := range l.All() {
		h.give(s, l.job.ID.Prompt, said, nil)
	}
}

func (h *hub) leave(s *sock) {
	defer h.serving.Done()
	h.pond.remove(s)
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.audience(s.user).socks, s)
}

// closeAll says goodbye to every page and waits until all sockets are done.
func (h *hub) closeAll() {
	h.mu.Lock()
	h.closed = true
	for _, a := range h.users {
		for s := range a.socks {
			go s.bye(closeGoingAway, "the workshop's server is restarting")
		}
	}
	h.mu.Unlock()
	h.serving.Wait()
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
