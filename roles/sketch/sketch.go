// Package sketch is a small ComfyUI in Go: it speaks ComfyUI's API and truly
// runs a few of its core image nodes on the CPU with ComfyUI's results (to the
// last bit of a pixel, if not beyond it), plus SketchSlow and SketchFail for the
// roads that tests must take. It makes a workshop run without a GPU and is the server that
// the tests of others drive. It refuses to look like more than it is: there are
// no models, nothing is diffused, and it says so in its version and device.
//
//	POST /prompt -> queue.go -> executor.go -> execution.go -> nodes.go
//	                  |            |                |            images.go scale.go blend.go
//	               routes.go    history.go        hub.go -> /ws
//
// Work and its history live in memory, as in ComfyUI; files live below Dir.
package sketch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/ahelme/comfyume/roles/comfy"
	"github.com/google/uuid"
)

// Version is what system_stats says.
const Version = "sketch-0.1"

// ErrExited is what Run returns when a SketchFail node ended the server.
var ErrExited = errors.New("a SketchFail node ended the server")

// Config says where a Server listens and works.
type Config struct {
	// Dir holds input, output and temp; missing ones are made. Required. temp is
	// emptied at the start.
	Dir string
	// Listener is used when it is set; the server closes it. Else Addr is listened
	// on; "" means a free port of 127.0.0.1.
	Listener net.Listener
	Addr     string
	// Logger hears of prompts and failures, never of what they contain. Nil discards.
	Logger *slog.Logger
	// Speed divides the time that SketchSlow takes, as on a faster GPU; 0 means 1.
	Speed float64
	// MaxUpload is the largest request body in bytes; 0 means 100 MB.
	MaxUpload int64
	// MaxPixels is how many pixels one value may have, over its whole batch; more
	// is the out-of-memory error. 0 means 64 million.
	MaxPixels int
	// Exit is called by SketchFail in its mode "exit". Nil ends the server as if
	// its process had died: sockets are cut and Run returns ErrExited.
	Exit func()
	// Now is the clock. Nil means the real one.
	Now func() time.Time
}

// Server is one sketch.
type Server struct {
	cfg      Config
	log      *slog.Logger
	listener net.Listener
	http     *http.Server
	folders  folders
	classes  *library
	hub      *hub
	queue    *queue
	history  *history
	lines    *logLines
	settings *settings
	letters  string // in the names of unsaved pictures, new at each start
	exec     *executor
	requests gate
	exited   chan struct{}
	exitOnce sync.Once
}

// New makes the folders and listens; requests wait until Run.
func New(cfg Config) (*Server, error) {
	if cfg.Dir == "" {
		return nil, errors.New("start sketch: no folder to work in")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.MaxUpload == 0 {
		cfg.MaxUpload = 100 << 20
	}
	if cfg.MaxPixels == 0 {
		cfg.MaxPixels = 64 << 20
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("start sketch: %w", err)
	}
	s := &Server{
		cfg: cfg, log: cfg.Logger, folders: folders{root: dir}, classes: newLibrary(),
		hub: newHub(), history: newHistory(), lines: newLogLines(), settings: newSettings(), exited: make(chan struct{}), letters: letters(),
	}
	s.queue = newQueue(func(remaining int) { s.hub.broadcast(comfy.Status(remaining, "")) })
	s.exec = newExecutor(s)
	if err := os.RemoveAll(s.folders.path("temp")); err != nil {
		return nil, fmt.Errorf("start sketch: empty temp: %w", err)
	}
	for _, f := range folderNames() {
		if err := os.MkdirAll(s.folders.path(f), 0o755); err != nil {
			return nil, fmt.Errorf("start sketch: %w", err)
		}
	}
	s.listener = cfg.Listener
	if s.listener == nil {
		addr := cfg.Addr
		if addr == "" {
			addr = "127.0.0.1:0"
		}
		if s.listener, err = net.Listen("tcp", addr); err != nil {
			return nil, fmt.Errorf("start sketch: %w", err)
		}
	}
	s.http = &http.Server{Handler: s.routes(), ReadHeaderTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute}
	return s, nil
}

// URL is where the server can be reached.
func (s *Server) URL() string { return "http://" + s.listener.Addr().String() }

// Close gives up the listener of a server that was never run. After Run it does
// nothing.
func (s *Server) Close() error {
	if err := s.listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("close sketch: %w", err)
	}
	return nil
}

// Run serves until ctx ends. It returns nil then, and ErrExited when a node
// ended the server. Whatever runs or waits is lost, as in ComfyUI.
func (s *Server) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() { s.exec.run(ctx) })
	served := make(chan error, 1)
	wg.Go(func() { served <- s.http.Serve(s.listener) })
	var err error
	select {
	case <-ctx.Done():
	case <-s.exited:
		err = ErrExited
	case err = <-served:
		err = fmt.Errorf("serve sketch: %w", err)
	}
	cancel()
	// Cut, not drained: nothing may outlive a process that died.
	if closeErr := s.http.Close(); closeErr != nil && err == nil {
		s.log.Debug("closing the listener", "err", closeErr)
	}
	s.hub.close()
	s.requests.close()
	wg.Wait()
	return err
}

// letters makes a name part that an earlier server has not used.
func letters() string {
	id := uuid.New()
	out := make([]byte, 5)
	for i := range out {
		out[i] = 'a' + id[i]%26
	}
	return string(out)
}

// exit is what SketchFail does to the process.
func (s *Server) exit() {
	if s.cfg.Exit != nil {
		s.cfg.Exit()
		return
	}
	s.exitOnce.Do(func() { close(s.exited) })
}

// note writes one line for the log panel of pages and for the operator. It must
// not contain what a prompt says.
func (s *Server) note(line string, args ...any) {
	s.log.Info(line, args...)
	s.lines.add(s.cfg.Now(), line, args...)
}
