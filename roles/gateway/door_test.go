package gateway_test

import (
	"encoding/json"
	"net"
	"strings"
	"testing"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/people"
	"github.com/ahelme/comfyume/roles/gateway"
)

// What stands at the door for everybody.
func TestDoor(t *testing.T) {
	w := open(t, options{visited: true})
	if a := w.get("", "/").want(t, 200); !strings.Contains(strings.ToLower(a.body), "sign in") || strings.Contains(a.body, "ComfyUI of a test") {
		t.Errorf("the landing page: %.300s", a.body)
	}
	if a := w.get("", "/healthz").want(t, 200); !strings.Contains(a.body, `"ready":true`) {
		t.Errorf("healthz: %s", a.body)
	}
	if a := w.get("", "/health").want(t, 200); !strings.Contains(a.header.Get("Content-Type"), "text/html") {
		t.Errorf("health is %s", a.header.Get("Content-Type"))
	}
	w.submit(ann, "c", "p1")
	var counts map[string]int
	w.get("", "/api/queue/status").want(t, 200).json(t, &counts)
	if counts["waiting"] != 1 || counts["running"] != 0 || len(counts) != 4 {
		t.Errorf("counts %v", counts)
	}
	for target, to := range map[string]string{"/user001": "/user001/", "/user001?template=a&source=b": "/user001/?template=a&source=b", "/admin": "/admin/"} {
		user := ann
		if target == "/admin" {
			user = boss
		}
		if a := w.get(user, target); a.status != 308 && a.status != 301 || a.header.Get("Location") != to {
			t.Errorf("%s: %d to %q", target, a.status, a.header.Get("Location"))
		}
	}
	a := w.get("", "/login?how=basic").want(t, 401)
	if !strings.HasPrefix(a.header.Get("WWW-Authenticate"), "Basic realm=") {
		t.Errorf("the browser is not asked: %v", a.header)
	}
	if a := w.get(ann, "/login?how=basic").want(t, 302); a.header.Get("Location") != "/" {
		t.Errorf("after the sign-in to %q", a.header.Get("Location"))
	}
	if a := w.get(boss, "/login?how=basic").want(t, 302); a.header.Get("Location") != "/admin/" {
		t.Errorf("the instructor comes to %q", a.header.Get("Location"))
	}
	for _, target := range []string{"/", "/user001/"} {
		if a := w.get(ann, target).want(t, 200); !strings.Contains(a.body, "ComfyUI of a test") || a.header.Get("Cache-Control") == "" {
			t.Errorf("%s: %.100s", target, a.body)
		}
	}
	for _, target := range []string{"/no/such/thing", "/user001/api/no/such", "/user001/nothing.js"} {
		if a := w.get(ann, target).want(t, 404); a.body != "404: Not Found" {
			t.Errorf("%s: %q", target, a.body)
		}
	}
	for _, a := range []ask{{method: "DELETE", target: "/user001/api/prompt"}, {method: "PUT", target: "/api/settings"}, {method: "POST", target: "/object_info"}} {
		a.user = ann
		w.ask(a).want(t, 405)
	}
}

// Nothing of one user's may be kept by a cache, run as a page or be framed elsewhere.
func TestHeaders(t *testing.T) {
	w := open(t, options{visited: true})
	w.upload(ann, "/upload/image", part{"image", "a.png", "x"}).want(t, 200)
	w.post(ann, "/api/userdata/x.html", "<script>").want(t, 200)
	for _, target := range []string{"/", "/user001/api/settings", "/api/history", "/api/view?filename=a.png&type=input", "/api/userdata/x.html", "/api/queue", "/api/object_info", "/nothing"} {
		h := w.get(ann, target).header
		if h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Referrer-Policy") == "" || h.Get("X-Frame-Options") != "SAMEORIGIN" {
			t.Errorf("%s: %v", target, h)
		}
		if cc := h.Get("Cache-Control"); cc == "" || strings.Contains(cc, "public") {
			t.Errorf("%s: Cache-Control %q", target, cc)
		}
	}
	if ct := w.get(ann, "/api/userdata/x.html").header.Get("Content-Type"); strings.Contains(ct, "html") {
		t.Errorf("a user's document runs as a page: %s", ct)
	}
}

// The frontend's own files, at the root and below a prefix.
func TestStaticFiles(t *testing.T) {
	w := open(t, options{visited: true})
	for _, prefix := range []string{"", "/user001"} {
		for path, text := range staticFiles() {
			a := w.get(ann, prefix+"/"+path).want(t, 200)
			if a.body != text {
				t.Errorf("%s%s: %.100q", prefix, path, a.body)
			}
			etag := a.header.Get("ETag")
			again := w.ask(ask{user: ann, target: prefix + "/" + path, header: []string{"If-None-Match: " + etag}})
			if etag == "" || again.status != 304 || again.body != "" {
				t.Errorf("%s%s with its ETag %q: %d", prefix, path, etag, again.status)
			}
			head := w.ask(ask{user: ann, method: "HEAD", target: prefix + "/" + path}).want(t, 200)
			if head.body != "" || head.header.Get("Content-Length") != a.header.Get("Content-Length") {
				t.Errorf("HEAD %s%s: %v", prefix, path, head.header)
			}
		}
		js := prefix + "/assets/app-AbCd1234.js"
		if cc := w.get(ann, js).header.Get("Cache-Control"); !strings.Contains(cc, "immutable") {
			t.Errorf("%s: %q", js, cc)
		}
		sizes := map[string]int{}
		for accept, want := range map[string]string{"gzip, deflate, br": "br", "gzip": "gzip", "identity": "", "br;q=0, gzip": "gzip"} {
			a := w.ask(ask{user: ann, target: js, header: []string{"Accept-Encoding: " + accept}}).want(t, 200)
			if got := a.header.Get("Content-Encoding"); got != want || !strings.Contains(a.header.Get("Vary"), "Accept-Encoding") {
				t.Errorf("for %q: %q, Vary %q", accept, got, a.header.Get("Vary"))
			}
			sizes[want] = len(a.body)
		}
		if sizes["br"] >= sizes[""] || sizes["gzip"] >= sizes[""] {
			t.Errorf("nothing is saved: %v", sizes)
		}
	}
	var ext []string
	w.get(ann, "/user001/api/extensions").want(t, 200).json(t, &ext)
	if len(ext) != 1 || ext[0] != "/extensions/core/a.js" {
		t.Errorf("extensions %v", ext)
	}
}

// Somebody who was shut out, or whose password changed, is out at the next request.
func TestShutOut(t *testing.T) {
	w := open(t, options{visited: true})
	w.get(ann, "/api/settings").want(t, 200)
	w.do(&people.Disable{Name: ann})
	w.get(ann, "/api/settings").want(t, 401)
	w.do(&people.Disable{Name: ann, Undo: true})
	w.get(ann, "/api/settings").want(t, 200)
	w.do(&people.Put{Name: ann, Hash: hashOf("another"), IfPresent: true})
	w.get(ann, "/api/settings").want(t, 401)
	w.ask(ask{user: ann, pass: "another", target: "/api/settings"}).want(t, 200)
}

// A person whose name is a word of the API must not take that word from everybody.
func TestPersonCalledLikeARoute(t *testing.T) {
	w := open(t, options{visited: true})
	for _, name := range []cluster.User{"prompt", "assets", "view", "api", "settings"} {
		w.do(&people.Put{Name: name, Hash: "h"})
	}
	w.get(ann, "/prompt").want(t, 200)
	w.get(ann, "/view?filename=a.png").want(t, 404)
	w.get(ann, "/api/settings").want(t, 200)
	w.get(ann, "/assets/app-AbCd1234.js").want(t, 200)
}

// A defect in one answer must not end everybody's workshop.
func TestPanicIsAnAnswer(t *testing.T) {
	w := open(t, options{visited: true, health: func() (int, []byte) { panic("broken check") }})
	if p := w.get("", "/healthz").want(t, 500).problem(t); !strings.Contains(w.logged.String(), strings.TrimPrefix(p.Error.Details, "Error id ")) {
		t.Errorf("the id %q is not in the log", p.Error.Details)
	}
	if strings.Contains(w.get("", "/healthz").body, "broken check") {
		t.Error("the panic is shown")
	}
	w.get(ann, "/api/settings").want(t, 200)
}

// The instructor sees what went wrong for whom, without what they typed.
func TestProblems(t *testing.T) {
	w := open(t, options{visited: true})
	w.get(ann, "/user001/api/userdata/comfy.templates.json").want(t, 404) // every page asks for it
	if n := len(w.gw.Problems()[ann]); n != 0 {
		t.Errorf("%d problems of a healthy page", n)
	}
	w.post(ann, "/user001/api/prompt?token=hush", `{"prompt":{"9":{"class_type":"SaveImage","inputs":{"filename_prefix":"my secret words"}}}}`).want(t, 400)
	w.get(ann, "/user002/").want(t, 403)
	list := w.gw.Problems()[ann]
	if len(list) != 2 || list[1].Status != 400 || list[1].Method != "POST" || list[1].Path != "/user001/api/prompt" || list[0].Status != 403 || list[0].At.IsZero() {
		t.Errorf("problems %+v", list)
	}
	raw, err := json.Marshal(w.gw.Problems())
	if err != nil || strings.Contains(string(raw)+w.logged.String(), "hush") || strings.Contains(string(raw)+w.logged.String(), "secret words") {
		t.Errorf("too much is told: %s %v", raw, err)
	}
	for range 120 {
		w.get(ann, "/nothing")
	}
	if n := len(w.gw.Problems()[ann]); n != 50 {
		t.Errorf("%d problems are kept", n)
	}
	if len(w.gw.Problems()[bob]) != 0 {
		t.Error("bob has ann's problems")
	}
}

// New says in one sentence what is wrong with its configuration.
func TestBadConfig(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, c := range []gateway.Config{
		{Listener: l, TemplateDir: "/no/such/folder"},
		{Listener: l, DefaultTemplate: "no_such_template"},
	} {
		if _, err := gateway.New(c); err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("got %v", err)
		}
	}
}
