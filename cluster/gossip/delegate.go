package gossip

import (
	"bytes"
	"context"
	"fmt"
	"log"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/ahelme/comfyume/cluster"
)

// delegate is what memberlist calls, often with its lock held: nothing here
// calls it back. Some calls come after Run ended.
type delegate struct{ g *Gossip }

var (
	_ memberlist.Delegate         = (*delegate)(nil)
	_ memberlist.EventDelegate    = (*delegate)(nil)
	_ memberlist.AliveDelegate    = (*delegate)(nil)
	_ memberlist.ConflictDelegate = (*delegate)(nil)
	_ memberlist.PingDelegate     = (*delegate)(nil)
)

// NodeMeta is what the others get to see.
func (d *delegate) NodeMeta(int) []byte { return d.g.table.encoded() }

func (d *delegate) NotifyMsg([]byte)                {}
func (d *delegate) GetBroadcasts(int, int) [][]byte { return nil }
func (d *delegate) LocalState(bool) []byte          { return nil }
func (d *delegate) MergeRemoteState([]byte, bool)   {}

func (d *delegate) NotifyJoin(*memberlist.Node)   { signal(d.g.moved) }
func (d *delegate) NotifyLeave(*memberlist.Node)  { signal(d.g.moved) }
func (d *delegate) NotifyUpdate(*memberlist.Node) { signal(d.g.moved) }

// NotifyAlive lets a node count as a member only if the address it claims
// belongs to it and what it says of itself can be read. Its being set also
// keeps memberlist from indexing into a version list that is too short.
func (d *delegate) NotifyAlive(n *memberlist.Node) error {
	id := cluster.NodeID(n.Name)
	if id == d.g.cfg.Self.ID {
		return nil // memberlist compares it with what it knows of itself
	}
	addr, ok := netip.AddrFromSlice(n.Addr)
	if !ok || n.Port != d.g.cfg.Port {
		return fmt.Errorf("no node has the address %v:%d", n.Addr, n.Port)
	}
	if owner, ok := d.g.gate.node(context.Background(), addr.Unmap()); !ok || owner != id {
		return fmt.Errorf("the address %s is not that of %s", addr, id)
	}
	_, err := decode(id, n.Meta)
	return err
}

// NotifyConflict is called when one id is claimed at two addresses: a node was
// restarted elsewhere and the others have not found its old self dead yet.
func (d *delegate) NotifyConflict(existing, other *memberlist.Node) {
	g := d.g
	g.mu.Lock()
	quiet := time.Since(g.disputed) < time.Minute
	if !quiet {
		g.disputed = time.Now()
	}
	g.mu.Unlock()
	if !quiet {
		g.log.Warn("a node is known at one address and seen at another; it counts again when the first has fallen silent",
			"node", existing.Name, "known", existing.Address(), "seen", other.Address())
	}
}

func (d *delegate) AckPayload() []byte { return nil }

func (d *delegate) NotifyPingComplete(n *memberlist.Node, rtt time.Duration, _ []byte) {
	d.g.table.heard(cluster.NodeID(n.Name), rtt)
}

// lines takes memberlist's log. Its own levels are of no use: a stranger's
// packet is an ERR there, and what matters is logged when the table moves.
type lines struct {
	log *slog.Logger

	mu     sync.Mutex
	warned time.Time
}

func newLines(l *slog.Logger) *log.Logger { return log.New(&lines{log: l}, "", 0) }

// Write gets one line a call. One is worth waking somebody: it means that
// datagrams are filtered, so that failures are found late or wrongly.
func (l *lines) Write(p []byte) (int, error) {
	level := slog.LevelDebug
	if bytes.Contains(p, []byte("UDP probes failed, network may be misconfigured")) && l.due() {
		level = slog.LevelWarn
	}
	if bytes.Contains(p, []byte(pipeName)) || !l.log.Enabled(context.Background(), level) {
		return len(p), nil
	}
	_, text, found := bytes.Cut(bytes.TrimSpace(p), []byte("memberlist: "))
	if !found {
		text = bytes.TrimSpace(p)
	}
	l.log.Log(context.Background(), level, string(text))
	return len(p), nil
}

// due is true once a minute.
func (l *lines) due() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if time.Since(l.warned) < time.Minute {
		return false
	}
	l.warned = time.Now()
	return true
}
