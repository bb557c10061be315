package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/cluster/peer"
	"github.com/ahelme/comfyume/roles/gateway"
	"github.com/ahelme/comfyume/roles/gateway/frontend"
	"github.com/ahelme/comfyume/roles/gateway/wheels"
	"github.com/ahelme/comfyume/roles/sketch"
)

// roles is what this node was started to do beside holding the table.
type roles struct {
	gateway atomic.Pointer[gateway.Gateway]
	files   *frontend.Files
	shelves []shelf
	fleet   atomic.Pointer[fleet] // nil without the role gpu

	// Set by open: the door is built before what is shown behind it.
	dashboard atomic.Pointer[http.Handler]
	health    atomic.Pointer[health]

	mu       sync.Mutex
	compared time.Time // when lacking was worked out
	lacking  []lack
}

// startRoles builds and starts the roles in the order in which they need each
// other: who is asked before who asks.
func (a *Agent) startRoles(ctx context.Context) (err error) {
	if a.cfg.Has(cluster.Gateway) {
		if a.accounts, err = newAccounts(&a.cfg, a.swarm.core.propose, a.swarm.core.machine, a.log); err != nil {
			return err
		}
		a.stack.run("accounts", a.accounts.run)
		if err := a.openDoor(); err != nil {
			return err
		}
	}
	if a.swarm.core != nil {
		if a.sign, err = a.newSignIn(); err != nil {
			return err
		}
	}
	if a.cfg.Has(cluster.Gateway) {
		if err := a.startGateway(ctx); err != nil {
			return err
		}
	}
	if a.cfg.Has(cluster.GPU) {
		return a.startWorkers()
	}
	return nil
}

func (a *Agent) startGateway(ctx context.Context) error {
	binary, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find our own binary: %w", err)
	}
	search := []string{filepath.Dir(binary), filepath.Join(filepath.Dir(binary), "wheels")}
	if a.cfg.WheelDir != "" {
		search = append([]string{a.cfg.WheelDir}, search...)
	}
	r, core := a.roles, a.swarm.core
	r.files, err = frontend.Load(ctx, frontend.Config{
		Version: a.cfg.FrontendVersion, Wheel: a.cfg.FrontendWheel, SHA256: a.cfg.FrontendSHA256, Dir: filepath.Join(a.cfg.StateDir, "frontend"),
		Search: search, Index: a.cfg.PackageIndex, Logger: a.cfg.Logger,
	})
	if err != nil {
		return err
	}
	from := wheels.Source{Dir: filepath.Join(a.cfg.StateDir, "frontend", "wheels"), Search: search, Index: a.cfg.PackageIndex, Logger: a.cfg.Logger.With("component", "wheels")}
	var docs, official *wheels.Shelf
	if a.cfg.NodeDocs {
		docs = a.shelve(from, "node docs", "node-docs", wheels.Docs())
	}
	if a.cfg.OfficialTemplates {
		official = a.shelve(from, "official templates", "official-templates", wheels.Templates())
	}
	events := peer.NewEvents()
	subscribe := func(f func(jobs.Event)) (cancel func()) {
		defer a.swarm.listening()
		return events.Subscribe(f)
	}
	gw, err := gateway.New(gateway.Config{
		Node: a.self.ID, Listener: a.door, Tables: core.machine, Replica: place{core}, Propose: core.steward.Admit(), Watch: func() gateway.Watcher { return core.machine.Watch() },
		Blobs: core.mirror, Subscribe: subscribe, Tell: a.swarm.links.Tell, SignIn: a.sign, Frontend: r.files,
		TemplateDir: a.cfg.Templates, DefaultTemplate: a.cfg.DefaultTemplate, Admin: r.admin, Health: r.healthz,
		PriorityUser: cluster.User(a.cfg.UserPrefix + "001"),
		NodeDocs:     docs, OfficialTemplates: official,
		NodeWeb: a.cfg.NodeWeb, GPUs: a.swarm.gpus, Turns: a.swarm.turns, Quota: core.quota, Room: core.room(a.swarm.blobs), Take: a.swarm.blobs.Take,
		Bound:    func(u cluster.User) int64 { return core.machine.Settings().Quota(u).Bytes },
		KeepTemp: a.cfg.RetainTemp, KeepOutputs: a.cfg.RetainOutputs,
		MaxWaiting: a.cfg.MaxQueueDepth, MaxBody: int(a.cfg.MaxBody), Logger: a.cfg.Logger,
	})
	if err != nil {
		return err
	}
	// From here on pages get events, and workers the tokens that came with a job.
	a.swarm.hear(events.Publish)
	core.secrets.Store(&gatewaySecrets{gw.Secrets})
	r.gateway.Store(gw)
	serveSubmits(a.swarm.server, r)
	a.stack.run("gateway", gw.Run)
	return nil
}

// place is this node's copy of the table as a place in its history.
type place struct{ *core }

// At names the history and the last entry of it that was applied here.
func (p place) At() (history string, index uint64) {
	index, _ = p.machine.Applied()
	return p.raft.Lineage().Generation.String(), index
}

// Await returns when an entry has been applied here.
func (p place) Await(ctx context.Context, index uint64) error { return p.machine.Await(ctx, index) }

// startWorkers starts the workers of the ComfyUIs that are named by address, and
// lets the fleet start the others.
func (a *Agent) startWorkers() error {
	f := newFleet(a)
	urls := slices.Clone(a.cfg.ComfyUIURLs)
	if len(urls) == 0 && a.cfg.ComfyUIDir == "" {
		urls = []string{sketchURL}
	}
	for _, url := range urls {
		if url == sketchURL {
			var err error
			if url, err = a.startSketch(); err != nil {
				return err
			}
		}
		w, err := f.attach(url)
		if err != nil {
			return err
		}
		a.stack.run("worker "+string(w.id), w.gpu.Run)
	}
	a.stack.run("GPU sensors", f.sense)
	if a.cfg.ComfyUIDir != "" {
		a.stack.run("ComfyUI", f.supervise)
	}
	var err error
	if f.meter, err = newMeter(a.cfg.StateDir, a.cfg.Price, time.Now); err != nil {
		return err
	}
	a.stack.run("meter", f.meter.run)
	f.dog = &watchdog{f: f, contact: a.swarm.contact, now: time.Now, run: runHook}
	a.stack.run("watchdog", f.dog.watch)
	a.roles.fleet.Store(f)
	standing := f.standing
	a.swarm.standing.Store(&standing)
	return nil
}

// await waits until a worker must do something else with its job than go on.
func (a *Agent) await(ctx context.Context, l jobs.Lease) (jobs.Verdict, error) {
	w := a.swarm.core.machine.Watch()
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
	a.swarm.core.machine.Jobs(func(t *jobs.Table) {
		j, ok := t.Job(l.Job)
		switch {
		case ok && l.Epoch > j.Epoch:
			v = jobs.Go // this replica has not heard of the lease yet
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
