package gpu

import (
	"context"
	"time"

	"github.com/ahelme/comfyume/cluster/jobs"
)

// lane is a kind of event of which only the newest counts.
type lane int

const (
	progressLane lane = iota
	stateLane
	previewLane
	lanes
)

// every is the time between two events of one lane, on average: a little under a
// tenth of a second, so that a source of ten a second which was held up once
// catches up. slack is how much too early one may be: an uneven source is not
// held back.
const (
	every = 95 * time.Millisecond
	slack = 50 * time.Millisecond
)

// pacer thins droppable events: the newest of each lane goes out, about ten
// times a second. It is used by one goroutine.
type pacer struct {
	send func(jobs.Event)
	next [lanes]time.Time // when one more of the lane is in time
	held [lanes]*jobs.Event
	due  *time.Timer // runs while something is held
}

func newPacer(send func(jobs.Event)) *pacer {
	p := &pacer{send: send, due: time.NewTimer(time.Hour)}
	p.due.Stop()
	return p
}

// offer sends e now, or later if nothing newer comes.
func (p *pacer) offer(l lane, e jobs.Event) {
	if rest := p.rest(l); rest > 0 {
		if p.held == [lanes]*jobs.Event{} {
			p.due.Reset(rest)
		}
		p.held[l] = &e
		return
	}
	p.out(l, e)
}

// rest is how long the next event of a lane has to wait.
func (p *pacer) rest(l lane) time.Duration { return time.Until(p.next[l].Add(-slack)) }

func (p *pacer) out(l lane, e jobs.Event) {
	now := time.Now()
	if p.next[l].Before(now) {
		p.next[l] = now
	}
	p.held[l], p.next[l] = nil, p.next[l].Add(every)
	p.send(e)
}

// release sends all that is held.
func (p *pacer) release() {
	for _, l := range []lane{stateLane, progressLane, previewLane} {
		if e := p.held[l]; e != nil {
			p.out(l, *e)
		}
	}
}

// fire sends what has waited long enough.
func (p *pacer) fire() {
	next := every
	for l, e := range p.held {
		if e == nil {
			continue
		}
		if rest := p.rest(lane(l)); rest > 0 {
			next = min(next, rest)
			continue
		}
		p.out(lane(l), *e)
	}
	if p.held != [lanes]*jobs.Event{} {
		p.due.Reset(next)
	}
}

// pause is a growing pause between tries.
type pause struct {
	first, next time.Duration
}

const longestPause = 5 * time.Second

func (w *Worker) backoff() *pause {
	return &pause{first: w.cfg.Patience.Backoff, next: w.cfg.Patience.Backoff}
}

func (p *pause) reset() { p.next = p.first }

// wait pauses; it reports false when ctx ended.
func (p *pause) wait(ctx context.Context) bool {
	t := time.NewTimer(p.next)
	defer t.Stop()
	p.next = min(2*p.next, longestPause)
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
