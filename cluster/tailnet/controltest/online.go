package controltest

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"time"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

// serveMap tells a node of the others, and the others that it is there.
func (c *Control) serveMap(w http.ResponseWriter, r *http.Request, body []byte) {
	var req tailcfg.MapRequest
	if err := json.Unmarshal(body, &req); err != nil {
		http.Error(w, "not a map request", http.StatusBadRequest)
		return
	}
	if !req.Stream {
		c.mu.Lock()
		m := c.members[req.NodeKey]
		c.mu.Unlock()
		if m != nil && m.untagged && req.Hostinfo != nil {
			req.Hostinfo.RequestTags = nil
			body, _ = json.Marshal(req) // it has just been read
			r.Body = io.NopCloser(bytes.NewReader(body))
		}
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
