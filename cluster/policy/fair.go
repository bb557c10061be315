package policy

import (
	"cmp"
	"slices"
	"time"

	"github.com/ahelme/comfyume/cluster/jobs"
)

// Bounds are how far fair lets loaded models bend the order of turns.
type Bounds struct {
	// Ahead is how much more GPU time than the one whose turn it is a user may
	// have had whose job goes first because its models are loaded; 0 = 50 s (60 reached the same
	// medians and, with staging, a longest wait of 852 s in the worst of 30 seeds).
	Ahead time.Duration
	// Deferred is how long a job whose turn it is may be passed over so; 0 = 100 s.
	Deferred time.Duration
	// Guard is how long a user with something to do should at most go without a
	// start; 0 = 20 min. Their next job goes first after two thirds of it: what
	// runs then has to end, and models may have to be loaded.
	Guard time.Duration
}

func (b Bounds) filled() Bounds {
	return Bounds{
		Ahead:    cmp.Or(b.Ahead, 50*time.Second),
		Deferred: cmp.Or(b.Deferred, 100*time.Second),
		Guard:    cmp.Or(b.Guard, 20*time.Minute),
	}
}

// chargeRunning adds to each user's use what their jobs at work are expected to
// need: else a user could fill every GPU before the first job is settled. It also
// says when each worker will be free.
func (r *round) chargeRunning() {
	now := r.view.Now
	r.view.Jobs.Held(func(j *jobs.Job) bool {
		switch {
		case j.GpuDone != 0:
			r.freeAt[j.Worker] = max(now, r.freeAt[j.Worker]) // settled
		case j.Started != 0:
			run, load := r.view.expect(j, j.Worker, r.view.Jobs.Cold(j.ID))
			r.freeAt[j.Worker] = max(now+run/20, j.Started+load+run)
			r.person(j.ID.User).used += max(load+run, now-j.Started) * 1000
		}
		return true
	})
	r.view.Jobs.Held(func(j *jobs.Job) bool { // what was given ahead follows what runs
		if j.Started == 0 && j.GpuDone == 0 {
			run, load := r.view.expect(j, j.Worker, r.coldOn(j.Worker, j.LoadKey()))
			r.freeAt[j.Worker] = max(now, r.freeAt[j.Worker]) + load + run
			r.person(j.ID.User).used += (load + run) * 1000
		}
		return true
	})
}

// waitsSince is since when a user waits for a start.
func waitsSince(h *head) int64 { return max(h.began, h.job.Created) }

func (r *round) starves(h *head) bool {
	return h.running == 0 && r.view.Now-waitsSince(h) >= r.bounds.Guard.Milliseconds()*2/3
}

// fairer compares two heads of one rank.
func (r *round) fairer(a, b *head, rank int) int {
	if rank == starved {
		return cmp.Compare(waitsSince(a), waitsSince(b))
	}
	return cmp.Or(cmp.Compare(a.used, b.used), cmp.Compare(a.job.Priority, b.job.Priority))
}

// warmer finds who may go before h, whose turn it is and for which models would
// have to be loaded: a job whose models an idle worker has, of a user who is not
// far ahead. It returns h itself and its worker when there is none.
func (r *round) warmer(h *head, at int) (*head, int) {
	if !r.cold(r.idle[at], h.load) || r.rank(h) < starved || !r.patient(h) {
		return h, at
	}
	limit := h.used + r.bounds.Ahead.Microseconds()
	where := -1
	k := r.first(func(k *head) bool {
		if k.used > limit || r.rank(k) != usual {
			return false
		}
		i := slices.IndexFunc(r.idle, func(c jobs.Claim) bool { return r.may(c, h.job) && r.may(c, k.job) && !r.cold(c, k.load) })
		if i >= 0 {
			where = i
		}
		return i >= 0
	})
	if k == nil {
		return h, at
	}
	if !slices.Contains(r.passed, h.job.ID) {
		r.passed = append(r.passed, h.job.ID)
	}
	return k, where
}

// patient reports whether h may still be passed over: for a while, and for as
// long again while a worker at work has its models and will soon be free.
func (r *round) patient(h *head) bool {
	limit := r.bounds.Deferred.Milliseconds()
	since, passed := r.view.Passed[h.job.ID]
	waited := int64(0)
	if passed {
		waited = r.view.Now - since
	}
	if waited < limit && r.rank(h) == usual {
		return true
	}
	return waited < 2*limit && slices.ContainsFunc(r.busy, func(c jobs.Claim) bool {
		at, known := r.freeAt[c.Worker]
		return known && !r.cold(c, h.load) && r.may(c, h.job) && at-r.view.Now < 2*limit-waited
	})
}
