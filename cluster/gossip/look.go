package gossip

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/ahelme/comfyume/cluster"
)

// entry is one node as memberlist has it.
type entry struct {
	id    cluster.NodeID
	addr  netip.Addr
	meta  []byte
	state State
}

const lookWithin = 3 * time.Second

// pipeName is the end of the pipe in memberlist's log, see lines.
const pipeName = "from=pipe"

// request opens a state exchange in which we tell nothing: the map
// {"Nodes": 0, "UserStateLen": 0, "Join": false}.
const request = "\x06\x83\xa5Nodes\x00\xacUserStateLen\x00\xa4Join\xc2"

// look asks memberlist what it believes, as a peer would over the network.
// Having been told nothing, it merges nothing.
func (t *transport) look(ctx context.Context) ([]entry, error) {
	ours, theirs := net.Pipe()
	defer func() { _ = ours.Close() }()
	select {
	case t.streams <- theirs: // memberlist closes it
	case <-ctx.Done():
		_ = theirs.Close()
		return nil, context.Cause(ctx)
	}
	if err := ours.SetDeadline(time.Now().Add(lookWithin)); err != nil {
		return nil, err
	}
	hello := request
	if t.label != "" {
		hello = string([]byte{labelKind, byte(len(t.label))}) + t.label + request
	}
	if _, err := ours.Write([]byte(hello)); err != nil {
		return nil, fmt.Errorf("ask memberlist: %w", err)
	}
	nodes, err := newReader(ours).message()
	if err != nil {
		return nil, fmt.Errorf("read memberlist's answer: %w", err)
	}
	seen := make([]entry, 0, len(nodes))
	for _, n := range nodes {
		e, err := entryOf(n)
		if err != nil {
			return nil, err
		}
		seen = append(seen, e)
	}
	return seen, nil
}

func entryOf(n map[string]any) (entry, error) {
	name, _ := n["Name"].([]byte)
	ip, _ := n["Addr"].([]byte)
	meta, _ := n["Meta"].([]byte)
	number, known := n["State"].(int64)
	addr, ok := netip.AddrFromSlice(ip)
	states := []State{Alive, Slow, Dead, Left} // in memberlist's order
	if len(name) == 0 || !ok || !known || number < 0 || int(number) >= len(states) {
		return entry{}, errors.New("memberlist's answer has a node that cannot be read")
	}
	return entry{id: cluster.NodeID(name), addr: addr.Unmap(), meta: bytes.Clone(meta), state: states[number]}, nil
}
