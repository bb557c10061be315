package controltest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

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
	if k.Untagged {
		req.Hostinfo.RequestTags = nil
	}
	k.used = true
	c.members[req.NodeKey] = &member{ephemeral: req.Ephemeral || k.Ephemeral, untagged: k.Untagged}
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
