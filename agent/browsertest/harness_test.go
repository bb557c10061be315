package browsertest_test

import (
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ahelme/comfyume/agent/browsertest"
)

const complaining = `<!doctype html><title>page</title><img src="picture.png"><script>
console.error("lost 123456 at http://127.0.0.1:4711/user001/api/x");
fetch("api/absent"); fetch("http://elsewhere.example/x").catch(() => {});
new WebSocket("ws://" + location.host + "/user001/ws").onerror = () => {};
</script>`

// seen keeps which paths came with which sign-in.
type seen struct {
	mu   sync.Mutex
	with map[string]string
}

func (s *seen) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	user, password, ok := r.BasicAuth()
	s.mu.Lock()
	if ok {
		s.with[r.URL.Path] = user + ":" + password
	}
	s.mu.Unlock()
	switch {
	case !ok:
		w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
		http.Error(w, "401", http.StatusUnauthorized)
	case r.URL.Path == "/user001/":
		w.Header().Set("Content-Type", "text/html")
		_, _ = w.Write([]byte(complaining))
	default:
		http.NotFound(w, r)
	}
}

// One visit shows that the browser signs in everywhere, the web socket included, and that each complaint is kept once and
// without what differs from server to server.
func TestPageSignsInAndCollectsComplaints(t *testing.T) {
	s := &seen{with: map[string]string{}}
	server := httptest.NewServer(s)
	defer server.Close()
	p := browsertest.Open(t, browsertest.Options{URL: server.URL + "/user001/", User: "user001", Password: "secret", FrontendLabel: "test page"})
	p.WaitQuiet()
	failures := slices.DeleteFunc(p.Failures(), func(f browsertest.Failure) bool { return f.Path == "/favicon.ico" })
	want := []browsertest.Failure{
		{Method: "GET", Path: "/api/absent", Status: 404},
		{Method: "GET", Path: "/picture.png", Status: 404},
		{Method: "GET", Path: browsertest.External, Status: 0},
	}
	if diff := cmp.Diff(want, failures); diff != "" {
		t.Errorf("failed requests (-want +got):\n%s", diff)
	}
	if !slices.Contains(p.ConsoleErrors(), "lost N at /api/x") {
		t.Errorf("console errors %q", p.ConsoleErrors())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, path := range []string{"/user001/", "/user001/api/absent", "/user001/picture.png", "/user001/ws"} {
		if s.with[path] != "user001:secret" {
			t.Errorf("%s came with sign-in %q", path, s.with[path])
		}
	}
}

func TestNormalise(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"TypeError: x\n    at f (http://127.0.0.1:8188/assets/index-BFHZsBkN.js:12:34)", "TypeError: x"},
		{"GET http://127.0.0.1:40123/user017/api/jobs 500", "GET /api/jobs 500"},
		{"load https://api.comfy.org/releases?x=1 failed", "load external failed"},
		{"job 0b7f2a1e-1c7e-4a0d-9f4f-1a2b3c4d5e6f of 1795486112574", "job ID of N"},
		{"assets/GraphView-0U0T8pwU.js is gone", "assets/GraphView.js is gone"},
	} {
		if got := browsertest.Normalise(c.in); got != c.want {
			t.Errorf("Normalise(%q) = %q, want %q", c.in, got, c.want)
		}
	}
}

func TestBaselineNamesOnlyWhatIsNew(t *testing.T) {
	b := browsertest.Baseline{
		FailedRequests: []browsertest.Failure{{Method: "GET", Path: "/user.css", Status: 404}},
		ConsoleErrors:  []string{"known"},
	}
	got := b.Excess([]browsertest.Failure{
		{Method: "GET", Path: "/user.css", Status: 404},
		{Method: "GET", Path: browsertest.External},
		{Method: "GET", Path: "/user.css", Status: 500},
	}, []string{"known", "new"})
	if len(got) != 2 || !strings.Contains(got[0], "/user.css -> 500") || !strings.HasSuffix(got[1], "new") {
		t.Errorf("excess %q", got)
	}
	path := filepath.Join(t.TempDir(), "b.json")
	if err := b.Write(path); err != nil {
		t.Fatal(err)
	}
	back, err := browsertest.ReadBaseline(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(b, back); diff != "" {
		t.Errorf("read back (-want +got):\n%s", diff)
	}
}
