package gossip

import (
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/ahelme/comfyume/cluster"
)

// Profile says how patient gossip is. All nodes of a workshop should use one.
type Profile string

// The profiles.
const (
	// Near suits links of up to 150 ms there and back, also lossy ones; slower
	// ones work, but their nodes are now and then shown as slow. A node that
	// falls silent is found dead in about 3 s (4 s among five, 5 s among twenty).
	Near Profile = "near"
	// Far suits links of up to a second there and back (satellites, bad relays).
	// It takes 12 to 15 s, rarely 20 s.
	Far Profile = "far"
)

// timing is what a Profile stands for.
type timing struct {
	probeEvery, probeWithin, gossipEvery, syncEvery, streamWithin time.Duration
	suspicion                                                     int // memberlist's multiplier: how many probe intervals an objection may take
}

func (p Profile) timing() (timing, error) {
	switch p {
	case Near, "":
		return timing{
			probeEvery: 500 * time.Millisecond, probeWithin: 200 * time.Millisecond, suspicion: 4,
			gossipEvery: 100 * time.Millisecond, syncEvery: 15 * time.Second, streamWithin: 3 * time.Second,
		}, nil
	case Far:
		return timing{
			probeEvery: 3 * time.Second, probeWithin: time.Second, suspicion: 3,
			gossipEvery: 200 * time.Millisecond, syncEvery: 30 * time.Second, streamWithin: 10 * time.Second,
		}, nil
	}
	return timing{}, cluster.Errorf(cluster.Invalid, "unknown gossip profile %q: use near or far", p)
}

// options is what memberlist is told. Encryption and compression are off: the
// network encrypts, and what compresses must be decompressed from strangers.
func (g *Gossip) options(t *transport) *memberlist.Config {
	pace, err := g.cfg.Profile.timing()
	if err != nil {
		panic(err) // New has checked it
	}
	d := &delegate{g}
	c := memberlist.DefaultLANConfig()
	c.Name = string(g.cfg.Self.ID)
	c.Label = g.cfg.Label
	c.Transport = t
	c.BindAddr, c.BindPort = g.cfg.Addr.String(), int(g.cfg.Port)
	c.AdvertiseAddr, c.AdvertisePort = c.BindAddr, c.BindPort
	c.Delegate, c.Events, c.Alive, c.Conflict, c.Ping = d, d, d, d, d
	c.Logger = newLines(g.log)
	c.ProbeInterval, c.ProbeTimeout = pace.probeEvery, pace.probeWithin
	c.GossipInterval, c.PushPullInterval = pace.gossipEvery, pace.syncEvery
	c.TCPTimeout = pace.streamWithin
	c.SuspicionMult, c.SuspicionMaxTimeoutMult = pace.suspicion, 3
	c.UDPBufferSize = 1200 // the tailnet carries 1280
	c.EnableCompression = false
	// A node that comes back under a new address takes its id with it at once.
	// Nobody else can: see delegate.NotifyAlive.
	c.DeadNodeReclaimTime = time.Nanosecond
	return c
}
