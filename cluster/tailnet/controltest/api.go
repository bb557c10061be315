package controltest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// serveDoor is the page behind a login URL: opening it approves.
func (c *Control) serveDoor(w http.ResponseWriter, r *http.Request) {
	if !c.Approve(r.URL.Path) {
		http.NotFound(w, r)
		return
	}
	_, _ = fmt.Fprintln(w, "The node is in.") // the browser may be gone
}

// serveToken is the OAuth grant: the client's secret against a token.
func (c *Control) serveToken(w http.ResponseWriter, r *http.Request) {
	if r.PostFormValue("grant_type") != "client_credentials" {
		answer(w, http.StatusBadRequest, map[string]string{"error": "unsupported_grant_type"})
		return
	}
	if r.PostFormValue("client_secret") != c.secret {
		answer(w, http.StatusUnauthorized, map[string]string{"message": "API token invalid"})
		return
	}
	token := "tskey-api-" + random()
	c.mu.Lock()
	c.tokens[token] = true
	c.mu.Unlock()
	answer(w, http.StatusOK, map[string]any{"access_token": token, "token_type": "Bearer", "expires_in": 3600, "scope": "auth_keys"})
}

// serveKeys makes a key, as the API of Tailscale does.
func (c *Control) serveKeys(w http.ResponseWriter, r *http.Request) {
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	c.mu.Lock()
	known := c.tokens[token]
	c.mu.Unlock()
	if !known {
		answer(w, http.StatusUnauthorized, map[string]string{"message": "API token invalid"})
		return
	}
	var req struct {
		Capabilities struct {
			Devices struct {
				Create struct {
					Reusable, Ephemeral, Preauthorized bool
					Tags                               []string
				}
			}
		}
		ExpirySeconds int64
	}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest)).Decode(&req); err != nil {
		answer(w, http.StatusBadRequest, map[string]string{"message": err.Error()})
		return
	}
	create := req.Capabilities.Devices.Create
	for _, t := range create.Tags {
		if !slices.Contains(c.cfg.Tags, t) {
			answer(w, http.StatusBadRequest, map[string]string{"message": "requested tags [" + t + "] are invalid or not permitted"})
			return
		}
	}
	if len(create.Tags) == 0 || !create.Preauthorized || req.ExpirySeconds <= 0 {
		answer(w, http.StatusBadRequest, map[string]string{"message": "a key of an OAuth client needs tags, an expiry and preauthorized"})
		return
	}
	expires := time.Now().Add(time.Duration(req.ExpirySeconds) * time.Second).UTC().Round(time.Second)
	k := c.NewKey(KeyOptions{Reusable: create.Reusable, Ephemeral: create.Ephemeral, Expires: expires, Tags: create.Tags})
	answer(w, http.StatusOK, map[string]any{"id": random(), "key": k, "created": time.Now().UTC(), "expires": expires})
}
