// Package cluster holds the words every node shares: who a node is, what it
// does, how a row changes and how an error travels. It knows no table and no
// library but the encoder; everything else may import it.
package cluster

import (
	"fmt"
	"slices"
	"strings"
)

// NodeID names one machine of the workshop. It is stable over restarts and
// never reused.
type NodeID string

// WorkerID names one ComfyUI process: its node and a number on it ("mello/0").
type WorkerID string

// User is a participant's sign-in name ("user007") and the owner of jobs and files.
type User string

// Valid reports whether u may own rows: 1 to 64 letters, digits, '_', '-' or '.',
// beginning with a letter or a digit. It becomes a path segment of the site.
func (u User) Valid() bool {
	if u == "" || len(u) > 64 {
		return false
	}
	for i, r := range string(u) {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		if !letter && (i == 0 || r != '_' && r != '-' && r != '.') {
			return false
		}
	}
	return true
}

// Role is something a node can be started to do.
type Role string

// The four roles.
const (
	Gateway Role = "gateway"
	Queue   Role = "queue"
	GPU     Role = "gpu"
	Backup  Role = "backup"
)

// AllRoles lists the roles in the order in which they are started.
func AllRoles() []Role { return []Role{Queue, Backup, Gateway, GPU} }

// ParseRoles reads "gateway,queue". Doubles are folded, order is kept.
func ParseRoles(s string) ([]Role, error) {
	var out []Role
	for part := range strings.SplitSeq(s, ",") {
		r := Role(strings.TrimSpace(part))
		if r == "" {
			continue
		}
		if !slices.Contains(AllRoles(), r) {
			return nil, Errorf(Invalid, "unknown role %q: use gateway, queue, gpu or backup, separated by commas", r)
		}
		if !slices.Contains(out, r) {
			out = append(out, r)
		}
	}
	return out, nil
}

// Member is what one node says of itself to the others.
type Member struct {
	ID      NodeID `json:"id"`
	Name    string `json:"name"`
	Roles   []Role `json:"roles"`
	Version string `json:"version"`
	Level   uint32 `json:"level"`
}

// Ref names an immutable blob: the lower-case hex sha256 of its bytes.
type Ref string

// Valid reports whether r is a digest and nothing else, so that it can become
// a file name.
func (r Ref) Valid() bool {
	if len(r) != 64 {
		return false
	}
	for _, c := range []byte(r) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// Short is the beginning of r, for logs.
func (r Ref) Short() string { return string(r[:min(12, len(r))]) }

// HasRole reports whether the node plays a role.
func (m Member) HasRole(r Role) bool { return slices.Contains(m.Roles, r) }

func (m Member) String() string { return fmt.Sprintf("%s (%s)", m.Name, m.ID) }

// Clip cuts s to n bytes at a letter's beginning.
func Clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && s[n]&0xC0 == 0x80 {
		n--
	}
	return s[:n]
}
