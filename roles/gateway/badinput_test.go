package gateway_test

import (
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/ahelme/comfyume/cluster"
)

// Each of these is refused in ComfyUI's own shape and leaves no trace.
func TestBadPrompts(t *testing.T) {
	w := open(t, options{visited: true, maxBody: 64 << 10})
	load := func(file string) string {
		return `{"prompt":{"1":{"class_type":"LoadImage","inputs":{"image":` + quoted(file) + `}},"9":{"class_type":"SaveImage","inputs":{"images":["1",0],"filename_prefix":"x"}}}}`
	}
	w.upload(bob, "/upload/image", part{"image", "bobs.png", "bob"}).want(t, 200)
	before := w.log.commits()
	cases := []struct {
		what, body string
		status     int
		typ        string // "" = any
		says       string // in the message or the details
	}{
		{"nothing at all", "", 400, "", ""},
		{"malformed JSON", `{"prompt":{`, 400, "", ""},
		{"not an object", `[1]`, 400, "", ""},
		{"text", `hello`, 400, "", ""},
		{"no prompt", `{}`, 400, "no_prompt", "No prompt"},
		{"null prompt", `{"prompt":null}`, 400, "no_prompt", ""},
		{"a prompt that is a list", `{"prompt":[]}`, 400, "", ""},
		{"a prompt that is a string", `{"prompt":"x"}`, 400, "", ""},
		{"an empty workflow", `{"prompt":{}}`, 400, "prompt_no_outputs", "empty"},
		{"an unknown class", `{"prompt":{"7":{"class_type":"NoSuchNode","inputs":{}}}}`, 400, "invalid_prompt", "NoSuchNode"},
		{"no class", `{"prompt":{"7":{"inputs":{}}}}`, 400, "invalid_prompt", "#7"},
		{"nothing that saves", `{"prompt":{"1":{"class_type":"EmptyImage","inputs":{"width":64,"color":0}}}}`, 400, "prompt_no_outputs", ""},
		{"a required input missing", `{"prompt":{"9":{"class_type":"SaveImage","inputs":{"filename_prefix":"x"}}}}`, 400, "prompt_outputs_failed_validation", ""},
		{"a link to nothing", `{"prompt":{"9":{"class_type":"SaveImage","inputs":{"images":["77",0],"filename_prefix":"x"}}}}`, 400, "", ""},
		{"a node that feeds itself", `{"prompt":{"1":{"class_type":"Seeded","inputs":{"image":["1",0],"seed":1}},"9":{"class_type":"SaveImage","inputs":{"images":["1",0],"filename_prefix":"x"}}}}`, 400, "", ""},
		{"a missing input file", load("nowhere.png"), 400, "prompt_outputs_failed_validation", ""},
		{"somebody else's input file", load("bobs.png"), 400, "prompt_outputs_failed_validation", ""},
		{"the worker's own list", load("of_somebody_else.png"), 400, "prompt_outputs_failed_validation", ""},
		{"a file outside", load("../../etc/passwd"), 400, "prompt_outputs_failed_validation", ""},
		{"a prompt id that is a path", `{"prompt_id":"../x","prompt":` + graph("a") + `}`, 400, "invalid_prompt_id", ""},
		{"a client id of a book's length", `{"client_id":"` + strings.Repeat("c", 2000) + `","prompt":` + graph("a") + `}`, 400, "", ""},
		{"a body over the limit", `{"prompt":{"9":{"class_type":"SaveImage","inputs":{"filename_prefix":"` + strings.Repeat("x", 70<<10) + `"}}}}`, 413, "", "limit"},
		{"depth", `{"prompt":` + strings.Repeat(`{"a":`, 300) + "1" + strings.Repeat("}", 300) + "}", 400, "", ""},
	}
	for _, c := range cases {
		for _, prefix := range []string{"", "/user001", "/user001/api", "/api"} {
			a := w.post(ann, prefix+"/prompt", c.body)
			if a.status != c.status {
				t.Errorf("%s at %s: status %d, want %d: %.200s", c.what, prefix, a.status, c.status, a.body)
			}
			p := a.problem(t)
			if c.typ != "" && p.Error.Type != c.typ || !strings.Contains(p.Error.Message+p.Error.Details+a.body, c.says) {
				t.Errorf("%s: answered %q %q %q", c.what, p.Error.Type, p.Error.Message, p.Error.Details)
			}
		}
	}
	if n := w.log.commits(); n != before {
		t.Errorf("%d refused prompts were committed", n-before)
	}
	// Prompt text is nobody's business but its owner's.
	if strings.Contains(w.logged.String(), "nowhere.png") {
		t.Error("a refused prompt's values stand in the log")
	}
}

// The door knows people by their password only.
func TestWhoIsRefused(t *testing.T) {
	w := open(t, options{visited: true})
	before := w.log.commits()
	cases := []struct {
		what   string
		ask    ask
		status int
	}{
		{"nobody", ask{target: "/api/settings"}, 401},
		{"nobody at a prefix", ask{target: "/user001/"}, 401},
		{"nobody at somebody's files", ask{target: "/user001/api/view?filename=a.png"}, 401},
		{"nobody at nothing", ask{target: "/no/such/thing"}, 401},
		{"wrong password", ask{user: ann, pass: "guess", target: "/api/settings"}, 401},
		{"empty password", ask{user: ann, pass: " ", target: "/api/settings"}, 401},
		{"unknown name", ask{user: "nobody", target: "/api/settings"}, 401},
		{"a bearer", ask{target: "/api/settings", header: []string{"Authorization: Bearer user001"}}, 401},
		{"a name in ComfyUI's own header", ask{target: "/api/settings", header: []string{"Comfy-User: user001"}}, 401},
		{"somebody else's prefix", ask{user: ann, target: "/user002/"}, 403},
		{"somebody else's prefix without its slash", ask{user: ann, target: "/user002/api/settings"}, 403},
		{"somebody else's prefix, and nothing there", ask{user: ann, target: "/user002/no/such/thing"}, 403},
		{"a prefix of nobody", ask{user: ann, target: "/user999/"}, 404},
		{"the dashboard", ask{user: ann, target: "/admin/"}, 403},
		{"the instructor at a participant's", ask{user: boss, target: "/user001/"}, 403},
		{"the instructor's own ComfyUI", ask{user: boss, target: "/api/settings"}, 403},
		{"a page of another site", ask{user: ann, method: "POST", target: "/interrupt", header: []string{"Origin: https://evil.test"}}, 403},
		{"another site, another header", ask{user: ann, method: "POST", target: "/interrupt", header: []string{"Sec-Fetch-Site: cross-site"}}, 403},
		{"a site without a name", ask{user: ann, method: "POST", target: "/interrupt", header: []string{"Origin: null"}}, 403},
		{"a socket from another site", ask{user: ann, target: "/ws", header: []string{"Origin: https://evil.test", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="}}, 403},
		{"a socket of nobody", ask{target: "/ws", header: []string{"Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="}}, 401},
		{"one's own page", ask{user: ann, method: "POST", target: "/interrupt", header: []string{"Origin: http://workshop.test", "Sec-Fetch-Site: same-origin"}}, 200},
	}
	for _, c := range cases {
		a := w.ask(c.ask)
		if a.status != c.status {
			t.Errorf("%s: status %d, want %d: %.200s", c.what, a.status, c.status, a.body)
		}
		switch c.status {
		case 401:
			if a.header.Get("WWW-Authenticate") == "" {
				t.Errorf("%s: the browser is not asked for a password", c.what)
			}
			if p := a.problem(t); p.Error.Type != "unauthorized" {
				t.Errorf("%s: type %q", c.what, p.Error.Type)
			}
		case 403:
			a.problem(t)
		}
	}
	if n := w.log.commits(); n != before {
		t.Errorf("%d refused requests were committed", n-before)
	}
}

// Whatever a path is dressed as, it means nothing outside its user's own tree.
func TestPathsThatClimb(t *testing.T) {
	w := open(t, options{visited: true})
	w.post(bob, "/userdata/secret.json", `"bob's canary"`).want(t, 200)
	w.upload(bob, "/upload/image", part{"image", "secret.png", "bob's canary"}).want(t, 200)
	before := w.log.commits()
	climbs := []string{"..", "%2e%2e", "%2E.", ".%2e", "%252e%252e", "..%00", "..%5c", "..\\", "%5c..", "%2e%2e%2f%2e%2e", "..%2f..", "%c0%ae%c0%ae", "/..", ".", "%2e"}
	for _, climb := range climbs {
		for _, target := range []string{
			"/" + climb + "/user002/api/userdata/secret.json", "/user001/" + climb + "/user002/api/userdata/secret.json", "/user001/api/" + climb + "/user002/",
			"/api/userdata/" + climb + "%2fuser002%2fsecret.json", "/user001/api/userdata/workflows%2f" + climb + "%2f" + climb + "%2fsecret.json",
			"/assets/" + climb + "/" + climb + "/manifest.json", "/extensions/" + climb + "%2f" + climb + "%2fmanifest.json",
			"/api/view?filename=" + climb + "/secret.png&type=input", "/api/view?filename=secret.png&type=input&subfolder=" + climb, "/api/view?filename=secret.png&subfolder=" + climb + "/user002/input",
			"/api/userdata?dir=" + climb, "/api/userdata?dir=workflows/" + climb, "/api/v2/userdata?path=" + climb, "/api/models/" + climb, "/api/object_info/" + climb,
			"/internal/files/" + climb, "/api/history/" + climb, "/api/jobs/" + climb, "/api/workflow_templates/" + climb + "/x.json", "/templates/" + climb + "/x.json",
		} {
			for _, method := range []string{"GET", "POST", "DELETE"} {
				a, err := w.tryAsk(ask{user: ann, method: method, target: target, body: map[string]string{"POST": "{}"}[method]})
				if err != nil {
					t.Errorf("%s %s: %v", method, target, err)
					continue
				}
				if strings.Contains(a.body, "canary") || strings.Contains(a.body, `"wheel"`) || strings.Contains(a.body, "root:") {
					t.Errorf("%s %s gave something away: %.200s", method, target, a.body)
				}
				if a.status >= 500 {
					t.Errorf("%s %s: status %d %.200s", method, target, a.status, a.body)
				}
			}
		}
		for _, move := range []string{"/api/userdata/a.json/move/" + climb + "%2fb.json", "/api/userdata/" + climb + "%2fa.json/move/b.json"} {
			if a := w.post(ann, move, ""); a.status < 400 {
				t.Errorf("%s: status %d", move, a.status)
			}
		}
		name, err := url.QueryUnescape(strings.ReplaceAll(climb, "%25", "%"))
		if err != nil {
			t.Fatal(err)
		}
		for _, parts := range [][]part{
			{{"image", "a.png", "x"}, {"subfolder", "", name}},
			{{"image", "a.png", "x"}, {"subfolder", "", "a/" + name + "/../b"}},
			{{"image", "a.png", "x"}, {"type", "", name}},
		} {
			if a := w.upload(ann, "/upload/image", parts...); a.status != 400 {
				t.Errorf("upload %q: status %d %.200s", parts, a.status, a.body)
			}
		}
	}
	if n := w.log.commits(); n != before {
		t.Errorf("%d climbing requests were committed", n-before)
	}
}

// A queue that cannot take the job says so in the page's own shape and loses nothing.
func TestPromptsThatCannotBeTakenNow(t *testing.T) {
	w := open(t, options{visited: true, maxWaiting: 1})
	send := func(id string) answer {
		return w.post(ann, "/prompt", `{"prompt_id":"`+id+`","prompt":`+graph(id)+`}`)
	}
	send("one").want(t, 200)
	if p := send("two").want(t, 429).problem(t); p.Error.Type != "queue_full" {
		t.Errorf("a full queue: %q", p.Error.Type)
	}
	for _, err := range []error{cluster.Errorf(cluster.NoLeader, "no leader"), cluster.Errorf(cluster.Unavailable, "going down"), cluster.Errorf(cluster.NoSpace, "disk full"), fmt.Errorf("open /secret/path: broken")} {
		w.log.fail(err)
		a := send("three")
		if a.status != 503 && a.status != 507 && a.status != 500 {
			t.Errorf("%v: status %d", err, a.status)
		}
		p := a.problem(t)
		if strings.Contains(a.body, "/secret/path") {
			t.Error("an inner error is shown")
		}
		if a.status == 500 && (len(p.Error.Details) < 8 || !strings.Contains(w.logged.String(), strings.TrimPrefix(p.Error.Details, "Error id "))) {
			t.Errorf("the error's id %q does not lead to its log line", p.Error.Details)
		}
		w.log.fail(nil)
	}
}
