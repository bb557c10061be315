package peer

import (
	"context"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/blob"
	"github.com/ahelme/comfyume/cluster/jobs"
)

// Fetch copies a blob here from some nodes.
func (c *Client) Fetch(ctx context.Context, to *blob.Dir, from []cluster.NodeID, ref cluster.Ref) error {
	return c.fetchInto(ctx, to, from, ref, jobs.Lease{})
}
