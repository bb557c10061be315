package oracle

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

// Person queues jobs in one browser, as fast as every says, and looks after
// them.
type Person struct {
	Session *Session
	Every   time.Duration // between two jobs
	Jobs    int
	Exits   int // of them, how many end their ComfyUI
	Rand    *rand.Rand
	book    *Book
	mine    []*Job
	ended   map[string]string // jobs that this browser has seen ended, and how
}

// NewPerson returns one who does nothing before Run.
func NewPerson(b *Book, s *Session, seed uint64) *Person {
	return &Person{Session: s, book: b, Rand: rand.New(rand.NewPCG(seed, 17)), ended: map[string]string{}} //nolint:gosec // not a secret
}

// Run queues all jobs; it returns when all are accepted, or ctx ends.
func (p *Person) Run(ctx context.Context) {
	defer p.Session.Close()
	for i := range p.Jobs {
		begin := time.Now()
		kind := p.kind()
		if i < p.Exits {
			kind = Exit
		}
		j := p.NewJob(kind)
		if p.Submit(ctx, j) {
			if p.Rand.IntN(100) < 7 && !j.Fails() {
				p.Cancel(ctx, p.mine[p.Rand.IntN(len(p.mine))])
			}
			p.Look(ctx)
		}
		if !pause(ctx, p.Every*time.Duration(50+p.Rand.IntN(100))/100-time.Since(begin)) && ctx.Err() != nil {
			return
		}
	}
}

func (p *Person) kind() Kind {
	switch n := p.Rand.IntN(100); {
	case n < 22:
		return Slow
	case n < 30:
		return Inverted
	case n < 38:
		return Scaled
	case n < 41:
		return Raise
	}
	return Plain
}

// NewJob makes one that was not tried yet.
func (p *Person) NewJob(kind Kind) *Job {
	j := &Job{
		User: p.Session.User, ID: fmt.Sprintf("%08x-%04x-4%03x-8%03x-%012x", p.Rand.Uint32(), p.Rand.IntN(1<<16), p.Rand.IntN(1<<12), p.Rand.IntN(1<<12), p.Rand.Uint64()>>16),
		Kind: kind, RGB: p.book.nextColour(), Size: 8 + p.Rand.IntN(24), Prefix: []string{"take", "shots/s1", "shots/s2"}[p.Rand.IntN(3)],
	}
	switch kind {
	case Slow:
		j.Seconds = 1 + 2*p.Rand.Float64()
	case Inverted:
		j.RGB ^= 0xffffff // so that what comes out is the job's own
		j.Input = "in-" + j.ID[:8] + ".png"
	case Scaled:
		j.Input = "in-" + j.ID[:8] + ".png"
	}
	p.book.add(j)
	return j
}

// again is the pause before the same thing is asked once more.
const again = 300 * time.Millisecond

// Submit queues a job, again and again under the same id until it is accepted
// or ctx ends.
func (p *Person) Submit(ctx context.Context, j *Job) bool {
	if j.Input != "" && !p.upload(ctx, j) {
		return false
	}
	for ctx.Err() == nil {
		j.mu.Lock()
		j.tried = true
		j.mu.Unlock()
		a := p.Session.Do(ctx, "POST", "/prompt", j.body())
		switch {
		case a.Code == 200:
			p.accepted(j, &a)
			return true
		case a.Unsure(), a.Code == 429:
		case a.Code == 400 && !a.Stale:
			p.book.Violate("%s was refused: %s", j, a.String())
			return false
		default:
			p.book.strange(fmt.Sprintf("POST /prompt %d", a.Code))
		}
		pause(ctx, again)
	}
	return false
}

func (p *Person) accepted(j *Job, a *Answer) {
	var got struct {
		PromptID string  `json:"prompt_id"`
		Number   float64 `json:"number"`
	}
	if err := json.Unmarshal(a.Body, &got); err != nil || got.PromptID != j.ID {
		p.book.Violate("%s was accepted as %s", j, a.String())
	}
	j.mu.Lock()
	first := j.accepted.IsZero()
	if first {
		j.accepted, j.number = time.Now(), got.Number
	}
	number := j.number
	j.mu.Unlock()
	if !first && number != got.Number {
		p.book.Violate("%s was accepted twice: as number %v and as number %v", j, number, got.Number)
	}
	if first {
		p.mine = append(p.mine, j)
	}
}

// upload brings the job's input; the same bytes keep their name.
func (p *Person) upload(ctx context.Context, j *Job) bool {
	raw, err := j.picture()
	if err != nil {
		p.book.Violate("%s: %v", j, err)
		return false
	}
	body, kind, err := uploadBody(j.Input, raw)
	if err != nil {
		p.book.Violate("%s: %v", j, err)
		return false
	}
	for ctx.Err() == nil {
		a := p.Session.Do(ctx, "POST", "/upload/image", body, "Content-Type", kind)
		var got struct{ Name string }
		switch {
		case a.Code == 200 && json.Unmarshal(a.Body, &got) == nil && got.Name == j.Input:
			return true
		case a.Code == 200:
			p.book.Violate("the upload %s was stored as %s", j.Input, a.String())
			return false
		case !a.Unsure():
			p.book.strange(fmt.Sprintf("POST /upload/image %d", a.Code))
		}
		pause(ctx, again)
	}
	return false
}

// Cancel asks for a job to end, once.
func (p *Person) Cancel(ctx context.Context, j *Job) {
	if j.CancelAsked() || j.Fails() {
		return
	}
	j.mu.Lock()
	j.cancel = true
	j.mu.Unlock()
	a := p.Session.Do(ctx, "POST", "/api/jobs/"+j.ID+"/cancel", []byte("{}"))
	j.mu.Lock()
	defer j.mu.Unlock()
	switch {
	case a.Code == 200 && strings.Contains(string(a.Body), "true"):
		j.verdict = cancelled
	case a.Code == 200 && !a.Stale:
		j.verdict = tooLate
	}
}

// listed is one row of GET /api/jobs.
type listed struct {
	ID     string `json:"id"`
	Status string `json:"status"`
}

func (l listed) ended() bool { return l.Status != "pending" && l.Status != "in_progress" }

// list reads all of a person's jobs; an answer that is no good is nil.
func list(ctx context.Context, s *Session) (rows []listed, a Answer) {
	a = s.Do(ctx, "GET", "/api/jobs", nil)
	var got struct{ Jobs []listed }
	if a.Code != 200 || json.Unmarshal(a.Body, &got) != nil {
		return nil, a
	}
	if got.Jobs == nil {
		got.Jobs = []listed{}
	}
	return got.Jobs, a
}

// Look reads the list of jobs and compares it with what this browser was told
// and has seen: what it queued is there, and what has ended stays ended.
func (p *Person) Look(ctx context.Context) {
	rows, a := list(ctx, p.Session)
	if rows == nil || a.Stale {
		return
	}
	status := map[string]string{}
	for _, r := range rows {
		if _, twice := status[r.ID]; twice {
			p.book.Violate("%s lists %s/%s twice", a.Door, p.Session.User, r.ID)
		}
		status[r.ID] = r.Status
		if was := p.ended[r.ID]; was != "" && was != r.Status {
			p.book.Violate("%s shows %s/%s as %s, which this browser has seen %s", a.Door, p.Session.User, r.ID, r.Status, was)
		}
		if r.ended() {
			p.ended[r.ID] = r.Status
		}
	}
	for _, j := range p.mine {
		// A job that was cancelled before it ran is in no list, as in ComfyUI.
		if status[j.ID] == "" && !j.CancelAsked() {
			p.book.Violate("%s was accepted and %s does not list it", j, a.Door)
		}
	}
}
