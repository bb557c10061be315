// Package oracle is the outside of a workshop: people with browsers who use its
// doors, remember what they were promised, and judge at the end. It promises
// that what it knows comes from answers at the doors alone, and that an answer
// which did not come is taken for neither yes nor no. It refuses to know how the
// workshop works.
//
//	session.go  one browser           jobs.go   what a job is and must give
//	people.go   people queue jobs     docs.go   people write documents
//	model.go    what outcomes may be  judge.go  what became of it all
package oracle

import (
	"fmt"
	"sync"
)

// Door is one way in.
type Door struct{ Name, URL string }

// Book is what happened outside, as far as all have seen it. Safe for
// concurrent use.
type Book struct {
	mu     sync.Mutex
	ops    int
	stale  int
	jobs   []*Job
	byID   map[string]*Job
	wrong  []string
	odd    map[string]int
	colour int
}

// NewBook returns an empty one.
func NewBook() *Book { return &Book{byID: map[string]*Job{}, odd: map[string]int{}} }

// Violate notes a promise that was broken.
func (b *Book) Violate(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.wrong) < maxWrong {
		b.wrong = append(b.wrong, fmt.Sprintf(format, args...))
	}
}

// maxWrong bounds what is noted: a broken thing breaks often.
const maxWrong = 1000

// Violations are all that were noted.
func (b *Book) Violations() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string(nil), b.wrong...)
}

// Odd counts answers that are no promise but were not expected either.
func (b *Book) Odd() map[string]int {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := map[string]int{}
	for k, n := range b.odd {
		out[k] = n
	}
	return out
}

// Counted is how many requests were made, and how many answers said that they
// were from before what the client had seen.
func (b *Book) Counted() (ops, stale int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ops, b.stale
}

// Jobs are all that anybody tried to queue.
func (b *Book) Jobs() []*Job {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]*Job(nil), b.jobs...)
}

// Accepted counts the jobs that were.
func (b *Book) Accepted() (n int) {
	for _, j := range b.Jobs() {
		if j.IsAccepted() {
			n++
		}
	}
	return n
}

func (b *Book) add(j *Job) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.jobs = append(b.jobs, j)
	b.byID[j.ID] = j
}

// nextColour is one that no other job has.
func (b *Book) nextColour() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.colour++
	return b.colour * 0x9e3779 & 0xffffff // odd, so that no two are the same
}

func (b *Book) answered(a *Answer) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ops++
	if a.Stale {
		b.stale++
	}
	if a.Code == 401 && len(b.wrong) < maxWrong {
		b.wrong = append(b.wrong, "somebody with the right password was turned away: "+a.String())
	}
}

func (b *Book) strange(what string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.odd[what]++
}
