package browsertest_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/ahelme/comfyume/agent/browsertest"
	"github.com/ahelme/comfyume/agent/doortest"
)

// The browser's own question for name and password, for those who want it: the page and its socket work with what the
// browser keeps.
func TestBrowsersOwnSignIn(t *testing.T) {
	t.Parallel()
	a := start(t, usual)
	p := browsertest.Open(t, browsertest.Options{URL: a.URL + "/login?how=basic", User: "user001", Password: a.Client("user001").Pass, FrontendLabel: "basic"})
	p.WaitAppReady()
	if cookies := p.Text(`document.cookie`); cookies != "" {
		t.Errorf("a script reads %q", cookies)
	}
	if f := p.Frames(); f.Received == 0 {
		t.Error("the socket says nothing")
	}
	judge(t, p, usual)
}

// link has the command line make a sign-in link, as an instructor would.
func link(t *testing.T, a *doortest.Agent, user string) string {
	t.Helper()
	cmd := exec.Command(doortest.Binary(t), "user", "link", user, "--json", "--state-dir", a.StateDir)
	out, err := cmd.Output()
	var made struct{ URL string }
	if err != nil || json.Unmarshal(out, &made) != nil || !strings.HasPrefix(made.URL, a.URL+"/login?link=") {
		t.Fatalf("user link: %v, %.200s", err, out)
	}
	return made.URL
}

// A participant opens a link, works, signs out, and nothing of theirs is left in the browser; the link does not work again.
func TestLinkWorkAndSignOut(t *testing.T) {
	t.Parallel()
	a := start(t, usual)
	invitation := link(t, a, "user001")
	p := browsertest.Open(t, browsertest.Options{URL: invitation, FrontendLabel: "link"})
	p.WaitText("Welcome, user001")
	keep(p, "signin-1-link")
	p.Submit()
	p.WaitAppReady()
	if at := p.Location(); !strings.HasPrefix(at, a.URL+"/user001/") {
		t.Errorf("the link leads to %s", at)
	}
	p.CloseDialogs()
	p.LoadGraph(coreGraph(3))
	p.WaitQuiet()
	if got := p.Text(`String(localStorage.length > 0)`); got != "true" {
		t.Fatal("the frontend keeps nothing in the browser: this test shows nothing")
	}
	p.Goto(a.URL + "/logout")
	p.WaitText("This browser is signed in as user001")
	keep(p, "signin-2-sign-out")
	p.Submit()
	p.WaitText("You are signed out")
	if got := p.Text(`localStorage.length + " " + document.cookie`); got != "0 " {
		t.Errorf("left in the browser: %q", got)
	}
	p.Goto(a.URL + "/user001/")
	p.WaitText("Password")
	if at := p.Location(); !strings.HasPrefix(at, a.URL+"/login?next=") {
		t.Errorf("signed out, and at %s", at)
	}
	judge(t, p, usual)
	p.Goto(invitation)
	p.WaitText("used already")
	keep(p, "signin-3-used")
}

// The instructor lets somebody in with the dashboard's buttons, by a link and by a token, and signs them out again.
func TestPassesByButton(t *testing.T) {
	t.Parallel()
	a := start(t, usual)
	p := browsertest.Open(t, browsertest.Options{URL: a.URL + "/admin/", User: "admin", Password: "secret-admin", FrontendLabel: "dashboard"})
	p.WaitText("Nodes")
	p.Text(`document.querySelector('#people button[aria-label="Link: user002"]').click(), ""`)
	p.WaitText("Make a sign-in link for user002?")
	p.Click("^Make a sign-in link for user002$")
	p.WaitText("Sign-in link of user002")
	keep(p, "signin-4-dashboard")
	made := p.Text(`document.getElementById("pass-text").value`)
	p.Click("^Close$")
	p.WaitText("gave user002 a sign-in link") // the audit line
	if bad := append(p.ConsoleErrors(), failures(p)...); len(bad) > 0 {
		t.Errorf("the page complains: %q", bad)
	}
	other := browsertest.Open(t, browsertest.Options{URL: made, FrontendLabel: "link"})
	other.WaitText("Welcome, user002")
	other.Submit()
	other.WaitAppReady()

	p.Text(`document.querySelector('#people button[aria-label="Token: user002"]').click(), ""`)
	p.WaitText("Make a token for user002?")
	p.Click("^Make a token for user002$")
	p.WaitText("Token of user002")
	bearer := "Bearer " + p.Text(`document.getElementById("pass-text").value`)
	p.Click("^Close$")
	as := func() int {
		c := &doortest.Client{Base: a.URL}
		code, _, _, err := c.Do("GET", "/user002/api/settings", nil, "Authorization", bearer)
		if err != nil {
			t.Fatal(err)
		}
		return code
	}
	if got := as(); got != 200 {
		t.Errorf("a program with the token: %d", got)
	}
	p.Text(`document.querySelector('#people button[aria-label="Sign out: user002"]').click(), ""`)
	p.WaitText("Sign user002 out?")
	p.Click("^Sign user002 out$")
	p.WaitText("signed user002 out everywhere") // the audit line
	if got := as(); got != 401 {
		t.Errorf("a program whose token has ended: %d", got)
	}
	other.Goto(a.URL + "/user002/")
	other.WaitText("Password")
}

// Two people in one browser: the second, who comes by the sign-in page, sees nothing of the first, in the page or in what
// the page keeps. TestMatrix has the same for each version, by the second one's own address.
func TestSecondPersonInOneBrowser(t *testing.T) {
	t.Parallel()
	a := start(t, usual)
	b := browsertest.NewBrowser(t)
	t.Run("first", func(t *testing.T) {
		p := visit(t, a, "user001", "prefix", usual, b)
		p.CloseDialogs()
		p.LoadGraph(strings.ReplaceAll(coreGraph(4), "tour", "canary-of-user001"))
		doortest.Until(t, 30*time.Second, "the frontend keeps a draft in the browser", func() bool {
			return strings.Contains(p.Text(kept), "canary-of-user001")
		})
	})
	t.Run("second", func(t *testing.T) {
		p := browsertest.Open(t, browsertest.Options{URL: a.URL + "/login", User: "user002", Password: a.Client("user002").Pass, FrontendLabel: usual, Browser: b})
		p.WaitAppReady()
		if strings.Contains(p.Text(stored), "canary-of-user001") {
			t.Error("the second person's browser holds the first one's draft")
		}
		judge(t, p, usual)
	})
}

// kept is everything that the frontend keeps in the browser as text; stored also holds what it shows.
const (
	kept   = `JSON.stringify({...localStorage}) + JSON.stringify({...sessionStorage})`
	stored = kept + ` + JSON.stringify(window.app?.rootGraph?.serialize?.() ?? window.app?.graph?.serialize?.() ?? "")`
)

// What participants make cannot run a script in their page: not as a file that is opened, not inside another page.
func TestMadeFilesDoNotScript(t *testing.T) {
	t.Parallel()
	a := start(t, usual)
	c := a.Client("user001")
	const script = `document.documentElement.setAttribute("data-ran", "yes"); fetch("/api/settings/ran", {method: "POST", body: "1"})`
	for name, content := range map[string]string{
		"drawing.svg": `<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="9" height="9"/><script>` + script + `</script></svg>`,
		"page.html":   `<!doctype html><p>a page</p><script>` + script + `</script>`,
		"page.xhtml":  `<html xmlns="http://www.w3.org/1999/xhtml"><body><p>a page</p><script>` + script + `</script></body></html>`,
		"evil.js":     `window.ran = "yes"`,
	} {
		if code := uploadText(t, c, name, content); code != 200 {
			t.Fatalf("upload of %s: %d", name, code)
		}
		if code, _, _, err := c.Do("POST", "/api/userdata/"+name, content); err != nil || code != 200 {
			t.Fatalf("userdata %s: %d, %v", name, code, err)
		}
	}
	p := visit(t, a, "user001", "prefix", usual, nil)
	for _, name := range []string{"drawing.svg", "page.html", "page.xhtml", "evil.js"} {
		for _, at := range []string{"/user001/api/view?type=input&filename=" + name, "/user001/api/userdata/" + name} {
			ran := p.Text(fmt.Sprintf(`(async () => {
				const seen = [];
				const tags = ["iframe", "object", "embed", "script"].map(tag => {
					const e = document.createElement(tag);
					e[tag === "object" ? "data" : "src"] = %q;
					return e;
				});
				// Some of them never say that they have settled.
				await Promise.all(tags.map(e => new Promise(done => { e.onload = e.onerror = done; setTimeout(done, 1500); document.body.append(e); })));
				for (const e of tags) {
					try { if (e.contentDocument?.documentElement?.dataset.ran) seen.push(e.tagName); } catch { /* another origin: it reaches nothing of ours */ }
					e.remove();
				}
				if (window.ran) seen.push("a script");
				return seen.join(" ");
			})()`, at))
			if ran != "" {
				t.Errorf("%s runs as %s", at, ran)
			}
		}
	}
	var settings map[string]any
	c.JSON(t, http.MethodGet, "/api/settings", nil, &settings)
	if settings["ran"] != nil {
		t.Error("a script in a made file has changed the settings")
	}
}

func uploadText(t *testing.T, c *doortest.Client, name, content string) int {
	t.Helper()
	const edge = "edge-of-a-part"
	body := "--" + edge + "\r\nContent-Disposition: form-data; name=\"image\"; filename=\"" + name + "\"\r\n\r\n" + content + "\r\n--" + edge + "--\r\n"
	code, _, _, err := c.Do("POST", "/upload/image", body, "Content-Type", "multipart/form-data; boundary="+edge)
	if err != nil {
		t.Fatal(err)
	}
	return code
}

// Another site's page, open in the browser of somebody who is signed in, gets nothing and changes nothing: also when it is
// another port of the same machine, to which browsers send the cookies.
func TestAnotherSitesPageGetsNothing(t *testing.T) {
	t.Parallel()
	a := start(t, usual)
	evil := "http://" + doortest.FreeAddr(t)
	srv := &http.Server{Addr: strings.TrimPrefix(evil, "http://"), Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = w.Write([]byte("<!doctype html><title>evil</title>"))
	})}
	go func() { _ = srv.ListenAndServe() }()
	defer srv.Close()
	p := visit(t, a, "user001", "prefix", usual, nil)
	p.Goto(evil + "/")
	got := p.Text(fmt.Sprintf(`(async () => {
		const base = %q, out = [];
		const tell = (what, promise) => promise.then(v => out.push(what + ": " + v), () => {});
		await tell("write", fetch(base + "/user001/api/settings/evil", {method: "POST", body: "1", credentials: "include", mode: "no-cors"}).then(r => r.type));
		await tell("read", fetch(base + "/user001/api/settings", {credentials: "include"}).then(r => r.status));
		await tell("picture", new Promise((ok, no) => { const i = new Image(); i.onload = () => ok("shown"); i.onerror = no; i.src = base + "/user001/assets/images/favicon_progress_16x16/frame_1.png"; }));
		await tell("socket", new Promise((ok, no) => { const s = new WebSocket(base.replace("http", "ws") + "/user001/ws?clientId=x"); s.onopen = () => ok("open"); s.onerror = no; }));
		return out.filter(o => o !== "write: opaque").join(", ");
	})()`, a.URL))
	if got != "" {
		t.Errorf("another site's page had: %s", got)
	}
	var settings map[string]any
	a.Client("user001").JSON(t, http.MethodGet, "/api/settings", nil, &settings)
	if settings["evil"] != nil {
		t.Error("another site's page has changed the settings")
	}
}

// The page's own policy: what it may load is written down, and a script from elsewhere is refused.
func TestPolicyRefusesForeignScripts(t *testing.T) {
	t.Parallel()
	a := start(t, usual)
	foreign := "http://" + doortest.FreeAddr(t)
	srv := &http.Server{Addr: strings.TrimPrefix(foreign, "http://"), Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/javascript")
		_, _ = w.Write([]byte(`window.foreign = "yes"`))
	})}
	go func() { _ = srv.ListenAndServe() }()
	defer srv.Close()
	p := visit(t, a, "user001", "prefix", usual, nil)
	own := base64.StdEncoding.EncodeToString([]byte(`postMessage("works")`))
	got := p.Text(fmt.Sprintf(`(async () => {
		await new Promise(done => { const s = document.createElement("script"); s.src = %q; s.onload = s.onerror = done; document.head.append(s); });
		const worker = await new Promise(done => { const w = new Worker(URL.createObjectURL(new Blob([atob(%q)], {type: "text/javascript"}))); w.onmessage = e => done(e.data); w.onerror = () => done("refused"); });
		return (window.foreign || "refused") + " " + worker;
	})()`, foreign+"/x.js", own))
	if got != "refused works" {
		t.Errorf("foreign script and own worker: %q", got)
	}
	if dir := os.Getenv("COMFYUME_SCREENSHOTS"); dir != "" {
		keep(p, "signin-5-policy")
	}
}
