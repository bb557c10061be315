package oracle

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"net/url"
	"strings"
	"sync"
	"time"
)

// Diary is a document that one browser writes, version after version, and
// others read. A version whose fate is not known is the last of its document.
type Diary struct {
	User   string
	Folder string // of its documents, no other diary's; "" = diary

	mu    sync.Mutex
	pages []*page
}

// page is one document of a diary.
type page struct {
	path  string
	acked int // the newest version that was accepted
	tried int // the newest that was sent
}

// may reports whether a version can be what the document holds at the end.
func (p *page) may(version int) bool { return version == p.acked || version == p.tried }

// current is the document that is written now.
func (d *Diary) current() (path string, acked, tried int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if n := len(d.pages); n == 0 || d.pages[n-1].acked != d.pages[n-1].tried {
		d.pages = append(d.pages, &page{path: fmt.Sprintf("%s/%d.json", cmp.Or(d.Folder, "diary"), n+1)})
	}
	p := d.pages[len(d.pages)-1]
	return p.path, p.acked, p.tried
}

func (d *Diary) note(tried, acked bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	p := d.pages[len(d.pages)-1]
	if tried {
		p.tried++
	}
	if acked {
		p.acked = p.tried
	}
}

func docPath(path, query string) string { return "/userdata/" + url.PathEscape(path) + query }

// version reads what a document says; 0 = there is none, -1 = it says something
// else.
func version(a *Answer) int {
	if a.Code == 404 {
		return 0
	}
	var v int
	if _, err := fmt.Sscanf(string(a.Body), `{"version":%d}`, &v); err != nil || fmt.Sprintf(`{"version":%d}`, v) != string(a.Body) {
		return -1
	}
	return v
}

// Write writes and reads back until ctx ends.
func (d *Diary) Write(ctx context.Context, b *Book, s *Session, every time.Duration) {
	defer s.Close()
	for pause(ctx, every) {
		path, acked, _ := d.current()
		d.note(true, false)
		a := s.Do(ctx, "POST", docPath(path, "?overwrite=true"), fmt.Sprintf(`{"version":%d}`, acked+1))
		switch {
		case a.Code == 200:
			d.note(false, true)
		case !a.Unsure():
			b.strange(fmt.Sprintf("POST /userdata %d", a.Code))
		}
		path, acked, tried := d.last()
		r := s.Do(ctx, "GET", docPath(path, ""), nil)
		if r.Code != 200 && r.Code != 404 || r.Stale {
			continue
		}
		if v := version(&r); v < acked || v > tried {
			b.Violate("%s/%s: this browser wrote version %d and reads %s", d.User, path, acked, r.String())
		}
	}
}

// last is the document that was written last.
func (d *Diary) last() (path string, acked, tried int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.pages) == 0 {
		return "", 0, 0
	}
	p := d.pages[len(d.pages)-1]
	return p.path, p.acked, p.tried
}

// Read reads in another browser until ctx ends: versions never go back.
func (d *Diary) Read(ctx context.Context, b *Book, s *Session, every time.Duration) {
	defer s.Close()
	seen := map[string]int{}
	for pause(ctx, every) {
		path, _, _ := d.last()
		if path == "" {
			continue
		}
		r := s.Do(ctx, "GET", docPath(path, ""), nil)
		if r.Code != 200 && r.Code != 404 || r.Stale {
			continue
		}
		v := version(&r)
		if v < seen[path] {
			b.Violate("%s/%s: a browser that has seen version %d reads %s", d.User, path, seen[path], r.String())
		}
		seen[path] = max(seen[path], v)
	}
}

// Quarrel is documents that several browsers make and delete; who succeeds is
// compared with what is possible. See model.go.
type Quarrel struct {
	User string

	mu   sync.Mutex
	name int
	used int // operations on the current document
	lost int // of them, those whose fate is not known
	ops  []operation
}

// What one document may be asked: more would make it too hard to compare.
const (
	perDocument  = 60
	lostDocument = 4
)

func (q *Quarrel) path() string {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.used >= perDocument || q.lost >= lostDocument || q.name == 0 {
		q.name++
		q.used, q.lost = 0, 0
	}
	q.used++
	return fmt.Sprintf("quarrel/%d.json", q.name)
}

func (q *Quarrel) add(op operation) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ops = append(q.ops, op)
	if op.outcome == unknown {
		q.lost++
	}
}

// Take makes and deletes until ctx ends.
func (q *Quarrel) Take(ctx context.Context, b *Book, s *Session, every time.Duration, seed uint64) {
	defer s.Close()
	rnd := rand.New(rand.NewPCG(seed, 29)) //nolint:gosec // not a secret
	for pause(ctx, every*time.Duration(50+rnd.IntN(100))/100) {
		op := operation{path: q.path(), making: rnd.IntN(2) == 0, began: time.Now()}
		var a Answer
		if op.making {
			a = s.Do(ctx, "POST", docPath(op.path, "?overwrite=false"), `{"made":true}`)
		} else {
			a = s.Do(ctx, "DELETE", docPath(op.path, ""), nil)
		}
		op.ended = time.Now()
		switch {
		case a.Code == 200 && op.making, a.Code == 204 && !op.making:
			op.outcome = done
		case a.Code == 409 && op.making, a.Code == 404 && !op.making:
			op.outcome = refused
		case a.Code == 503 && strings.Contains(string(a.Body), "nothing was changed"):
			op.outcome = undone // its word counts
		default:
			op.outcome = unknown
			if !a.Unsure() {
				b.strange(fmt.Sprintf("userdata %d", a.Code))
			}
		}
		q.add(op)
	}
}
