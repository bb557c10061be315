package state

import "github.com/ahelme/comfyume/cluster"

// KindActed is Acted's kind.
const KindActed cluster.Kind = 13

// Acted enters into the audit what a person had a node do that is no change of
// the table: restart a ComfyUI, free its memory.
type Acted struct {
	What string `cbor:"1,keyasint"`
}

// Kind of Acted.
func (Acted) Kind() cluster.Kind { return KindActed }

// maxActed bounds What, in bytes.
const maxActed = 300

func (c *Acted) check() error {
	if c.What == "" || len(c.What) > maxActed {
		return cluster.Errorf(cluster.Invalid, "an audit line has 1 to %d bytes", maxActed)
	}
	return nil
}
