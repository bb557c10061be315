package ui_test

import (
	"bufio"
	"context"
	"encoding/json"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/ui"
)

// workshop is a Source whose view a test changes.
type workshop struct {
	mu    sync.Mutex
	view  ui.View
	acts  []string
	views int
}

func (w *workshop) View() ui.View {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.views++
	v := w.view
	v.Now = time.Now().UnixMilli()
	return v
}

func (w *workshop) set(change func(*ui.View)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change(&w.view)
}

func (w *workshop) Do(_ context.Context, actor string, a ui.Action) error {
	if a.User == "nobody" {
		return cluster.Errorf(cluster.NotFound, "there is no user %q", a.User)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.acts = append(w.acts, actor+" "+string(a.Verb)+" "+string(a.User)+" "+a.Prompt)
	return nil
}

func (w *workshop) Printed(_ context.Context, id cluster.WorkerID, lines int) (ui.Printed, error) {
	return ui.Printed{Worker: id, Lines: []ui.Line{{At: int64(lines), Text: "<b>printed</b>"}}}, nil
}

func (w *workshop) Pass(_ context.Context, actor string, u cluster.User, kind ui.PassKind) (ui.Pass, error) {
	if err := w.Do(context.Background(), actor, ui.Action{Verb: ui.Verb(kind), User: u}); err != nil {
		return ui.Pass{}, err
	}
	return ui.Pass{User: u, Kind: kind, Text: "abc", Until: 1}, nil
}

func (w *workshop) Troubles(_ context.Context, of string) (ui.Troubles, error) {
	if of == "" {
		return ui.Troubles{}, cluster.Errorf(cluster.Invalid, "name somebody")
	}
	return ui.Troubles{Of: of, Requests: []ui.Request{{User: "user001", Method: "POST", Route: "/prompt", Status: 400, ID: "1a2b3c4d"}}}, nil
}

func TestTroublesOfSomebody(t *testing.T) {
	s := serve(t, &workshop{})
	for of, want := range map[string]int{"user001": 200, "": 400} {
		r, err := http.Get(s.URL + "/deep/prefix/api/troubles?of=" + of)
		if err != nil {
			t.Fatal(err)
		}
		var got ui.Troubles
		if err := json.NewDecoder(r.Body).Decode(&got); err != nil {
			t.Fatal(err)
		}
		r.Body.Close()
		if r.StatusCode != want || want == 200 && (len(got.Requests) != 1 || got.Jobs == nil || got.Silent == nil) {
			t.Errorf("%q: %d %+v", of, r.StatusCode, got)
		}
	}
}

func sample() ui.View {
	return ui.View{
		Schema: ui.SchemaVersion,
		Head:   ui.Head{Node: "mello", Version: "0.1.0", Leader: "mello", Term: 7, Voters: 1, Ready: true, Degraded: []string{}},
		Counts: ui.Counts{Waiting: 1, Running: 1, People: 2, Online: 1},
		Nodes:  []ui.Node{{ID: "n1", Name: "mello", Roles: []cluster.Role{cluster.Queue}, State: "alive", Leader: true, Voter: true, Disk: 12}},
		Queue:  []ui.Job{{User: "user001", Prompt: "p1", Number: 1, Title: "LTX-2", State: jobs.Running, Percent: 42}},
	}
}

func serve(t *testing.T, w *workshop) *httptest.Server {
	t.Helper()
	h := ui.Handler(w)
	signed := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if actor := r.Header.Get("X-Test-Actor"); actor != "" {
			r = r.WithContext(cluster.ActedBy(r.Context(), actor))
		}
		http.StripPrefix("/deep/prefix", h).ServeHTTP(rw, r)
	})
	s := httptest.NewServer(signed)
	t.Cleanup(s.Close)
	return s
}

func TestStatusIsTheView(t *testing.T) {
	w := &workshop{view: sample()}
	s := serve(t, w)
	r, err := http.Get(s.URL + "/deep/prefix/api/status")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	var got ui.View
	if err := json.NewDecoder(r.Body).Decode(&got); err != nil {
		t.Fatal(err)
	}
	want := sample()
	want.Now = got.Now
	if d := cmp.Diff(want, got, cmpopts.EquateEmpty()); d != "" {
		t.Errorf("view (-want +got):\n%s", d)
	}
	if r.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("a status may be cached: %q", r.Header.Get("Cache-Control"))
	}
}

type event struct {
	name string
	data struct {
		Now  int64                      `json:"now"`
		View map[string]json.RawMessage `json:"view"`
	}
}

// next reads one event of a feed.
func next(t *testing.T, in *bufio.Scanner) event {
	t.Helper()
	var e event
	for in.Scan() {
		line := in.Text()
		if v, ok := strings.CutPrefix(line, "event: "); ok {
			e.name = v
		}
		if v, ok := strings.CutPrefix(line, "data: "); ok {
			if err := json.Unmarshal([]byte(v), &e.data); err != nil {
				t.Fatal(err)
			}
		}
		if line == "" && e.name != "" {
			return e
		}
	}
	t.Fatalf("the feed ended: %v", in.Err())
	return e
}

func TestFeedSendsSnapshotChangesAndBeats(t *testing.T) {
	w := &workshop{view: sample()}
	s := serve(t, w)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+"/deep/prefix/api/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if got := r.Header.Get("Content-Type"); got != "text/event-stream" {
		t.Errorf("Content-Type = %q", got)
	}
	in := bufio.NewScanner(r.Body)
	first := next(t, in)
	if first.name != "snapshot" || first.data.Now == 0 || len(first.data.View) != 12 {
		t.Errorf("first event %q has %d sections", first.name, len(first.data.View))
	}
	w.set(func(v *ui.View) { v.Queue[0].Percent = 43 })
	changed := next(t, in)
	if changed.name != "update" || len(changed.data.View) != 1 || !strings.Contains(string(changed.data.View["queue"]), `"percent":43`) {
		t.Errorf("after one job moved: %q with %v", changed.name, changed.data.View)
	}
	quiet := next(t, in)
	if quiet.name != "beat" || len(quiet.data.View) != 0 || quiet.data.Now < changed.data.Now {
		t.Errorf("when nothing moves: %q with %v", quiet.name, quiet.data.View)
	}
}

func TestManyReadersShareOneView(t *testing.T) {
	w := &workshop{view: sample()}
	s := serve(t, w)
	const readers = 10
	var wg sync.WaitGroup
	begin := time.Now()
	for range readers {
		wg.Go(func() {
			r, err := http.Get(s.URL + "/deep/prefix/api/events")
			if err != nil {
				t.Error(err)
				return
			}
			defer r.Body.Close()
			next(t, bufio.NewScanner(r.Body))
		})
	}
	wg.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	if limit := 2 + int(time.Since(begin)/(100*time.Millisecond)); w.views > limit {
		t.Errorf("%d readers made %d views in %v", readers, w.views, time.Since(begin))
	}
}

func TestActions(t *testing.T) {
	w := &workshop{view: sample()}
	s := serve(t, w)
	for _, c := range []struct {
		name, actor, origin, body string
		want                      int
	}{
		{"cancel", "admin", "", `{"verb":"cancel","user":"user001","prompt_id":"p1"}`, 200},
		{"same site", "admin", s.URL, `{"verb":"disable","user":"user001"}`, 200},
		{"another site's page", "admin", "http://evil.example", `{"verb":"disable","user":"user001"}`, 403},
		{"nobody signed in", "", "", `{"verb":"disable","user":"user001"}`, 401},
		{"refused", "admin", "", `{"verb":"disable","user":"nobody"}`, 404},
		{"no JSON", "admin", "", `verb=cancel`, 400},
		{"too long", "admin", "", `{"verb":"` + strings.Repeat("x", 5000) + `"}`, 400},
	} {
		t.Run(c.name, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+"/deep/prefix/api/do", strings.NewReader(c.body))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("X-Test-Actor", c.actor)
			if c.origin != "" {
				req.Header.Set("Origin", c.origin)
			}
			r, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Body.Close()
			if r.StatusCode != c.want {
				t.Errorf("status %d, want %d", r.StatusCode, c.want)
			}
		})
	}
	want := []string{"admin cancel user001 p1", "admin disable user001 "}
	if d := cmp.Diff(want, w.acts); d != "" {
		t.Errorf("acts (-want +got):\n%s", d)
	}
}

// A pass is made for who asked, as an action is done: by somebody who is signed
// in, and from this page.
func TestPass(t *testing.T) {
	w := &workshop{view: sample()}
	s := serve(t, w)
	for _, c := range []struct {
		name, actor, origin, to, body string
		want                          int
	}{
		{"a link", "admin", s.URL, "link", `{"user":"user001"}`, 200},
		{"a token", "admin", s.URL, "token", `{"user":"user001"}`, 200},
		{"by another site's page", "admin", "http://evil.example", "link", `{"user":"user001"}`, 403},
		{"by another site's page", "admin", "http://evil.example", "token", `{"user":"user001"}`, 403},
		{"by nobody", "", s.URL, "token", `{"user":"user001"}`, 401},
		{"for nobody", "admin", s.URL, "link", `{"user":"nobody"}`, 404},
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+"/deep/prefix/api/"+c.to, strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Test-Actor", c.actor)
		req.Header.Set("Origin", c.origin)
		r, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		var got ui.Pass
		_ = json.NewDecoder(r.Body).Decode(&got) // a refusal need not be JSON
		_ = r.Body.Close()
		if r.StatusCode != c.want || (string(got.Kind) == c.to) != (c.want == 200) || c.want == 200 && r.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %d, %+v", c.name, r.StatusCode, got)
		}
	}
	if d := cmp.Diff([]string{"admin link user001 ", "admin token user001 "}, w.acts); d != "" {
		t.Errorf("acts (-want +got):\n%s", d)
	}
}

func TestPageAndItsPolicy(t *testing.T) {
	s := serve(t, &workshop{view: sample()})
	get := func(path, etag string) *http.Response {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+"/deep/prefix/"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("If-None-Match", etag)
		r, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { r.Body.Close() })
		return r
	}
	page := get("", "")
	if page.StatusCode != 200 || !strings.HasPrefix(page.Header.Get("Content-Type"), "text/html") {
		t.Errorf("page: %d %s", page.StatusCode, page.Header.Get("Content-Type"))
	}
	if csp := page.Header.Get("Content-Security-Policy"); !strings.Contains(csp, "script-src 'self'") || strings.Contains(csp, "unsafe") {
		t.Errorf("policy = %q", csp)
	}
	if r := get("", page.Header.Get("ETag")); r.StatusCode != http.StatusNotModified {
		t.Errorf("the same page again: %d", r.StatusCode)
	}
	for name, kind := range map[string]string{"app.js": "text/javascript", "style.css": "text/css", "icon.svg": "image/svg+xml"} {
		if r := get(name, ""); r.StatusCode != 200 || !strings.HasPrefix(r.Header.Get("Content-Type"), kind) {
			t.Errorf("%s: %d %s", name, r.StatusCode, r.Header.Get("Content-Type"))
		}
	}
	for _, name := range []string{"index.html", "nothing.js", "assets/app.js", "%2e%2e/ui.go"} {
		if r := get(name, ""); r.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %d, want 404", name, r.StatusCode)
		}
	}
}

// Nothing may come from another machine, and nothing from the root of the
// host: the page must work under any prefix and without the internet.
func TestAssetsHaveNoOutsideAddress(t *testing.T) {
	outside := regexp.MustCompile(`(?i:(https?:)?//[a-z0-9])|(src|href)="/|fetch\("/|from "/|url\(|innerHTML|eval\(|style="|onclick="`)
	allowed := regexp.MustCompile(`^\s*//|xmlns="http://www.w3.org/2000/svg"`)
	err := fs.WalkDir(os.DirFS("assets"), ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile("assets/" + p)
		if err != nil {
			return err
		}
		for i, line := range strings.Split(string(b), "\n") {
			if outside.MatchString(line) && !allowed.MatchString(line) {
				t.Errorf("%s:%d: %s", p, i+1, line)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// scripts are the page's modules, by name.
func scripts(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	names, err := filepath.Glob("assets/*.js")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		out[filepath.Base(name)] = string(b)
	}
	if len(out) < 5 {
		t.Fatalf("found only %d modules", len(out))
	}
	return out
}

// Every id that the scripts look for stands in the page.
func TestScriptsAndPageAgree(t *testing.T) {
	page, err := os.ReadFile("assets/index.html")
	if err != nil {
		t.Fatal(err)
	}
	for name, script := range scripts(t) {
		for _, m := range regexp.MustCompile(`\$\("([^"]+)"\)`).FindAllStringSubmatch(script, -1) {
			if !strings.Contains(string(page), `id="`+m[1]+`"`) {
				t.Errorf("%s looks for %q, which the page does not have", name, m[1])
			}
		}
	}
}

// Every verb is named by the page's modules, every ask that they make is
// somebody's button, and no verb is named that nobody knows.
func TestEveryVerbHasAButton(t *testing.T) {
	all := scripts(t)
	asks := all["verbs.js"]
	named := map[ui.Verb]bool{}
	for _, m := range regexp.MustCompile(`verb: "([^"]*)"`).FindAllStringSubmatch(asks, -1) {
		named[ui.Verb(m[1])] = true
		if !slices.Contains(ui.Verbs(), ui.Verb(m[1])) {
			t.Errorf("the page asks for %q, which nobody knows", m[1])
		}
	}
	for _, v := range ui.Verbs() {
		if !named[v] {
			t.Errorf("no button asks for %q", v)
		}
	}
	for _, m := range regexp.MustCompile(`(?m)^export (?:const|function) (\w+)`).FindAllStringSubmatch(asks, -1) {
		if use := "verbs." + m[1] + "("; !strings.Contains(all["views.js"]+all["app.js"], use) {
			t.Errorf("nothing on the page uses %s)", use)
		}
	}
}

// The modes that can be chosen are those that the page offers.
func TestPageOffersTheModes(t *testing.T) {
	page, err := os.ReadFile("assets/index.html")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range regexp.MustCompile(`<option value="([a-z-]+)">`).FindAllStringSubmatch(string(page), -1) {
		got = append(got, m[1])
	}
	if d := cmp.Diff([]string{"fair", "fifo", "round-robin", "priority", "free", "demo", "hands-off", "sprint"}, got); d != "" {
		t.Errorf("modes (-want +got):\n%s", d)
	}
}

// What needs no page is tested without one.
func TestModulesInNode(t *testing.T) {
	node, err := exec.LookPath("node")
	if err != nil {
		t.Skip("node is not installed: the modules' own tests did not run")
	}
	cmd := exec.CommandContext(t.Context(), node, "--test", "testdata/modules.test.mjs")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("node --test: %v\n%s", err, out)
	}
}
