package tailnettest

import (
	"sync"
	"time"
)

// deadline is a channel that is closed when a time has come. Its owner's
// mutex guards it.
type deadline struct {
	timer  *time.Timer
	passed chan struct{}
}

func newDeadline() deadline { return deadline{passed: make(chan struct{})} }

// set moves it; the zero time is never. Those who wait already wait for the
// new time.
func (d *deadline) set(mu *sync.Mutex, t time.Time) {
	d.stop()
	if d.over() {
		d.passed = make(chan struct{})
	}
	if t.IsZero() {
		return
	}
	wait := time.Until(t)
	if wait <= 0 {
		close(d.passed)
		return
	}
	var mine *time.Timer
	mine = time.AfterFunc(wait, func() {
		mu.Lock()
		defer mu.Unlock()
		if d.timer == mine { // else it was moved while this waited for mu
			close(d.passed)
			d.timer = nil
		}
	})
	d.timer = mine
}

func (d *deadline) stop() {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
}

func (d *deadline) over() bool {
	select {
	case <-d.passed:
		return true
	default:
		return false
	}
}
