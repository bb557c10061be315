package gateway_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/blob"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/cluster/models"
	"github.com/ahelme/comfyume/cluster/people"
	"github.com/ahelme/comfyume/roles/comfy"
	"github.com/ahelme/comfyume/roles/gateway"
	"github.com/ahelme/comfyume/roles/gateway/signin"
)

// TestTwoWorkers: pages see the union of what the workers can do, and keep what
// was known when a worker's description cannot be read or the worker goes.
func TestTwoWorkers(t *testing.T) {
	w := open(t, options{noGPU: true, visited: true})
	w.worker("gpu/0", &comfy.Capabilities{
		ObjectInfo: json.RawMessage(`{"Only0":{"input":{"required":{}},"output":[],"output_node":true}}`),
		Models:     map[string][]string{"loras": {`a\b.safetensors`}}, Embeddings: []string{"e0"},
	})
	w.worker("gpu/1", capabilities())
	list := func(target string) (out []string) {
		w.get(ann, target).want(t, 200).json(t, &out)
		return out
	}
	classes := func() (names []string) {
		var out map[string]json.RawMessage
		w.get(ann, "/object_info").want(t, 200).json(t, &out)
		for name := range out {
			names = append(names, name)
		}
		slices.Sort(names)
		return names
	}
	w.until("both workers are known", func() bool { return slices.Contains(classes(), "Only0") && slices.Contains(classes(), "SaveImage") })
	if d := cmp.Diff([]string{"checkpoints", "loras"}, list("/models")); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{"a/b.safetensors"}, list("/models/loras")); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{"e0", "easy"}, list("/embeddings")); d != "" {
		t.Error(d)
	}
	w.get(ann, "/experiment/models/checkpoints").want(t, 200)
	before := classes()

	gone := cluster.Ref(strings.Repeat("0", 64))
	w.do(&models.PutWorker{Worker: models.Worker{ID: "gpu/2", Node: "gpu", Caps: gone}})
	w.do(&models.PutWorker{Worker: models.Worker{ID: "gpu/3", Node: "gpu", Caps: w.put([]byte("not what it should be"))}})
	w.until("the log says so", func() bool {
		return strings.Count(w.logged.String(), "capabilities cannot be read") >= 2
	})
	if d := cmp.Diff(before, classes()); d != "" {
		t.Errorf("unreadable descriptions changed what is served: %s", d)
	}
	w.do(&models.ForgetWorker{ID: "gpu/0"}, &models.ForgetWorker{ID: "gpu/1"}, &models.ForgetWorker{ID: "gpu/2"}, &models.ForgetWorker{ID: "gpu/3"})
	w.submit(bob, "tab", "p") // and what was validated before is valid still
	if d := cmp.Diff(before, classes()); d != "" {
		t.Errorf("without workers the pages lose their nodes: %s", d)
	}
}

// TestFirstRequestAfterARestart: a page that loads the moment the door opens
// sees the nodes; with an empty list its user would save a broken workflow.
func TestFirstRequestAfterARestart(t *testing.T) {
	w := open(t, options{visited: true})
	w.submit(ann, "tab1", "p1")
	s := w.assign(ann, "p1").begin()
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	w.reopen(t)
	if a := w.get(ann, "/object_info/SaveImage").want(t, 200); len(a.body) < 10 {
		t.Errorf("the first answer was %s", a.body)
	}
	p := w.page(ann, "tab1")
	p.waitFor("execution_start p1")
	s.done("x_00001_.png")
	p.waitFor("executing p1 null")
}

// slowStore holds up the next read once it is armed.
type slowStore struct {
	blob.Store
	armed   chan struct{} // one token
	reached chan struct{}
	release chan struct{}
}

func (s *slowStore) Open(ctx context.Context, ref cluster.Ref) (blob.File, error) {
	select {
	case <-s.armed:
		close(s.reached)
		<-s.release
	default:
	}
	return s.Store.Open(ctx, ref)
}

// TestArrivingAtTheEnd: a page that connects when its job has ended and the end
// is not told yet hears the beginning and the end, each once.
func TestArrivingAtTheEnd(t *testing.T) {
	w := open(t, options{visited: true})
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	slow := &slowStore{Store: w.blobs, armed: make(chan struct{}, 1), reached: make(chan struct{}), release: make(chan struct{})}
	w.reopen(t, func(c *gateway.Config) { c.Blobs = slow })
	w.submit(ann, "tab1", "p1")
	s := w.assign(ann, "p1").begin()
	slow.armed <- struct{}{}
	s.end(jobs.Done, "{}", comfy.ExecutionSuccess("p1", 2), nil)
	within(t, "the end is being told", slow.reached)
	p := w.page(ann, "tab1")
	p.waitFor("execution_cached p1")
	close(slow.release)
	p.waitFor("executing p1 null")
	if d := cmp.Diff([]string{"execution_start p1", "execution_cached p1", "execution_success p1", "executing p1 null"}, about(p.all(), "p1")); d != "" {
		t.Error(d)
	}
}

// reopen starts a new door over the same tables.
func (w *world) reopen(t *testing.T, with ...func(*gateway.Config)) {
	t.Helper()
	sign, err := signin.New(signin.Config{
		Person: func(u cluster.User) (p people.Person, ok bool) {
			w.machine.People(func(t *people.Table) { p, ok = t.Person(u) })
			return p, ok
		},
		Verify: func(hash, password string) bool { return hash == hashOf(password) },
	})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.addr = l.Addr().String()
	cfg := gateway.Config{
		Node: "mello", Listener: l, Tables: w.machine, Propose: w.propose, Watch: func() gateway.Watcher { return w.machine.Watch() },
		Blobs: w.blobs, Subscribe: w.events.Subscribe, SignIn: sign, Frontend: pageFiles(t),
		Admin:  func(string) http.Handler { return http.NotFoundHandler() },
		Health: func() (int, []byte) { return 200, []byte(`{}`) }, Logger: slog.New(slog.DiscardHandler),
	}
	for _, f := range with {
		f(&cfg)
	}
	if w.gw, err = gateway.New(cfg); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.gw.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}
