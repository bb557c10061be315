package peer

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"testing"

	"github.com/ahelme/comfyume/cluster"
)

var (
	shop     = cluster.Lineage{Cluster: "shop", Generation: cluster.Generation{Number: 2, Mark: "m"}}
	earlier  = cluster.Lineage{Cluster: "shop", Generation: cluster.Generation{Number: 1, Mark: "z"}}
	later    = cluster.Lineage{Cluster: "shop", Generation: cluster.Generation{Number: 3, Mark: "a"}}
	elseShop = cluster.Lineage{Cluster: "other", Generation: shop.Generation}
)

// gateOf is a gate of a node; heard collects what it was told of later histories.
func gateOf(self cluster.NodeID, l cluster.Lineage, peer Who, heard *[]cluster.Lineage) *Gate {
	return NewGate(GateConfig{
		Self: self, Lineage: func() cluster.Lineage { return l },
		WhoIs: func(context.Context, string) (Who, error) {
			if peer.Node == "" {
				return Who{}, errors.New("nobody known")
			}
			return peer, nil
		},
		Later: func(_ cluster.NodeID, to cluster.Lineage) {
			if heard != nil {
				*heard = append(*heard, to)
			}
		},
	})
}

// TestGateChecksBothEnds: what a caller says of itself counts for nothing, the
// network says who it is; and neither end talks to another history.
func TestGateChecksBothEnds(t *testing.T) {
	core := Who{Node: "a", Name: "a", Core: true}
	gpu := Who{Node: "g", Name: "g", GPU: true}
	for name, c := range map[string]struct {
		says    cluster.NodeID
		is      Who
		theirs  cluster.Lineage
		purpose Purpose
		target  string
		code    cluster.Code // of what the caller is told
		later   int          // ends that heard of a later history
	}{
		"a core node":                 {says: "a", is: core, theirs: shop, purpose: ForRaft, target: "i1"},
		"a worker's link":             {says: "g", is: gpu, theirs: shop, purpose: ForLink, target: "i1"},
		"a worker at the log":         {says: "g", is: gpu, theirs: shop, purpose: ForRaft, target: "i1", code: cluster.Forbidden},
		"a person":                    {says: "a", is: Who{Node: "p", Login: "me@example.com"}, theirs: shop, purpose: ForLink, target: "i1", code: cluster.Forbidden},
		"a stranger":                  {says: "a", theirs: shop, purpose: ForLink, target: "i1", code: cluster.Forbidden},
		"somebody else's name":        {says: "b", is: core, theirs: shop, purpose: ForLink, target: "i1", code: cluster.Forbidden},
		"another purpose":             {says: "a", is: core, theirs: shop, purpose: ForGossip, target: "i1", code: cluster.Forbidden},
		"another workshop":            {says: "a", is: core, theirs: elseShop, purpose: ForLink, target: "i1", code: cluster.Forbidden},
		"no workshop":                 {says: "a", is: core, purpose: ForLink, target: "i1", code: cluster.Forbidden},
		"an earlier history":          {says: "a", is: core, theirs: earlier, purpose: ForLink, target: "i1", code: cluster.Stale, later: 1},
		"a later history":             {says: "a", is: core, theirs: later, purpose: ForLink, target: "i1", code: cluster.Stale, later: 1},
		"a log that is there no more": {says: "a", is: core, theirs: shop, purpose: ForRaft, target: "i0", code: cluster.Stale},
	} {
		t.Run(name, func(t *testing.T) {
			listens := c.purpose
			if name == "another purpose" {
				listens = ForLink
			}
			var heard []cluster.Lineage
			caller, server := gateOf(c.says, c.theirs, Who{}, &heard), gateOf("me", shop, c.is, &heard)
			near, far := net.Pipe()
			defer near.Close()
			defer far.Close()
			who := make(chan Who, 1)
			go func() {
				w, err := server.receive(far, listens, "i1")
				if (err == nil) != (c.code == "") {
					t.Errorf("the gate said %v", err)
				}
				who <- w
			}()
			err := caller.greet(t.Context(), near, "me", c.purpose, c.target)
			if cluster.CodeOf(err) != c.code {
				t.Errorf("told %v, want %q", err, c.code)
			}
			if w := <-who; c.code == "" && w != c.is || c.code != "" && w != (Who{}) {
				t.Errorf("the stream is %+v's", w)
			}
			if len(heard) != c.later {
				t.Errorf("heard of %v", heard)
			}
		})
	}
}

// TestCallerChecksToo: a server of another history that lets everybody in is
// not talked to either.
func TestCallerChecksToo(t *testing.T) {
	for _, theirs := range []cluster.Lineage{elseShop, earlier, later, {}} {
		near, far := net.Pipe()
		go func() {
			var h hello
			_ = readFrame(far, maxHello, &h)
			_ = writeFrame(far, welcome{Lineage: theirs})
		}()
		if err := gateOf("a", shop, Who{}, nil).greet(t.Context(), near, "b", ForLink, ""); err == nil {
			t.Errorf("a node of %s was accepted", theirs)
		}
		_, _ = near.Close(), far.Close()
	}
}

func FuzzFrames(f *testing.F) {
	var good bytes.Buffer
	if err := writeFrame(&good, hello{Version: helloVersion, Purpose: ForLink, Node: "a", Lineage: shop}); err != nil {
		f.Fatal(err)
	}
	f.Add(good.Bytes())
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 1})
	f.Add(binary.BigEndian.AppendUint32(nil, 3))
	f.Fuzz(func(t *testing.T, b []byte) {
		var h hello
		r := bytes.NewReader(b)
		if err := readFrame(r, maxHello, &h); err != nil {
			return
		}
		if used := len(b) - r.Len(); used > maxHello+4 {
			t.Errorf("read %d bytes", used)
		}
		var again bytes.Buffer
		if err := writeFrame(&again, h); err != nil {
			t.Fatal(err)
		}
		var h2 hello
		if err := readFrame(&again, maxHello+64, &h2); err != nil || h2 != h {
			t.Errorf("%+v came back as %+v, %v", h, h2, err)
		}
	})
}

// FuzzGate sends anything to a gate that knows the caller for a core node: only
// a whole hello in this node's own name and history opens a stream.
func FuzzGate(f *testing.F) {
	var good bytes.Buffer
	if err := writeFrame(&good, hello{Version: helloVersion, Purpose: ForLink, Node: "a", Lineage: shop}); err != nil {
		f.Fatal(err)
	}
	f.Add(good.Bytes())
	f.Add(good.Bytes()[:7])
	f.Fuzz(func(t *testing.T, b []byte) {
		near, far := net.Pipe()
		defer near.Close()
		defer far.Close()
		go func() {
			_, _ = near.Write(b)
			_, _ = io.Copy(io.Discard, near)
		}()
		go func() {
			if len(b) < good.Len() {
				_ = near.Close() // else the gate waits for the rest
			}
		}()
		who, err := gateOf("me", shop, Who{Node: "a", Name: "a", Core: true}, nil).receive(far, ForLink, "")
		if err != nil {
			return
		}
		var h hello
		if e := readFrame(bytes.NewReader(b), maxHello, &h); e != nil || h.Node != "a" || h.Purpose != ForLink || h.Lineage != shop || h.Version != helloVersion || who.Node != "a" {
			t.Errorf("a stream of %+v was opened with %+v", who, h)
		}
	})
}
