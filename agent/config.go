package agent

import (
	"cmp"
	"errors"
	"log/slog"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/consensus"
	"github.com/ahelme/comfyume/cluster/tailnet"
	"github.com/ahelme/comfyume/roles/backup"
)

// Secret is a text that no log and no page may show.
type Secret string

func (Secret) String() string { return "(secret)" }

// GoString keeps it out of %#v too.
func (Secret) GoString() string { return "(secret)" }

// LogValue keeps it out of slog.
func (Secret) LogValue() slog.Value { return slog.StringValue("(secret)") }

// MarshalText keeps it out of JSON.
func (Secret) MarshalText() ([]byte, error) { return []byte("(secret)"), nil }

// Config of an Agent. Load and Values.Config make one from flags and environment.
type Config struct {
	Roles    []cluster.Role
	Dev      bool
	StateDir string
	Hostname string        // "" asks the operating system
	Grace    time.Duration // how long stopping may take; 0 = 30 s

	Network      string // "tailnet" or "loopback"; "" = tailnet, with Dev no other nodes
	Hall         string // folder in which loopback agents meet
	Vote         consensus.Vote
	Form         bool
	Profile      consensus.Profile
	ControlURL   string
	AdminLogins  []string
	AuthKey      Secret
	ClientSecret Secret
	TailnetAPI   string // where keys are minted; "" = Tailscale's own
	// Joined is a network to use in place of a new one, for tests. It is closed
	// with the agent.
	Joined tailnet.Network

	SiteListen     string // host:port, port 0 takes a free one; "" = 127.0.0.1:7180 or the next free one
	SiteFixed      bool   // SiteListen was chosen by somebody: a taken port is an error
	GatewayListen  string // host:port, port 0 takes a free one
	Domain         string // name under which browsers reach the door, "" = not known
	TLSCert        string // PEM files, "" = plain HTTP
	TLSKey         string
	RedirectListen string // host:port, "off", or "" = :80 beside a door with a certificate on 443
	MaxQueueDepth  uint64 // waiting jobs; 0 = no limit
	MaxBody        int64  // bytes; 0 = the gateway's own

	Users         int    // accounts made when none are given
	UserPrefix    string //
	HTPasswd      string // file, "" = none
	AdminUsername string
	AdminPassword Secret                  // "" = made once
	Participants  map[cluster.User]Secret // from USER_CREDENTIALS_…; wins over HTPasswd

	FrontendVersion string
	FrontendWheel   string // local file, "" = from the index
	WheelDir        string // folder with wheels, "" = none
	FrontendSHA256  string
	PackageIndex    string   // "" = the public one
	NodeWeb         []string // packs of custom nodes whose scripts pages get

	NodeDocs, OfficialTemplates bool   // served, beside the workshop's own
	Templates                   string // folder, "" = our own few
	DefaultTemplate             string

	ComfyUIURLs []string // none with Dev and no ComfyUIDir: sketch

	ComfyUIDir     string // folder of a ComfyUI to start here, "" = none
	ComfyUIPython  string // "" = the folder's own
	ComfyUIArgs    string // more arguments, separated by spaces
	ComfyUIPort    int    // of the first process
	ComfyUIUser    string // OS user, "" = chosen
	ComfyUIVersion string // that is demanded, "" = any
	WorkersPerGPU  int
	ModelDirs      []string      // folders with checkpoints/, loras/ and so on
	NoProgress     time.Duration // 0 = the worker's own

	Price        Price
	IdleAfter    time.Duration
	IdleHook     string // "" = none
	DeadManAfter time.Duration
	DeadManHook  string // "" = none
	SpotNotice   string // file or address, "" = none

	ProbeListen string          // host:port, "" = nowhere
	Keep        []backup.Target // where backups go
	KeepEvery   time.Duration
	KeepKeys    backup.Keys // of buckets
	DrillEvery  time.Duration
	RecoveryKey Secret // of backups; "" = it is given when it is needed
	Given       Secret // what was set, as KEY=value lines; goes into backups, encrypted

	RetainOutputs, RetainTemp, RetainTrash, RetainDamaged time.Duration // 0: results for ever, others as they are by default

	Wake         string // address or command, "" = none
	WakeReplicas int
	WakeToken    Secret

	// Notify tells the service manager that started this process, which waits
	// Watchdog for each sign of life; see ServiceManager. nil: there is none.
	Notify   func(state string) error
	Watchdog time.Duration

	LogLevel  slog.Level
	LogFormat string
	Logger    *slog.Logger // nil: slog.Default
	Version   string       // of this build, for pages
}

// Core reports whether the node holds the table; one that only runs jobs does not.
func (c *Config) Core() bool {
	return c.Has(cluster.Queue) || c.Has(cluster.Gateway) || c.Has(cluster.Backup)
}

// Keeps reports whether the node holds a copy of every file.
func (c *Config) Keeps() bool { return c.Has(cluster.Gateway) || c.Has(cluster.Backup) }

// Has reports whether the node plays a role.
func (c *Config) Has(r cluster.Role) bool { return slices.Contains(c.Roles, r) }

// Config reads the values into a Config and checks it.
func (v *Values) Config() (Config, error) {
	c := Config{
		Dev: must(parseSwitch(v.text("dev"))), StateDir: absolute(v.text("state-dir")), Hostname: v.text("hostname"),
		Grace: must(parseDuration(v.text("grace"))), SiteListen: v.text("site-listen"), SiteFixed: v.given("site-listen"),
		Domain: strings.ToLower(v.text("domain")), TLSCert: absolute(v.text("tls-cert")), TLSKey: absolute(v.text("tls-key")), RedirectListen: v.text("redirect-listen"),
		GatewayListen: v.text("gateway-listen"), MaxQueueDepth: must(parseNumber(v.text("max-queue-depth"))),
		MaxBody: must(parseSize(v.text("max-body"))), Users: int(must(parseNumber(v.text("num-users")))),
		UserPrefix: v.text("user-prefix"), HTPasswd: absolute(v.text("htpasswd")), AdminUsername: v.text("admin-username"),
		AdminPassword: Secret(v.text("admin-password")), FrontendVersion: v.text("frontend-version"),
		FrontendWheel: absolute(v.text("frontend-wheel")), WheelDir: absolute(v.text("wheel-dir")), FrontendSHA256: strings.ToLower(v.text("frontend-sha256")),
		PackageIndex: v.text("package-index"), Templates: absolute(v.text("templates")), DefaultTemplate: v.text("default-template"),
		ComfyUIURLs: parseList(v.text("comfyui-url")), NodeWeb: parseList(v.text("node-web")),
		NodeDocs: must(parseSwitch(v.text("node-docs"))), OfficialTemplates: must(parseSwitch(v.text("official-templates"))), LogFormat: v.text("log-format"),
		ComfyUIDir: absolute(v.text("comfyui-dir")), ComfyUIPython: v.text("comfyui-python"), ComfyUIArgs: v.text("comfyui-args"), ComfyUIPort: int(must(parseNumber(v.text("comfyui-port")))),
		ComfyUIUser: v.text("comfyui-user"), ComfyUIVersion: v.text("comfyui-version"), WorkersPerGPU: int(must(parseNumber(v.text("workers-per-gpu")))),
		NoProgress: must(parseDuration(v.text("no-progress"))),
		IdleAfter:  must(parseDuration(v.text("idle-after"))), IdleHook: v.text("idle-hook"), DeadManAfter: must(parseDuration(v.text("dead-man-after"))),
		DeadManHook: v.text("dead-man-hook"), SpotNotice: v.text("spot-notice"),
		KeepEvery: must(parseDuration(v.text("keep-every"))), DrillEvery: must(parseDuration(v.text("drill-every"))), Given: Secret(v.lines()),
		RetainOutputs: must(optionalDuration(v.text("retain-outputs"))), RetainTemp: must(parseDuration(v.text("retain-temp"))),
		RetainTrash: must(parseDuration(v.text("retain-trash"))), RetainDamaged: must(parseDuration(v.text("retain-damaged"))),
		ProbeListen: v.text("probe-listen"), Wake: v.text("wake"), WakeReplicas: int(must(parseNumber(v.text("wake-replicas")))), WakeToken: Secret(v.text("wake-token")),
		Network: v.text("network"), Hall: absolute(v.text("loopback-dir")), Vote: consensus.Vote(v.text("voter")), Form: must(parseSwitch(v.text("form"))),
		Profile: consensus.Profile(v.text("raft-profile")), ControlURL: v.text("control-url"), AdminLogins: parseList(v.text("admin-login")),
		AuthKey: Secret(v.text("ts-authkey")), ClientSecret: Secret(v.text("ts-client-secret")),
	}
	if err := c.LogLevel.UnmarshalText([]byte(v.text("log-level"))); err != nil {
		return Config{}, cluster.Errorf(cluster.Invalid, "--log-level: %v", err)
	}
	if c.Dev && c.AuthKey != "" {
		v.Notes = append(v.Notes, "COMFYUME_TS_AUTHKEY is set and not used: --dev has no other nodes")
	}
	for _, d := range parseList(v.text("models-dir")) {
		c.ModelDirs = append(c.ModelDirs, absolute(d))
	}
	if err := v.keeping(&c); err != nil {
		return Config{}, err
	}
	var err error
	if c.Price, err = parsePrice(v.text("gpu-price")); err != nil {
		return Config{}, cluster.Errorf(cluster.Invalid, "--gpu-price=%s: %v", v.text("gpu-price"), err)
	}
	if c.Roles, err = cluster.ParseRoles(v.text("roles")); err != nil {
		return Config{}, err
	}
	if c.Participants, err = participants(v.credentials); err != nil {
		return Config{}, err
	}
	return c, c.Validate()
}

// participants reads NAME:PASSWORD values.
func participants(rows []Value) (map[cluster.User]Secret, error) {
	out := map[cluster.User]Secret{}
	for _, r := range rows {
		name, password, ok := strings.Cut(r.Text, ":")
		switch u := cluster.User(name); {
		case !ok || password == "":
			return nil, cluster.Errorf(cluster.Invalid, "%s must be NAME:PASSWORD", r.Key)
		case !u.Valid():
			return nil, cluster.Errorf(cluster.Invalid, "%s: the name before the colon may have letters, digits, '-', '_' and '.' only", r.Key)
		case out[u] != "":
			return nil, cluster.Errorf(cluster.Invalid, "%s: the name %s stands in two keys", r.Key, u)
		case len(password) > maxPassword:
			return nil, cluster.Errorf(cluster.Invalid, "%s: the password is over %d bytes long", r.Key, maxPassword)
		default:
			out[u] = Secret(password)
		}
	}
	return out, nil
}

// maxPassword is what bcrypt takes, in bytes.
const maxPassword = 72

// Validate refuses what cannot work, with the cure in the sentence.
func (c *Config) Validate() error {
	bad := func(format string, args ...any) error { return cluster.Errorf(cluster.Invalid, format, args...) }
	switch {
	case len(c.Roles) == 0:
		return bad("say what this node does, e.g. --roles=gateway,queue,gpu, or use --dev for a whole workshop on this machine")
	case c.Dev && (!c.Has(cluster.Queue) || !c.Has(cluster.Gateway)):
		return bad("--dev --roles=%s: a workshop on one machine alone needs the roles queue and gateway", joinRoles(c.Roles))
	case c.Form && !c.Has(cluster.Queue):
		return bad("--form --roles=%s: only a node with the role queue can form a workshop", joinRoles(c.Roles))
	case c.Has(cluster.GPU) && !c.Dev && len(c.ComfyUIURLs) == 0 && c.ComfyUIDir == "":
		return bad("the role gpu needs a ComfyUI: give --comfyui-dir=FOLDER to have it started here, or --comfyui-url=http://127.0.0.1:8188 for one that runs (--comfyui-url=sketch is our own small one)")
	case !c.Has(cluster.GPU) && len(c.ComfyUIURLs) > 0:
		return bad("--comfyui-url is given but --roles=%s has no gpu: add gpu, or leave the address out", joinRoles(c.Roles))
	case !c.Has(cluster.GPU) && c.ProbeListen != "":
		return bad("--probe-listen is for a serverless container, and --roles=%s has no gpu: leave it out", joinRoles(c.Roles))
	case c.RetainTrash > 0 && c.RetainTrash < time.Hour:
		return bad("--retain-trash=%s: use an hour or more, e.g. 24h", c.RetainTrash)
	case len(c.Keep) > 0 && !c.Keeps():
		return bad("--keep=%s: only a node with the role gateway or backup has all files to keep", c.Keep[0].Spec)
	case c.Has(cluster.Backup) && len(c.Keep) == 0:
		return bad("the role backup needs to know where to: --keep=dir:/mnt/backup or --keep=s3:https://HOST/BUCKET")
	case len(c.Keep) > 0 && c.KeepEvery < time.Second:
		return bad("--keep-every=%s: use a second or more, e.g. 5m", c.KeepEvery)
	case c.Wake != "" && !c.Has(cluster.Queue):
		return bad("--wake is for a node that can lead the queue, and --roles=%s has no queue: give it there", joinRoles(c.Roles))
	case !c.Has(cluster.GPU) && c.ComfyUIDir != "":
		return bad("--comfyui-dir is given but --roles=%s has no gpu: add gpu, or leave the folder out", joinRoles(c.Roles))
	case c.ComfyUIDir != "" && (c.WorkersPerGPU < 1 || c.WorkersPerGPU > 3):
		return bad("--workers-per-gpu=%d: one to three processes share a GPU", c.WorkersPerGPU)
	case c.ComfyUIDir != "" && (c.ComfyUIPort < 1 || c.ComfyUIPort > 65000):
		return bad("--comfyui-port=%d: use a port of 1 to 65000", c.ComfyUIPort)
	case c.StateDir == "":
		return bad("--state-dir is empty: name a folder")
	case c.AdminUsername == "" || !cluster.User(c.AdminUsername).Valid():
		return bad("ADMIN_USERNAME=%s: use letters, digits, '-', '_' and '.' only", c.AdminUsername)
	case len(c.AdminPassword) > maxPassword:
		return bad("ADMIN_PASSWORD is over %d bytes long", maxPassword)
	case c.Users > 999:
		return bad("--num-users=%d: at most 999", c.Users)
	case !cluster.User(c.UserPrefix + "001").Valid():
		return bad("--user-prefix=%s: use letters and digits", c.UserPrefix)
	}
	for _, arg := range strings.Fields(c.ComfyUIArgs) {
		name, _, _ := strings.Cut(arg, "=")
		if slices.Contains([]string{"--listen", "--port", "--multi-user", "--tls-keyfile", "--tls-certfile", "--enable-cors-header", "--extra-model-paths-config"}, name) {
			return bad("--comfyui-args: %s is the agent's own: ComfyUI is reached from this machine only, and --comfyui-port and --models-dir say the rest", name)
		}
	}
	for u := range c.Participants {
		if err := checkName(u, cluster.User(c.AdminUsername)); err != nil {
			return err
		}
	}
	for _, a := range []struct{ flag, addr string }{{"gateway-listen", cmp.Or(c.GatewayListen, devGatewayListen)}, {"site-listen", cmp.Or(c.SiteListen, defaultSite)}} {
		if _, _, err := net.SplitHostPort(a.addr); err != nil {
			return bad("--%s=%s: use HOST:PORT, e.g. 127.0.0.1:8800 or :443", a.flag, a.addr)
		}
	}
	for _, u := range c.ComfyUIURLs {
		if u == sketchURL {
			continue
		}
		if p, err := url.Parse(u); err != nil || p.Host == "" || p.Scheme != "http" && p.Scheme != "https" {
			return bad("--comfyui-url=%s: use an address such as http://127.0.0.1:8188", u)
		}
	}
	return c.validateDoor()
}

func (c *Config) validateDoor() error {
	name, err := url.Parse("https://" + c.Domain)
	switch {
	case c.Domain != "" && (err != nil || name.Hostname() != c.Domain || strings.ContainsAny(c.Domain, "@:*[")):
		return cluster.Errorf(cluster.Invalid, "--domain=%s: use a host name alone, e.g. comfy.example.net", c.Domain)
	case (c.TLSCert == "") != (c.TLSKey == ""):
		return cluster.Errorf(cluster.Invalid, "--tls-cert and --tls-key belong together: give both (SSL_CERT_PATH and SSL_KEY_PATH), or neither")
	}
	if addr := c.RedirectListen; addr != "" && addr != redirectOff {
		if _, _, err := net.SplitHostPort(addr); err != nil {
			return cluster.Errorf(cluster.Invalid, "--redirect-listen=%s: use HOST:PORT, e.g. :80, or off", addr)
		}
		if c.TLSCert == "" {
			return cluster.Errorf(cluster.Invalid, "--redirect-listen=%s sends browsers to TLS, and the door has no certificate: give --tls-cert and --tls-key", addr)
		}
	}
	return nil
}

// sketchURL stands for our own small ComfyUI in place of an address.
const sketchURL = "sketch"

// defaultSite is where the site listens when nobody says.
const defaultSite = "127.0.0.1:7180"

func joinRoles(rs []cluster.Role) string {
	words := make([]string, len(rs))
	for i, r := range rs {
		words[i] = string(r)
	}
	return strings.Join(words, ",")
}

func parseSwitch(s string) (bool, error) {
	b, err := strconv.ParseBool(s)
	if err != nil {
		return false, errors.New("use true or false")
	}
	return b, nil
}

func parseNumber(s string) (uint64, error) {
	n, err := strconv.ParseUint(s, 10, 31)
	if err != nil {
		return 0, errors.New("use a whole number of 0 or more")
	}
	return n, nil
}

// optionalDuration is 0 when nobody says.
func optionalDuration(s string) (time.Duration, error) {
	if s == "" {
		return 0, nil
	}
	return parseDuration(s)
}

func parseDuration(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return 0, errors.New("use a duration such as 30s or 2m")
	}
	return d, nil
}

func parseSize(s string) (int64, error) {
	n, err := humanize.ParseBytes(s)
	if err != nil || n == 0 || n > 1<<50 {
		return 0, errors.New("use a size such as 64MiB or 10GB")
	}
	return int64(n), nil
}

func parseList(s string) []string {
	var out []string
	for part := range strings.SplitSeq(s, ",") {
		if part = strings.TrimSpace(part); part != "" && !slices.Contains(out, part) {
			out = append(out, part)
		}
	}
	return out
}

func absolute(path string) string {
	if path == "" {
		return ""
	}
	if a, err := filepath.Abs(path); err == nil {
		return a
	}
	return path
}

// must drops an error that Load has already ruled out: it checks every text
// that somebody gave, and the defaults are checked by a test.
func must[T any](v T, err error) T {
	if err != nil {
		panic("agent: " + err.Error())
	}
	return v
}
