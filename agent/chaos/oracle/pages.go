package oracle

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/fasthttp/websocket"

	"github.com/ahelme/comfyume/agent/doortest"
)

// Page is a page of one person that is open at a door and is told of their
// jobs. When its door breaks off it goes to the next.
type Page struct {
	User, Pass string
	book       *Book
	doors      []Door

	mu    sync.Mutex
	since time.Time       // connected without a break; zero = it is not
	at    Door            //
	told  map[string]bool // ends that it was told of on this connection
	last  map[string]string
	asks  sync.WaitGroup
}

// NewPage returns one that is closed.
func NewPage(b *Book, user, pass string, doors ...Door) *Page {
	return &Page{User: user, Pass: pass, book: b, doors: doors}
}

// Open keeps the page open until ctx ends.
func (p *Page) Open(ctx context.Context) {
	for i := 0; ctx.Err() == nil; i++ {
		p.visit(ctx, p.doors[i%len(p.doors)])
		pause(ctx, again)
	}
	p.asks.Wait()
}

// clientID is what the person's jobs name as their page.
func clientID(user string) string { return "browser-" + user }

func (p *Page) visit(ctx context.Context, d Door) {
	dialer := websocket.Dialer{HandshakeTimeout: 3 * time.Second}
	h := http.Header{"Authorization": {"Basic " + base64.StdEncoding.EncodeToString([]byte(p.User+":"+p.Pass))}}
	conn, resp, err := dialer.DialContext(ctx, "ws"+strings.TrimPrefix(d.URL, "http")+"/"+p.User+"/ws?clientId="+url.QueryEscape(clientID(p.User)), h)
	if resp != nil && resp.Body != nil {
		_ = resp.Body.Close()
	}
	if err != nil {
		return
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	defer conn.Close()
	p.mu.Lock()
	p.since, p.at, p.told, p.last = time.Now(), d, map[string]bool{}, map[string]string{}
	p.mu.Unlock()
	s := &doortest.Socket{Conn: conn}
	for {
		m, err := s.Next(time.Hour)
		if err != nil {
			break
		}
		p.hear(ctx, d, m)
	}
	p.mu.Lock()
	if ctx.Err() == nil {
		p.since = time.Time{}
	}
	p.mu.Unlock()
}

// hear judges one message.
func (p *Page) hear(ctx context.Context, d Door, m doortest.Message) {
	var data struct {
		Prompt string `json:"prompt_id"`
	}
	if m.Type == "binary" || json.Unmarshal(m.Data, &data) != nil || data.Prompt == "" {
		return
	}
	id := data.Prompt
	p.book.mu.Lock()
	j := p.book.byID[id]
	p.book.mu.Unlock()
	switch {
	case j == nil:
		p.book.Violate("a page of %s at %s is told %s of %s, which nobody queued", p.User, d.Name, m.Type, id)
		return
	case j.User != p.User:
		p.book.Violate("a page of %s at %s is told %s of %s", p.User, d.Name, m.Type, j)
		return
	}
	p.mu.Lock()
	ended, last, since := p.told[id], p.last[id], p.since
	if strings.HasPrefix(m.Type, "execution_") {
		p.last[id] = m.Type
	}
	// A page that comes back is told that a job has ended without how: it may have
	// heard that elsewhere. The whole may still come.
	short := m.EndOf(id) && last == "" && j.Accepted().Before(since)
	if m.EndOf(id) && !short {
		p.told[id] = true
	}
	p.mu.Unlock()
	switch {
	case ended:
		p.book.Violate("a page of %s at %s is told %s %.100s after the end of %s", p.User, d.Name, m.Type, m.Data, j)
	case m.EndOf(id):
		if !short && last != "execution_success" && last != "execution_error" && last != "execution_interrupted" {
			p.book.Violate("a page of %s at %s is told that %s has ended, and before that %q", p.User, d.Name, j, last)
		}
		p.asks.Go(func() { p.ask(ctx, d, j) })
	}
}

// ask looks whether what the page was told is so: the job's history is there,
// with its picture.
func (p *Page) ask(ctx context.Context, d Door, j *Job) {
	s := NewSession(p.book, p.User, p.Pass, d)
	defer s.Close()
	a := s.Do(ctx, "GET", "/history/"+j.ID, nil)
	var got map[string]doortest.Entry
	if a.Code != 200 || json.Unmarshal(a.Body, &got) != nil || j.CancelAsked() {
		return
	}
	e, ok := got[j.ID]
	if !ok {
		p.missing(ctx, s, d, j)
		return
	}
	if e.Status.Completed {
		for _, img := range e.Outputs[saver]["images"] {
			if a := s.Do(ctx, "GET", img.Path(), nil); a.Code != 200 && !a.Unsure() {
				p.book.Violate("%s has ended and its picture is not to be had: %s", j, a.String())
			}
		}
	}
}

// missing is an end without a history. If the list of jobs has it, its bytes are
// at the other door, which does not answer now; else it is a broken promise.
func (p *Page) missing(ctx context.Context, s *Session, d Door, j *Job) {
	rows, _ := list(ctx, s)
	for _, r := range rows {
		if r.ID == j.ID && r.ended() {
			p.book.strange("a history entry that is not to be had at " + d.Name)
			return
		}
	}
	if rows != nil {
		p.book.Violate("a page of %s is told at %s that %s has ended, and the history there does not have it", p.User, d.Name, j)
	}
}

// Judge wants every job that has ended since the page is open without a break
// to have been told. All jobs have ended.
func (p *Page) Judge() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.since.IsZero() {
		return
	}
	for _, j := range p.book.Jobs() {
		if at := j.Accepted(); j.User == p.User && at.After(p.since.Add(time.Second)) && !j.CancelAsked() && !p.told[j.ID] {
			p.book.Violate("a page of %s is open at %s since %s and was never told of the end of %s, accepted %s", p.User, p.at.Name, p.since.Format("15:04:05.000"), j, at.Format("15:04:05.000"))
		}
	}
}
