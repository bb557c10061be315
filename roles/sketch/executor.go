package sketch

import (
	"context"
	"crypto/sha256"
	"sync"

	"github.com/ahelme/comfyume/roles/comfy"
)

// signature names a result: equal signatures give equal values. It knows nothing
// of node ids or of who asks, as ComfyUI's does not.
type signature [sha256.Size]byte

// executor runs one job after the other and keeps the results of the last one.
type executor struct {
	s *Server

	mu    sync.Mutex
	cache map[signature]result
	node  string // that runs now, for sockets that come later
}

func newExecutor(s *Server) *executor {
	return &executor{s: s, cache: map[signature]result{}}
}

// run works until the server ends.
func (e *executor) run(ctx context.Context) {
	for {
		j, jobCtx, err := e.s.queue.next(ctx)
		if err != nil {
			return
		}
		x := &execution{e: e, s: e.s, job: j, ctx: jobCtx, server: ctx}
		entry := x.run()
		e.setNode("")
		if ctx.Err() != nil {
			return // a server that ended leaves no history
		}
		// Success has been told already; history follows, and only then the last
		// message, on which clients come to read it.
		e.s.history.add(past{entry: entry, created: j.created})
		e.s.queue.done()
		if j.clientID != "" {
			e.s.hub.send(j.clientID, comfy.ExecutingDone(j.item.PromptID))
		}
		e.s.note("prompt is over", "prompt_id", j.item.PromptID, "status", entry.Status.StatusStr)
	}
}

// keep drops all results but those that the next job can use.
func (e *executor) keep(wanted map[string]signature) {
	e.mu.Lock()
	defer e.mu.Unlock()
	kept := make(map[signature]result, len(wanted))
	for _, sig := range wanted {
		if r, ok := e.cache[sig]; ok {
			kept[sig] = r
		}
	}
	e.cache = kept
}

func (e *executor) cached(sig signature) (result, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	r, ok := e.cache[sig]
	return r, ok
}

func (e *executor) store(sig signature, r result) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.cache[sig] = r
}

// free forgets all results.
func (e *executor) free() {
	e.mu.Lock()
	defer e.mu.Unlock()
	clear(e.cache)
}

func (e *executor) setNode(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.node = id
}

func (e *executor) lastNode() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.node
}
