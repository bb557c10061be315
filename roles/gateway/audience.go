package gateway

import (
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/roles/comfy"
)

// audience is one user's pages and what they know.
type audience struct {
	socks map[*sock]bool
	live  map[string]*live    // running jobs by prompt id
	open  map[string]standing // jobs that have not ended, as the pages know them
	told  recent              // ends that were told, or kept for a page that is away
	heard recent              // ends of which the job's own page has heard, here or at another gateway
	late  map[string][]parcel // by client id: how jobs ended while nobody listened
	waits map[string][]string // by prompt id: the nodes that say it waits for a GPU
}

// standing is what a page's queue shows of a job.
type standing struct {
	executing bool
	order     int64
}

// live is a running job: what it has said, and whose it is.
type live struct {
	comfy.Recap
	job jobs.Job
}

type parcel struct {
	at     time.Time
	prompt string
	frames []comfy.Message
}

// recent remembers the newest of many prompts: at least maxRecent of them.
type recent [2]map[string]bool

const maxRecent = 500

func (r *recent) has(prompt string) bool { return r[0][prompt] || r[1][prompt] }

// add reports whether prompt is new.
func (r *recent) add(prompt string) bool {
	if r.has(prompt) {
		return false
	}
	if r[0] == nil || len(r[0]) >= maxRecent {
		r[0], r[1] = map[string]bool{}, r[0]
	}
	r[0][prompt] = true
	return true
}

func (h *hub) audience(u cluster.User) *audience {
	a := h.users[u]
	if a == nil {
		a = &audience{socks: map[*sock]bool{}, live: map[string]*live{}, open: map[string]standing{}, late: map[string][]parcel{}, waits: map[string][]string{}}
		h.users[u] = a
	}
	return a
}

// maxWaitingBytes is how much may wait for all pages of one user: nodes may send
// pictures that are results, and those are not dropped.
const maxWaitingBytes = 64 << 20

// shed drops the slowest of a user's pages if too much waits for them.
func (a *audience) shed() {
	total, most := 0, 0
	var slowest *sock
	for s := range a.socks {
		n := s.backlog()
		if total += n; n > most {
			most, slowest = n, s
		}
	}
	if total > maxWaitingBytes {
		slowest.drop()
	}
}
