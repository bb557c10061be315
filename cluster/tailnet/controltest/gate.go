package controltest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"tailscale.com/control/controlbase"
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
	untagged  bool
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
	Untagged  bool      // what tags they ask for is ignored
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
	select {
	case c.upgraded.conns <- cc:
	case <-c.upgraded.done:
		_ = cc.Close() // the node sees it
	}
}

// upgraded is a listener for connections that are through with the handshake.
type upgraded struct {
	addr  net.Addr
	conns chan net.Conn
	once  sync.Once
	done  chan struct{} // closed by Close
}

func (u *upgraded) Accept() (net.Conn, error) {
	select {
	case c := <-u.conns:
		return c, nil
	case <-u.done:
		return nil, net.ErrClosed
	}
}

func (u *upgraded) Addr() net.Addr { return u.addr }

func (u *upgraded) Close() error {
	u.once.Do(func() { close(u.done) })
	return nil
}

// inner serves what nodes say, in HTTP/2, and knows the machine of each.
func (c *Control) inner() *http.Server {
	s := &http.Server{
		Handler: http.HandlerFunc(c.serveNode), ReadHeaderTimeout: 10 * time.Second, Protocols: new(http.Protocols),
		ConnContext: func(ctx context.Context, nc net.Conn) context.Context {
			cc, ok := nc.(*controlbase.Conn)
			if !ok {
				return ctx
			}
			return asMachine{ctx, cc.Peer()}
		},
	}
	s.Protocols.SetUnencryptedHTTP2(true)
	return s
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
