package agent_test

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ahelme/comfyume/agent"
	"github.com/ahelme/comfyume/cluster"
)

// patience bounds every wait of these tests. The CI machine is slow.
const patience = 30 * time.Second

// tinyWheel is a frontend of one page, so that these tests need no download.
func tinyWheel(t *testing.T) (path, digest string) {
	t.Helper()
	var buf bytes.Buffer
	z := zip.NewWriter(&buf)
	for name, text := range map[string]string{
		"comfyui_frontend_package/static/index.html":           "<!doctype html><title>ComfyUI</title>",
		"comfyui_frontend_package/static/assets/i-AbCd1234.js": strings.Repeat("let x = 1;\n", 500),
	} {
		w, err := z.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), "comfyui_frontend_package-9.9.9-py3-none-any.whl")
	if err := os.WriteFile(path, buf.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(buf.Bytes())
	return path, hex.EncodeToString(sum[:])
}

// running is a node that works until the test stops it.
type running struct {
	t      *testing.T
	agent  *agent.Agent
	door   string // http://HOST:PORT
	site   string
	token  string
	log    *bytes.Buffer // read it after stop
	cancel context.CancelFunc
	done   chan error
}

// dev is the settings of a whole workshop on this machine, with two people.
func dev(t *testing.T, dir string) agent.Config {
	t.Helper()
	wheel, digest := tinyWheel(t)
	return agent.Config{
		Dev: true, Roles: []cluster.Role{cluster.Queue, cluster.Gateway, cluster.GPU}, StateDir: dir, Hostname: "mello", Version: "test",
		SiteListen: "127.0.0.1:0", SiteFixed: true, GatewayListen: "127.0.0.1:0", MaxQueueDepth: 100, MaxBody: 1 << 20, Users: 2, UserPrefix: "user",
		AdminUsername: "admin", AdminPassword: "hush", Participants: map[cluster.User]agent.Secret{"user001": "secret", "user002": "other"},
		FrontendVersion: "9.9.9", FrontendWheel: wheel, FrontendSHA256: digest, Grace: 20 * time.Second,
	}
}

// start builds a node and lets it run; the test ends it if nobody else does.
func start(t *testing.T, cfg agent.Config) *running {
	t.Helper()
	r := &running{t: t, log: &bytes.Buffer{}, done: make(chan error, 1)}
	cfg.Logger = slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	a, err := agent.New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.agent, r.cancel = a, cancel
	go func() { r.done <- a.Run(ctx) }()
	t.Cleanup(func() {
		r.stop()
		if t.Failed() {
			t.Logf("log of the node:\n%s", r.log)
		}
	})
	site, token := a.Site()
	r.site, r.token = "http://"+site.String(), string(token)
	if door := a.Door(); door != nil {
		r.door = "http://" + door.String()
	}
	return r
}

// stop ends the node; a second call does nothing.
func (r *running) stop() {
	r.t.Helper()
	if r.cancel == nil {
		return
	}
	r.cancel()
	r.cancel = nil
	select {
	case err := <-r.done:
		if err != nil {
			r.t.Errorf("the node stopped with %v", err)
		}
	case <-time.After(patience):
		r.t.Error("the node did not stop")
	}
}

// until waits for a condition.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !is() {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v for %s", patience, what)
		}
		<-time.After(20 * time.Millisecond)
	}
}

func (r *running) ready() {
	r.t.Helper()
	until(r.t, "a ready node with nothing degraded", func() bool {
		h := r.agent.Health()
		return h.Ready && len(h.Degraded) == 0
	})
}

// ask is one request. who is "name:password" for the door, "" for nobody, or
// "token" for the site.
func (r *running) ask(method, address, who, body string) (status int, answer []byte, head http.Header) {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), method, address, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	if name, password, ok := strings.Cut(who, ":"); ok {
		req.SetBasicAuth(name, password)
	} else if who != "" {
		req.Header.Set("Authorization", "Bearer "+r.token)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err = io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return resp.StatusCode, answer, resp.Header
}

// get is ask for JSON that must come.
func (r *running) get(address, who string, out any) {
	r.t.Helper()
	status, body, _ := r.ask(http.MethodGet, address, who, "")
	if status != http.StatusOK {
		r.t.Fatalf("GET %s: %d %s", address, status, body)
	}
	if err := json.Unmarshal(body, out); err != nil {
		r.t.Fatalf("GET %s: %v in %s", address, err, body)
	}
}
