package controltest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/http2"
	"tailscale.com/control/controlhttp/controlhttpserver"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"

	"github.com/ahelme/comfyume/cluster"
)

// maxRequest is the size, in bytes, of what a node may send at once.
const maxRequest = 1 << 20

// member is a node that was let in.
type member struct {
	ephemeral bool
	out       bool // logged out, expired or removed
	streams   int  // open map polls: online while there is one
}

// door is a login URL and who waits behind it.
type door struct {
	node     key.NodePublic
	approved bool
	open     chan struct{} // closed by Approve
}

// authKey lets nodes in.
type authKey struct {
	KeyOptions
	used bool
}

// KeyOptions says what kind of node a key lets in.
type KeyOptions struct {
	Reusable  bool
	Ephemeral bool
	Expires   time.Time // zero is never
	Tags      []string  // that the nodes may have; nil = any
}

// NewKey makes a key.
func (c *Control) NewKey(o KeyOptions) string {
	k := "tskey-auth-" + random()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.keys[k] = &authKey{KeyOptions: o}
	return k
}

// Approve opens a login URL, as a person would. It reports whether a node
// waits there.
func (c *Control) Approve(url string) bool {
	_, path, ok := strings.Cut(url, "/auth/")
	if !ok {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	d := c.doors[path]
	if d == nil || d.approved {
		return false
	}
	d.approved = true // it stays: the node may come to it only now
	close(d.open)
	return true
}

// Expire ends a node's membership now, as an admin can: it must be let in
// again. It reports whether there is such a node.
func (c *Control) Expire(id cluster.NodeID) bool {
	for _, n := range c.upstream.AllNodes() {
		if n.StableID != tailcfg.StableNodeID(id) {
			continue
		}
		c.mu.Lock()
		m := c.members[n.Key]
		if m != nil {
			m.out = true
		}
		c.mu.Unlock()
		c.change(n.Key, func(n *tailcfg.Node) { n.KeyExpiry, n.Online = time.Now().Add(-time.Minute), new(bool) })
		return m != nil
	}
	return false
}

// change updates what all nodes are told of one.
func (c *Control) change(k key.NodePublic, do func(*tailcfg.Node)) {
	c.writing.Lock()
	defer c.writing.Unlock()
	if n := c.upstream.Node(k); n != nil {
		do(n)
		c.upstream.UpdateNode(n)
	}
}

func (c *Control) serveKey(w http.ResponseWriter, _ *http.Request) {
	answer(w, http.StatusOK, tailcfg.OverTLSPublicKeyResponse{LegacyPublicKey: c.legacy, PublicKey: c.noise.Public()})
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the node may have hung up
}

// asMachine is a context that tells the upstream which machine asks. The
// upstream puts its own private key type there after its own handshake; it is
// recognized by its name, and the upstream panics if the name has changed.
type asMachine struct {
	context.Context
	machine key.MachinePublic
}

func (a asMachine) Value(k any) any {
	if fmt.Sprintf("%T", k) == "testcontrol.peerMachinePublicContextKey" {
		return a.machine
	}
	return a.Context.Value(k)
}

// serveNoise ends the encryption, so that the gate sees the requests.
func (c *Control) serveNoise(w http.ResponseWriter, r *http.Request) {
	cc, err := controlhttpserver.AcceptHTTP(r.Context(), w, r, c.noise, nil)
	if err != nil {
		c.log.Debug("a node's handshake failed", "err", err)
		return
	}
	defer func() { _ = cc.Close() }()
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return
	}
	c.conns[cc] = struct{}{}
	c.running.Add(1)
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.conns, cc)
		c.mu.Unlock()
		c.running.Done()
	}()
	(&http2.Server{}).ServeConn(cc, &http2.ServeConnOpts{
		Context: asMachine{r.Context(), cc.Peer()}, BaseConfig: &http.Server{Handler: http.HandlerFunc(c.serveNode)},
	})
}

func (c *Control) serveNode(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxRequest))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	switch r.URL.Path {
	case "/machine/register":
		c.serveRegister(w, r, body)
	case "/machine/map":
		c.serveMap(w, r, body)
	case "/machine/update-health", "/machine/set-dns":
		c.upstream.ServeHTTP(w, r)
	default: // the upstream would panic
		http.NotFound(w, r)
	}
}

func (c *Control) serveRegister(w http.ResponseWriter, r *http.Request, body []byte) {
	var req tailcfg.RegisterRequest
	if err := json.Unmarshal(body, &req); err != nil || req.Hostinfo == nil {
		http.Error(w, "not a registration", http.StatusBadRequest)
		return
	}
	if !req.Expiry.IsZero() && req.Expiry.Before(time.Now()) {
		c.leave(req.NodeKey)
		answer(w, http.StatusOK, tailcfg.RegisterResponse{NodeKeyExpired: true})
		return
	}
	no, d := c.judge(&req)
	if no != nil {
		answer(w, http.StatusOK, no)
		return
	}
	if d != nil { // a person must open the door first
		select {
		case <-d.open:
		case <-r.Context().Done():
			return
		}
		c.admit(req.NodeKey, req.Ephemeral)
	}
	// The upstream has no approvals of its own and would wait for one.
	req.Followup = ""
	c.pass(w, r, &req)
}

// judge gives nil and nil to a node that may come in now, the door at which it
// waits, or the refusal.
func (c *Control) judge(req *tailcfg.RegisterRequest) (*tailcfg.RegisterResponse, *door) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m := c.members[req.NodeKey]; m != nil {
		if m.out {
			return &tailcfg.RegisterResponse{NodeKeyExpired: true}, nil
		}
		return nil, nil
	}
	for _, t := range req.Hostinfo.RequestTags {
		if !slices.Contains(c.cfg.Tags, t) {
			return &tailcfg.RegisterResponse{Error: fmt.Sprintf("requested tags [%s] are invalid or not permitted", t)}, nil
		}
	}
	if c.cfg.Open {
		c.members[req.NodeKey] = &member{ephemeral: req.Ephemeral}
		return nil, nil
	}
	if req.Auth != nil && req.Auth.AuthKey != "" {
		return c.useKey(req), nil
	}
	if _, path, ok := strings.Cut(req.Followup, "/auth/"); ok {
		if d := c.doors[path]; d != nil && d.node == req.NodeKey {
			return nil, d
		}
	}
	path := random()
	c.doors[path] = &door{node: req.NodeKey, open: make(chan struct{})}
	return &tailcfg.RegisterResponse{AuthURL: c.url + "/auth/" + path}, nil
}

// useKey gives the refusal, or nil after it let the node in. c.mu is held.
func (c *Control) useKey(req *tailcfg.RegisterRequest) *tailcfg.RegisterResponse {
	k := c.keys[req.Auth.AuthKey]
	no := func(format string, args ...any) *tailcfg.RegisterResponse {
		return &tailcfg.RegisterResponse{Error: "invalid key: " + fmt.Sprintf(format, args...)}
	}
	switch {
	case k == nil:
		return no("API key does not exist")
	case !k.Expires.IsZero() && time.Now().After(k.Expires):
		return no("API key has expired")
	case k.used && !k.Reusable:
		return no("API key has been used")
	}
	for _, t := range req.Hostinfo.RequestTags {
		if k.Tags != nil && !slices.Contains(k.Tags, t) {
			return no("tag %s is not one of the key's", t)
		}
	}
	k.used = true
	c.members[req.NodeKey] = &member{ephemeral: req.Ephemeral || k.Ephemeral}
	return nil
}

func (c *Control) admit(k key.NodePublic, ephemeral bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.members[k] == nil {
		c.members[k] = &member{ephemeral: ephemeral}
	}
}

// leave is a node's own farewell. An ephemeral one is forgotten.
func (c *Control) leave(k key.NodePublic) {
	c.mu.Lock()
	m := c.members[k]
	if m != nil {
		m.out = true
	}
	c.mu.Unlock()
	if m == nil {
		return
	}
	c.change(k, func(n *tailcfg.Node) {
		n.Online = new(bool)
		if m.ephemeral { // the upstream forgets nobody; peers do not list a node without an address
			n.Addresses, n.AllowedIPs = nil, nil
		}
	})
}

// pass lets the upstream register a node and makes its name unique.
func (c *Control) pass(w http.ResponseWriter, r *http.Request, req *tailcfg.RegisterRequest) {
	c.writing.Lock()
	defer c.writing.Unlock()
	known := c.upstream.Node(req.NodeKey) != nil
	if !known && c.upstream.Node(req.OldNodeKey) != nil {
		c.rotate(r, req)
	}
	rec := c.register(r, req)
	if n := c.upstream.Node(req.NodeKey); n != nil && !known {
		n.Name, n.KeyExpiry = c.unique(n), time.Time{}
		c.upstream.UpdateNode(n)
	}
	w.WriteHeader(rec.status)
	_, _ = w.Write(rec.body.Bytes()) // the node may have hung up
}

// rotate makes req one that replaces the node's old key: the upstream drops
// that only when the registration follows up on one of its own login URLs.
// Registrations follow one another, so nobody else sees RequireAuth change.
func (c *Control) rotate(r *http.Request, req *tailcfg.RegisterRequest) {
	c.upstream.RequireAuth = true
	rec := c.register(r, req)
	c.upstream.RequireAuth = false
	var res tailcfg.RegisterResponse
	if json.Unmarshal(rec.body.Bytes(), &res) == nil && c.upstream.CompleteAuth(res.AuthURL) {
		req.Followup = res.AuthURL
	}
}

func (c *Control) register(r *http.Request, req *tailcfg.RegisterRequest) *recorder {
	rec := &recorder{header: http.Header{}, status: http.StatusOK}
	raw, err := json.Marshal(req)
	if err != nil {
		rec.status = http.StatusInternalServerError
		return rec
	}
	r.Body = io.NopCloser(bytes.NewReader(raw))
	c.upstream.ServeHTTP(rec, r)
	return rec
}

// unique appends a number to a name that another node has.
func (c *Control) unique(n *tailcfg.Node) string {
	name := func(i int) string {
		host := n.Hostinfo.Hostname()
		if i > 0 {
			host = fmt.Sprintf("%s-%d", host, i)
		}
		return host + "." + c.cfg.Domain + "."
	}
	others := c.upstream.AllNodes()
	for i := 0; ; i++ {
		if !slices.ContainsFunc(others, func(o *tailcfg.Node) bool { return o.StableID != n.StableID && o.Name == name(i) }) {
			return name(i)
		}
	}
}

// recorder holds an answer back until the name is right.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) WriteHeader(status int)      { r.status = status }
func (r *recorder) Write(b []byte) (int, error) { return r.body.Write(b) }

// serveMap tells a node of the others, and the others that it is there.
func (c *Control) serveMap(w http.ResponseWriter, r *http.Request, body []byte) {
	var req tailcfg.MapRequest
	if err := json.Unmarshal(body, &req); err != nil {
		http.Error(w, "not a map request", http.StatusBadRequest)
		return
	}
	if !req.Stream {
		c.writing.Lock()
		c.upstream.ServeHTTP(w, r)
		c.writing.Unlock()
		c.announce(req.NodeKey, 0)
		return
	}
	c.announce(req.NodeKey, +1)
	defer c.announce(req.NodeKey, -1)
	c.running.Go(func() { c.awaitRelay(r.Context(), req.NodeKey) })
	c.upstream.ServeHTTP(w, r)
}

// awaitRelay announces a node again when it has reached the relay.
func (c *Control) awaitRelay(ctx context.Context, k key.NodePublic) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !c.relay.derp.IsClientConnectedForTest(k) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
	c.announce(k, 0)
}

// announce counts a node's map polls and tells the others when it appears or
// disappears. It appears when it has a poll and is at its relay: what is sent
// to it before is lost, and WireGuard tries again after five seconds only.
func (c *Control) announce(k key.NodePublic, polls int) {
	c.mu.Lock()
	m := c.members[k]
	if m == nil {
		c.mu.Unlock()
		return
	}
	m.streams += polls
	there := m.streams > 0 && !m.out
	c.mu.Unlock()
	c.writing.Lock()
	defer c.writing.Unlock()
	n := c.upstream.Node(k)
	if n == nil {
		return
	}
	online := there && n.HomeDERP != 0 && c.relay.derp.IsClientConnectedForTest(k)
	if n.Online == nil || *n.Online != online {
		n.Online = &online
		c.upstream.UpdateNode(n)
	}
}
