package oracle

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"strings"
	"time"
)

// Session is one browser of one person: it carries the workshop's cookies from
// door to door. It is for one goroutine.
type Session struct {
	User, Pass string
	book       *Book
	doors      []Door
	next       int
	cookies    map[string]string
	client     *http.Client
}

// Patience is how long a browser waits for an answer.
const Patience = 6 * time.Second

// NewSession opens one that goes from door to door.
func NewSession(b *Book, user, pass string, doors ...Door) *Session {
	return &Session{
		User: user, Pass: pass, book: b, doors: doors, cookies: map[string]string{},
		client: &http.Client{
			Transport:     &http.Transport{DialContext: (&net.Dialer{Timeout: 2 * time.Second}).DialContext, MaxIdleConnsPerHost: 2, IdleConnTimeout: 5 * time.Second},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

// Close ends its connections.
func (s *Session) Close() { s.client.CloseIdleConnections() }

// Answer is what a door said. Code 0: nothing, or not all of it; what was asked
// may have been done.
type Answer struct {
	Code  int
	Body  []byte
	Stale bool   // from before what this browser has seen, and says so
	Door  string // which was asked
	Err   error  // why there is no answer
}

// Unsure reports whether what was asked may or may not have been done.
func (a *Answer) Unsure() bool { return a.Code == 0 || a.Code >= 500 }

func (a *Answer) String() string {
	if a.Code == 0 {
		return fmt.Sprintf("no answer from %s: %v", a.Door, a.Err)
	}
	return fmt.Sprintf("%d from %s: %.200s", a.Code, a.Door, a.Body)
}

// Do asks the next door.
func (s *Session) Do(ctx context.Context, method, path string, body any, header ...string) Answer {
	d := s.doors[s.next%len(s.doors)]
	s.next++
	a := s.at(ctx, d, method, path, body, header...)
	s.book.answered(&a)
	return a
}

func (s *Session) at(ctx context.Context, d Door, method, path string, body any, header ...string) Answer {
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	a := Answer{Door: d.Name}
	req, err := s.request(ctx, d, method, path, body, header)
	if err != nil {
		a.Err = err
		return a
	}
	resp, err := s.client.Do(req)
	if err != nil {
		a.Err = err
		return a
	}
	a.Body, err = io.ReadAll(resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		a.Err = err
		return a
	}
	a.Code, a.Stale = resp.StatusCode, resp.Header.Get("Comfyume-Stale") != ""
	for _, c := range resp.Cookies() {
		s.cookies[c.Name] = c.Value
	}
	return a
}

func (s *Session) request(ctx context.Context, d Door, method, path string, body any, header []string) (*http.Request, error) {
	var r io.Reader
	switch b := body.(type) {
	case nil:
	case []byte:
		r = bytes.NewReader(b)
	case string:
		r = strings.NewReader(b)
	default:
		raw, err := json.Marshal(b)
		if err != nil {
			return nil, err
		}
		r = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, d.URL+"/"+s.User+path, r)
	if err != nil {
		return nil, err
	}
	req.SetBasicAuth(s.User, s.Pass)
	for name, value := range s.cookies {
		req.AddCookie(&http.Cookie{Name: name, Value: value})
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	return req, nil
}

// uploadBody is a file as a page sends it.
func uploadBody(name string, content []byte) (body []byte, kind string, err error) {
	var buf bytes.Buffer
	w := multipart.NewWriter(&buf)
	part, err := w.CreateFormFile("image", name)
	if err != nil {
		return nil, "", err
	}
	if _, err := part.Write(content); err != nil {
		return nil, "", err
	}
	if err := w.Close(); err != nil {
		return nil, "", err
	}
	return buf.Bytes(), w.FormDataContentType(), nil
}

// pause waits a moment; it reports false when ctx ended.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
