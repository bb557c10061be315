package gateway_test

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/blob"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/cluster/models"
	"github.com/ahelme/comfyume/cluster/peer"
	"github.com/ahelme/comfyume/cluster/people"
	"github.com/ahelme/comfyume/cluster/state"
	"github.com/ahelme/comfyume/roles/comfy"
	"github.com/ahelme/comfyume/roles/gateway"
	"github.com/ahelme/comfyume/roles/gateway/frontend"
	"github.com/ahelme/comfyume/roles/gateway/signin"
	"github.com/ahelme/comfyume/roles/gateway/wheels"
)

// world is a workshop of one machine: the real tables, blobs, sign-in and door;
// only the log is a lock and only the worker is a script.
type world struct {
	t       testing.TB
	machine *state.Machine
	log     *memoryLog
	propose cluster.Proposer
	blobs   *blob.Dir
	blobDir string
	events  *peer.Events
	gw      *gateway.Gateway
	sign    *signin.SignIn
	addr    string
	logged  *safeBuffer   // what the door wrote to its log
	later   *atomic.Int64 // by how much sign-in is ahead of the time, in ns
	stop    func() error
}

// options of a world; the zero value is two users, a GPU seen, own templates.
type options struct {
	templates      string
	first          string
	noGPU          bool
	visited        bool // nobody is sent to the first template
	maxWaiting     uint64
	maxBody        int
	maxUpload      int64
	admin          http.Handler
	health         func() (int, []byte)
	nodeWeb        []string
	caps           *comfy.Capabilities // of the GPU; nil: capabilities()
	gpus           func() int
	now            func() time.Time
	twice          bool // the door hears of every change twice
	replica        gateway.Replica
	docs, official *wheels.Shelf
	turns          func(cluster.User) map[jobs.ID]jobs.Turn
	free           func() int64 // of a disk of 1000 MiB; nil: there is room
	keepOutputs    time.Duration
	room           func(w *world, u cluster.User, n int64) error
	bound          func(cluster.User) int64
}

// space is the disk of a world.
func (o options) space(string) (free, total int64, err error) {
	if o.free != nil {
		return o.free(), 1000 << 20, nil
	}
	return 1 << 40, 1 << 41, nil
}

// twice tells every change twice, as when a row has moved on before the door
// reads it for an earlier change.
type twice struct {
	gateway.Watcher
	again *cluster.Change
}

func (t *twice) Next(ctx context.Context) (cluster.Change, error) {
	if c := t.again; c != nil {
		t.again = nil
		return *c, nil
	}
	c, err := t.Watcher.Next(ctx)
	t.again = &c
	return c, err
}

// The people of every world. Sign-in is real but for the price of bcrypt.
const (
	ann   = cluster.User("user001")
	bob   = cluster.User("user002")
	boss  = cluster.User("teacher")
	right = "correct horse"
)

// memoryLog commits at once, one entry at a time.
type memoryLog struct {
	mu      sync.Mutex
	m       *state.Machine
	refuse  error // what Propose returns instead, while set
	entries int
	kept    []kept
}

// kept is a committed entry.
type kept struct {
	now  int64
	cmds [][]byte
}

func (l *memoryLog) Propose(_ context.Context, cmds ...[]byte) ([][]byte, uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.refuse != nil {
		return nil, 0, l.refuse
	}
	index, _ := l.m.Applied()
	l.entries++
	now := time.Now().UnixMilli()
	l.kept = append(l.kept, kept{now, cmds})
	return l.m.Apply(index+1, now, cmds), index + 1, nil
}

// replay brings another copy of the table up to date.
func (l *memoryLog) replay(m *state.Machine) {
	l.mu.Lock()
	defer l.mu.Unlock()
	done, _ := m.Applied()
	for i, e := range l.kept[done:] {
		m.Apply(done+uint64(i)+1, e.now, e.cmds)
	}
}

// commits counts the entries so far: a refused request must add none.
func (l *memoryLog) commits() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.entries
}

func (l *memoryLog) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refuse = err
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// open starts a world; it ends with the test.
func open(t testing.TB, o options) *world {
	t.Helper()
	w := &world{t: t, later: new(atomic.Int64), logged: &safeBuffer{}, events: peer.NewEvents()}
	logger := slog.New(slog.NewTextHandler(w.logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
	w.machine = state.New(logger)
	w.log = &memoryLog{m: w.machine}
	w.propose = peer.Proposals{Log: w.log}
	var err error
	w.blobDir = filepath.Join(t.TempDir(), "blobs")
	if w.blobs, err = blob.OpenDir(blob.DirConfig{Path: w.blobDir, Logger: logger, Space: o.space}); err != nil {
		t.Fatal(err)
	}
	for _, u := range []cluster.User{ann, bob} {
		w.do(&people.Put{Name: u, Hash: hashOf(right + " of " + string(u))})
		if o.visited {
			w.do(&people.Visit{Name: u})
		}
	}
	if !o.noGPU {
		caps := o.caps
		if caps == nil {
			caps = capabilities()
		}
		w.worker("gpu/0", caps)
	}
	watch := func() gateway.Watcher { return w.machine.Watch() }
	if o.twice {
		watch = func() gateway.Watcher { return &twice{Watcher: w.machine.Watch()} }
	}
	sign := w.signIn(logger)
	w.sign = sign
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.addr = l.Addr().String()
	admin := o.admin
	if admin == nil {
		admin = http.NotFoundHandler()
	}
	health := o.health
	if health == nil {
		health = func() (int, []byte) { return 200, []byte(`{"ready":true,"checks":[]}`) }
	}
	room := func(u cluster.User, n int64) error { return w.blobs.Room(n) }
	if o.room != nil {
		room = func(u cluster.User, n int64) error { return o.room(w, u, n) }
	}
	w.gw, err = gateway.New(gateway.Config{
		Node: "mello", Listener: l, Tables: w.machine, Propose: w.propose, Watch: watch,
		Blobs: w.blobs, Subscribe: w.events.Subscribe, SignIn: sign, Frontend: pageFiles(t), TemplateDir: o.templates, DefaultTemplate: o.first,
		Admin:   func(string) http.Handler { return admin },
		Health:  health,
		Replica: o.replica,
		NodeWeb: o.nodeWeb, NodeDocs: o.docs, OfficialTemplates: o.official, GPUs: o.gpus, Now: o.now, Turns: o.turns, Room: room, Take: w.blobs.Take, Bound: o.bound, KeepOutputs: o.keepOutputs,
		PriorityUser: ann, MaxWaiting: o.maxWaiting, MaxBody: o.maxBody, MaxUpload: o.maxUpload, Logger: logger,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.gw.Run(ctx) }()
	w.stop = sync.OnceValue(func() error { cancel(); return <-ended })
	t.Cleanup(func() {
		if err := w.stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	if !o.noGPU {
		w.until("the door knows the nodes", func() bool { return len(w.get(ann, "/object_info").body) > 10 })
	}
	return w
}

func (w *world) signIn(logger *slog.Logger) *signin.SignIn {
	w.t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		w.t.Fatal(err)
	}
	sign, err := signin.New(signin.Config{
		Key: key, People: w.machine.People, Propose: w.propose,
		Person: func(u cluster.User) (p people.Person, ok bool) {
			w.machine.People(func(tab *people.Table) { p, ok = tab.Person(u) })
			return p, ok
		},
		Now:        func() time.Time { return time.Now().Add(time.Duration(w.later.Load())) },
		Instructor: boss, InstructorHash: func() string { return hashOf(right + " of " + string(boss)) }, Logger: logger,
		Verify: func(hash, password string) bool { return hash == hashOf(password) },
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return sign
}

func hashOf(password string) string {
	sum := sha256.Sum256([]byte("test" + password))
	return hex.EncodeToString(sum[:])
}

// do commits a command that must be accepted.
func (w *world) do(cmds ...cluster.Command) cluster.Outcome {
	w.t.Helper()
	out, err := w.propose.Propose(context.Background(), cmds...)
	if err != nil {
		w.t.Fatalf("%T: %v", cmds[len(cmds)-1], err)
	}
	return out
}

// put stores bytes.
func (w *world) put(raw []byte) blob.Ref {
	w.t.Helper()
	ref, _, err := w.blobs.Put(context.Background(), bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		w.t.Fatal(err)
	}
	return ref
}

// until waits for a condition; it is the only waiting there is.
func (w *world) until(what string, ok func() bool) {
	w.t.Helper()
	end := time.Now().Add(10 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(end) {
			w.t.Fatalf("waited 10 s in vain: %s", what)
		}
		<-tick.C
	}
}

// worker enters a ComfyUI and what it can do.
func (w *world) worker(id cluster.WorkerID, c *comfy.Capabilities) {
	w.t.Helper()
	raw, err := c.Encode()
	if err != nil {
		w.t.Fatal(err)
	}
	w.do(&models.PutWorker{Worker: models.Worker{ID: id, Node: "gpu", Version: "0.3.64", Caps: w.put(raw), CapsSize: int64(len(raw))}})
}

// nodes describes the classes of the worlds' worker. LoadImage lists somebody
// else's upload, as a shared ComfyUI does; Newer has no module, as one fork's.
const nodes = `{
"EmptyImage": {"input": {"required": {"width": ["INT", {"default": 512, "min": 1, "max": 16384}], "color": ["INT", {"default": 0}]}}, "output": ["IMAGE"], "name": "EmptyImage", "display_name": "EmptyImage", "python_module": "nodes", "category": "image", "output_node": false},
"LoadImage": {"input": {"required": {"image": [["of_somebody_else.png"], {"image_upload": true}]}}, "output": ["IMAGE", "MASK"], "name": "LoadImage", "python_module": "nodes", "category": "image", "output_node": false},
"LoadFromOutput": {"input": {"required": {"image": ["COMBO", {"image_upload": true, "image_folder": "output", "options": ["of_somebody_else_00001_.png"]}]}}, "output": ["IMAGE"], "name": "LoadFromOutput", "python_module": "nodes", "category": "image", "output_node": false},
"CheckpointLoaderSimple": {"input": {"required": {"ckpt_name": [["sd.safetensors"]]}}, "output": ["MODEL", "CLIP", "VAE"], "name": "CheckpointLoaderSimple", "python_module": "nodes", "category": "loaders", "output_node": false},
"Seeded": {"input": {"required": {"image": ["IMAGE"], "seed": ["INT", {"default": 0, "min": 0, "max": 18446744073709551615}]}}, "output": ["IMAGE"], "name": "Seeded", "python_module": "nodes", "category": "image", "output_node": false},
"Newer": {"input": {"required": {"image": ["IMAGE"]}}, "output": ["IMAGE"], "name": "Newer", "display_name": null, "python_module": null, "category": "image", "output_node": false},
"SaveImage": {"input": {"required": {"images": ["IMAGE"], "filename_prefix": ["STRING", {"default": "ComfyUI"}]}}, "output": [], "name": "SaveImage", "python_module": "nodes", "category": "image", "output_node": true}
}`

func capabilities() *comfy.Capabilities {
	return &comfy.Capabilities{
		SystemStats: json.RawMessage(`{"system": {"os": "posix", "comfyui_version": "0.3.64", "required_frontend_version": "0.0.1", "argv": ["/home/somebody/ComfyUI/main.py", "--enable-manager"]}, "devices": [{"name": "cpu", "type": "cpu", "vram_total": 5}]}`),
		ObjectInfo:  json.RawMessage(nodes), Extensions: []string{"/extensions/pack/x.js"}, Embeddings: []string{"easy"},
		Models:           map[string][]string{"checkpoints": {"sd.safetensors"}, "configs": {"v1.yaml"}},
		ExperimentModels: map[string]json.RawMessage{"checkpoints": json.RawMessage(`[{"name": "sd.safetensors", "pathIndex": 0, "modified": 1, "created": 1, "size": 1}]`)},
		NodeReplacements: json.RawMessage(`{"OldName": [{"new_id": "EmptyImage"}]}`),
	}
}

// staticFiles are a frontend small enough for tests.
func staticFiles() map[string]string {
	return map[string]string{
		"index.html": "<!doctype html><title>ComfyUI of a test</title>", "assets/app-AbCd1234.js": string(bytes.Repeat([]byte("let x = 1;\n"), 500)),
		"assets/images/favicon_progress_16x16/frame_1.png": "png", "assets/images/favicon.ico": "icon",
		"extensions/core/a.js": "a", "scripts/app.js": "export const app = 1", "user.css": "",
	}
}

// pageFiles unpacks that frontend as the real one is unpacked.
func pageFiles(t testing.TB) *frontend.Files {
	t.Helper()
	var buf bytes.Buffer
	z := zip.NewWriter(&buf)
	for name, text := range staticFiles() {
		f, err := z.Create("comfyui_frontend_package/static/" + name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(f, text); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	wheel := filepath.Join(dir, "comfyui_frontend_package-9.9.9-py3-none-any.whl")
	if err := os.WriteFile(wheel, buf.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(buf.Bytes())
	f, err := frontend.Load(context.Background(), frontend.Config{Version: "9.9.9", Wheel: wheel, SHA256: hex.EncodeToString(sum[:]), Dir: filepath.Join(dir, "state"), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// script plays the worker of one job with the real commands.
type script struct {
	w     *world
	lease jobs.Lease
	row   jobs.Job
}

// assign gives a waiting job to the script.
func (w *world) assign(u cluster.User, prompt string) *script {
	w.t.Helper()
	s := &script{w: w, row: w.job(u, prompt)}
	s.lease = jobs.Lease{Job: s.row.ID, Worker: "gpu/0", Epoch: s.row.Epoch + 1}
	w.do(&jobs.Assign{Lease: s.lease})
	return s
}

func (w *world) job(u cluster.User, prompt string) (j jobs.Job) {
	w.t.Helper()
	ok := false
	w.machine.Jobs(func(t *jobs.Table) { j, ok = t.Job(jobs.ID{User: u, Prompt: prompt}) })
	if !ok {
		w.t.Fatalf("%s has no job %s", u, prompt)
	}
	return j
}

// begin commits Started and says what a ComfyUI says first.
func (s *script) begin() *script {
	s.w.do(&jobs.Started{Lease: s.lease})
	s.say(comfy.ExecutionStart(s.lease.Job.Prompt, 1))
	s.say(comfy.ExecutionCached(nil, s.lease.Job.Prompt, 1))
	return s
}

func (s *script) say(m comfy.Message) {
	s.w.events.Publish(jobs.Event{Job: s.lease.Job, ClientID: s.row.ClientID, Epoch: s.lease.Epoch, Type: m.Type, Text: m.Encode(), Droppable: m.Type == comfy.TypeProgress || m.Type == comfy.TypeProgressState})
}

func (s *script) show(f comfy.Frame) {
	s.w.events.Publish(jobs.Event{Job: s.lease.Job, ClientID: s.row.ClientID, Epoch: s.lease.Epoch, Type: "preview", Binary: f.Encode(), Droppable: f.Preview()})
}

// end finishes the job with a history entry like a worker's.
func (s *script) end(st jobs.State, outputs string, terminal comfy.Message, failure *jobs.Failure) {
	s.w.t.Helper()
	p := s.lease.Job.Prompt
	req, err := comfy.UnpackRequest(s.row.Body)
	if err != nil {
		s.w.t.Fatal(err)
	}
	e := comfy.HistoryEntry{
		Prompt: comfy.QueueItem{Number: float64(s.row.Number), PromptID: p, Prompt: req.Prompt, ExtraData: req.ExtraData, Outputs: []string{"9"}},
		Status: comfy.HistoryStatus{StatusStr: comfy.HistorySuccess, Completed: st == jobs.Done, Messages: []comfy.HistoryMessage{comfy.HistoryMessage(comfy.ExecutionStart(p, 1)), comfy.HistoryMessage(terminal)}},
	}
	if st != jobs.Done {
		e.Status.StatusStr = comfy.HistoryError
	}
	if err := json.Unmarshal([]byte(outputs), &e.Outputs); err != nil {
		s.w.t.Fatal(err)
	}
	packed := comfy.Pack(e.Encode())
	sum := comfy.SummarizeOutputs(e.Outputs)
	s.w.do(&jobs.Finish{Lease: s.lease, State: st, Failure: failure, History: s.w.put(packed), Outputs: int64(sum.Count), Previewable: int64(sum.Previewable), Preview: sum.Preview})
}

// done ends the job well with one picture of that name.
func (s *script) done(name string) {
	s.w.t.Helper()
	out := fmt.Sprintf(`{"9":{"images":[{"filename":%q,"subfolder":"","type":"output"}]}}`, name)
	s.say(comfy.Executed("9", "9", json.RawMessage(out[5:len(out)-1]), s.lease.Job.Prompt))
	s.end(jobs.Done, out, comfy.ExecutionSuccess(s.lease.Job.Prompt, 2), nil)
}
