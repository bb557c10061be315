// Package controltest is a tailnet on this machine: a control server, a relay
// and a STUN server, for tests and for tools that break things on purpose. It
// promises that a node gets in with a valid key or by approval only, that a
// known node comes back without either, and that peers see who is online. It
// refuses to be part of the product: it is built on packages that Tailscale
// made for its own tests.
//
//	node --- noise ---> gate.go ---> register.go (keys, approvals)  ---> testcontrol
//	                           +---> online.go (who is there)       --->
//	     --- https ---> relay.go (DERP)     --- udp ---> relay.go (STUN)
//	     --- http ----> api.go (makes keys)
package controltest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"tailscale.com/tailcfg"
	"tailscale.com/tstest/integration/testcontrol"
	"tailscale.com/types/key"

	"github.com/ahelme/comfyume/cluster"
)

// Config of a Control.
type Config struct {
	// IP to listen on; the zero value is 127.0.0.1. Nodes in other network
	// namespaces need an address that they can reach.
	IP netip.Addr
	// Port of the control server; 0 takes a free one.
	Port uint16
	// Domain of the nodes' names; "" = "workshop.test".
	Domain string
	// Open lets every node in, without a key or an approval.
	Open bool
	// Tags that nodes may have; nil = those of the workshop.
	Tags []string
	// Logger; nil is silent.
	Logger *slog.Logger
}

// Control is a running tailnet.
type Control struct {
	cfg      Config
	log      *slog.Logger
	url      string
	upstream *testcontrol.Server
	noise    key.MachinePrivate
	legacy   key.MachinePublic
	secret   string // of the one OAuth client
	upgraded *upgraded
	servers  []*http.Server
	relay    *relay
	running  sync.WaitGroup

	mu      sync.Mutex
	keys    map[string]*authKey
	doors   map[string]*door // by the path of their URL
	members map[key.NodePublic]*member
	tokens  map[string]bool

	// writing makes what changes a node follow one another: the upstream's
	// UpdateNode would undo what comes in at the same time.
	writing sync.Mutex
}

// Start runs a tailnet until Close.
func Start(cfg Config) (*Control, error) {
	if !cfg.IP.IsValid() {
		cfg.IP = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	cfg.Domain = cmp.Or(cfg.Domain, "workshop.test")
	if cfg.Tags == nil {
		cfg.Tags = []string{cluster.TagCore, cluster.TagGPU}
	}
	c := &Control{
		cfg: cfg, log: cfg.Logger, noise: key.NewMachine(), legacy: key.NewMachine().Public(), secret: "tskey-client-test-" + random(),
		keys: map[string]*authKey{}, doors: map[string]*door{}, members: map[key.NodePublic]*member{},
		tokens: map[string]bool{},
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	var err error
	if c.relay, err = startRelay(cfg.IP, c.logf); err != nil {
		return nil, err
	}
	ln, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", netip.AddrPortFrom(cfg.IP, cfg.Port).String())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen for control: %w", err), c.relay.close())
	}
	c.url = "http://" + ln.Addr().String()
	c.upstream = &testcontrol.Server{
		DERPMap: c.relay.derpMap(), DNSConfig: &tailcfg.DNSConfig{Proxied: true}, MagicDNSDomain: cfg.Domain,
		Logf: c.logf, TagOwners: owners(cfg.Tags), ExplicitBaseURL: c.url,
	}
	c.upgraded = &upgraded{addr: ln.Addr(), conns: make(chan net.Conn), done: make(chan struct{})}
	c.serve(&http.Server{Handler: c.routes(), ReadHeaderTimeout: 10 * time.Second}, ln)
	c.serve(c.inner(), c.upgraded)
	return c, nil
}

// serve runs until Close.
func (c *Control) serve(s *http.Server, ln net.Listener) {
	s.ErrorLog = slog.NewLogLogger(c.log.Handler(), slog.LevelDebug)
	c.running.Go(func() { _ = s.Serve(ln) })
	c.servers = append(c.servers, s)
}

// owners lets each tag be taken by any node that the gate lets in with it.
func owners(tags []string) map[string][]string {
	m := map[string][]string{}
	for _, t := range tags {
		m[t] = nil
	}
	return m
}

func (c *Control) logf(format string, args ...any) {
	c.log.Debug(strings.TrimSpace(fmt.Sprintf(format, args...)))
}

func (c *Control) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /key", c.serveKey)
	mux.HandleFunc("/ts2021", c.serveNoise)
	mux.HandleFunc("GET /auth/{door}", c.serveDoor)
	mux.HandleFunc("POST /api/v2/oauth/token", c.serveToken)
	mux.HandleFunc("POST /api/v2/tailnet/{tailnet}/keys", c.serveKeys)
	mux.HandleFunc("GET /generate_204", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	return mux
}

// URL is the control server's, and also that of the API.
func (c *Control) URL() string { return c.url }

// ClientSecret is that of an OAuth client which may make keys here.
func (c *Control) ClientSecret() string { return c.secret }

// Close ends the tailnet. Nodes go on with the peers they know, over direct
// paths only.
func (c *Control) Close() error {
	var err error
	for _, s := range c.servers {
		err = errors.Join(err, s.Close())
	}
	c.running.Wait()
	return errors.Join(err, c.relay.close())
}
