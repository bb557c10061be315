package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/blob"
	"github.com/ahelme/comfyume/cluster/consensus"
	"github.com/ahelme/comfyume/cluster/peer"
	"github.com/ahelme/comfyume/cluster/state"
	"github.com/ahelme/comfyume/cluster/tailnet"
	"github.com/ahelme/comfyume/ui"
)

// Agent is one running node.
type Agent struct {
	cfg   Config
	log   *slog.Logger
	stack *stack

	self     cluster.Member
	network  tailnet.Network
	machine  *state.Machine
	raft     *consensus.Log
	propose  peer.Proposals
	events   *peer.Events
	blobs    *blob.Dir
	accounts *accounts
	health   *health
	view     *view
	site     *site
	door     net.Listener
	roles    *roles
	used     atomic.Int64 // per cent of the disk, -1 = unknown
}

// New builds the node and starts its parts, one after the other. What it
// refuses, it refuses in a sentence with the cure. After it succeeded, Run
// must be called: it takes everything down again.
func New(ctx context.Context, cfg Config) (_ *Agent, err error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Grace == 0 {
		cfg.Grace = 30 * time.Second
	}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	a := &Agent{cfg: cfg, log: cfg.Logger.With("component", "agent"), stack: newStack(cfg.Logger), events: peer.NewEvents()}
	a.used.Store(-1)
	defer func() {
		if err != nil {
			if stopped := a.stack.stop(cfg.Grace); stopped != nil {
				a.log.Error("taking down a node that did not start", "err", stopped)
			}
		}
	}()

	// The site first: a node that is still opening can be asked how far it is.
	if err := openFolder(cfg.StateDir); err != nil {
		return nil, err
	}
	if a.site, err = newSite(&cfg); err != nil {
		return nil, err
	}
	a.stack.run("site", a.site.run)

	// The network before all that speaks over it, so it is closed after it.
	if a.network, err = tailnet.Loopback(tailnet.Config{Dir: cfg.StateDir, Name: cfg.Hostname}); err != nil {
		return nil, err
	}
	a.stack.push("network", func(context.Context) error { return a.network.Close() })
	me := a.network.Self()
	a.self = cluster.Member{ID: me.ID, Name: me.Name, Roles: cfg.Roles, Version: cfg.Version, Level: state.Level}

	// The log. Its store is locked: from here on the state folder is ours alone.
	a.machine = state.New(cfg.Logger)
	a.raft, err = consensus.Open(consensus.Config{Dir: filepath.Join(cfg.StateDir, "raft"), Node: me.ID, Machine: a.machine, Logger: cfg.Logger})
	if err != nil {
		return nil, err
	}
	a.stack.run("log", a.raft.Run)
	a.propose = peer.Proposals{Log: a.raft}
	if err := a.announce(); err != nil {
		return nil, err
	}
	if a.blobs, err = blob.OpenDir(blob.DirConfig{Path: filepath.Join(cfg.StateDir, "blobs"), Logger: cfg.Logger}); err != nil {
		return nil, err
	}

	// People. Entering them needs a leader, so it goes on in the background.
	if a.accounts, err = newAccounts(&a.cfg, a.propose, a.machine.People, a.raft.Barrier, a.log); err != nil {
		return nil, err
	}
	given, err := a.accounts.given()
	if err != nil {
		return nil, err
	}
	if err := a.accounts.makeMissing(len(given) == 0); err != nil {
		return nil, err
	}
	a.stack.run("accounts", a.accounts.run)

	// The roles, queue before gateway before gpu: who is asked before who asks.
	if a.door, err = listen("gateway-listen", cfg.GatewayListen); err != nil {
		return nil, err
	}
	a.stack.push("door", func(context.Context) error { return closed(a.door.Close()) })
	if a.roles, err = a.startRoles(ctx); err != nil {
		return nil, err
	}

	// What tells about it all.
	a.health = newHealth(cfg.Version, time.Now,
		checkCommit(a.propose), checkFrontend(a.roles.verifyFrontend), checkAccounts(a.machine.People, a.accounts.prepared),
		checkDisk(a.measureDisk, cfg.StateDir), checkComfyUI(a.roles.answering))
	a.stack.run("health", a.health.run)
	registry := prometheus.NewRegistry()
	a.view = a.newView()
	if err := newMetrics(registry, a.view); err != nil {
		return nil, fmt.Errorf("register the metrics: %w", err)
	}
	dashboard := ui.Handler(a.view)
	a.roles.open(dashboard, a.health)
	api := &api{view: a.view, maxBody: cfg.MaxBody, instructor: cluster.User(cfg.AdminUsername), submitTo: a.roles.submit}
	a.site.open(routes(api, dashboard, registry), a.health)
	return a, nil
}

// Run lets the node work until ctx ends, or a part of it fails, and then takes
// it down.
func (a *Agent) Run(ctx context.Context) error {
	a.log.Info("running", "node", a.self.Name, "id", a.self.ID, "roles", joinRoles(a.cfg.Roles), "version", a.cfg.Version, "door", a.door.Addr().String(), "site", a.site.ln.Addr().String())
	var failed error
	select {
	case <-ctx.Done():
		a.log.Info("stopping", "grace", a.cfg.Grace)
	case failed = <-a.stack.failed:
		a.log.Error("a part failed; stopping", "err", failed)
	}
	begin := time.Now()
	err := errors.Join(failed, a.stack.stop(a.cfg.Grace))
	a.log.Info("stopped", "took", time.Since(begin).Round(time.Millisecond))
	return err
}

// announce leaves the site's address where the command line looks for it.
func (a *Agent) announce() error {
	path := filepath.Join(a.cfg.StateDir, AddressFile)
	if err := writeSecret(path, []byte(a.site.ln.Addr().String()+"\n")); err != nil {
		return err
	}
	a.stack.push("site's address", func(context.Context) error {
		if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	})
	return nil
}

// measureDisk remembers the last use for the dashboard.
func (a *Agent) measureDisk(ctx context.Context, dir string) (int, uint64, error) {
	used, free, err := measureDisk(ctx, dir)
	if err == nil {
		a.used.Store(int64(used))
	}
	return used, free, err
}

func (a *Agent) newView() *view {
	return &view{
		self: a.self, machine: a.machine, log: a.raft.Status, propose: a.propose, health: a.health,
		disk: func() int { return int(a.used.Load()) }, sockets: a.roles.gateway.Sockets, workers: a.roles.workers, gpus: a.roles.answering, lacks: a.roles.lacks, troubles: a.roles.troubles, now: time.Now,
	}
}

// closed is err, unless it says that the thing was closed already.
func closed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// Door is the address at which participants' browsers come in.
func (a *Agent) Door() net.Addr { return a.door.Addr() }

// Site is the address of this node's own site, and the token that it asks for.
func (a *Agent) Site() (addr net.Addr, token Secret) {
	return a.site.ln.Addr(), Secret(a.site.token)
}

// Health is what /healthz says now.
func (a *Agent) Health() Report { return a.health.report() }

// StateDir is the folder of everything that survives a restart.
func (a *Agent) StateDir() string { return a.cfg.StateDir }
