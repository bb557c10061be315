package gateway_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/people"
)

// browser keeps cookies as a browser does, and says what browsers say. Over TLS
// is told by a proxy: the door of these tests has none of its own.
type browser struct {
	w    *world
	tls  bool
	jar  map[string]string
	last answer
}

func (w *world) browser() *browser { return &browser{w: w, jar: map[string]string{}} }

// send asks as a page of the door does; more are headers that replace it.
func (b *browser) send(method, target, body string, more ...string) answer {
	b.w.t.Helper()
	header := append([]string{"Sec-Fetch-Site: same-origin", "Sec-Fetch-Mode: cors"}, more...)
	if len(more) > 0 && strings.HasPrefix(more[0], "Sec-Fetch-Site:") {
		header = more
	}
	if b.tls {
		header = append(header, "X-Forwarded-Proto: https")
	}
	if method != "GET" && !strings.Contains(strings.Join(header, "\n"), "Origin:") {
		scheme := map[bool]string{true: "https", false: "http"}[b.tls]
		header = append(header, "Origin: "+scheme+"://workshop.test")
	}
	var pairs []string
	for k, v := range b.jar {
		pairs = append(pairs, k+"="+v)
	}
	if len(pairs) > 0 {
		header = append(header, "Cookie: "+strings.Join(pairs, "; "))
	}
	b.last = b.w.ask(ask{method: method, target: target, header: header, body: body})
	for _, line := range b.last.header.Values("Set-Cookie") {
		c, err := http.ParseSetCookie(line)
		if err != nil {
			b.w.t.Fatalf("%q: %v", line, err)
		}
		if c.MaxAge < 0 || !c.Expires.IsZero() && c.Expires.Before(time.Now()) {
			delete(b.jar, c.Name)
		} else {
			b.jar[c.Name] = c.Value
		}
	}
	return b.last
}

// open is a person opening an address.
func (b *browser) open(target string) answer {
	b.w.t.Helper()
	return b.send("GET", target, "", "Sec-Fetch-Site: none", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document")
}

// signIn fills the form in.
func (b *browser) signIn(name, password, next string) answer {
	b.w.t.Helper()
	return b.send("POST", "/login", url.Values{"name": {name}, "password": {password}, "next": {next}}.Encode())
}

func (b *browser) as(t *testing.T, u cluster.User) {
	t.Helper()
	b.signIn(string(u), right+" of "+string(u), "").want(t, 303)
}

func TestSignInPage(t *testing.T) {
	w := open(t, options{visited: true})
	b := w.browser()
	a := b.open("/user001/?workflow=x%20y").want(t, 303)
	if got := a.header.Get("Location"); got != "/login?next=%2Fuser001%2F%3Fworkflow%3Dx%2520y" {
		t.Fatalf("sent to %q", got)
	}
	page := b.open(a.header.Get("Location")).want(t, 200)
	if !strings.Contains(page.body, `name="next" value="/user001/?workflow=x%20y"`) || !strings.Contains(page.header.Get("Content-Security-Policy"), "default-src 'none'") {
		t.Errorf("the page: %s\n%s", page.body, page.header)
	}
	if b.signIn("user001", "wrong", "").want(t, 401); !strings.Contains(b.last.body, "The name or the password is wrong") || len(b.jar) != 0 || b.last.header.Get("WWW-Authenticate") != "" {
		t.Errorf("a wrong password: %s", b.last.body)
	}
	a = b.signIn(" user001 ", right+" of user001", "/user001/?workflow=x%20y").want(t, 303)
	if got := a.header.Get("Location"); got != "/user001/?workflow=x%20y" {
		t.Errorf("then sent to %q", got)
	}
	if line := a.header.Get("Set-Cookie"); !strings.Contains(line, "HttpOnly") || !strings.Contains(line, "SameSite=Lax") || !strings.Contains(line, "path=/") || strings.Contains(line, "secure") {
		t.Errorf("the cookie: %s", line)
	}
	b.open("/user001/").want(t, 200)
	b.send("GET", "/api/settings", "").want(t, 200)
	b.send("POST", "/user001/api/settings/x", "1").want(t, 200)
	b.send("GET", "/user002/api/settings", "").want(t, 403)
	b.send("GET", "/admin/", "").want(t, 403)
}

// TestSecondPersonOpensTheirAddress: in a browser where somebody else is signed
// in, a person's own address leads to the page that says so and signs them in.
func TestSecondPersonOpensTheirAddress(t *testing.T) {
	w := open(t, options{visited: true})
	b := w.browser()
	b.as(t, ann)
	b.open("/user001/").want(t, 200)
	for target, who := range map[string]cluster.User{"/user002/?workflow=x": bob, "/admin/": boss} {
		b.as(t, ann)
		at := b.open(target).want(t, 303).header.Get("Location")
		if at != "/login?next="+url.QueryEscape(target) {
			t.Fatalf("%s leads to %q", target, at)
		}
		if page := b.open(at).want(t, 200); !strings.Contains(page.body, "signed in as user001") {
			t.Errorf("the page does not say who is signed in: %s", page.body)
		}
		if got := b.signIn(string(who), right+" of "+string(who), target).want(t, 303).header.Get("Location"); got != target {
			t.Errorf("%s then leads to %q", target, got)
		}
	}
	if at := b.open("/user001/").want(t, 303).header.Get("Location"); at != "/login?next=%2Fuser001%2F" { // the instructor
		t.Errorf("the instructor is led to %q", at)
	}
	b.as(t, bob)
	if a := b.open("/user002/").want(t, 200); a.header.Get("Clear-Site-Data") == "" {
		t.Error("what the first one left is not cleared")
	}
}

func TestCookieOverTLS(t *testing.T) {
	w := open(t, options{visited: true})
	b := w.browser()
	b.tls = true
	b.as(t, ann)
	line := b.last.header.Get("Set-Cookie")
	if !strings.HasPrefix(line, "__Host-comfyume=") || !strings.Contains(line, "secure") || !strings.Contains(line, "HttpOnly") || !strings.Contains(line, "SameSite=Lax") || !strings.Contains(line, "path=/") || strings.Contains(line, "domain") {
		t.Errorf("the cookie: %s", line)
	}
	b.send("GET", "/api/settings", "").want(t, 200)
	// A cookie that may have been set without TLS, by anybody on the way, is none.
	b.jar = map[string]string{"comfyume": b.jar["__Host-comfyume"]}
	b.send("GET", "/api/settings", "").want(t, 401)
}

func TestWhereSignInLeads(t *testing.T) {
	w := open(t, options{visited: true})
	for next, want := range map[string]string{
		"": "/user001/", "/": "/", "/?a=b": "/?a=b", "/user001/x": "/user001/x",
		"/user002/": "/user001/", "/admin/": "/user001/", "//evil.test/": "/user001/", "/\\evil.test": "/user001/", "https://evil.test/user001/": "/user001/",
		"/user001/../admin/": "/user001/", "/user001/\r\nSet-Cookie: a=b": "/user001/", "/?\n": "/user001/", "/user001/%2e%2e/": "/user001/",
		"/user001/" + strings.Repeat("x", 3000): "/user001/",
	} {
		if got := w.browser().signIn("user001", right+" of user001", next).want(t, 303).header.Get("Location"); got != want {
			t.Errorf("%.40q: %q, want %q", next, got, want)
		}
	}
	if got := w.browser().signIn(string(boss), right+" of "+string(boss), "/user001/").want(t, 303).header.Get("Location"); got != "/admin/" {
		t.Errorf("the instructor: %q", got)
	}
}

// TestProgramsAreAskedAndPagesAreNot: only who can do something with it gets a
// challenge, and nobody's page is covered by the browser's own question.
func TestProgramsAreAskedAndPagesAreNot(t *testing.T) {
	w := open(t, options{})
	for _, c := range []struct {
		what, target string
		header       []string
		status       int
		asked        bool
	}{
		{"a program", "/user001/api/settings", nil, 401, true},
		{"a program at a page", "/user001/", nil, 401, true},
		{"a page's script", "/user001/api/settings", []string{"Sec-Fetch-Site: same-origin", "Sec-Fetch-Mode: cors"}, 401, false},
		{"a page's socket", "/user001/ws", []string{"Sec-Fetch-Site: same-origin", "Sec-Fetch-Mode: websocket", "Upgrade: websocket", "Connection: Upgrade"}, 401, false},
		{"a person", "/user001/", []string{"Sec-Fetch-Site: none", "Sec-Fetch-Mode: navigate"}, 303, false},
		{"a person with an old browser", "/user001/", []string{"Accept: text/html,application/xhtml+xml"}, 303, false},
		{"a person at the root", "/", []string{"Sec-Fetch-Site: none", "Sec-Fetch-Mode: navigate"}, 200, false},
		{"a browser with a wrong password", "/user001/", []string{"Sec-Fetch-Site: none", "Sec-Fetch-Mode: navigate", "Authorization: Basic dXNlcjAwMTpub3Bl"}, 401, true},
		{"who wants the browser's own question", "/login?how=basic", []string{"Sec-Fetch-Site: none", "Sec-Fetch-Mode: navigate"}, 401, true},
	} {
		a := w.ask(ask{target: c.target, header: c.header})
		if a.status != c.status || (a.header.Get("WWW-Authenticate") != "") != c.asked {
			t.Errorf("%s: %d, asked %q", c.what, a.status, a.header.Get("WWW-Authenticate"))
		}
	}
}

func TestSignOut(t *testing.T) {
	w := open(t, options{visited: true})
	b, other := w.browser(), w.browser()
	b.as(t, ann)
	other.as(t, ann)
	b.open("/user001/").want(t, 200)
	kept := b.jar["comfyume"]
	if b.open("/logout").want(t, 200); !strings.Contains(b.last.body, "signed in as user001") {
		t.Error("the page does not say who is signed in")
	}
	a := b.send("POST", "/logout", "").want(t, 200)
	if len(b.jar) != 0 || a.header.Get("Clear-Site-Data") != `"cache", "cookies", "storage"` {
		t.Errorf("left %v, %q", b.jar, a.header.Get("Clear-Site-Data"))
	}
	b.jar["comfyume"] = kept // somebody had copied it
	b.send("GET", "/api/settings", "").want(t, 401)
	other.send("GET", "/api/settings", "").want(t, 200)
	third := w.browser()
	third.as(t, ann)
	third.send("POST", "/logout", "everywhere=1").want(t, 200)
	other.send("GET", "/api/settings", "").want(t, 401)
	w.browser().send("POST", "/logout", "").want(t, 200) // nobody signs out
}

func TestSignInLink(t *testing.T) {
	w := open(t, options{visited: true})
	text, _, err := w.sign.NewLink(t.Context(), bob, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	b := w.browser()
	for range 3 { // a mail scanner and a chat look at it first
		if a := b.open("/login?link="+text).want(t, 200); !strings.Contains(a.body, "Welcome, user002") || len(b.jar) != 0 {
			t.Errorf("the page: %s", a.body)
		}
	}
	if got := b.send("POST", "/login", "link="+text).want(t, 303).header.Get("Location"); got != "/user002/" {
		t.Errorf("sent to %q", got)
	}
	b.open("/user002/").want(t, 200)
	again := w.browser()
	if again.send("POST", "/login", "link="+text).want(t, 401); !strings.Contains(again.last.body, "used already") || len(again.jar) != 0 {
		t.Errorf("a second time: %s", again.last.body)
	}
	again.open("/login?link="+text).want(t, 401)
	again.open("/login?link=nonsense").want(t, 401)
	if strings.Contains(w.logged.String(), text) {
		t.Error("the log tells a link")
	}
}

// TestLinkWithoutALeaderMayBeTriedAgain: what could not be committed is not used up.
func TestLinkWithoutALeaderMayBeTriedAgain(t *testing.T) {
	w := open(t, options{visited: true})
	text, _, err := w.sign.NewLink(t.Context(), bob, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	b := w.browser()
	w.log.fail(cluster.Errorf(cluster.NoLeader, "no node can commit at present"))
	if b.send("POST", "/login", "link="+text).want(t, 503); !strings.Contains(b.last.body, `value="`+text+`"`) {
		t.Errorf("the button is gone: %s", b.last.body)
	}
	w.log.fail(nil)
	b.send("POST", "/login", "link="+text).want(t, 303)
}

func TestBearerToken(t *testing.T) {
	w := open(t, options{})
	text, _, err := w.sign.NewToken(t.Context(), ann, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	with := func(text, target string) int {
		return w.ask(ask{target: target, header: []string{"Authorization: Bearer " + text}}).status
	}
	if a, b, c := with(text, "/user001/api/settings"), with(text, "/api/settings"), with(text, "/user002/api/settings"); a != 200 || b != 200 || c != 403 {
		t.Errorf("own prefix %d, root %d, somebody else's %d", a, b, c)
	}
	w.do(&people.Disable{Name: ann})
	if got := with(text, "/api/settings"); got != 401 {
		t.Errorf("shut out: %d", got)
	}
	if got := with("nonsense", "/api/settings"); got != 401 {
		t.Errorf("nonsense: %d", got)
	}
}

// TestSignedInLastIsWhoSits: a browser goes on sending the password that it was
// told once, also when somebody else has signed in on the page since.
func TestSignedInLastIsWhoSits(t *testing.T) {
	w := open(t, options{visited: true})
	b := w.browser()
	b.as(t, bob)
	basic := authorization(ann, "")[0]
	b.send("GET", "/user002/api/settings", "", basic).want(t, 200)
	b.send("GET", "/user001/api/settings", "", basic).want(t, 403)
	b.send("GET", "/login?how=basic", "", basic).want(t, 302)
	b.send("GET", "/user001/api/settings", "", basic).want(t, 200)
	// A session that has ended does not stand in the way.
	b.jar["comfyume"] = "ended"
	b.send("GET", "/user001/api/settings", "", basic).want(t, 200)
}

// TestBrowserForgetsTheOneBefore: the frontend keeps drafts in the browser, and
// they are somebody's.
func TestBrowserForgetsTheOneBefore(t *testing.T) {
	w := open(t, options{visited: true})
	b := w.browser()
	cleared := func(u cluster.User) string {
		b.as(t, u)
		return b.open("/"+string(u)+"/").want(t, 200).header.Get("Clear-Site-Data")
	}
	for i, c := range []struct {
		u    cluster.User
		want string
	}{{ann, ""}, {ann, ""}, {bob, `"cache", "storage"`}, {bob, ""}, {ann, `"cache", "storage"`}} {
		if got := cleared(c.u); got != c.want {
			t.Errorf("visit %d, %s: %q, want %q", i, c.u, got, c.want)
		}
	}
	b.as(t, boss) // looks at the dashboard and leaves no traces there
	b.open("/").want(t, 302)
	if got := cleared(ann); got != "" {
		t.Errorf("after the instructor: %q", got)
	}
}

// TestOtherSitesPages tries what a page elsewhere could make a signed-in browser
// do: the door must refuse all but a followed link.
func TestOtherSitesPages(t *testing.T) {
	w := open(t, options{visited: true})
	b := w.browser()
	b.as(t, ann)
	const upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
	for _, c := range []struct {
		what, method, target string
		header               []string
		refused              bool
	}{
		{"a write of another site", "POST", "/api/settings/x", []string{"Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: cors", "Origin: https://evil.test"}, true},
		{"a form of another site", "POST", "/api/interrupt", []string{"Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document", "Origin: https://evil.test"}, true},
		{"a write of a sister domain", "POST", "/api/settings/x", []string{"Sec-Fetch-Site: same-site", "Sec-Fetch-Mode: cors", "Origin: https://other.workshop.test"}, true},
		{"a write of another port", "POST", "/api/settings/x", []string{"Sec-Fetch-Site: same-site", "Sec-Fetch-Mode: cors", "Origin: http://workshop.test:8080"}, true},
		{"a write of nowhere", "POST", "/api/settings/x", []string{"Sec-Fetch-Site: cross-site", "Origin: null"}, true},
		{"an old browser's write of another site", "POST", "/api/settings/x", []string{"Sec-Fetch-Site:", "Origin: https://evil.test"}, true},
		{"an old browser's write of nowhere", "POST", "/api/settings/x", []string{"Sec-Fetch-Site:", "Origin: null"}, true},
		{"a deletion of another site", "DELETE", "/api/userdata/x", []string{"Sec-Fetch-Site: cross-site", "Origin: https://evil.test"}, true},
		{"a socket of another site", "GET", "/ws", []string{"Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: websocket", "Origin: https://evil.test", upgrade}, true},
		{"an old browser's socket of another site", "GET", "/ws", []string{"Sec-Fetch-Site:", "Origin: https://evil.test", upgrade}, true},
		{"a socket of a sister domain", "GET", "/ws", []string{"Sec-Fetch-Site: same-site", "Sec-Fetch-Mode: websocket", "Origin: http://other.workshop.test", upgrade}, true},
		{"a picture in another site's page", "GET", "/api/object_info", []string{"Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors", "Sec-Fetch-Dest: image"}, true},
		{"a script in a sister domain's page", "GET", "/api/settings", []string{"Sec-Fetch-Site: same-site", "Sec-Fetch-Mode: no-cors", "Sec-Fetch-Dest: script"}, true},
		{"a frame in another site's page", "GET", "/user001/", []string{"Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: iframe"}, true},
		{"signing somebody in elsewhere", "POST", "/login", []string{"Sec-Fetch-Site: cross-site", "Origin: https://evil.test"}, true},
		{"signing somebody out elsewhere", "POST", "/logout", []string{"Sec-Fetch-Site: cross-site", "Origin: https://evil.test"}, true},
		{"a write to the dashboard from elsewhere", "POST", "/admin/api/do", []string{"Sec-Fetch-Site: cross-site", "Origin: https://evil.test"}, true},
		{"a link that was followed", "GET", "/user001/", []string{"Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document"}, false},
		{"the page's own write", "POST", "/api/settings/x", []string{"Sec-Fetch-Site: same-origin", "Origin: http://workshop.test"}, false},
		{"an old browser's own write", "POST", "/api/settings/x", []string{"Sec-Fetch-Site:", "Origin: http://workshop.test"}, false},
	} {
		commits := w.log.commits()
		a := b.send(c.method, c.target, "1", c.header...)
		if (a.status == 403) != c.refused || c.refused && w.log.commits() != commits {
			t.Errorf("%s: %d, %d commits", c.what, a.status, w.log.commits()-commits)
		}
	}
}

// TestHeadersOfEveryAnswer asks for one of each kind.
func TestHeadersOfEveryAnswer(t *testing.T) {
	w := open(t, options{visited: true})
	w.upload(ann, "/upload/image", part{"image", "drawing.svg", `<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>`}).want(t, 200)
	w.upload(ann, "/upload/image", part{"image", "page.html", `<script>alert(1)</script>`}).want(t, 200)
	w.post(ann, "/api/userdata/page.html", `<script>alert(1)</script>`).want(t, 200)
	const (
		none = "sandbox; default-src 'none'"
		page = "default-src 'self'; script-src 'self' 'unsafe-inline'"
		form = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'"
	)
	for target, policy := range map[string]string{
		"/user001/": page, "/": page, "/assets/app-AbCd1234.js": page, "/scripts/app.js": page,
		"/login": form, "/logout": form, "/health": form,
		"/view?filename=drawing.svg&type=input": none, "/view?filename=page.html&type=input": none, "/api/userdata/page.html": none, "/api/settings": none,
		"/nothing": none, "/healthz": none,
	} {
		a := w.get(ann, target)
		for k, want := range map[string]string{
			"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff", "X-Frame-Options": "SAMEORIGIN", "Referrer-Policy": "same-origin",
			"Cross-Origin-Resource-Policy": "same-origin", "Cross-Origin-Opener-Policy": "same-origin-allow-popups", "Permissions-Policy": "geolocation=()",
		} {
			if got := a.header.Get(k); !strings.HasPrefix(got, want) {
				t.Errorf("%s: %s is %q", target, k, got)
			}
		}
		if a.header.Get("Strict-Transport-Security") != "" {
			t.Errorf("%s: over plain HTTP browsers are told to use TLS", target)
		}
	}
}

// TestGuessesAreCountedByWhereTheyComeFrom: a proxy on this machine is not where.
func TestGuessesAreCountedByWhereTheyComeFrom(t *testing.T) {
	w := open(t, options{})
	try := func(from, pass string) int {
		return w.ask(ask{user: ann, pass: pass, target: "/api/settings", header: []string{"X-Forwarded-For: 10.9.9.9, " + from}}).status
	}
	for i := range 40 {
		try("203.0.113.7", fmt.Sprint("guess", i))
	}
	if got := try("203.0.113.7", "another guess"); got != 429 {
		t.Errorf("guess 41 of one address: %d", got)
	}
	if got := try("203.0.113.8", "first guess"); got != 401 {
		t.Errorf("another address: %d", got)
	}
	for i := range 40 {
		try(fmt.Sprintf("2001:db8:0:1::%x", i), fmt.Sprint("guess", i))
	}
	if got := try("2001:db8:0:1:ffff::1", "another guess"); got != 429 {
		t.Errorf("guess 41 of one IPv6 network: %d", got)
	}
}
