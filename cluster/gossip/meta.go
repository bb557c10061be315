package gossip

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/ahelme/comfyume/cluster"
)

// Meta is what a node says of itself to all others. All of it fits into one
// record of 512 bytes, always: text that is too long is cut and counts that
// are too large are capped, by the sender and again by the receiver.
type Meta struct {
	cluster.Member                    // name: 64 bytes, version: 48, at most 8 roles of 16
	Incarnation    string             // of this node's log, "" if it keeps none; 48 bytes
	Generation     cluster.Generation // of the table it follows; mark: 40 bytes
	Applied        uint64             // last index of the log it has applied
	Started        int64              // when this process began, Unix ms
	Running        int                // jobs it runs; up to 65535
	Waiting        int                // jobs it has staged or accepted beyond those; up to 65535
	Draining       bool               // takes no new work
}

// The bounds of a record.
const (
	maxMeta    = 512 // memberlist's, it panics above
	maxID      = 128
	maxLabel   = 255
	maxName    = 64
	maxVersion = 48
	maxRoles   = 8
	maxRole    = 16
	maxText    = 48
	maxMark    = 40
	maxCount   = 1<<16 - 1
)

// record is Meta on the wire. The id is not in it: it is the member's name
// there. Keys are never reused, unknown ones are ignored.
type record struct {
	Name        string             `cbor:"1,keyasint,omitempty"`
	Roles       []string           `cbor:"2,keyasint,omitempty"`
	Version     string             `cbor:"3,keyasint,omitempty"`
	Level       uint32             `cbor:"4,keyasint,omitempty"`
	Incarnation string             `cbor:"5,keyasint,omitempty"`
	Generation  cluster.Generation `cbor:"6,keyasint"`
	Applied     uint64             `cbor:"7,keyasint,omitempty"`
	Started     int64              `cbor:"8,keyasint,omitempty"`
	Running     uint32             `cbor:"9,keyasint,omitempty"`
	Waiting     uint32             `cbor:"10,keyasint,omitempty"`
	Draining    bool               `cbor:"11,keyasint,omitempty"`
}

// cut makes s valid UTF-8 of at most n bytes and breaks no character.
func cut(s string, n int) string {
	if len(s) > 4*n { // a stranger's text is not walked to its end
		s = s[:4*n]
	}
	s = strings.ToValidUTF8(s, "?")
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// clipped is m within its bounds, sharing nothing with m.
func (m Meta) clipped() Meta {
	m.Name, m.Version = cut(m.Name, maxName), cut(m.Version, maxVersion)
	m.Incarnation, m.Generation.Mark = cut(m.Incarnation, maxText), cut(m.Generation.Mark, maxMark)
	roles := make([]cluster.Role, 0, min(len(m.Roles), maxRoles))
	for _, r := range m.Roles[:min(len(m.Roles), maxRoles)] {
		roles = append(roles, cluster.Role(cut(string(r), maxRole)))
	}
	m.Roles = roles
	m.Running, m.Waiting = min(max(m.Running, 0), maxCount), min(max(m.Waiting, 0), maxCount)
	return m
}

// encode writes a clipped m.
func encode(m Meta) ([]byte, error) {
	r := record{
		Name: m.Name, Version: m.Version, Level: m.Level, Incarnation: m.Incarnation, Generation: m.Generation,
		Applied: m.Applied, Started: m.Started, Running: uint32(m.Running), Waiting: uint32(m.Waiting), Draining: m.Draining,
	}
	for _, role := range m.Roles {
		r.Roles = append(r.Roles, string(role))
	}
	b, err := cluster.Marshal(r)
	if err == nil && len(b) > maxMeta {
		err = fmt.Errorf("%d bytes, %d fit", len(b), maxMeta)
	}
	if err != nil {
		return nil, fmt.Errorf("encode what this node says of itself: %w", err)
	}
	return b, nil
}

// decode reads what a node called id says of itself.
func decode(id cluster.NodeID, b []byte) (Meta, error) {
	if len(b) > maxMeta {
		return Meta{}, fmt.Errorf("a record of %d bytes, %d are allowed", len(b), maxMeta)
	}
	var r record
	if err := cluster.Unmarshal(b, &r); err != nil {
		return Meta{}, fmt.Errorf("read what %s says of itself: %w", id, err)
	}
	m := Meta{
		Member:      cluster.Member{ID: id, Name: r.Name, Version: r.Version, Level: r.Level},
		Incarnation: r.Incarnation, Generation: r.Generation, Applied: r.Applied, Started: r.Started,
		Running: int(min(r.Running, maxCount)), Waiting: int(min(r.Waiting, maxCount)), Draining: r.Draining,
	}
	for _, role := range r.Roles[:min(len(r.Roles), maxRoles)] {
		m.Roles = append(m.Roles, cluster.Role(role))
	}
	return m.clipped(), nil
}
