package gateway

import (
	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/cluster/models"
	"github.com/ahelme/comfyume/roles/comfy"
)

// waitsForGPU is what a page shows at a workflow that was queued while no GPU
// machine is there.
const waitsForGPU = "Queued. This starts when a GPU machine joins the workshop; you can go on editing or close the page."

// tellWaiting writes that a job starts when a GPU joins, if none is there now,
// onto the nodes that will show its results. It goes by the stock page's way of
// showing a node's progress as text, so it needs no script of ours.
func (g *Gateway) tellWaiting(user cluster.User, client string, id jobs.ID, outputs []string) {
	if client == "" || g.gpuThere() {
		return
	}
	g.cfg.Tables.Jobs(func(t *jobs.Table) {
		if j, ok := t.Job(id); !ok || j.State != jobs.Pending {
			outputs = nil // somebody has it already
		}
	})
	for _, node := range outputs[:min(len(outputs), maxNodes)] {
		g.hub.show(user, client, comfy.NewText(node, waitsForGPU))
	}
}

// maxNodes bounds the nodes that say so.
const maxNodes = 8

// gpuThere reports whether a worker can be expected to take jobs now.
func (g *Gateway) gpuThere() bool {
	if g.cfg.GPUs != nil {
		return g.cfg.GPUs() > 0
	}
	known := false
	g.cfg.Tables.Models(func(t *models.Table) { known = len(t.Workers()) > 0 })
	return known
}
