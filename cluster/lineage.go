package cluster

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
)

// The tailnet's tags. A core node holds the table; a gpu-only one runs
// participants' code on a rented machine and may use its own verbs alone.
const (
	TagCore = "tag:comfyume"
	TagGPU  = "tag:comfyume-gpu"
)

// The ports on a node's address of the workshop's network.
const (
	PortSite   = 80   // HTTP: verbs of nodes, dashboard for people
	PortRaft   = 7100 // the log
	PortLink   = 7101 // pictures, progress and reports on their way to core nodes
	PortGossip = 7946
)

// WorkshopID names one workshop's table for good. It is made when the first
// node forms it.
type WorkshopID string

// Generation counts how often the table's history was forked on purpose: by
// promoting a stand-by or recovering a voter without a leader. Two nodes that
// do so apart from each other make equal numbers and different marks; one of
// the two is then the later one for everybody.
type Generation struct {
	Number uint64 `cbor:"1,keyasint" json:"number"` // from 1; 0 = no table yet
	Mark   string `cbor:"2,keyasint" json:"mark"`   // random
}

// Compare is negative when g came before h, in the one order all nodes use.
func (g Generation) Compare(h Generation) int {
	return cmp.Or(cmp.Compare(g.Number, h.Number), cmp.Compare(g.Mark, h.Mark))
}

func (g Generation) String() string {
	if g.Number == 0 {
		return "none"
	}
	return fmt.Sprintf("%d-%s", g.Number, g.Mark)
}

// ParseGeneration reads what String wrote.
func ParseGeneration(s string) (Generation, error) {
	if s == "none" {
		return Generation{}, nil
	}
	number, mark, ok := strings.Cut(s, "-")
	n, err := strconv.ParseUint(number, 10, 64)
	if !ok || err != nil || n == 0 || mark == "" {
		return Generation{}, Errorf(Invalid, "%q is no generation", s)
	}
	return Generation{n, mark}, nil
}

// Lineage says which history of which table a node is part of. Every stream
// between nodes opens with it: the logs of two lineages must never mix.
type Lineage struct {
	Cluster    WorkshopID `cbor:"1,keyasint" json:"cluster"` // "" = none yet
	Generation Generation `cbor:"2,keyasint" json:"generation"`
}

func (l Lineage) String() string { return fmt.Sprintf("%s/%s", l.Cluster, l.Generation) }
