package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/consensus"
	"github.com/ahelme/comfyume/cluster/state"
	"github.com/ahelme/comfyume/cluster/tailnet"
	"github.com/ahelme/comfyume/roles/gateway/certificate"
	"github.com/ahelme/comfyume/roles/gateway/signin"
	"github.com/ahelme/comfyume/ui"
)

// Agent is one running node.
type Agent struct {
	cfg   Config
	log   *slog.Logger
	stack *stack

	self     cluster.Member
	network  tailnet.Network
	swarm    *swarm
	accounts *accounts // nil without the role gateway
	health   *health
	site     *site
	service  *service
	sign     *signin.SignIn // nil on a node that holds no table
	door     net.Listener   // nil without the role gateway
	roles    *roles
	backups  atomic.Pointer[backups] // nil: this node keeps none
	leave    chan struct{}           // closed when the node has left the workshop for good
	disk     *gauge

	certificate *certificate.File // nil: the door speaks plain HTTP
	plain       net.Listener      // from where browsers are sent to the door; nil: nowhere
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
	a := &Agent{cfg: cfg, log: cfg.Logger.With("component", "agent"), stack: newStack(cfg.Logger), leave: make(chan struct{}), disk: newGauge(cfg.StateDir, time.Now)}
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
	lock, err := consensus.LockFolder(cfg.StateDir)
	if err != nil {
		return nil, err
	}
	a.stack.push("folder", func(context.Context) error { return lock.Close() })
	if a.site, err = newSite(&a.cfg); err != nil {
		return nil, err
	}
	a.stack.run("site", a.site.run)
	a.service = a.newService()
	a.stack.run("service manager", a.service.run)
	if err := a.announce(); err != nil {
		return nil, err
	}

	// The network before all that speaks over it, so it is closed after it.
	if a.network, err = openNetwork(ctx, &a.cfg, a.site.askToLogIn); err != nil {
		return nil, err
	}
	a.stack.push("network", func(context.Context) error { return a.network.Close() })
	a.site.askToLogIn("")
	me := a.network.Self()
	a.self = cluster.Member{ID: me.ID, Name: me.Name, Roles: cfg.Roles, Version: cfg.Version, Level: state.Level}

	// This node's part in the workshop: the table, the other nodes.
	if a.swarm, err = newSwarm(&a.cfg, a.network, a.self); err != nil {
		return nil, err
	}
	a.roles = &roles{}
	a.swarm.report, a.swarm.last = a.report, a.kept
	source := a.source()
	dashboard := ui.Handler(source)
	if a.swarm.core != nil {
		serveView(a.swarm.server, source)
		serveTroubles(a.swarm.server, a.roles)
	}
	if cfg.Has(cluster.GPU) {
		a.roles.serveFleet(a.swarm.server)
	}
	if err := a.swarm.start(a.stack, a.people(dashboard)); err != nil {
		return nil, err
	}

	// What a restore left, before anybody can queue into an empty workshop.
	if err := a.bringBack(ctx); err != nil {
		return nil, err
	}

	// The roles, gateway before gpu: who is asked before who asks.
	if err := a.startRoles(ctx); err != nil {
		return nil, err
	}

	if !a.swarm.alone {
		a.stack.run("identity", a.watchTwins)
	}
	if err := a.startBackups(); err != nil {
		return nil, err
	}
	if err := a.startServerless(); err != nil {
		return nil, err
	}

	// What tells about it all.
	a.health = newHealth(cfg.Version, time.Now, a.checks()...)
	a.stack.run("health", a.health.run)
	registry := prometheus.NewRegistry()
	if err := newMetrics(registry, source, a.health, a.space); err != nil {
		return nil, fmt.Errorf("register the metrics: %w", err)
	}
	if err := a.doorMetrics(registry); err != nil {
		return nil, fmt.Errorf("register the metrics of the door: %w", err)
	}
	a.roles.open(dashboard, a.health)
	a.site.open(routes(a.api(source), dashboard, registry), a.health)
	return a, nil
}

// Run lets the node work until ctx ends, it leaves the workshop, or a part of
// it fails, and then takes it down.
func (a *Agent) Run(ctx context.Context) error {
	door := "none"
	if a.door != nil {
		door = a.door.Addr().String()
	}
	limit := memoryLimit("/")
	if limit > 0 && os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(limit / 10 * 9) // collect harder before the kernel kills
	}
	a.log.Info("limits", "processors", runtime.GOMAXPROCS(0), "memory", limit, "enforced", limit > 0)
	a.log.Info("running", "node", a.self.Name, "id", a.self.ID, "roles", joinRoles(a.cfg.Roles), "version", a.cfg.Version, "door", door, "site", a.site.ln.Addr().String())
	var failed error
	select {
	case <-ctx.Done():
		a.log.Info("stopping", "grace", a.cfg.Grace)
	case <-a.leave:
		a.log.Info("this node has left the workshop; stopping")
	case failed = <-a.stack.failed:
		a.log.Error("a part failed; stopping", "err", failed)
	}
	a.service.stopping()
	begin := time.Now()
	err := errors.Join(failed, a.stack.stop(a.cfg.Grace))
	a.log.Info("stopped", "took", time.Since(begin).Round(time.Millisecond))
	return err
}

// announce leaves the site's address where the command line looks for it.
func (a *Agent) announce() error {
	path := filepath.Join(a.cfg.StateDir, AddressFile)
	address := a.site.ln.Addr().String() + "\n"
	if err := writeSecret(path, []byte(address)); err != nil {
		return err
	}
	a.stack.push("site's address", func(context.Context) error {
		if now, err := os.ReadFile(path); err != nil || string(now) != address {
			return nil // another agent's by now, or gone
		}
		return os.Remove(path)
	})
	return nil
}

// source is what this node's dashboard shows: its own tables, or what a core
// node shows it.
func (a *Agent) source() ui.Source {
	if a.swarm.core == nil {
		return &guestView{swarm: a.swarm}
	}
	return &view{swarm: a.swarm, now: time.Now, retry: a.retry, pass: a.pass}
}

// people is what the node's address on the network shows to a person: the
// dashboard to those whose sign-in name was entered, nothing to others.
func (a *Agent) people(dashboard http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who, err := a.swarm.reach.whoIs(r.Context(), r.RemoteAddr)
		if err != nil || who.Login == "" || !a.isAdmin(who.Login) {
			notFound().ServeHTTP(w, r)
			return
		}
		dashboard.ServeHTTP(w, r.WithContext(cluster.ActedBy(r.Context(), "tailnet/"+who.Login)))
	})
}

func (a *Agent) isAdmin(login string) bool {
	for _, l := range a.cfg.AdminLogins {
		if l == login {
			return true
		}
	}
	return false
}

// report is what this node says of itself to the others.
func (a *Agent) report() report {
	r := report{Member: a.self, Space: a.space(), Workers: a.roles.workers()}
	r.Disk = r.Space.Used
	if h := a.roles.health.Load(); h != nil {
		r.Health, r.Problems = h.report(), h.problems()
	}
	if f := a.roles.fleet.Load(); f != nil {
		r.Problems = append(r.Problems, f.problems()...)
		if a.cfg.Price.Hour > 0 {
			b := f.meter.bill()
			r.Bill = &b
		}
	}
	if c := a.swarm.core; c != nil {
		status := c.raft.Status()
		r.Log, r.Waits = &status, c.waits()
		if c.steward != nil {
			r.Forecast = c.steward.Forecast()
		}
		r.Missing = r.Space.Missing
		if c.mirror != nil {
			r.Lost = c.mirror.MissingRefs(maxLost)
		}
		if b := a.backups.Load(); b != nil {
			r.Backups = b.states()
		}
	}
	if g := a.roles.gateway.Load(); g != nil {
		r.Sockets, r.Troubles, r.Lacks, r.Door = g.Sockets(), a.roles.troubles(), a.roles.lacks(), a.doorURL()
		r.Frontend = a.roles.files.Version()
	}
	return r
}

// closed is err, unless it says that the thing was closed already.
func closed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// Door is the address at which participants' browsers come in, nil without the
// role gateway.
func (a *Agent) Door() net.Addr {
	if a.door == nil {
		return nil
	}
	return a.door.Addr()
}

// Site is the address of this node's own site, and the token that it asks for.
func (a *Agent) Site() (addr net.Addr, token Secret) {
	return a.site.ln.Addr(), Secret(a.site.token)
}

// Health is what /healthz says now.
func (a *Agent) Health() Report { return a.health.report() }

// StateDir is the folder of everything that survives a restart.
func (a *Agent) StateDir() string { return a.cfg.StateDir }
