package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// service tells the machine's service manager (systemd) how this node is: when
// it can take work, what it waits for, that it stops, and at every beat that it
// is alive. A node that hangs misses its beats and is started again; one that is
// busy, or that others keep from being ready, does not.
type service struct {
	log   *slog.Logger
	tell  func(state string) error        // nil: this node has no service manager
	watch time.Duration                   // how long the manager waits for a beat, 0 = for ever
	state func() (ready bool, say string) // may not wait
	alive func(context.Context) error

	mu     sync.Mutex
	ending bool
}

// opening is how long the manager waits for a node that gives no sign while it
// opens. One that gives signs may take as long as it needs: a person may have to
// open a link first, or another machine to be started.
const opening = 2 * time.Minute

// lookEvery is the pace at which a change of state is noticed.
const lookEvery = time.Second

// ServiceManager is how the manager that started this process wants to be told,
// and how often: both zero if there is none. It counts for this process alone.
func ServiceManager() (tell func(state string) error, watch time.Duration, err error) {
	if there, err := daemon.SdNotify(false, "STATUS=starting"); !there {
		return nil, 0, err
	}
	watch, err = daemon.SdWatchdogEnabled(false)
	return func(state string) error {
		_, err := daemon.SdNotify(false, state)
		return err
	}, watch, err
}

// ofManager reports whether a key of the environment is between the service
// manager and this process: ComfyUI must not speak in its name.
func ofManager(key string) bool {
	return key == "NOTIFY_SOCKET" || strings.HasPrefix(key, "WATCHDOG_")
}

// run tells until ctx ends.
func (s *service) run(ctx context.Context) error {
	if s.tell == nil {
		<-ctx.Done()
		return nil
	}
	beat := opening / 4
	if s.watch > 0 {
		beat = min(beat, s.watch/4)
	}
	tick := time.NewTicker(min(lookEvery, beat))
	defer tick.Stop()
	var (
		ready bool
		said  string
		next  = time.Now()
	)
	for {
		is, say := s.state()
		switch {
		case is && !ready:
			ready = true
			s.say(daemon.SdNotifyReady + "\nSTATUS=" + say)
		case say != said:
			s.say("STATUS=" + say)
		}
		said = say
		if now := time.Now(); !now.Before(next) {
			next = now.Add(beat)
			s.beat(ctx, beat, ready)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// beat tells that the node is alive, if it is.
func (s *service) beat(ctx context.Context, within time.Duration, ready bool) {
	asking, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	if err := s.alive(asking); err != nil {
		if ctx.Err() == nil {
			s.log.Error("this node does not look alive; if that goes on, the service manager starts it again", "err", err)
		}
		return
	}
	if ready {
		s.say(daemon.SdNotifyWatchdog)
		return
	}
	s.say(fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", opening.Microseconds()))
}

// stopping tells that the node ends; nothing is told after that.
func (s *service) stopping() {
	s.say(daemon.SdNotifyStopping + "\nSTATUS=stopping")
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ending = true
}

func (s *service) say(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tell == nil || s.ending {
		return
	}
	if err := s.tell(text); err != nil {
		s.log.Warn("the service manager could not be told", "err", err)
	}
}

// newService is this node's word to its service manager. It may be asked before
// the node is open.
func (a *Agent) newService() *service {
	return &service{log: a.log, tell: a.cfg.Notify, watch: a.cfg.Watchdog, state: a.site.inWords, alive: a.site.alive}
}

// inWords is what this node is doing, in one line.
func (s *site) inWords() (ready bool, say string) {
	h := s.health.Load()
	if h == nil {
		return false, oneLine(sentence(s.opening()))
	}
	r := h.report()
	if r.Ready {
		if len(r.Degraded) > 0 {
			return true, "ready, but see the health page: " + strings.Join(r.Degraded, ", ")
		}
		return true, "ready"
	}
	for i, c := range r.Checks {
		if !c.OK && h.checks[i].required {
			return false, oneLine("not ready: " + c.Name + ": " + c.Detail)
		}
	}
	return false, "not ready"
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// alive asks the site as anybody would, over its port, and whether the checks
// without which the node can do nothing still come back. What they say does not
// matter: a node without a leader is alive.
func (s *site) alive(ctx context.Context) error {
	host, port, err := net.SplitHostPort(s.ln.Addr().String())
	if err != nil {
		return err
	}
	if ip := net.ParseIP(host); ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(host, port)+"/healthz", http.NoBody)
	if err != nil {
		return err
	}
	asks := &http.Transport{DisableKeepAlives: true}
	resp, err := (&http.Client{Transport: asks}).Do(r)
	if err != nil {
		return fmt.Errorf("ask this node's own site: %w", err)
	}
	if err := resp.Body.Close(); err != nil {
		return fmt.Errorf("ask this node's own site: %w", err)
	}
	if h := s.health.Load(); h != nil {
		return h.stuck()
	}
	return nil
}
