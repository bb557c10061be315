package tailnet

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/ahelme/comfyume/cluster"
)

// LoopbackConfig of a Loopback.
type LoopbackConfig struct {
	Dir  string // where the node's id is kept; must exist
	Name string // host name for people; "" asks the operating system
	Tag  string // what this node is for the others in the hall; "" = nothing
	// Hall is a folder, 0700 and made when it is not there, in which the agents
	// of one workshop on this machine find each other. All of them run as the
	// same user; whoever can read the folder is one of them. "" = alone.
	Hall string
}

// idFile keeps the node's id in Dir, 0600.
const idFile = "node-id"

// Loopback opens the network of one machine. Alone, it listens on 127.0.0.1
// and has no peers. In a hall it has an address of its own, its peers are the
// other nodes of the hall, and the Network is a Forgetter: a node that was
// killed stays listed, offline. The id is made once and kept in Dir, so it is
// the same after a restart.
func Loopback(cfg LoopbackConfig) (Network, error) { return loopbackOn(cfg, bindable) }

// loopbackOn is Loopback where can says which addresses this machine binds.
func loopbackOn(cfg LoopbackConfig, can func(netip.Addr) bool) (Network, error) {
	id, err := nodeID(filepath.Join(cfg.Dir, idFile))
	if err != nil {
		return nil, err
	}
	if cfg.Name == "" {
		if cfg.Name, err = os.Hostname(); err != nil {
			return nil, fmt.Errorf("ask for the host name: %w", err)
		}
	}
	if cfg.Hall != "" {
		return enterHall(cfg, id, can)
	}
	self := Peer{ID: id, Name: cfg.Name, Addr: localhost, Online: true}
	if cfg.Tag != "" {
		self.Tags = []string{cfg.Tag}
	}
	return &alone{self: self, opened: newOpened()}, nil
}

var localhost = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// alone is one machine without others.
type alone struct {
	self Peer
	*opened
}

var _ Network = (*alone)(nil)

func (l *alone) Self() Peer { return l.self }

func (l *alone) addr(port uint16) string {
	return net.JoinHostPort(l.self.Addr.String(), strconv.Itoa(int(port)))
}

func (l *alone) Listen(port uint16) (net.Listener, error) {
	ln, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp4", l.addr(port))
	if err != nil {
		return nil, err
	}
	return ln, l.keep(ln)
}

func (l *alone) ListenPacket(port uint16) (net.PacketConn, error) {
	pc, err := (&net.ListenConfig{}).ListenPacket(context.Background(), "udp4", l.addr(port))
	if err != nil {
		return nil, err
	}
	return pc, l.keep(pc)
}

func (l *alone) Dial(ctx context.Context, addr string) (net.Conn, error) {
	ap, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, fmt.Errorf("dial %q: %w", addr, err)
	}
	if !ap.Addr().IsLoopback() {
		return nil, fmt.Errorf("dial %s: this node stands alone, it reaches no other machine", addr)
	}
	return (&net.Dialer{}).DialContext(ctx, "tcp", addr)
}

func (l *alone) Peers(context.Context) ([]Peer, error) { return nil, nil }

func (l *alone) WhoIs(_ context.Context, remote string) (Identity, error) {
	ap, err := netip.ParseAddrPort(remote)
	if err != nil || !ap.Addr().Unmap().IsLoopback() {
		return Identity{}, unknown(remote)
	}
	return Identity{Node: l.self.ID, Name: l.self.Name, Tags: append([]string(nil), l.self.Tags...)}, nil
}

func (l *alone) Close() error {
	_, err := l.close()
	return err
}

// nodeID reads the id of this machine, or makes and keeps one.
func nodeID(path string) (cluster.NodeID, error) {
	b, err := os.ReadFile(path)
	if id := strings.TrimSpace(string(b)); err == nil && validID(id) {
		return cluster.NodeID(id), nil
	}
	if err == nil {
		// A new id in its place would make this machine a stranger to its own log.
		return "", cluster.Errorf(cluster.Invalid, "%s does not hold a node id. Restore the file from a copy of the state folder, or start with an empty --state-dir.", path)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read the node's id: %w", err)
	}
	id := "n" + hex.EncodeToString(random(8))
	if err := write(path, []byte(id+"\n"), durable); err != nil {
		return "", fmt.Errorf("keep the node's id: %w", err)
	}
	return cluster.NodeID(id), nil
}

func validID(id string) bool {
	if len(id) != 17 || id[0] != 'n' {
		return false
	}
	_, err := hex.DecodeString(id[1:])
	return err == nil
}

// random is n bytes that nobody guesses.
func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails: it ends the process instead
	return b
}

// Whether a written file must outlive a power cut.
const (
	durable = true
	passing = false
)

// write makes a file, 0600, that is whole or not there: a temporary file, then
// a rename; flushed to the disk if it must last.
func write(path string, text []byte, last bool) error {
	f, err := os.OpenFile(path+".tmp", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err == nil && last {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+".tmp", path); err != nil || !last {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
