package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/cluster/models"
	"github.com/ahelme/comfyume/cluster/people"
	"github.com/ahelme/comfyume/roles/gateway"
	"github.com/ahelme/comfyume/roles/gateway/frontend"
	"github.com/ahelme/comfyume/roles/gateway/signin"
	"github.com/ahelme/comfyume/roles/gpu"
	"github.com/ahelme/comfyume/roles/queue"
	"github.com/ahelme/comfyume/roles/sketch"
)

// roles is what this node was started to do.
type roles struct {
	steward *queue.Steward
	gateway *gateway.Gateway
	files   *frontend.Files
	gpus    []worker

	// Set by open: the door is built before what is shown behind it.
	dashboard atomic.Pointer[http.Handler]
	health    atomic.Pointer[health]

	mu       sync.Mutex
	compared time.Time // when lacking was worked out
	lacking  []lack
}

// worker is one ComfyUI of this node.
type worker struct {
	id  cluster.WorkerID
	gpu *gpu.Worker
}

// startRoles builds and starts the roles in the order in which they need each
// other: who is asked before who asks.
func (a *Agent) startRoles(ctx context.Context) (*roles, error) {
	r := &roles{}
	var err error
	r.steward, err = queue.New(queue.Config{
		Jobs: a.machine, Propose: a.propose, Watch: func() queue.Watcher { return a.machine.Watch() },
		Leads: a.raft.Leads, Leading: a.raft.Leading(), Logger: a.cfg.Logger,
	})
	if err != nil {
		return nil, err
	}
	a.stack.run("queue", r.steward.Run)
	if err := a.startGateway(ctx, r); err != nil {
		return nil, err
	}
	if a.cfg.Has(cluster.GPU) {
		if err := a.startWorkers(r); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func (a *Agent) startGateway(ctx context.Context, r *roles) error {
	binary, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find our own binary: %w", err)
	}
	search := []string{filepath.Dir(binary), filepath.Join(filepath.Dir(binary), "wheels")}
	if a.cfg.WheelDir != "" {
		search = append([]string{a.cfg.WheelDir}, search...)
	}
	r.files, err = frontend.Load(ctx, frontend.Config{
		Version: a.cfg.FrontendVersion, Wheel: a.cfg.FrontendWheel, SHA256: a.cfg.FrontendSHA256, Dir: filepath.Join(a.cfg.StateDir, "frontend"),
		Search: search, Index: a.cfg.PackageIndex, Logger: a.cfg.Logger,
	})
	if err != nil {
		return err
	}
	name, hash, err := a.accounts.instructor()
	if err != nil {
		return err
	}
	sign, err := signin.New(signin.Config{Person: a.person, Instructor: name, InstructorHash: hash, Logger: a.cfg.Logger})
	if err != nil {
		return err
	}
	r.gateway, err = gateway.New(gateway.Config{
		Node: a.self.ID, Listener: a.door, Tables: a.machine, Propose: r.steward.Admit(), Watch: func() gateway.Watcher { return a.machine.Watch() },
		Blobs: a.blobs, Subscribe: a.events.Subscribe, SignIn: sign, Frontend: r.files,
		TemplateDir: a.cfg.Templates, DefaultTemplate: a.cfg.DefaultTemplate, Admin: r.admin, Health: r.healthz,
		PriorityUser: cluster.User(a.cfg.UserPrefix + "001"),
		MaxWaiting:   a.cfg.MaxQueueDepth, MaxBody: int(a.cfg.MaxBody), Logger: a.cfg.Logger,
	})
	if err != nil {
		return err
	}
	if ap, err := netip.ParseAddrPort(a.door.Addr().String()); err == nil && !ap.Addr().IsLoopback() {
		a.log.Warn("the door speaks plain HTTP and can be reached from other machines: put a TLS proxy in front of it", "door", ap)
	}
	a.stack.run("gateway", r.gateway.Run)
	return nil
}

func (a *Agent) person(u cluster.User) (p people.Person, ok bool) {
	a.machine.People(func(t *people.Table) { p, ok = t.Person(u) })
	return p, ok
}

func (a *Agent) startWorkers(r *roles) error {
	urls := a.cfg.ComfyUIURLs
	if len(urls) == 0 {
		url, err := a.startSketch()
		if err != nil {
			return err
		}
		urls = []string{url}
	}
	for i, url := range urls {
		id := cluster.WorkerID(fmt.Sprintf("%s/%d", a.self.Name, i))
		w, err := gpu.New(gpu.Config{
			ID: id, Node: a.self.ID, URL: url, Queue: r.steward, Blobs: a.blobs, Secrets: r.gateway.Secrets, Publish: a.events.Publish,
			Register: func(ctx context.Context, w models.Worker) error {
				_, err := a.propose.Propose(ctx, &models.PutWorker{Worker: w})
				return err
			},
			Await: a.await, Logger: a.cfg.Logger,
		})
		if err != nil {
			return err
		}
		a.stack.run("worker "+string(id), w.Run)
		r.gpus = append(r.gpus, worker{id, w})
	}
	return nil
}

// await waits until a worker must do something else with its job than go on.
func (a *Agent) await(ctx context.Context, l jobs.Lease) (jobs.Verdict, error) {
	w := a.machine.Watch()
	defer w.Close()
	for {
		if v := a.verdict(l); v != jobs.Go {
			return v, nil
		}
		if _, err := w.Next(ctx); err != nil {
			return "", err
		}
	}
}

func (a *Agent) verdict(l jobs.Lease) (v jobs.Verdict) {
	a.machine.Jobs(func(t *jobs.Table) {
		j, ok := t.Job(l.Job)
		switch {
		case t.CheckLease(l) != nil:
			v = jobs.Lost
		case ok && j.State == jobs.Cancelling:
			v = jobs.Stop
		default:
			v = jobs.Go
		}
	})
	return v
}

// startSketch runs our own small ComfyUI on a free port of the loopback. When
// a SketchFail node ends it, as a real one may end, it comes back at the same
// address, empty.
func (a *Agent) startSketch() (url string, err error) {
	cfg := sketch.Config{Dir: filepath.Join(a.cfg.StateDir, "sketch"), Logger: a.cfg.Logger.With("component", "sketch")}
	s, err := sketch.New(cfg)
	if err != nil {
		return "", err
	}
	url = s.URL()
	cfg.Addr = url[len("http://"):]
	a.stack.run("sketch", func(ctx context.Context) error {
		for {
			err := s.Run(ctx)
			if ctx.Err() != nil || !errors.Is(err, sketch.ErrExited) {
				return err
			}
			for s, err = sketch.New(cfg); err != nil; s, err = sketch.New(cfg) {
				a.log.Warn("sketch does not come back", "err", err)
				select {
				case <-time.After(sketchPause):
				case <-ctx.Done():
					return nil
				}
			}
		}
	})
	return url, nil
}

// sketchPause is how long sketch stays away before it tries to come back.
const sketchPause = 500 * time.Millisecond
