package peer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/ahelme/comfyume/cluster"
)

// Verb names one thing that a node may ask of another. They are paths of the
// nodes' own site, below /peer/, and bodies are CBOR.
type Verb string

// The headers of every request and answer between nodes.
const (
	lineageCluster    = "Comfyume-Cluster"
	lineageGeneration = "Comfyume-Generation"
	leaderHeader      = "Comfyume-Leader" // where the leader is, with a refusal NoLeader
)

// maxAnswer bounds an answer that is held in memory, in bytes.
const maxAnswer = 64 << 20

// Client asks other nodes.
type Client struct {
	gate  *Gate
	http  *http.Client
	local *Server // this node's own, nil: it is asked like any other
	who   Who
}

// NewClient returns a client that dials through the gate's network.
func NewClient(g *Gate) *Client {
	t := &http.Transport{
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			node, _, err := net.SplitHostPort(addr)
			if err != nil {
				return nil, fmt.Errorf("dial %q: %w", addr, err)
			}
			// A machine that is gone does not even refuse.
			ctx, cancel := context.WithTimeout(ctx, helloWithin)
			defer cancel()
			return g.cfg.Dial(ctx, cluster.NodeID(node), cluster.PortSite)
		},
		MaxIdleConnsPerHost: 32, IdleConnTimeout: time.Minute, DisableCompression: true,
		// Long polls have no answer for long; whoever waits has its own limit.
		ResponseHeaderTimeout: 0,
	}
	return &Client{gate: g, http: &http.Client{Transport: t}}
}

// Close ends idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Refused is an answer of another node that says no.
type Refused struct {
	Why    *cluster.Error
	Leader cluster.NodeID // who to ask instead, with NoLeader
}

func (r *Refused) Error() string { return r.Why.Message }

func (r *Refused) Unwrap() error { return r.Why }

// Local lets calls to this node itself reach its server without the network.
func (c *Client) Local(s *Server, self Who) { c.local, c.who = s, self }

// Call asks a node and reads its answer into out, which may be nil. Refusals
// keep their code; that the node cannot be reached, or breaks off, is
// Unavailable: what was asked may have been done.
func (c *Client) Call(ctx context.Context, node cluster.NodeID, v Verb, in, out any) error {
	raw, err := cluster.Marshal(in)
	if err != nil {
		return fmt.Errorf("write the request %s: %w", v, err)
	}
	if c.local != nil && node == c.who.Node {
		return c.local.self(ctx, c.who, v, raw, out)
	}
	r, err := c.send(ctx, node, http.MethodPost, v, "", bytes.NewReader(raw))
	if err != nil {
		return err
	}
	defer r.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(r.Body, maxAnswer))
	if err != nil {
		return broken(ctx, node, err)
	}
	if out == nil || r.StatusCode == http.StatusNoContent {
		return nil
	}
	if err := cluster.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("read %s's answer to %s: %w", node, v, err)
	}
	return nil
}

// Stream asks a node for bytes. The reader must be closed.
func (c *Client) Stream(ctx context.Context, node cluster.NodeID, v Verb) (io.ReadCloser, error) {
	r, err := c.send(ctx, node, http.MethodGet, v, "", nil)
	if err != nil {
		return nil, err
	}
	return r.Body, nil
}

// send makes a request and returns the answer if it is a good one.
func (c *Client) send(ctx context.Context, node cluster.NodeID, method string, v Verb, query string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+string(node)+"/peer/"+string(v)+query, body)
	if err != nil {
		return nil, fmt.Errorf("write the request %s: %w", v, err)
	}
	return c.do(req, node, v)
}

func (c *Client) do(req *http.Request, node cluster.NodeID, v Verb) (*http.Response, error) {
	ctx := req.Context()
	putLineage(req.Header, c.gate.cfg.Lineage())
	r, err := c.http.Do(req)
	if err != nil {
		return nil, broken(ctx, node, err)
	}
	if r.StatusCode < http.StatusMultipleChoices {
		return r, nil
	}
	defer r.Body.Close()
	refused := &Refused{Why: &cluster.Error{}, Leader: cluster.NodeID(r.Header.Get(leaderHeader))}
	raw, err := io.ReadAll(io.LimitReader(r.Body, maxHello))
	if err != nil {
		return nil, broken(ctx, node, err)
	}
	if err := cluster.Unmarshal(raw, refused.Why); err != nil || refused.Why.Code == "" {
		refused.Why = cluster.Errorf(cluster.Unavailable, "%s answered %d to %s", node, r.StatusCode, v)
	}
	if theirs := readLineage(r.Header); refused.Why.Code == cluster.Stale && theirs.Cluster == c.gate.cfg.Lineage().Cluster && theirs.Generation.Compare(c.gate.cfg.Lineage().Generation) > 0 {
		c.gate.cfg.Later(node, theirs)
		if c.gate.cfg.Lineage() == theirs { // a node without a log is of it at once
			return nil, errFollowed
		}
	}
	return nil, refused
}

// errFollowed is what a call gets in which this node learned of a later
// generation and took it up: the next one goes well.
var errFollowed error = cluster.Errorf(cluster.Unavailable, "this node has just followed the workshop to its later generation; try again")

// broken is a connection that could not be made or did not last.
func broken(ctx context.Context, node cluster.NodeID, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return &unreached{node, err}
}

// unreached is Unavailable for people and keeps its cause for the log.
type unreached struct {
	node  cluster.NodeID
	cause error
}

func (u *unreached) Error() string { return fmt.Sprintf("reach %s: %v", u.node, u.cause) }

func (u *unreached) Unwrap() []error {
	return []error{cluster.Errorf(cluster.Unavailable, "node %s does not answer; try again in a moment", u.node), u.cause}
}

func putLineage(h http.Header, l cluster.Lineage) {
	h.Set(lineageCluster, string(l.Cluster))
	h.Set(lineageGeneration, l.Generation.String())
}

func readLineage(h http.Header) cluster.Lineage {
	g, err := cluster.ParseGeneration(h.Get(lineageGeneration))
	if err != nil {
		return cluster.Lineage{}
	}
	return cluster.Lineage{Cluster: cluster.WorkshopID(h.Get(lineageCluster)), Generation: g}
}

// NotLeader reports whether an error says that somebody else leads, and who.
func NotLeader(err error) (leader cluster.NodeID, is bool) {
	if cluster.CodeOf(err) != cluster.NoLeader {
		return "", false
	}
	var r *Refused
	if errors.As(err, &r) {
		return r.Leader, true
	}
	return "", true
}
