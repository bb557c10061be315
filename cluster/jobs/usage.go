package jobs

import (
	"math/bits"

	"github.com/ahelme/comfyume/cluster"
)

// What a user has had of the GPUs fades: after an hour half of it counts. It
// does so at the minutes of table time, for all users at once, so that their
// order stays as it is and every replica has the same number.
const (
	fadeMinutes = 60
	fadeFactor  = 4245635389 // 2^32 * 2^(-1/60)
)

// Used is what a user's jobs have had of the GPUs, in microseconds, faded to
// now. It is settled when the GPU is free again: a job that a machine lost
// costs nothing, and the time in which models were loaded counts as the job's
// that asked for them.
func (t *Table) Used(u cluster.User, now int64) int64 {
	if a := t.users[u]; a != nil {
		return a.usedNow(now)
	}
	return 0
}

// Began is when a worker last started a job of the user, 0 = never.
func (t *Table) Began(u cluster.User) int64 {
	if a := t.users[u]; a != nil {
		return a.began
	}
	return 0
}

// HadSince is how much GPU time a user's jobs have had since a moment, unfaded,
// in milliseconds, as far as their rows are kept.
func (t *Table) HadSince(u cluster.User, since, now int64) (had int64) {
	t.sinceThen(u, since, func(j *Job) {
		end := j.GpuDone
		if end == 0 {
			end = j.Ended
		}
		if end == 0 {
			end = now
		}
		had += max(0, end-max(j.Started, since))
	})
	return had
}

// BegunSince counts a user's jobs that began since a moment and were not given up.
func (t *Table) BegunSince(u cluster.User, since int64) (n int) {
	t.sinceThen(u, since, func(j *Job) {
		if j.Started >= since {
			n++
		}
	})
	return n
}

// sinceThen calls f for a user's jobs that had a GPU after a moment.
func (t *Table) sinceThen(u cluster.User, since int64, f func(*Job)) {
	a := t.users[u]
	if a == nil {
		return
	}
	for i := len(a.ended) - 1; i >= 0 && a.ended[i].Ended >= since; i-- {
		if a.ended[i].Started > 0 {
			f(a.ended[i])
		}
	}
	a.open.each(func(j *Job) bool {
		if j.Started > 0 {
			f(j)
		}
		return true
	})
}

func (a *account) usedNow(now int64) int64 { return fade(a.used, now/minuteMillis-a.usedAt) }

// fade is what is left of a use after so many minutes.
func fade(used, minutes int64) int64 {
	if minutes <= 0 || used == 0 {
		return used
	}
	if minutes/fadeMinutes >= 62 {
		return 0
	}
	used >>= minutes / fadeMinutes
	for range minutes % fadeMinutes {
		hi, lo := bits.Mul64(uint64(used), fadeFactor) //nolint:gosec // never negative
		used = int64(hi<<32 | lo>>32)                  //nolint:gosec // smaller than before
	}
	return used
}

// charge settles what the running attempt of j has had.
func (t *Table) charge(j *Job, now int64) {
	if j.Started == 0 || j.Form == "" {
		return
	}
	a := t.account(j.ID.User)
	a.used, a.usedAt = a.usedNow(now)+max(0, now-j.Started)*1000, max(a.usedAt, now/minuteMillis)
}

// catchUp raises the use of a user who had nothing to do to the least of those
// who have: nobody saves up a turn by staying away.
func (t *Table) catchUp(a *account, now int64) {
	least := int64(-1)
	for _, o := range t.users {
		if o == a || o.open.size == 0 {
			continue
		}
		if used := o.usedNow(now); least < 0 || used < least {
			least = used
		}
	}
	if least > a.usedNow(now) {
		a.used, a.usedAt = least, max(a.usedAt, now/minuteMillis)
	}
}
