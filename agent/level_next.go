//go:build comfyume_nextlevel

package agent

import (
	"context"
	"fmt"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/state"
)

// raised uses the command that the next level brings. See state's own file of
// that level: it is for proving upgrades and in no release.
func (m *membership) raised(ctx context.Context) error {
	text := fmt.Sprintf("remarked that level %d is agreed on", m.machine.Level())
	_, err := m.propose.Propose(cluster.ActedBy(ctx, m.node().Name), &state.Remark{Text: text})
	return err
}
