package state

import (
	"cmp"
	"crypto/ed25519"
	"fmt"
	"slices"

	"github.com/ahelme/comfyume/cluster"
)

// Node is one machine of the workshop, as it last entered itself. Whether it
// answers now is not a row: gossip tells.
type Node struct {
	cluster.Member `cbor:"1,keyasint"`
	// Incarnation is that of its log, "" for a node that holds none.
	Incarnation string `cbor:"2,keyasint,omitempty" json:"incarnation,omitempty"`
	Vote        string `cbor:"3,keyasint,omitempty" json:"vote,omitempty"` // auto, always or never
	Steady      bool   `cbor:"4,keyasint,omitempty" json:"steady"`         // may be counted on to stay: auto votes then
	Joined      int64  `cbor:"5,keyasint" json:"joined"`                   // table milliseconds
	Changed     int64  `cbor:"6,keyasint" json:"changed"`
	// Left is when it said goodbye or was forgotten, 0 = it has not.
	Left  int64  `cbor:"7,keyasint,omitempty" json:"left,omitempty"`
	Drain *Drain `cbor:"8,keyasint,omitempty" json:"drain,omitempty"`
	// Key is the public half of the ed25519 key with which a core node signs
	// sessions and sign-in links, so that every gateway can check them.
	Key []byte `cbor:"9,keyasint,omitempty" json:"key,omitempty"`
}

// Core reports whether the node holds the table.
func (n *Node) Core() bool { return n.Incarnation != "" }

// Drain says that a node gets no new jobs.
type Drain struct {
	At    int64  `cbor:"1,keyasint" json:"at"` // table milliseconds
	Actor string `cbor:"2,keyasint" json:"actor"`
}

// The kinds of nodes.
const (
	KindPutNode   cluster.Kind = 10
	KindLeaveNode cluster.Kind = 11
	KindDrainNode cluster.Kind = 12
)

// PutNode enters a node, or what changed of it. A node that had left is back.
type PutNode struct {
	Node Node `cbor:"1,keyasint"` // its times and its drain are the table's own
}

// LeaveNode marks a node as gone for good: it is taken out of the log's
// members and of every list. It may come back by entering itself again.
type LeaveNode struct {
	ID cluster.NodeID `cbor:"1,keyasint"`
}

// DrainNode keeps new jobs from a node; Undo ends that. Running jobs go on.
type DrainNode struct {
	ID   cluster.NodeID `cbor:"1,keyasint"`
	Undo bool           `cbor:"2,keyasint,omitempty"`
}

// Kind of PutNode.
func (PutNode) Kind() cluster.Kind { return KindPutNode }

// Kind of LeaveNode.
func (LeaveNode) Kind() cluster.Kind { return KindLeaveNode }

// Kind of DrainNode.
func (DrainNode) Kind() cluster.Kind { return KindDrainNode }

// Bounds of a node's row.
const (
	maxNodes    = 500
	maxNodeText = 200
)

// nodes is the table of machines.
type nodes struct {
	rows map[cluster.NodeID]*Node
}

func newNodes() *nodes { return &nodes{rows: map[cluster.NodeID]*Node{}} }

func (t *nodes) plan(cmd cluster.Command, now int64, actor string, level uint32) (func() any, error) {
	switch c := cmd.(type) {
	case *PutNode:
		return t.put(c, now, level)
	case *LeaveNode:
		n, ok := t.rows[c.ID]
		if !ok {
			return nil, cluster.Errorf(cluster.NotFound, "there is no node %q: see node ls", c.ID)
		}
		return func() any { n.Left, n.Drain = now, nil; return nil }, nil
	case *DrainNode:
		n, ok := t.rows[c.ID]
		if !ok || n.Left > 0 {
			return nil, cluster.Errorf(cluster.NotFound, "there is no node %q: see node ls", c.ID)
		}
		return func() any {
			switch {
			case c.Undo:
				n.Drain = nil
			case n.Drain == nil:
				n.Drain = &Drain{At: now, Actor: actor}
			}
			return nil
		}, nil
	}
	return nil, nil
}

func (t *nodes) put(c *PutNode, now int64, level uint32) (func() any, error) {
	n := c.Node
	for _, text := range []string{string(n.ID), n.Name, n.Version, n.Incarnation, n.Vote} {
		if len(text) > maxNodeText {
			return nil, cluster.Errorf(cluster.Invalid, "a node's name is over %d bytes long", maxNodeText)
		}
	}
	old, known := t.rows[n.ID]
	switch {
	case n.ID == "" || n.Name == "" || len(n.Roles) > len(cluster.AllRoles()):
		return nil, cluster.Errorf(cluster.Invalid, "a node has an id, a name and roles")
	case len(n.Key) > 0 && (!n.Core() || len(n.Key) != ed25519.PublicKeySize):
		return nil, cluster.Errorf(cluster.Invalid, "only a node that holds the table signs people in, with an ed25519 key")
	case n.Core() && n.Level < level:
		return nil, cluster.Errorf(cluster.Invalid, "node %s runs a build of level %d, and this workshop has agreed on level %d: install a newer version there", n.Name, n.Level, level)
	case !known && len(t.rows) >= maxNodes && !t.forgettable():
		return nil, cluster.Errorf(cluster.Quota, "the workshop knows %d nodes already: node forget those that are gone", maxNodes)
	}
	return func() any {
		if !known && len(t.rows) >= maxNodes {
			t.forget()
		}
		n.Joined, n.Changed, n.Left, n.Drain = now, now, 0, nil
		if known {
			n.Joined, n.Drain = old.Joined, old.Drain
		}
		t.rows[n.ID] = &n
		return nil
	}, nil
}

// oldest is the node that left first, nil if none has.
func (t *nodes) oldest() (gone *Node) {
	for _, n := range t.all() {
		if n.Left > 0 && (gone == nil || n.Left < gone.Left) {
			gone = &n
		}
	}
	return gone
}

func (t *nodes) forgettable() bool { return t.oldest() != nil }

func (t *nodes) forget() { delete(t.rows, t.oldest().ID) }

// all returns every row, those that left included, by id.
func (t *nodes) all() []Node {
	out := make([]Node, 0, len(t.rows))
	for _, n := range t.rows {
		out = append(out, *n)
	}
	slices.SortFunc(out, func(a, b Node) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

func (t *nodes) digest(d *cluster.Digest) {
	for _, n := range t.rows {
		d.Row("node").Text(string(n.ID)).Text(n.Name).Text(n.Version).Int(int64(n.Level)).Text(n.Incarnation).Text(n.Vote).Bool(n.Steady)
		d.Int(n.Joined).Int(n.Changed).Int(n.Left)
		for _, r := range n.Roles {
			d.Text(string(r))
		}
		if len(n.Key) > 0 {
			d.Bytes(n.Key)
		}
		if n.Drain != nil {
			d.Int(n.Drain.At).Text(n.Drain.Actor)
		}
	}
}

func restoreNodes(rows []Node) *nodes {
	t := newNodes()
	for _, n := range rows {
		t.rows[n.ID] = &n
	}
	return t
}

// Nodes returns every node that was entered, those that left included, by id.
func (m *Machine) Nodes() []Node {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.nodes.all()
}

// Node returns one node's row.
func (m *Machine) Node(id cluster.NodeID) (Node, bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	n, ok := m.nodes.rows[id]
	if !ok {
		return Node{}, false
	}
	return *n, true
}

func (n Node) String() string { return fmt.Sprintf("%s (%s)", n.Name, n.ID) }
