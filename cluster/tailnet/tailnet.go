// Package tailnet is the network that the nodes of a workshop share. It
// promises that a listener is reachable by nodes of this workshop only and
// that WhoIs names the node behind a connection. It refuses to know what is
// said over the wire. It alone imports tailscale.com.
//
//	tsnet.go    a node of a tailnet     join.go       how it gets in
//	invite.go   keys for others         approval.go   what a person must do
//	loopback.go one machine alone       hallnet.go    several nodes on it
//	hall.go     who they are            seat.go       one node's place there
//	packet.go   their datagrams         handshake.go  how they prove who they are
//	opened.go   what Close ends
//
// tailnettest is the same network in memory, for tests in virtual time;
// controltest is a control server on this machine; networktest is the suite
// that all of them pass.
package tailnet

import (
	"context"
	"net"
	"net/netip"
	"time"

	"github.com/ahelme/comfyume/cluster"
)

// Peer is one machine on the network.
type Peer struct {
	ID     cluster.NodeID
	Name   string     // unique on the network, for people
	Addr   netip.Addr // where it listens and from where it dials
	Tags   []string   // what it is, as the network vouches for it
	Online bool       // as the network knows it; it may be late
}

// Identity is who stands behind a remote address.
type Identity struct {
	Node  cluster.NodeID
	Name  string   // the same as the node's own Self().Name
	Login string   // of a person, "" for a tagged machine
	Tags  []string // what it is, as the network vouches for it
}

// Network is what the rest of the node may do on the network. Listeners,
// packets, connections and dials end when the Network is closed, so it is
// closed last. All methods may be called at the same time.
type Network interface {
	// Self is this machine. It does not change while the Network is open.
	Self() Peer
	// Listen accepts connections of other nodes on a port; 0 takes a free one.
	// The listener's address is an ip:port that Dial of any node takes. A port
	// that this node listens on already gives Conflict.
	Listen(port uint16) (net.Listener, error)
	// ListenPacket is Listen for datagrams: 1200 bytes arrive in one piece,
	// larger ones may not arrive at all.
	ListenPacket(port uint16) (net.PacketConn, error)
	// Dial connects to ip:port. An address that nobody has gives NotFound, a
	// closed port of a living node ECONNREFUSED. A dead peer does not refuse,
	// it is silent: ctx must end.
	Dial(ctx context.Context, addr string) (net.Conn, error)
	// Peers lists the other machines, online or not, by id.
	Peers(ctx context.Context) ([]Peer, error)
	// WhoIs names the node behind a remote address, or gives NotFound. What it
	// says may be a second old.
	WhoIs(ctx context.Context, remote string) (Identity, error)
	// Close ends everything that was opened through the Network, streams as
	// their Close does: the others read EOF, but on a tailnet a few may miss it
	// and wait for their deadlines. What is called afterwards fails with
	// net.ErrClosed. Closing twice is harmless.
	Close() error
}

// Expirer is a Network whose membership may end at a time.
type Expirer interface {
	// KeyExpiry is when this node must be let in again; zero is never.
	KeyExpiry(ctx context.Context) (time.Time, error)
}

// Forgetter is a Network that remembers nodes which are gone.
type Forgetter interface {
	// Forget drops a node that is offline from the list of peers. An unknown
	// one gives NotFound, a living one Conflict.
	Forget(id cluster.NodeID) error
}

// unknown is the error for an address that no node of the network has.
func unknown(addr string) error {
	return cluster.Errorf(cluster.NotFound, "nobody of this workshop has the address %s", addr)
}
