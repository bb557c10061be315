package agent

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// dog is a watchdog over a fleet without workers, on a clock of the test's.
func dog(t *testing.T, cfg Config) (w *watchdog, now *time.Time, ran *[]string) {
	t.Helper()
	cfg.Logger = slog.New(slog.DiscardHandler)
	clock, all := time.Unix(1_800_000_000, 0), []string{}
	f := &fleet{a: &Agent{cfg: cfg}, cfg: &cfg, log: cfg.Logger}
	w = &watchdog{f: f, contact: func() time.Time { return time.Time{} }, now: func() time.Time { return clock }}
	w.run = func(_ context.Context, event, command string) error {
		all = append(all, event+": "+command)
		return nil
	}
	w.began = clock
	w.worked(clock)
	f.dog = w
	return w, &clock, &all
}

func TestHooksRunOnceAndNothingRunsWithoutThem(t *testing.T) {
	w, now, ran := dog(t, Config{IdleAfter: 30 * time.Minute, IdleHook: "off", DeadManAfter: 15 * time.Minute, DeadManHook: "alone"})
	for range 60 {
		*now = now.Add(time.Minute)
		w.look(t.Context())
	}
	if got := strings.Join(*ran, ", "); got != "dead-man: alone, idle: off" {
		t.Errorf("ran %s", got)
	}
	w, now, ran = dog(t, Config{IdleAfter: 30 * time.Minute, DeadManAfter: 15 * time.Minute})
	*now = now.Add(48 * time.Hour)
	w.look(t.Context())
	if len(*ran) != 0 {
		t.Errorf("without a hook %v ran", *ran)
	}
	m, err := newMeter(t.TempDir(), Price{700_000, "EUR"}, w.now)
	if err != nil {
		t.Fatal(err)
	}
	if p := w.idleProblem(m); len(p) != 1 || !strings.Contains(p[0].What, "0.70 EUR an hour") {
		t.Errorf("people are told %+v", p)
	}
}

func TestHookHasNoSecrets(t *testing.T) {
	t.Setenv("ADMIN_PASSWORD", "hidden")
	t.Setenv("COMFYUME_TS_AUTHKEY", "hidden")
	t.Setenv("USER_CREDENTIALS_USER001", "user001:hidden")
	out := filepath.Join(t.TempDir(), "out")
	if err := runHook(t.Context(), "idle", "env > "+out); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(out)
	if err != nil || strings.Contains(string(raw), "hidden") || !strings.Contains(string(raw), "COMFYUME_EVENT=idle") {
		t.Errorf("%v: %s", err, raw)
	}
	if err := runHook(t.Context(), "idle", "echo no such machine; exit 3"); err == nil || !strings.Contains(err.Error(), "no such machine") {
		t.Errorf("a hook that fails: %v", err)
	}
}

func TestNoticesOfProviders(t *testing.T) {
	body, status := "", http.StatusNotFound
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}))
	defer s.Close()
	for _, c := range []struct {
		status int
		body   string
		want   bool
	}{{404, "", false}, {200, "FALSE", false}, {200, "NONE\n", false}, {200, "", false}, {200, "TRUE", true}, {200, `{"action":"terminate"}`, true}, {500, "TRUE", false}} {
		status, body = c.status, c.body
		if got := noticed(t.Context(), s.URL) != ""; got != c.want {
			t.Errorf("%d %q: %v", c.status, c.body, got)
		}
	}
	file := filepath.Join(t.TempDir(), "going")
	if noticed(t.Context(), file) != "" {
		t.Error("a file that is not there is a notice")
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	w, _, _ := dog(t, Config{SpotNotice: file})
	w.look(t.Context())
	if !w.f.isReclaimed() {
		t.Error("the notice is not heard")
	}
}

func TestForeignCodeGetsNoneOfOurKeys(t *testing.T) {
	got := withoutSecrets([]string{"PATH=/bin", "ADMIN_PASSWORD=x", "ADMIN_PASSWORD_FILE=y", "COMFYUME_ANYTHING=z", "TS_AUTHKEY=k", "USER_CREDENTIALS_USER001=u:p", "HF_TOKEN=kept", "NOTIFY_SOCKET=/run/systemd/notify", "WATCHDOG_USEC=1", "WATCHDOG_PID=1"})
	if strings.Join(got, " ") != "PATH=/bin HF_TOKEN=kept" {
		t.Errorf("%q", got)
	}
}
