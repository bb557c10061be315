package tailnet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"tailscale.com/client/local"
	"tailscale.com/envknob"
	"tailscale.com/ipn"
	"tailscale.com/ipn/store"
	"tailscale.com/ipn/store/mem"
	"tailscale.com/tsnet"
	"tailscale.com/types/logger"

	"github.com/ahelme/comfyume/cluster"
)

// Config says how this machine joins a tailnet.
type Config struct {
	// Dir keeps the node's identity in the file "tailscaled.state": a secret,
	// worth a backup, and never to be used by two nodes at once. Created 0700.
	// An ephemeral node writes nothing that outlives Close; "" is allowed then.
	Dir string
	// Hostname is the name asked for; the control server makes it unique.
	Hostname string
	// AuthKey lets a node in that the tailnet does not know yet. A node with
	// an identity in Dir needs none.
	AuthKey string
	// ClientSecret is that of an OAuth client ("tskey-client-…"); a key is made
	// with it when one is needed and AuthKey is "". Needs Tags.
	ClientSecret string
	// Tags of the node. The key, or the person who approves, must own them.
	Tags []string
	// Ephemeral nodes leave the tailnet when they are closed.
	Ephemeral bool
	// ControlURL is the control server; "" = Tailscale's own.
	ControlURL string
	// Port for the encrypted packets (UDP); 0 = one that is picked at the first
	// start and kept in Dir. Another one is taken when it is not free.
	Port uint16
	// APIURL is where keys are made; "" = Tailscale's own.
	APIURL string
	// Logger; nil: slog.Default. The library's own talk is at debug level.
	Logger *slog.Logger
	// Approve is called with the URL that a person must open to let this node
	// in, again when it changes, and again when the membership has expired: by
	// Tailnet itself, later from another goroutine. It must not block. Nil: the
	// URL is logged.
	Approve func(url string)
}

// What Dir holds of ours.
const (
	stateFile = "tailscaled.state" // the identity
	portFile  = "udp-port"
)

// errNoKey says that the control server wants a person, or a key we can make.
var errNoKey = errors.New("a key is needed")

// Tailnet joins a tailnet and returns when this node is part of it, or with
// a sentence that says why not when it is refused or ctx ends. Nothing is
// sent to Tailscale's log servers. Only cfg counts: the variables TS_AUTHKEY,
// TS_CLIENT_SECRET and their kin are taken out of the process's environment,
// so that neither the library nor a child process finds a secret there.
// The Network is an Expirer.
func Tailnet(ctx context.Context, cfg Config) (Network, error) {
	cfg, err := cfg.complete()
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"TS_AUTHKEY", "TS_AUTH_KEY", "TS_CLIENT_SECRET", "TS_CLIENT_ID", "TS_ID_TOKEN", "TS_AUDIENCE"} {
		if err := os.Unsetenv(name); err != nil {
			return nil, fmt.Errorf("clear %s: %w", name, err)
		}
	}
	envknob.SetNoLogsNoSupport()
	state, err := openState(cfg)
	if err != nil {
		return nil, err
	}
	// The library would ask for an ephemeral key, and at every start. A node
	// that is a member needs none, not even the way to the API.
	if cfg.AuthKey == "" && !enrolled(state) {
		if cfg.AuthKey, err = cfg.mint(ctx); err != nil {
			return nil, err
		}
	}
	n, err := join(ctx, cfg, state)
	if errors.Is(err, errNoKey) { // the identity is no longer good
		if cfg.AuthKey, err = cfg.mint(ctx); err != nil {
			return nil, err
		}
		n, err = join(ctx, cfg, state)
	}
	if err != nil {
		return nil, err
	}
	return n, nil
}

// complete fills in what is left out and refuses what cannot work.
func (c Config) complete() (Config, error) {
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	c.Logger = c.Logger.With("component", "tailnet")
	if strings.HasPrefix(c.AuthKey, clientSecretPrefix) && c.ClientSecret == "" {
		c.AuthKey, c.ClientSecret = "", c.AuthKey
	}
	c.ControlURL = cmp.Or(c.ControlURL, ipn.DefaultControlURL)
	c.Tags = slices.Clone(c.Tags)
	switch {
	case c.Dir == "" && !c.Ephemeral:
		return c, cluster.Errorf(cluster.Invalid, "A node of the tailnet needs a folder for its identity; name one with --state-dir.")
	case c.Hostname == "":
		return c, cluster.Errorf(cluster.Invalid, "A node of the tailnet needs a name; give one with --hostname.")
	case c.ClientSecret != "" && len(c.Tags) == 0:
		return c, cluster.Errorf(cluster.Invalid, "An OAuth client secret lets in tagged nodes only; name this node's tag.")
	}
	return c, nil
}

// mint makes the key for this node, or gives "" when there is no client secret.
func (c Config) mint(ctx context.Context) (string, error) {
	if c.ClientSecret == "" {
		return "", nil
	}
	key, _, err := MintKey(ctx, MintConfig{
		ClientSecret: c.ClientSecret, BaseURL: c.APIURL, Tags: c.Tags, TTL: 10 * time.Minute,
		Ephemeral: c.Ephemeral, Description: "comfyume " + c.Hostname,
	})
	return key, err
}

func openState(cfg Config) (ipn.StateStore, error) {
	if cfg.Ephemeral {
		return new(mem.Store), nil
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the tailnet's folder: %w", err)
	}
	path := filepath.Join(cfg.Dir, stateFile)
	state, err := store.NewFileStore(logger.Discard, path)
	if err != nil {
		cfg.Logger.Error("reading the node's identity", "path", path, "err", err)
		return nil, cluster.Errorf(cluster.Invalid, "This node's tailnet identity in %s cannot be read; restore the file from a backup, or remove it and join as a new node.", path)
	}
	return state, nil
}

// enrolled reports whether the identity has been a member of a tailnet.
func enrolled(state ipn.StateStore) bool {
	profile, err := state.ReadState(ipn.CurrentProfileStateKey)
	if err != nil || len(profile) == 0 {
		return false
	}
	raw, err := state.ReadState(ipn.StateKey(profile))
	if err != nil {
		return false
	}
	var p ipn.Prefs
	return ipn.PrefsFromBytes(raw, &p) == nil && p.Persist != nil && !p.Persist.PrivateNodeKey.IsZero() && !p.LoggedOut
}

// join starts a server and waits until it is a member.
func join(ctx context.Context, cfg Config, state ipn.StateStore) (_ *node, err error) {
	n := &node{cfg: cfg, opened: newOpened(), member: enrolled(state)}
	dir := cfg.Dir
	if cfg.Ephemeral {
		if dir, err = os.MkdirTemp("", "comfyume-tailnet-"); err != nil {
			return nil, fmt.Errorf("make a folder for an ephemeral node: %w", err)
		}
		n.scratch = dir
	}
	if cfg.Port == 0 && !cfg.Ephemeral {
		if cfg.Port, err = lastPort(filepath.Join(dir, portFile)); err != nil {
			return nil, err
		}
	}
	n.server = &tsnet.Server{
		Dir: dir, Store: state, Port: cfg.Port, Hostname: cfg.Hostname, AuthKey: cfg.AuthKey, AdvertiseTags: cfg.Tags,
		Ephemeral: cfg.Ephemeral, ControlURL: cfg.ControlURL, Logf: talk(cfg.Logger), UserLogf: talk(cfg.Logger),
	}
	if err := n.server.Start(); err != nil { // a server that did not start is not closed
		return nil, errors.Join(fmt.Errorf("start the tailnet's node: %w", err), n.sweep())
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.Close())
		}
	}()
	c, err := n.server.LocalClient()
	if err != nil {
		return nil, fmt.Errorf("start the tailnet's node: %w", err)
	}
	// With a transport of its own: that of c is never closed.
	n.idle.DialContext = c.Dial
	n.client = &local.Client{Dial: c.Dial, Transport: &n.idle, OmitAuth: true}
	w, err := n.client.WatchIPNBus(ctx, ipn.NotifyInitialState)
	if err != nil {
		return nil, fmt.Errorf("watch the tailnet's node: %w", err)
	}
	err = n.admitted(ctx, w)
	_ = w.Close() // nothing more is read
	if err != nil {
		return nil, err
	}
	if n.self, err = n.lookAtSelf(ctx); err != nil {
		return nil, err
	}
	for _, tag := range cfg.Tags {
		if !slices.Contains(n.self.Tags, tag) {
			return nil, cluster.Errorf(cluster.Forbidden, "The tailnet let this node in without the tag %s, so the others do not know it as one of theirs; remove it in the admin console and start it with a key for that tag.", tag)
		}
	}
	n.follow()
	return n, nil
}

// lastPort gives the port of last time, or picks one and keeps it. Peers go on
// sending to where a node was for six seconds and more after it has restarted
// (the library does not drop the old path), so a node on another port would
// not be reached for ten.
func lastPort(path string) (uint16, error) {
	if raw, err := os.ReadFile(path); err == nil {
		if n, err := strconv.ParseUint(strings.TrimSpace(string(raw)), 10, 16); err == nil && n > 0 {
			return uint16(n), nil
		}
	}
	c, err := net.ListenUDP("udp4", nil)
	if err != nil {
		return 0, fmt.Errorf("pick a port for the tailnet: %w", err)
	}
	port := uint16(c.LocalAddr().(*net.UDPAddr).Port)
	if err := errors.Join(c.Close(), write(path, []byte(strconv.Itoa(int(port))+"\n"), passing)); err != nil {
		return 0, fmt.Errorf("keep the tailnet's port: %w", err)
	}
	return port, nil
}

// admitted returns nil when the control server has let the node in.
func (n *node) admitted(ctx context.Context, w *local.IPNBusWatcher) error {
	door := approval{cfg: n.cfg}
	for {
		note, err := w.Next()
		if err != nil {
			if ctx.Err() == nil {
				return fmt.Errorf("wait for the tailnet: %w", err)
			}
			return fmt.Errorf("%w (%w)", door.waited(), context.Cause(ctx))
		}
		if m := note.ErrMessage; m != nil {
			if !strings.Contains(*m, "rate limited") {
				return refused(n.cfg, *m)
			}
			n.cfg.Logger.Warn("the control server asks to wait", "err", *m)
		}
		if u := note.BrowseToURL; u != nil && *u != "" {
			if n.member && n.cfg.AuthKey == "" && n.cfg.ClientSecret != "" {
				return errNoKey
			}
			door.ask(*u)
		}
		if note.State == nil {
			continue
		}
		switch *note.State {
		case ipn.Running:
			return nil
		case ipn.NeedsMachineAuth:
			door.ask(machinesURL)
		case ipn.NeedsLogin:
			// The library asks for a login by itself when the node is new or
			// has a key. A member's identity is no longer good.
			if !n.member || n.cfg.AuthKey != "" {
				continue
			}
			if n.cfg.ClientSecret != "" {
				return errNoKey
			}
			if err := n.client.StartLoginInteractive(ctx); err != nil {
				return fmt.Errorf("ask to be let in again: %w", err)
			}
		default:
		}
	}
}

// talk lets the library speak at debug level, and costs nothing above it.
func talk(log *slog.Logger) logger.Logf {
	return func(format string, args ...any) {
		if log.Enabled(context.Background(), slog.LevelDebug) {
			log.Debug(strings.TrimSpace(fmt.Sprintf(format, args...)))
		}
	}
}
