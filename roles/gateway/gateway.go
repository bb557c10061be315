// Package gateway is the public door: it serves the stock ComfyUI frontend and
// answers, for each participant, the API of a ComfyUI of their own from the
// replicated table, the blob store and the workers' last known capabilities.
// It promises that a prompt it answered 200 was committed, that identity comes
// from the sign-in alone, and that no byte of one user reaches another. It
// refuses to run anything itself.
//
//	door.go      one request: headers, who, whose, which route
//	identity.go login.go headers.go   who asks, how they sign in, what a browser may do
//	routes.go    the one table of routes
//	prompt.go queue.go history.go jobslist.go      work
//	hub.go audience.go relay.go ending.go          what a page hears while it works
//	sockets.go wsframe.go pond_linux.go            and how
//	userdata.go settings.go templates.go           what a page keeps
//	view.go upload.go                              pictures in both directions
//	capabilities.go objectinfo.go system.go        what the workers can do
//	admin.go                                       the dashboard behind this door
//	session.go                                     the same person at another gateway
//	static.go landing.go problems.go errors.go     the rest
package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/blob"
	"github.com/ahelme/comfyume/cluster/files"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/cluster/models"
	"github.com/ahelme/comfyume/cluster/people"
	"github.com/ahelme/comfyume/roles/gateway/frontend"
	"github.com/ahelme/comfyume/roles/gateway/signin"
	"github.com/ahelme/comfyume/roles/gateway/wheels"
)

// Tables are this node's copy of the rows. Each function lets its argument
// read; it must not keep the table nor block.
type Tables interface {
	Jobs(func(*jobs.Table))
	Files(func(*files.Table))
	People(func(*people.Table))
	Models(func(*models.Table))
}

// Watcher tells what moved; state.Watcher is one.
type Watcher interface {
	Next(ctx context.Context) (cluster.Change, error)
	Close()
}

// Config of a Gateway.
type Config struct {
	Node      cluster.NodeID
	Listener  net.Listener // the public port, already open
	Tables    Tables
	Replica   Replica // the table as a place in its history; nil: there is no other gateway
	Propose   cluster.Proposer
	Watch     func() Watcher
	Blobs     blob.Store
	Subscribe func(func(jobs.Event)) (cancel func())
	Tell      func(jobs.Event) // to the other gateways; it must not block. Nil: there is none
	SignIn    *signin.SignIn
	Frontend  *frontend.Files

	OfficialTemplates *wheels.Shelf // ComfyUI's own, for /templates; nil = none
	NodeDocs          *wheels.Shelf // pages about nodes, for /docs; nil = none

	TemplateDir     string // "" = the small ones of this package
	DefaultTemplate string // name of the one that opens first; "" = the first one
	// Instructors may not look into participants' ComfyUI; PriorityUser's jobs
	// get instructor priority (v1's user001).
	PriorityUser cluster.User
	// Admin is the dashboard, served at /admin/ to the instructor under the
	// actor's name. It may stream.
	Admin func(actor string) http.Handler
	// Health is /healthz: its status and its JSON.
	Health func() (status int, body []byte)
	// GPUs counts the workers that are there now. Nil: a worker that was ever seen
	// counts as there.
	GPUs func() int
	// Turns are what is expected of a user's waiting jobs. Nil: nothing is known.
	Turns func(cluster.User) map[jobs.ID]jobs.Turn
	// Quota refuses, with code Quota, who may not queue more now. Nil: nobody is.
	Quota func(cluster.User) error
	// Room refuses, with NoSpace or Quota, a user's new work that may store n bytes
	// more. Nil: there is room.
	Room func(u cluster.User, n int64) error
	// Bound is how many bytes a user's files may take, 0 = as many as there is room
	// for. Nil: 0.
	Bound func(cluster.User) int64
	// Take keeps an upload. It is Put of Blobs, but may leave room for what runs.
	// Nil: Put.
	Take func(ctx context.Context, r io.Reader, size int64) (blob.Ref, int64, error)
	// NodeWeb names the packs of custom nodes whose scripts and style sheets pages
	// get; "*" means all that workers have.
	NodeWeb []string
	// KeepTemp is how long temporary files are kept, 0 = a day; KeepOutputs results,
	// 0 = for ever.
	KeepTemp, KeepOutputs time.Duration

	MaxWaiting uint64 // waiting jobs over which a new one is refused; 0 = no limit
	MaxBody    int    // of a request that is not an upload, in bytes; 0 = 64 MiB
	MaxUpload  int64  // of one upload, in bytes; 0 = 10 GB
	Logger     *slog.Logger
	Now        func() time.Time // nil: time.Now
}

// Gateway is one public door.
type Gateway struct {
	cfg       Config
	log       *slog.Logger
	server    *fasthttp.Server
	routes    *router
	hub       *hub
	caps      *capabilities
	templates *templates
	secrets   *secrets
	problems  *problems
	histories *histories
	pieces    *pieces
	desk      *desk
	life      context.Context // until Run returns; what requests derive theirs from
	end       context.CancelFunc
	pictures  sync.Mutex // one is unpacked at a time: a large one takes hundreds of MB
}

// New makes a Gateway. It listens on nothing before Run.
func New(cfg Config) (*Gateway, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Take == nil {
		cfg.Take = func(ctx context.Context, r io.Reader, size int64) (blob.Ref, int64, error) {
			return cfg.Blobs.Put(ctx, r, size)
		}
	}
	if cfg.Room == nil {
		cfg.Room = func(cluster.User, int64) error { return nil }
	}
	if cfg.KeepTemp == 0 {
		cfg.KeepTemp = keepTemp
	}
	if cfg.MaxBody == 0 {
		cfg.MaxBody = 64 << 20
	}
	if cfg.MaxUpload == 0 {
		cfg.MaxUpload = 10_000_000_000
	}
	g := &Gateway{cfg: cfg, log: cfg.Logger.With("component", "gateway"), problems: newProblems()}
	g.secrets = newSecrets(cfg.Now)
	g.histories = newHistories(cfg.Blobs)
	g.pieces = newPieces()
	g.caps = newCapabilities(g)
	var err error
	if g.templates, err = loadTemplates(cfg.TemplateDir, cfg.DefaultTemplate); err != nil {
		return nil, err
	}
	g.life, g.end = context.WithCancel(context.Background())
	g.hub = newHub(g)
	g.desk = newDesk(g.log)
	g.routes = newRouter(g)
	g.server = &fasthttp.Server{
		Handler: g.serve, Name: "comfyume", NoDefaultServerHeader: true, NoDefaultContentType: true,
		StreamRequestBody: true, DisablePreParseMultipartForm: true, MaxRequestBodySize: int(cfg.MaxUpload),
		ReadBufferSize: 16 << 10, WriteBufferSize: 16 << 10, ReduceMemoryUsage: true,
		// Else Close of a socket does nothing, and a page that does not read is
		// never cut off. Whoever upgrades closes.
		KeepHijackedConns: true,
		ReadTimeout:       headerWithin, IdleTimeout: 2 * time.Minute, CloseOnShutdown: true, Logger: fasthttpLog{g.log},
		ErrorHandler: g.badRequest,
	}
	return g, nil
}

// Run serves until ctx ends.
func (g *Gateway) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer g.end() // last: answers on their way still commit
	// Before the first request: a page that loads now must not see an empty list
	// of nodes, and a page that was cut off by a restart comes back at once.
	watch, end, err := g.hub.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	hubDone := make(chan error, 1)
	go func() { hubDone <- g.hub.run(ctx, watch) }()
	var aside sync.WaitGroup
	aside.Go(func() { g.caps.run(ctx) })
	aside.Go(func() { g.expire(ctx) })
	defer aside.Wait()
	defer cancel()
	served := make(chan error, 1)
	go func() { served <- g.server.Serve(g.cfg.Listener) }()
	select {
	case <-ctx.Done():
	case err = <-served:
		err = fmt.Errorf("the door closed: %w", errors.Join(err, errors.New("its listener ended")))
	case err = <-hubDone:
		hubDone <- nil
	}
	cancel()
	shut, done := context.WithTimeout(context.Background(), shutWithin)
	defer done()
	g.desk.close(shut)
	g.hub.closeAll() // sockets are hijacked: the server does not know them
	if e := g.server.ShutdownWithContext(shut); e != nil && !errors.Is(e, context.DeadlineExceeded) {
		err = errors.Join(err, e)
	}
	return errors.Join(err, <-hubDone)
}

// headerWithin is how long a header may take: a page's arrives at once. A body
// gets bodyWithin, but only from somebody who is signed in: video is large and
// lines are slow.
const (
	headerWithin = time.Minute
	bodyWithin   = 6 * time.Hour
)

// shutWithin bounds how long answers that are on their way may take at the end.
const shutWithin = 5 * time.Second

// fasthttpLog lets the server's own complaints reach the log at debug: broken
// connections are the internet's weather.
type fasthttpLog struct{ s *slog.Logger }

func (l fasthttpLog) Printf(format string, args ...any) { l.s.Debug(fmt.Sprintf(format, args...)) }
