package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"time"

	"github.com/ahelme/comfyume/agent"
)

// client asks the site of a running agent.
type client struct {
	base  string // http://HOST:PORT
	token string
	actor string // the person at the keyboard, for the audit
	http  *http.Client
}

// stateDir is the state folder that is meant.
func stateDir(t *terminal, g *grammar) string {
	dir := agent.DefaultStateDir()
	for _, kv := range t.env {
		if v, ok := strings.CutPrefix(kv, "COMFYUME_STATE_DIR="); ok && v != "" {
			dir = v
		}
	}
	if g.StateDir != nil {
		dir = *g.StateDir
	}
	return dir
}

// connect finds the agent through its state folder.
func connect(t *terminal, g *grammar) (*client, error) {
	dir := stateDir(t, g)
	addr := g.Addr
	if addr == "" {
		b, err := os.ReadFile(filepath.Join(dir, agent.AddressFile))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil, &exit{exitUnreachable, fmt.Sprintf("no agent runs with the state folder %s: start it, or name its folder with --state-dir", dir)}
		case err != nil:
			return nil, &exit{exitUnreachable, fmt.Sprintf("the state folder cannot be read as this user: %v", err)}
		}
		addr = strings.TrimSpace(string(b))
	}
	token, err := os.ReadFile(filepath.Join(dir, agent.TokenFile))
	if err != nil {
		return nil, &exit{exitUnreachable, fmt.Sprintf("the agent's token cannot be read: %v; run this as the agent's user, and name its folder with --state-dir", err)}
	}
	actor := ""
	if u, err := user.Current(); err == nil {
		actor = u.Username
	}
	return &client{base: "http://" + addr, token: strings.TrimSpace(string(token)), actor: actor, http: &http.Client{Timeout: g.Timeout}}, nil
}

// patience is how long the acts may take that move the whole table.
const patience = 10 * time.Minute

// patient is c for acts that take longer than an answer does.
func (c *client) patient() *client {
	long := *c
	long.http = &http.Client{Timeout: max(patience, c.http.Timeout)}
	return &long
}

// view reads what the dashboard shows.
func (c *client) view(ctx context.Context) (v agent.View, err error) {
	err = c.get(ctx, "/api/status", nil, &v)
	return v, err
}

// act asks for what a button does.
func (c *client) act(ctx context.Context, a agent.Action) error {
	return c.post(ctx, "/api/act", nil, a, nil)
}

// get reads a JSON answer into out.
func (c *client) get(ctx context.Context, path string, query url.Values, out any) error {
	return c.call(ctx, http.MethodGet, path, query, nil, out)
}

// post sends a JSON body.
func (c *client) post(ctx context.Context, path string, query url.Values, body, out any) error {
	raw, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("write the request: %w", err)
	}
	return c.call(ctx, http.MethodPost, path, query, raw, out)
}

func (c *client) call(ctx context.Context, method, path string, query url.Values, body []byte, out any) error {
	status, raw, err := c.raw(ctx, method, path, query, bytes.NewReader(body))
	if err != nil {
		return err
	}
	if status != http.StatusOK {
		return refusal(status, raw)
	}
	if out == nil {
		return nil
	}
	return decode(raw, out)
}

func decode(raw []byte, out any) error {
	if err := json.Unmarshal(raw, out); err != nil {
		return fmt.Errorf("read the agent's answer: %w", err)
	}
	return nil
}

// maxAnswer bounds what is read of an answer, in bytes.
const maxAnswer = 64 << 20

// raw asks and reads the whole answer.
func (c *client) raw(ctx context.Context, method, path string, query url.Values, body io.Reader) (status int, answer []byte, err error) {
	r, err := c.open(ctx, method, path, query, body)
	if err != nil {
		return 0, nil, err
	}
	defer r.Body.Close()
	answer, err = io.ReadAll(io.LimitReader(r.Body, maxAnswer))
	if err != nil {
		return 0, nil, c.silent(method, err)
	}
	return r.StatusCode, answer, nil
}

// open asks and leaves the answer to be read.
func (c *client) open(ctx context.Context, method, path string, query url.Values, body io.Reader) (*http.Response, error) {
	u := c.base + path
	if len(query) > 0 {
		u += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, u, body)
	if err != nil {
		return nil, fmt.Errorf("write the request: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set(agent.ActorHeader, c.actor)
	r, err := c.http.Do(req)
	if err != nil {
		return nil, c.silent(method, err)
	}
	return r, nil
}

// silent says of an agent that gives no answer whether what was asked for may
// happen nevertheless.
func (c *client) silent(method string, err error) error {
	var timeout interface{ Timeout() bool }
	if errors.As(err, &timeout) && timeout.Timeout() {
		text := fmt.Sprintf("the agent at %s has not answered within %s", c.base, c.http.Timeout)
		if method != http.MethodGet {
			text += ": what was asked for may still happen, look with comfyume-agent status before you repeat it"
		}
		return &exit{exitUnreachable, text}
	}
	var broken *url.Error
	if errors.As(err, &broken) {
		return &exit{exitUnreachable, fmt.Sprintf("no agent answers at %s: is it running? (%v)", c.base, broken.Err)}
	}
	return &exit{exitUnreachable, fmt.Sprintf("the agent's answer broke off: %v", err)}
}

// refusal reads the agent's own sentence.
func refusal(status int, raw []byte) error {
	var e agent.Error
	if json.Unmarshal(raw, &e) == nil && e.Message != "" {
		return &e
	}
	return fmt.Errorf("the agent answered %d", status)
}
