package agent

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/ahelme/comfyume/ui"
)

// watchdog does for a rented machine what nobody may be there to do: it hears
// that the machine is about to be taken away, and runs the admin's own command
// when the machine is idle or has lost the workshop. It deletes nothing by itself.
type watchdog struct {
	f       *fleet
	contact func() time.Time // when the workshop was heard of last
	now     func() time.Time
	run     func(ctx context.Context, event, command string) error

	began time.Time
	mu    sync.Mutex
	busy  time.Time // when a job was there last; mu guards it
	idle  bool      // the hook for this idle time has run
	dead  bool      // and that for this loss
}

// watchEvery is how often it looks: a notice leaves half a minute on some clouds.
const watchEvery = time.Second

func (w *watchdog) watch(ctx context.Context) error {
	w.began = w.now()
	w.worked(w.began)
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			w.look(ctx)
		}
	}
}

func (w *watchdog) look(ctx context.Context) {
	cfg := w.f.cfg
	now := w.now()
	if cfg.SpotNotice != "" && !w.f.isReclaimed() {
		if notice := noticed(ctx, cfg.SpotNotice); notice != "" {
			w.f.reclaimed(notice)
		}
	}
	if w.f.hasJob() {
		w.worked(now)
		w.idle = false
	}
	if idle := now.Sub(w.lastJob()); !w.idle && idle >= cfg.IdleAfter && cfg.IdleHook != "" {
		w.idle = true
		w.hook(ctx, "idle", cfg.IdleHook, "no job has run here for "+idle.Round(time.Second).String())
	}
	heard := w.contact()
	if heard.Before(w.began) {
		heard = w.began
	}
	switch lost := now.Sub(heard); {
	case lost < cfg.DeadManAfter:
		w.dead = false
	case !w.dead && cfg.DeadManHook != "":
		w.dead = true
		w.hook(ctx, "dead-man", cfg.DeadManHook, "the workshop has not been heard of for "+lost.Round(time.Second).String())
	}
}

func (w *watchdog) worked(at time.Time) { w.mu.Lock(); w.busy = at; w.mu.Unlock() }

func (w *watchdog) lastJob() time.Time { w.mu.Lock(); defer w.mu.Unlock(); return w.busy }

func (w *watchdog) hook(ctx context.Context, event, command, why string) {
	w.f.log.Warn("running a hook", "event", event, "why", why)
	if err := w.run(ctx, event, command); err != nil {
		w.f.log.Error("a hook failed", "event", event, "err", err)
	}
}

// hookWithin bounds a hook's run.
const hookWithin = 5 * time.Minute

// runHook runs the admin's command in a shell.
func runHook(ctx context.Context, event, command string) error {
	ctx, cancel := context.WithTimeout(ctx, hookWithin)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-c", command) //nolint:gosec // the admin's own
	cmd.Env = append(withoutSecrets(os.Environ()), "COMFYUME_EVENT="+event)
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(string(out[:min(len(out), 500)])))
	}
	return nil
}

// noticeWithin bounds one question to a cloud's metadata server.
const noticeWithin = 800 * time.Millisecond

// noticed reads a provider's word that the machine is about to go: a file that
// appears, or an address that answers 200 with anything but FALSE or NONE (AWS
// answers 404 until then, Google FALSE). "" means that there is none.
func noticed(ctx context.Context, where string) string {
	if !strings.HasPrefix(where, "http://") && !strings.HasPrefix(where, "https://") {
		if _, err := os.Stat(where); err == nil {
			return where + " is there"
		}
		return ""
	}
	ctx, cancel := context.WithTimeout(ctx, noticeWithin)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, where, nil)
	if err != nil {
		return ""
	}
	req.Header.Set("Metadata-Flavor", "Google")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, 1000))
	word := strings.ToUpper(strings.TrimSpace(string(raw)))
	if err != nil || resp.StatusCode != http.StatusOK || word == "" || word == "FALSE" || word == "NONE" {
		return ""
	}
	return "its provider says so"
}

// idleProblem is for people, when nobody has given a hook: an idle machine costs.
func (w *watchdog) idleProblem(m *meter) (out []ui.Problem) {
	if m == nil || m.price.Hour == 0 || w.lastJob().IsZero() {
		return nil
	}
	busy := w.lastJob()
	if idle := w.now().Sub(busy); idle >= w.f.cfg.IdleAfter {
		b := m.bill()
		out = append(out, ui.Problem{Level: ui.Warn, Since: busy.UnixMilli(), What: fmt.Sprintf("no job has run here for %s, and it costs %s an hour (%s so far)", idle.Round(time.Minute), ui.Money(b.Price.Hour, b.Price.Currency), ui.Money(b.Spent, b.Price.Currency)), Cure: "drain it and give it back if it is not needed; --idle-hook can do so"})
	}
	return out
}
