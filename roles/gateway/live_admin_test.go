package gateway_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/people"
)

// dashboard is a net/http handler with the habits of the real one: a feed that
// never ends, a form, and some that a server must survive.
type dashboard struct {
	step chan string   // the feed sends what comes
	left chan struct{} // closed when the feed's request is over
	once sync.Once
}

func newDashboard() *dashboard {
	return &dashboard{step: make(chan string), left: make(chan struct{})}
}

func (d *dashboard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/feed":
		defer d.once.Do(func() { close(d.left) })
		w.Header().Set("Content-Type", "text/event-stream")
		w.(http.Flusher).Flush()
		for {
			select {
			case s := <-d.step:
				if _, err := fmt.Fprintf(w, "data: %s\n\n", s); err != nil || http.NewResponseController(w).Flush() != nil {
					return
				}
			case <-r.Context().Done():
				return
			}
		}
	case "/form":
		body, err := io.ReadAll(r.Body)
		w.Header().Set("X-Site", "yes")
		w.Header().Add("Set-Cookie", "a=1")
		w.Header().Add("Set-Cookie", "b=2")
		w.WriteHeader(http.StatusCreated)
		fmt.Fprintf(w, "%s %s %s %q %v", r.Method, r.URL.RawQuery, body, r.Header.Get("Authorization"), err)
	case "/panics":
		panic("a defect of the dashboard")
	case "/aborts":
		panic(http.ErrAbortHandler)
	case "/says nothing":
	case "/large":
		_, _ = w.Write(make([]byte, 1<<20))
	default:
		http.NotFound(w, r)
	}
}

func TestDashboardIsTheInstructors(t *testing.T) {
	w := open(t, options{admin: newDashboard()})
	w.get("", "/admin/").want(t, 401)
	w.get("", "/admin/feed").want(t, 401)
	w.get(ann, "/admin/").want(t, 403)
	w.get(ann, "/admin/form").want(t, 403)
	w.get(ann, "/user001/admin/form").want(t, 404)
	if a := w.get(boss, "/admin").want(t, 301); a.header.Get("Location") != "/admin/" {
		t.Errorf("location %q", a.header.Get("Location"))
	}
	if a := w.get(boss, "/").want(t, 302); a.header.Get("Location") != "/admin/" {
		t.Errorf("location %q", a.header.Get("Location"))
	}
	w.get(boss, "/user001/").want(t, 403)
	w.get(boss, "/api/history").want(t, 403)
	w.get(boss, "/admin/nothing").want(t, 404)
	a := w.ask(ask{user: boss, method: "POST", target: "/admin/form?x=1", body: "hello"}).want(t, 201)
	if a.body != `POST x=1 hello "" <nil>` {
		t.Errorf("the handler saw %s", a.body) // not the password
	}
	if a.header.Get("X-Site") != "yes" || len(a.header.Values("Set-Cookie")) != 2 {
		t.Errorf("headers %v", a.header)
	}
	w.ask(ask{user: boss, method: "POST", target: "/admin/form", header: []string{"Origin: https://evil.example"}}).want(t, 403)
	if a := w.get(boss, "/admin/large").want(t, 200); len(a.body) != 1<<20 {
		t.Errorf("%d bytes", len(a.body))
	}
	w.get(boss, "/admin/says%20nothing").want(t, 200)
	w.ask(ask{user: boss, method: "HEAD", target: "/admin/large"}).want(t, 200)
	w.get(boss, "/admin/../user001/").want(t, 400)
	w.get(boss, "/admin/%2e%2e/x").want(t, 400)
}

// TestDashboardPanics: a defect there is one failed request, not the end of
// everybody's door.
func TestDashboardPanics(t *testing.T) {
	w := open(t, options{admin: newDashboard()})
	w.get(boss, "/admin/panics").want(t, 500)
	w.get(boss, "/admin/aborts").want(t, 500)
	w.get(boss, "/admin/form").want(t, 201)
	if !strings.Contains(w.logged.String(), "the dashboard panicked") {
		t.Error("no line in the log")
	}
}

// feed opens the dashboard's feed and returns its lines and the way to hang up.
func (w *world) feed(header ...string) (lines <-chan string, hangUp func()) {
	w.t.Helper()
	conn, err := net.Dial("tcp", w.addr)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		w.t.Fatal(err)
	}
	if len(header) == 0 {
		header = authorization(boss, "")
	}
	fmt.Fprintf(conn, "GET /admin/feed HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n", header[0])
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		w.t.Fatal(err)
	}
	if ct := resp.Header.Get("Content-Type"); ct != "text/event-stream" || resp.StatusCode != 200 {
		w.t.Fatalf("%s %s", resp.Status, ct)
	}
	out := make(chan string, 100)
	go func() {
		defer close(out)
		for s := bufio.NewScanner(resp.Body); s.Scan(); {
			if s.Text() != "" {
				out <- s.Text()
			}
		}
	}()
	return out, func() { _ = conn.Close() }
}

func within[T any](t *testing.T, what string, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(10 * time.Second):
		t.Fatal("waited 10 s in vain: " + what)
	}
	return v
}

// TestDashboardFeed: what the handler flushes arrives while it goes on, and it
// ends when the browser leaves.
func TestDashboardFeed(t *testing.T) {
	d := newDashboard()
	w := open(t, options{admin: d})
	lines, hangUp := w.feed()
	for _, s := range []string{"one", "two"} {
		d.step <- s
		if got := within(t, s, lines); got != "data: "+s {
			t.Errorf("got %q", got)
		}
	}
	hangUp()
	deadline, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for over := false; !over; { // it notices at a write, as a beat is
		select {
		case d.step <- "beat":
		case <-d.left:
			over = true
		case <-deadline.Done():
			t.Fatal("the handler goes on for a browser that left")
		}
	}
}

// TestDashboardFeedOfTheSignedOut: it ends with the session that opened it, and
// no other.
func TestDashboardFeedOfTheSignedOut(t *testing.T) {
	d := newDashboard()
	w := open(t, options{admin: d})
	b := w.browser()
	b.as(t, boss)
	lines, _ := w.feed("Cookie: comfyume=" + b.jar["comfyume"])
	d.step <- "one"
	if got := within(t, "one", lines); got != "data: one" {
		t.Errorf("got %q", got)
	}
	w.browser().send("POST", "/logout", "everywhere=1").want(t, 200) // somebody else
	w.do(&people.EndPass{Name: ann, All: true})
	d.step <- "two"
	if got := within(t, "two", lines); got != "data: two" {
		t.Errorf("got %q", got)
	}
	b.send("POST", "/logout", "").want(t, 200)
	within(t, "the handler's end", d.left)
	for range lines {
		t.Error("the feed goes on")
	}
}

// TestDashboardFeedAtTheEnd: an open feed does not hold up the end.
func TestDashboardFeedAtTheEnd(t *testing.T) {
	d := newDashboard()
	w := open(t, options{admin: d})
	w.feed()
	begin := time.Now()
	if err := w.stop(); err != nil {
		t.Error(err)
	}
	if took := time.Since(begin); took > 3*time.Second {
		t.Errorf("stopping took %v", took)
	}
	within(t, "the handler's end", d.left)
	if _, err := w.tryAsk(ask{user: cluster.User(boss), target: "/admin/form"}); err == nil {
		t.Error("the door still answers")
	}
}
