package world

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// View is what this program reads of GET /api/status.
type View struct {
	Head struct {
		Node     string `json:"node"`
		Leader   string `json:"leader"`
		Term     uint64 `json:"term"`
		Voters   int    `json:"voters"`
		ReadOnly string `json:"readonly"`
		Survives string `json:"survives"`
		Paused   bool   `json:"paused"`
	} `json:"head"`
	Counts struct {
		Waiting, Running, Done, Failed, Cancelled int
	} `json:"counts"`
	Nodes []struct {
		ID    string `json:"id"`
		Name  string `json:"name"`
		State string `json:"state"`
		Part  string `json:"part"`
		Waits string `json:"waits"`
	} `json:"nodes"`
	Workers []struct {
		ID    string `json:"id"`
		State string `json:"state"`
	} `json:"workers"`
	Log struct {
		Generation string `json:"generation"`
		Last       uint64 `json:"last_index"`
		Copied     uint64 `json:"copied_index"`
	} `json:"log"`
	Attention []struct {
		Level string `json:"level"`
		What  string `json:"what"`
	} `json:"attention"`
}

// Refused is an answer of a site that says no.
type Refused struct {
	Status  int
	Code    string
	Message string
}

func (r *Refused) Error() string { return fmt.Sprintf("%d %s: %s", r.Status, r.Code, r.Message) }

var sites = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 4, IdleConnTimeout: 5 * time.Second}}

// Ask sends a request to the node's own site and reads its answer into out:
// JSON, or *[]byte as it is. in may be nil.
func (n *Node) Ask(ctx context.Context, method, path string, in, out any) error {
	token, err := os.ReadFile(filepath.Join(n.Dir, "token"))
	if err != nil {
		return fmt.Errorf("read the token of %s: %w", n.Name, err)
	}
	var body io.Reader
	switch b := in.(type) {
	case nil:
	case []byte:
		body = bytes.NewReader(b)
	default:
		raw, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+n.site+path, body)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	resp, err := sites.Do(req)
	if err != nil {
		return err
	}
	raw, err := io.ReadAll(resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		r := &Refused{Status: resp.StatusCode}
		_ = json.Unmarshal(raw, r) // without a sentence the status has to do
		return r
	}
	switch o := out.(type) {
	case nil:
		return nil
	case *[]byte:
		*o = raw
		return nil
	}
	return json.Unmarshal(raw, out)
}

// Status is what the node shows.
func (n *Node) Status(ctx context.Context) (v View, err error) {
	return v, n.Ask(ctx, http.MethodGet, "/api/status", nil, &v)
}

// Act does what a button does.
func (n *Node) Act(ctx context.Context, verb string, fields map[string]any) error {
	in := map[string]any{"verb": verb}
	for k, v := range fields {
		in[k] = v
	}
	return n.Ask(ctx, http.MethodPost, "/api/act", in, nil)
}

// Transfer hands leadership over, to a node or to whoever is furthest.
func (n *Node) Transfer(ctx context.Context, to string) error {
	return n.Ask(ctx, http.MethodPost, "/api/raft/transfer?to="+url.QueryEscape(to), nil, nil)
}

// Promote makes this node lead a new generation.
func (n *Node) Promote(ctx context.Context, force bool) error {
	return n.Ask(ctx, http.MethodPost, fmt.Sprintf("/api/raft/take?verb=promote&force=%t", force), nil, nil)
}

// SnapshotNow has the node write its table down and cut its log.
func (n *Node) SnapshotNow(ctx context.Context) error {
	var raw []byte
	return n.Ask(ctx, http.MethodGet, "/api/raft/snapshot", nil, &raw)
}

// Left is one history that a node left behind.
type Left struct {
	Name string   `json:"name"`
	Jobs []string `json:"jobs"`
	Docs []string `json:"documents"`
}

// LeftBehind lists them.
func (n *Node) LeftBehind(ctx context.Context) ([]Left, error) {
	var out struct{ Left []Left }
	return out.Left, n.Ask(ctx, http.MethodGet, "/api/raft/salvage", nil, &out)
}

// Salvage brings one back.
func (n *Node) Salvage(ctx context.Context, name string) error {
	return n.Ask(ctx, http.MethodPost, "/api/raft/salvage?name="+url.QueryEscape(name), nil, nil)
}

// JobShow is job show.
type JobShow struct {
	Job struct {
		State   string `json:"state"`
		Worker  string `json:"worker"`
		Reason  string `json:"reason"`
		Created int64  `json:"created"`
		Started int64  `json:"started"`
		Ended   int64  `json:"ended"`
		Strikes int    `json:"strikes"`
	} `json:"job"`
	Epoch   uint64   `json:"epoch"`
	Past    []string `json:"past"`
	Orphans []struct {
		Epoch uint64 `json:"epoch"`
	} `json:"orphans"`
}

// Job shows one job.
func (n *Node) Job(ctx context.Context, user, prompt string) (j JobShow, err error) {
	return j, n.Ask(ctx, http.MethodGet, "/api/job?id="+url.QueryEscape(user+"/"+prompt), nil, &j)
}

// awaitOpen notes when the node has opened: its site answers with more than
// that it is opening.
func (n *Node) awaitOpen(exited <-chan struct{}) {
	tick := time.NewTicker(40 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-exited:
			return
		case <-tick.C:
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		_, err := n.Status(ctx)
		cancel()
		if err != nil {
			continue
		}
		n.mu.Lock()
		alive := n.exited == exited && n.cmd != nil
		n.open = alive
		n.mu.Unlock()
		if alive {
			n.w.Say("%s is open", n.Name)
			n.w.changed()
		}
		return
	}
}
