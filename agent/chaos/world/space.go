package world

import (
	"fmt"
	"net"
)

// Space says how much this program has to itself.
type Space struct {
	// Apart is true inside network and mount namespaces of its own: nodes can be
	// parted and disks be small.
	Apart bool
	// Why not, for people.
	Why string
}

// addr is where a node listens: a fixed port where nobody else is, else a free
// one.
func (s Space) addr(port int) (string, error) {
	if s.Apart {
		return fmt.Sprintf("127.0.0.1:%d", port), nil
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().String(), nil
}
