package agent

import (
	"testing"

	"github.com/ahelme/comfyume/cluster"
)

// TestStreamBeforeTheLogIsOpen is a node that is started again while the others
// look for it: the gate is asked for its history before the log has been opened.
func TestStreamBeforeTheLogIsOpen(t *testing.T) {
	s := &swarm{core: &core{}}
	if l := s.lineage(); l != (cluster.Lineage{}) {
		t.Errorf("the history of a log that is not open is %v", l)
	}
}
