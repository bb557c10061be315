package jobs

import "github.com/ahelme/comfyume/cluster"

const (
	minuteMillis  = 60_000
	servedMinutes = 60 // how far back Served looks
)

// Minute counts a user's jobs that ended in one minute of table time.
type Minute struct {
	At int64 `cbor:"1,keyasint"` // minutes since 1970
	N  int64 `cbor:"2,keyasint"`
}

// RunningOf is how many jobs of a user a worker holds.
func (t *Table) RunningOf(u cluster.User) int {
	if a := t.users[u]; a != nil {
		return a.running
	}
	return 0
}

// Served is how many jobs a worker ran for a user that ended in the hour before
// now, to the minute. now is in milliseconds of table time.
func (t *Table) Served(u cluster.User, now int64) int {
	a := t.users[u]
	if a == nil {
		return 0
	}
	n := int64(0)
	for _, m := range a.served {
		if m.At > now/minuteMillis-servedMinutes {
			n += m.N
		}
	}
	return int(n)
}

// serve counts one more. Minutes that no Served will ask for are dropped here,
// so an account never holds more than an hour.
func (a *account) serve(now int64) {
	at := now / minuteMillis
	for len(a.served) > 0 && a.served[0].At <= at-servedMinutes {
		a.served = a.served[1:]
	}
	if last := len(a.served) - 1; last >= 0 && a.served[last].At == at {
		a.served[last].N++
		return
	}
	a.served = append(a.served, Minute{At: at, N: 1})
}
