package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/peer"
	"github.com/ahelme/comfyume/cluster/tailnet"
)

// tag is how this node is known on the network.
func (c *Config) tag() string {
	if c.Core() {
		return cluster.TagCore
	}
	return cluster.TagGPU
}

// openNetwork joins the network that the settings name. On a tailnet without a
// key it waits until a person has opened the link that login is given.
func openNetwork(ctx context.Context, cfg *Config, login func(url string)) (tailnet.Network, error) {
	switch {
	case cfg.Joined != nil:
		return cfg.Joined, nil
	case cfg.Dev:
		return tailnet.Loopback(tailnet.LoopbackConfig{Dir: cfg.StateDir, Name: cfg.Hostname, Tag: cfg.tag()})
	case cfg.Network == netLoopback:
		if err := os.MkdirAll(cfg.Hall, 0o700); err != nil {
			return nil, cluster.Errorf(cluster.Invalid, "the folder where loopback agents meet cannot be made: %v; name another with --loopback-dir", err)
		}
		return tailnet.Loopback(tailnet.LoopbackConfig{Dir: cfg.StateDir, Name: cfg.Hostname, Tag: cfg.tag(), Hall: cfg.Hall})
	}
	name := cfg.Hostname
	if name == "" {
		host, err := os.Hostname()
		if err != nil {
			return nil, fmt.Errorf("ask for the host name: %w", err)
		}
		name = "comfyume-" + host
	}
	return tailnet.Tailnet(ctx, tailnet.Config{
		Dir: filepath.Join(cfg.StateDir, "tailnet"), Hostname: name, AuthKey: string(cfg.AuthKey), ClientSecret: string(cfg.ClientSecret),
		Tags: []string{cfg.tag()}, Ephemeral: !cfg.Core(), ControlURL: cfg.ControlURL, APIURL: cfg.TailnetAPI, Logger: cfg.Logger, Approve: login,
	})
}

// reach is the network as the packages of the swarm may use it: by node, with
// everybody known.
type reach struct {
	net  tailnet.Network
	log  *slog.Logger
	peer atomic.Pointer[[]tailnet.Peer] // as last listed
}

// whoIs names the node or person behind an address.
func (r *reach) whoIs(ctx context.Context, remote string) (peer.Who, error) {
	id, err := r.net.WhoIs(ctx, remote)
	if err != nil {
		return peer.Who{}, err
	}
	return peer.Who{
		Node: id.Node, Name: id.Name, Login: id.Login,
		Core: slices.Contains(id.Tags, cluster.TagCore), GPU: slices.Contains(id.Tags, cluster.TagGPU),
	}, nil
}

// peers lists the other machines of the workshop.
func (r *reach) peers(ctx context.Context) ([]tailnet.Peer, error) {
	all, err := r.net.Peers(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the machines of the network: %w", err)
	}
	all = slices.DeleteFunc(all, func(p tailnet.Peer) bool {
		return !slices.Contains(p.Tags, cluster.TagCore) && !slices.Contains(p.Tags, cluster.TagGPU)
	})
	r.peer.Store(&all)
	return slices.Clone(all), nil // who asks may sort theirs
}

// dial reaches a port of a node, wherever it is now.
func (r *reach) dial(ctx context.Context, node cluster.NodeID, port uint16) (net.Conn, error) {
	if node == r.net.Self().ID {
		return r.net.Dial(ctx, netip.AddrPortFrom(r.net.Self().Addr, port).String())
	}
	at := func(all []tailnet.Peer) int {
		return slices.IndexFunc(all, func(p tailnet.Peer) bool { return p.ID == node })
	}
	var known []tailnet.Peer
	if last := r.peer.Load(); last != nil {
		known = *last
	}
	i := at(known)
	if i < 0 || !known[i].Online {
		all, err := r.peers(ctx)
		if err != nil {
			return nil, err
		}
		if known, i = all, at(all); i < 0 {
			return nil, cluster.Errorf(cluster.NotFound, "there is no machine %s on the network", node)
		}
	}
	return r.net.Dial(ctx, netip.AddrPortFrom(known[i].Addr, port).String())
}

// addrs are the addresses at which members of the swarm may be.
func (r *reach) addrs(ctx context.Context) ([]netip.Addr, error) {
	all, err := r.peers(ctx)
	if err != nil {
		return nil, err
	}
	var out []netip.Addr
	for _, p := range all {
		if p.Online {
			out = append(out, p.Addr)
		}
	}
	return out, nil
}
