package sketch

import (
	"slices"
	"sync"

	"github.com/ahelme/comfyume/roles/comfy"
)

// maxHistory is how many finished prompts are remembered, as in ComfyUI.
const maxHistory = 10_000

// past is a finished prompt.
type past struct {
	entry   comfy.HistoryEntry
	created int64 // ms
}

// history remembers finished prompts, oldest first, until the process ends.
type history struct {
	mu      sync.Mutex
	entries []past
}

func newHistory() *history { return &history{} }

func (h *history) add(p past) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.entries) >= maxHistory {
		h.entries = slices.Delete(h.entries, 0, 1)
	}
	// An id used again replaces its older entry, as a key of a dict does.
	h.entries = slices.DeleteFunc(h.entries, func(o past) bool { return o.entry.Prompt.PromptID == p.entry.Prompt.PromptID })
	h.entries = append(h.entries, p)
}

func (h *history) find(id string) (past, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range slices.Backward(h.entries) {
		if p.entry.Prompt.PromptID == id {
			return p, true
		}
	}
	return past{}, false
}

// window returns entries oldest first. limit < 0 means all; offset < 0 means the
// newest ones up to limit.
func (h *history) window(offset, limit int) []past {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := len(h.entries)
	if limit < 0 {
		limit = n
	}
	if offset < 0 {
		offset = max(0, n-limit)
	}
	offset = min(offset, n)
	return slices.Clone(h.entries[offset:min(n, offset+min(limit, n))])
}

func (h *history) remove(ids []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.entries = slices.DeleteFunc(h.entries, func(p past) bool {
		return ids == nil || slices.Contains(ids, p.entry.Prompt.PromptID)
	})
}
