package gpu_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/blob"
	"github.com/ahelme/comfyume/cluster/files"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/roles/comfy"
	"github.com/ahelme/comfyume/roles/gpu"
	"github.com/ahelme/comfyume/roles/sketch"
)

const patience = 20 * time.Second

// bench is a worker with the real tables behind a small queue.
type bench struct {
	t      *testing.T
	worker *gpu.Worker
	blobs  *blob.Dir
	queue  *queue
	stop   context.CancelFunc
	ended  chan error
}

func newBench(t *testing.T, url string, edit func(*gpu.Config)) *bench {
	t.Helper()
	blobs, err := blob.OpenDir(blob.DirConfig{Path: t.TempDir(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, blobs: blobs, queue: newQueue(), ended: make(chan error, 1)}
	cfg := gpu.Config{
		ID: "node/0", Node: "node", URL: url, Queue: b.queue, Blobs: blobs, Await: b.queue.await, Publish: b.queue.publish, Register: b.queue.register,
		RenewEvery: 20 * time.Millisecond, Logger: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})),
		Patience: gpu.Patience{Backoff: 10 * time.Millisecond, Silence: 2 * time.Second},
	}
	if edit != nil {
		edit(&cfg)
	}
	if b.worker, err = gpu.New(cfg); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background()) // t.Context ends before clean-up waits
	b.stop = stop
	go func() { b.ended <- b.worker.Run(ctx) }()
	t.Cleanup(func() { b.end() })
	return b
}

// end stops the worker and waits for it.
func (b *bench) end() {
	b.stop()
	select {
	case err := <-b.ended:
		if err != nil {
			b.t.Errorf("Run returned %v", err)
		}
		b.ended <- nil
	case <-time.After(patience):
		b.t.Fatal("the worker does not end")
	}
}

// submit is what a gateway does.
func (b *bench) submit(prompt, graph string, edit func(*jobs.Submit)) jobs.ID {
	b.t.Helper()
	req := &comfy.PromptRequest{Prompt: json.RawMessage(graph), ClientID: "tab", ExtraData: json.RawMessage(`{"extra_pnginfo":{"workflow":{"id":"w-1","note":"Grüße"}}}`)}
	body, hash, err := comfy.PackRequest(req)
	if err != nil {
		b.t.Fatal(err)
	}
	id := jobs.ID{User: "user007", Prompt: prompt}
	c := &jobs.Submit{ID: id, ClientID: "tab", Body: body, BodyHash: hash, Priority: jobs.Normal}
	if edit != nil {
		edit(c)
	}
	if _, err := b.queue.apply(c); err != nil {
		b.t.Fatal(err)
	}
	return id
}

// row waits until a job is as it should be.
func (b *bench) row(id jobs.ID, what string, ok func(jobs.Job) bool) jobs.Job {
	b.t.Helper()
	var row jobs.Job
	b.until(what, func() bool {
		row, _ = b.queue.jobs.Job(id)
		return ok(row)
	})
	return row
}

func (b *bench) ends(id jobs.ID) jobs.Job {
	b.t.Helper()
	return b.row(id, "the end of "+id.String(), func(j jobs.Job) bool { return j.State.Ended() })
}

// until waits for a condition of the queue, which is checked under its lock
// after each change.
func (b *bench) until(what string, ok func() bool) {
	b.t.Helper()
	if !b.queue.until(ok) {
		b.t.Fatalf("waited in vain for %s; status %+v; verbs %v", what, b.worker.Status(), b.queue.log())
	}
}

func (b *bench) history(row jobs.Job) comfy.HistoryEntry {
	b.t.Helper()
	raw, err := comfy.Unpack(b.bytes(row.History))
	if err != nil {
		b.t.Fatal(err)
	}
	var h comfy.HistoryEntry
	if err := json.Unmarshal(raw, &h); err != nil {
		b.t.Fatal(err)
	}
	if strings.Contains(string(raw), "gw/") || strings.Contains(string(raw), "abs_path") {
		b.t.Errorf("history tells of the machine: %s", raw)
	}
	return h
}

func (b *bench) bytes(ref cluster.Ref) []byte {
	b.t.Helper()
	f, err := b.blobs.Open(b.t.Context(), ref)
	if err != nil {
		b.t.Fatal(err)
	}
	defer f.Close()
	raw, err := io.ReadAll(f)
	if err != nil {
		b.t.Fatal(err)
	}
	return raw
}

func (b *bench) put(raw string) (cluster.Ref, int64) {
	b.t.Helper()
	ref, n, err := b.blobs.Put(b.t.Context(), strings.NewReader(raw), int64(len(raw)))
	if err != nil {
		b.t.Fatal(err)
	}
	return ref, n
}

// output is a stored file of the user's.
func (b *bench) output(area files.Area, sub, name string) []byte {
	b.t.Helper()
	b.queue.mu.Lock()
	f, ok := b.queue.files.File("user007", files.Place{Area: area, Subfolder: sub, Name: name})
	b.queue.mu.Unlock()
	if !ok {
		b.t.Fatalf("there is no %s/%s/%s", area, sub, name)
	}
	return b.bytes(f.Ref)
}

// server is a sketch that can be stopped and started anew at the same address.
type server struct {
	t    *testing.T
	cfg  sketch.Config
	addr string
	url  string
	stop func()
}

func startSketch(t *testing.T) *server {
	t.Helper()
	s := &server{t: t, cfg: sketch.Config{Dir: t.TempDir()}}
	s.start()
	return s
}

func (s *server) start() {
	s.t.Helper()
	s.cfg.Addr = s.addr
	run, err := sketch.New(s.cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	s.url = run.URL()
	s.addr = strings.TrimPrefix(s.url, "http://")
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- run.Run(ctx) }()
	s.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil && !errors.Is(err, sketch.ErrExited) {
				s.t.Errorf("sketch returned %v", err)
			}
		case <-time.After(patience):
			s.t.Error("sketch does not end")
		}
	})
	s.t.Cleanup(s.stop)
}
