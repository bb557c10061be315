// Package tailnet is the network that the nodes of a workshop share. It
// promises that a listener is reachable by nodes of this workshop only and
// that WhoIs names the node behind a connection. It refuses to know what is
// said over the wire.
package tailnet

import (
	"context"
	"net"
	"net/netip"

	"github.com/ahelme/comfyume/cluster"
)

// Peer is one machine on the network.
type Peer struct {
	ID     cluster.NodeID
	Name   string // host name, for people
	Addr   netip.Addr
	Tags   []string
	Online bool
}

// Identity is who stands behind a remote address.
type Identity struct {
	Node  cluster.NodeID
	Name  string
	Login string // of a person, "" for a tagged machine
	Tags  []string
}

// Network is what the rest of the node may do on the network. Listeners,
// packets and dials end when the Network is closed, so it is closed last.
type Network interface {
	// Self is this machine. It does not change while the Network is open.
	Self() Peer
	// Listen accepts connections of other nodes on a port; 0 takes a free one.
	Listen(port uint16) (net.Listener, error)
	// ListenPacket is Listen for datagrams.
	ListenPacket(port uint16) (net.PacketConn, error)
	// Dial connects to host:port. A dead peer does not refuse, it is silent:
	// ctx must end.
	Dial(ctx context.Context, addr string) (net.Conn, error)
	// Peers lists the other machines, online or not.
	Peers(ctx context.Context) ([]Peer, error)
	// WhoIs names the node behind a remote address, or gives NotFound.
	WhoIs(ctx context.Context, remote string) (Identity, error)
	// Close ends everything that was opened through the Network.
	Close() error
}
