package agent_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"image/png"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/ahelme/comfyume/agent"
	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/roles/sketch"
	"github.com/ahelme/comfyume/ui"
)

const (
	user1      = "user001:secret"
	user2      = "user002:other"
	instructor = "admin:hush"
)

// square is a workflow that makes one picture of a colour.
func square(color int) string {
	return fmt.Sprintf(`{"1":{"class_type":"EmptyImage","inputs":{"width":64,"height":48,"batch_size":1,"color":%d}},
		"2":{"class_type":"SaveImage","inputs":{"images":["1",0],"filename_prefix":"square"}}}`, color)
}

// slow runs for some seconds unless it is cancelled.
const slow = `{"1":{"class_type":"EmptyImage","inputs":{"width":32,"height":32,"batch_size":1,"color":1}},
	"2":{"class_type":"SketchSlow","inputs":{"image":["1",0],"seconds":60,"steps":60}},
	"3":{"class_type":"SaveImage","inputs":{"images":["2",0],"filename_prefix":"slow"}}}`

// entry is what these tests read of a history entry.
type entry struct {
	Outputs map[string]struct {
		Images []struct{ Filename, Subfolder, Type string } `json:"images"`
	} `json:"outputs"`
	Status struct {
		Str       string `json:"status_str"`
		Completed bool   `json:"completed"`
	} `json:"status"`
}

// queue posts a workflow as a user's page would.
func (r *running) queue(who, graph string) (id string) {
	r.t.Helper()
	status, body, _ := r.ask(http.MethodPost, r.door+"/prompt", who, `{"prompt":`+graph+`,"client_id":"test"}`)
	var a struct {
		PromptID string `json:"prompt_id"`
	}
	if err := json.Unmarshal(body, &a); status != http.StatusOK || err != nil || a.PromptID == "" {
		r.t.Fatalf("POST /prompt: %d %s", status, body)
	}
	return a.PromptID
}

// picture waits for a job's history and returns its one picture.
func (r *running) picture(who, id string) []byte {
	r.t.Helper()
	var e entry
	until(r.t, "the history of "+id, func() bool {
		var h map[string]entry
		r.get(r.door+"/history/"+id, who, &h)
		var ok bool
		e, ok = h[id]
		return ok
	})
	if !e.Status.Completed || len(e.Outputs["2"].Images) != 1 {
		r.t.Fatalf("job %s ended as %+v", id, e)
	}
	i := e.Outputs["2"].Images[0]
	q := url.Values{"filename": {i.Filename}, "subfolder": {i.Subfolder}, "type": {i.Type}}
	status, body, _ := r.ask(http.MethodGet, r.door+"/view?"+q.Encode(), who, "")
	if status != http.StatusOK {
		r.t.Fatalf("GET /view: %d %s", status, body)
	}
	return body
}

// TestOnePromptTravels is the whole corridor: door, table, worker, ComfyUI,
// blob, history, door; and all of it is there after a restart.
func TestOnePromptTravels(t *testing.T) {
	// fasthttp's clock is of the process; its pool's cleaner sleeps its ten
	// seconds out before it sees that the server is gone.
	leaks := goleak.IgnoreCurrent()
	defer func() {
		http.DefaultClient.CloseIdleConnections()
		if err := goleak.Find(leaks, goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"),
			goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2")); err != nil {
			t.Errorf("the node left something behind: %v", err)
		}
	}()
	cfg := dev(t, t.TempDir())
	r := start(t, cfg)
	r.ready()
	id := r.queue(user1, square(0xff8000))
	first := r.picture(user1, id)
	img, err := png.Decode(bytes.NewReader(first))
	if err != nil {
		t.Fatal(err)
	}
	if red, green, blue, _ := img.At(10, 10).RGBA(); img.Bounds().Dx() != 64 || img.Bounds().Dy() != 48 || red>>8 != 0xff || green>>8 != 0x80 || blue != 0 {
		t.Errorf("the picture is %v of %x %x %x", img.Bounds(), red>>8, green>>8, blue>>8)
	}
	var others map[string]any
	r.get(r.door+"/history", user2, &others)
	if len(others) != 0 {
		t.Errorf("user002 sees %d jobs of somebody else", len(others))
	}
	r.stop()
	if strings.Contains(r.log.String(), "secret") || strings.Contains(r.log.String(), "hush") {
		t.Error("a password stands in the log")
	}

	again := start(t, cfg)
	again.ready()
	if got := again.picture(user1, id); !bytes.Equal(got, first) {
		t.Error("after a restart the picture is another")
	}
	if next := again.picture(user1, again.queue(user1, square(1))); bytes.Equal(next, first) {
		t.Error("a second job gave the first one's picture")
	}
	again.stop()
}

func TestDashboardIsForTheInstructor(t *testing.T) {
	r := start(t, dev(t, t.TempDir()))
	r.ready()
	for _, c := range []struct {
		address, who string
		want         int
	}{
		{r.door + "/admin/", instructor, 200},
		{r.door + "/admin/app.js", instructor, 200},
		{r.door + "/admin/api/status", instructor, 200},
		{r.door + "/admin/", "", 401},
		{r.door + "/admin/api/status", "", 401},
		{r.door + "/admin/api/status", "admin:wrong", 401},
		{r.door + "/admin/", user1, 403},
		{r.door + "/admin/api/status", user1, 403},
		{r.door + "/admin/nothing", instructor, 404},
		{r.site + "/", "", 200}, // the page alone; what it shows needs the token
		{r.site + "/healthz", "", 200},
		{r.site + "/metrics", "", 200},
		{r.site + "/api/status", "", 401},
		{r.site + "/api/status", "token", 200},
		{r.site + "/api/users", "", 401},
		{r.site + "/api/jobs", "admin:hush", 401},
		{r.door + "/healthz", "", 200},
	} {
		if got, body, _ := r.ask(http.MethodGet, c.address, c.who, ""); got != c.want {
			t.Errorf("GET %s as %q: %d, want %d: %.200s", c.address, c.who, got, c.want, body)
		}
	}
	for _, path := range []string{"/api/do", "/api/submit?user=user001", "/api/users", "/api/users/user001/password", "/api/users/user001/disable", "/api/job/cancel?id=x"} {
		if got, _, _ := r.ask(http.MethodPost, r.site+path, "", `{}`); got != 401 {
			t.Errorf("POST %s without the token: %d, want 401", path, got)
		}
	}
	var v ui.View
	r.get(r.door+"/admin/api/status", instructor, &v)
	if v.Head.Leader != "mello" || len(v.Nodes) != 1 || len(v.Workers) != 1 || v.Workers[0].ID != "mello/0" || len(v.People) != 2 || !v.Head.Ready {
		t.Errorf("the page shows %+v", v)
	}
}

// TestActionsAreAudited cancels at the door and shuts out at the site: both
// take effect, and both say who it was.
func TestActionsAreAudited(t *testing.T) {
	r := start(t, dev(t, t.TempDir()))
	r.ready()
	id := r.queue(user1, slow)
	var v ui.View
	until(t, "the slow job to run with progress", func() bool {
		r.get(r.site+"/api/status", "token", &v)
		return len(v.Queue) == 1 && v.Queue[0].State == jobs.Running && v.Queue[0].Percent >= 0
	})
	if v.Workers[0].Job == nil || v.Workers[0].Job.Prompt != id || v.Counts.Running != 1 {
		t.Errorf("while it runs the page shows %+v and %+v", v.Workers, v.Counts)
	}
	act := fmt.Sprintf(`{"verb":"cancel","user":"user001","prompt_id":%q}`, id)
	if got, body, _ := r.ask(http.MethodPost, r.door+"/admin/api/do", user1, act); got != 403 {
		t.Errorf("a participant cancels as instructor: %d %s", got, body)
	}
	if got, body, _ := r.ask(http.MethodPost, r.door+"/admin/api/do", instructor, act); got != 200 {
		t.Fatalf("cancel: %d %s", got, body)
	}
	until(t, "the job to be cancelled", func() bool {
		r.get(r.site+"/api/status", "token", &v)
		return v.Counts.Cancelled == 1 && len(v.Queue) == 0
	})
	if got, body, _ := r.ask(http.MethodPost, r.door+"/admin/api/do", instructor, act); got != 409 {
		t.Errorf("cancel again: %d %s", got, body)
	}
	if got, body, _ := r.ask(http.MethodPost, r.site+"/api/do", "token", `{"verb":"disable","user":"user001"}`); got != 200 {
		t.Fatalf("disable: %d %s", got, body)
	}
	if got, _, _ := r.ask(http.MethodGet, r.door+"/queue", user1, ""); got != 401 && got != 403 {
		t.Errorf("who was shut out gets %d", got)
	}
	r.get(r.site+"/api/status", "token", &v)
	if len(v.Audit) != 2 || v.Audit[1].Actor != "admin" || !strings.Contains(v.Audit[1].What, id) || v.Audit[0].Actor != "local/dashboard" || v.Audit[0].What != "disabled user001" {
		t.Errorf("audit = %+v", v.Audit)
	}
}

// TestDeadComfyUIDegradesOnly: no ComfyUI at first, then one, then it dies and
// comes back; the door stays open all the time, and what was queued is done.
func TestDeadComfyUIDegradesOnly(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	cfg := dev(t, t.TempDir())
	cfg.ComfyUIURLs = []string{"http://" + addr}
	r := start(t, cfg)
	degraded := func() bool {
		h := r.agent.Health()
		return h.Ready && len(h.Degraded) == 1 && h.Degraded[0] == "comfyui"
	}
	until(t, "a ready node without ComfyUI", degraded)
	if got, _, _ := r.ask(http.MethodGet, r.door+"/queue", user1, ""); got != 200 {
		t.Errorf("the door without ComfyUI: %d", got)
	}
	kill := comfyUI(t, addr)
	r.ready()
	kill()
	until(t, "a ready node whose ComfyUI died", degraded)
	id := r.queue(user1, square(7))
	var v ui.View
	r.get(r.site+"/api/status", "token", &v)
	if len(v.Queue) != 1 || v.Queue[0].Position != 1 || !strings.Contains(v.Queue[0].Reason, "No GPU") {
		t.Errorf("the queue without a GPU shows %+v", v.Queue)
	}
	comfyUI(t, addr)
	r.picture(user1, id)
}

// comfyUI runs a sketch until the test ends or kill is called.
func comfyUI(t *testing.T, addr string) (kill func()) {
	t.Helper()
	s, err := sketch.New(sketch.Config{Dir: t.TempDir(), Addr: addr})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1) // one send
	go func() { done <- s.Run(ctx) }()
	kill = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(kill)
	return kill
}

// TestFeedAtTheDoor reads live updates through the door, as the instructor's
// browser does.
func TestFeedAtTheDoor(t *testing.T) {
	r := start(t, dev(t, t.TempDir()))
	r.ready()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.door+"/admin/api/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth("admin", "hush")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	in := bufio.NewScanner(resp.Body)
	in.Buffer(nil, 1<<20)
	find := func(what string) {
		t.Helper()
		for in.Scan() {
			if strings.Contains(in.Text(), what) {
				return
			}
		}
		t.Fatalf("the feed ended without %s: %v", what, in.Err())
	}
	find("event: snapshot")
	id := r.queue(user1, square(9))
	find(id)
	find("event: beat")
}

func TestBadStarts(t *testing.T) {
	held := start(t, dev(t, t.TempDir()))
	held.ready()
	for _, c := range []struct {
		name   string
		change func(*agent.Config)
		want   string
	}{
		{"state folder in use", func(c *agent.Config) { c.StateDir = filepath.Dir(heldFile(held)) }, "is in use"},
		{"door in use", func(c *agent.Config) { c.GatewayListen = strings.TrimPrefix(held.door, "http://") }, "--gateway-listen"},
		{"site in use", func(c *agent.Config) { c.SiteListen = strings.TrimPrefix(held.site, "http://") }, "--site-listen"},
		{"no wheel", func(c *agent.Config) { c.FrontendWheel = "/no/such.whl" }, "wheel"},
		{"wrong wheel", func(c *agent.Config) { c.FrontendSHA256 = strings.Repeat("0", 64) }, "sha256"},
		{"no templates", func(c *agent.Config) { c.Templates = "/no/such/folder" }, "template"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := dev(t, t.TempDir())
			cfg.Logger = slog.New(slog.DiscardHandler)
			c.change(&cfg)
			_, err := agent.New(t.Context(), cfg)
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
				t.Fatalf("error = %v", err)
			}
			if cluster.CodeOf(err) == cluster.Internal {
				t.Errorf("no sentence for people: %v", err)
			}
		})
	}
	if _, err := os.Stat(heldFile(held)); err != nil {
		t.Errorf("a second agent took the first one's address away: %v", err)
	}
}

// heldFile is the address file of a running node.
func heldFile(r *running) string { return filepath.Join(r.agent.StateDir(), agent.AddressFile) }

// TestNoPersonHidesAPage compares the reserved names with the door's routes.
func TestNoPersonHidesAPage(t *testing.T) {
	cfg := dev(t, t.TempDir())
	r := start(t, cfg)
	for _, route := range r.agent.Routes() {
		_, path, _ := strings.Cut(route, " /")
		first, _, _ := strings.Cut(path, "/")
		if first == "" || strings.HasPrefix(first, "{") {
			continue
		}
		cfg.Participants = map[cluster.User]agent.Secret{cluster.User(first): "x"}
		if err := cfg.Validate(); err == nil {
			t.Errorf("a person may be called %q and hide the page %s", first, route)
		}
	}
}
