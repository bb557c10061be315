package agent

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/ui"
)

// Files through which the command line finds a running agent.
const (
	AddressFile = "site"  // HOST:PORT of the site while it runs
	TokenFile   = "token" // the secret that the site asks for, 0600
)

// site is this node's own web server. It is up before anything else, so that
// a node that is still opening can be asked how far it is; what is not there
// yet is answered 503. Everything but the page's files, /healthz and /metrics
// asks for the token: other people may have an account on this machine.
type site struct {
	ln     net.Listener
	token  string
	opened atomic.Pointer[http.Handler] // set by open
	health atomic.Pointer[health]
	login  atomic.Pointer[string] // the link that a person has to open first
	log    *slog.Logger
}

// askToLogIn shows the link by which a person lets this machine into the
// tailnet; "" takes it away.
func (s *site) askToLogIn(url string) {
	s.login.Store(&url)
	if url != "" {
		s.log.Warn("this machine is not in the tailnet yet: open the link and sign in", "link", url)
	}
}

// newSite listens; answers begin with run.
func newSite(cfg *Config) (*site, error) {
	token, err := siteToken(filepath.Join(cfg.StateDir, TokenFile))
	if err != nil {
		return nil, err
	}
	ln, err := listenSite(cfg)
	if err != nil {
		return nil, err
	}
	return &site{ln: ln, token: token, log: cfg.Logger.With("component", "site")}, nil
}

// siteTries is how many ports above the default are tried.
const siteTries = 100

func listenSite(cfg *Config) (net.Listener, error) {
	addr := cfg.SiteListen
	if addr == "" {
		addr = defaultSite
	}
	host, portText, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, cluster.Errorf(cluster.Invalid, "--site-listen=%s: use HOST:PORT", addr)
	}
	first, err := strconv.Atoi(portText)
	if err != nil {
		return nil, cluster.Errorf(cluster.Invalid, "--site-listen=%s: the port must be a number", addr)
	}
	for port := first; ; port++ {
		ln, err := listen("site-listen", net.JoinHostPort(host, strconv.Itoa(port)))
		if err == nil || cfg.SiteFixed || first == 0 || port >= first+siteTries || cluster.CodeOf(err) != cluster.Conflict {
			return ln, err
		}
	}
}

// siteToken reads the token, or makes it once.
func siteToken(path string) (string, error) {
	b, err := os.ReadFile(path)
	if t := strings.TrimSpace(string(b)); err == nil && len(t) >= 32 {
		return t, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read the site's token: %w", err)
	}
	raw := make([]byte, 24)
	if _, err := rand.Read(raw); err != nil {
		return "", fmt.Errorf("make a token: %w", err)
	}
	t := hex.EncodeToString(raw)
	return t, writeSecret(path, []byte(t+"\n"))
}

// open puts the handler of everything in place.
func (s *site) open(h http.Handler, health *health) {
	s.health.Store(health)
	s.opened.Store(&h)
}

// run serves until ctx ends. Open feeds are cut: pages connect again.
func (s *site) run(ctx context.Context) error {
	base, cut := context.WithCancel(context.Background())
	defer cut()
	srv := &http.Server{
		Handler: http.HandlerFunc(s.serve), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute,
		BaseContext: func(net.Listener) context.Context { return base },
	}
	served := make(chan error, 1) // one send
	go func() { served <- srv.Serve(s.ln) }()
	select {
	case err := <-served:
		return fmt.Errorf("serve the site: %w", err)
	case <-ctx.Done():
	}
	cut()
	end, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	err := srv.Shutdown(end)
	if errors.Is(err, context.DeadlineExceeded) {
		err = srv.Close()
	}
	<-served
	return err
}

func (s *site) serve(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/healthz" {
		s.healthz(w)
		return
	}
	if strings.HasPrefix(r.URL.Path, "/api/") {
		given, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if !ok || subtle.ConstantTimeCompare([]byte(given), []byte(s.token)) != 1 {
			answerError(w, cluster.Errorf(cluster.Unauthorized, "this needs the token that stands in the file %q of the agent's state folder", TokenFile))
			return
		}
		r = r.WithContext(cluster.ActedBy(r.Context(), localActor(r)))
	}
	h := s.opened.Load()
	if h == nil {
		answerError(w, s.opening())
		return
	}
	(*h).ServeHTTP(w, r)
}

// opening is why there is nothing to see yet.
func (s *site) opening() error {
	if url := s.login.Load(); url != nil && *url != "" {
		return cluster.Errorf(cluster.Unavailable, "this machine is not in the tailnet yet: open %s and sign in", *url)
	}
	return errOpening
}

var errOpening = cluster.Errorf(cluster.Unavailable, "this node is still opening; try again in a moment")

// stillOpening is /healthz before there are checks.
const stillOpening = `{"ready":false,"degraded":[],"checks":[{"name":"opening","ok":false,"age_s":-1,"detail":"this node is still opening"}],"version":""}` + "\n"

func (s *site) healthz(w http.ResponseWriter) {
	status, body := http.StatusServiceUnavailable, []byte(stillOpening)
	if url := s.login.Load(); url != nil && *url != "" {
		raw, err := json.Marshal(Report{Degraded: []string{}, Checks: []Check{{Name: "tailnet", Age: -1, Detail: "this machine is not in the tailnet yet", Cure: "open " + *url + " and sign in"}}})
		if err == nil {
			body = append(raw, '\n')
		}
	}
	if h := s.health.Load(); h != nil {
		status, body = h.answer()
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(body) // a reader that went away is not our failure
}

// ActorHeader is how the command line names the person at the keyboard. Who
// has the token may say so.
const ActorHeader = "X-Comfyume-Actor"

func localActor(r *http.Request) string {
	name := r.Header.Get(ActorHeader)
	if !cluster.User(name).Valid() {
		name = "dashboard"
	}
	return "local/" + name
}

// routes is everything the site serves once the node is open.
func routes(a *api, dashboard http.Handler, metrics prometheus.Gatherer) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", dashboard)
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
	for pattern, h := range map[string]http.HandlerFunc{
		"POST /api/act":                   a.do,
		"POST /api/submit":                a.submit,
		"GET /api/jobs":                   a.list,
		"GET /api/job":                    a.job,
		"POST /api/job/cancel":            a.cancel,
		"POST /api/job/retry":             a.retry,
		"GET /api/users":                  a.users,
		"POST /api/users":                 a.addUser,
		"POST /api/users/{name}/password": a.password,
		"POST /api/users/{name}/disable":  a.disable,
		"POST /api/users/{name}/link":     a.givePass(ui.PassLink),
		"GET /api/users/{name}/token":     a.tokens,
		"POST /api/users/{name}/token":    a.givePass(ui.PassToken),
		"POST /api/users/{name}/signout":  a.signOut,
		"GET /api/queue/mode":             a.mode,
		"POST /api/queue/mode":            a.mode,
		"GET /api/worker/log":             a.printed,
		"POST /api/node/forget":           a.forget,
		"POST /api/node/leave":            a.leave,
		"POST /api/node/invite":           a.invite,
		"GET /api/raft/take":              a.forecast,
		"POST /api/raft/take":             a.take,
		"POST /api/raft/transfer":         a.transfer,
		"GET /api/raft/salvage":           a.leftBehind,
		"POST /api/raft/salvage":          a.salvage,
		"GET /api/raft/snapshot":          a.saveSnapshot,
		"POST /api/raft/snapshot":         a.restoreSnapshot,
		"POST /api/import/v1":             a.v1Begin,
		"GET /api/import/v1/file":         a.v1File,
		"POST /api/import/v1/file":        a.v1File,
		"POST /api/import/v1/settings":    a.v1Settings,
		"POST /api/import/v1/done":        a.v1Done,
		"GET /api/backup":                 a.backupVerb(listBackups),
		"POST /api/backup/init":           a.backupVerb(prepareBackups),
		"POST /api/backup/run":            a.backupVerb(makeBackup),
		"POST /api/backup/verify":         a.backupVerb(verifyBackup),
		"POST /api/backup/restore":        a.backupVerb(a.restoreBackup),
		"POST /api/backup/drill":          a.backupVerb(drillBackup),
		"POST /api/backup/files":          a.bringFiles,
		"GET /api/backup/status":          a.backupVerb(backupStatus),
	} {
		mux.HandleFunc(pattern, h)
	}
	return mux
}
