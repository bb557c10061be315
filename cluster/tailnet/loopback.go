package tailnet

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/ahelme/comfyume/cluster"
)

// Config of a Loopback.
type Config struct {
	Dir  string // where the node's id is kept; must exist
	Name string // host name for people; "" asks the operating system
}

// idFile keeps the node's id in Dir, 0600.
const idFile = "node-id"

// loopback is one machine alone: it listens on 127.0.0.1 only and has no peers.
type loopback struct {
	self Peer

	mu     sync.Mutex
	opened map[io.Closer]struct{} // nil once closed
}

var _ Network = (*loopback)(nil)

// Loopback opens the network of one machine alone. Its id is made once and
// kept in Dir, so it is the same after a restart.
func Loopback(cfg Config) (Network, error) {
	id, err := nodeID(filepath.Join(cfg.Dir, idFile))
	if err != nil {
		return nil, err
	}
	name := cfg.Name
	if name == "" {
		if name, err = os.Hostname(); err != nil {
			return nil, fmt.Errorf("ask for the host name: %w", err)
		}
	}
	self := Peer{ID: id, Name: name, Addr: netip.AddrFrom4([4]byte{127, 0, 0, 1}), Online: true}
	return &loopback{self: self, opened: map[io.Closer]struct{}{}}, nil
}

func (l *loopback) Self() Peer { return l.self }

func (l *loopback) addr(port uint16) string {
	return net.JoinHostPort(l.self.Addr.String(), strconv.Itoa(int(port)))
}

func (l *loopback) Listen(port uint16) (net.Listener, error) {
	ln, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp4", l.addr(port))
	if err != nil {
		return nil, err
	}
	return ln, l.keep(ln)
}

func (l *loopback) ListenPacket(port uint16) (net.PacketConn, error) {
	pc, err := (&net.ListenConfig{}).ListenPacket(context.Background(), "udp4", l.addr(port))
	if err != nil {
		return nil, err
	}
	return pc, l.keep(pc)
}

// keep remembers what to close. Closing twice is harmless to both kinds.
func (l *loopback) keep(c io.Closer) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.opened == nil {
		return errors.Join(net.ErrClosed, c.Close())
	}
	l.opened[c] = struct{}{}
	return nil
}

func (l *loopback) Dial(ctx context.Context, addr string) (net.Conn, error) {
	ap, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, fmt.Errorf("dial %q: %w", addr, err)
	}
	if !ap.Addr().IsLoopback() {
		return nil, fmt.Errorf("dial %s: this node stands alone, it reaches no other machine", addr)
	}
	return (&net.Dialer{}).DialContext(ctx, "tcp", addr)
}

func (l *loopback) Peers(context.Context) ([]Peer, error) { return nil, nil }

func (l *loopback) WhoIs(_ context.Context, remote string) (Identity, error) {
	ap, err := netip.ParseAddrPort(remote)
	if err != nil || !ap.Addr().Unmap().IsLoopback() {
		return Identity{}, cluster.Errorf(cluster.NotFound, "nobody of this workshop has the address %s", remote)
	}
	return Identity{Node: l.self.ID, Name: l.self.Name}, nil
}

func (l *loopback) Close() error {
	l.mu.Lock()
	opened := l.opened
	l.opened = nil
	l.mu.Unlock()
	var all error
	for c := range opened {
		if err := c.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			all = errors.Join(all, err)
		}
	}
	return all
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
	raw := make([]byte, 8)
	if _, err := rand.Read(raw); err != nil {
		return "", fmt.Errorf("make a node id: %w", err)
	}
	id := "n" + hex.EncodeToString(raw)
	if err := write(path, id+"\n"); err != nil {
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

// write makes a file that is whole or not there: temporary file, flush, rename.
func write(path, text string) error {
	f, err := os.OpenFile(path+".tmp", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
