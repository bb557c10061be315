package gateway

import (
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
func (g *Gateway) tellWaiting(client string, id jobs.ID, outputs []string) {
	if client == "" || g.gpuThere() {
		return
	}
	g.hub.waits(client, id, outputs[:min(len(outputs), maxNodes)])
}

// waits shows on nodes that their job waits for a GPU, and remembers them so that
// started can take it back.
func (h *hub) waits(client string, id jobs.ID, nodes []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	pending := false
	h.g.cfg.Tables.Jobs(func(t *jobs.Table) {
		j, ok := t.Job(id)
		pending = ok && j.State == jobs.Pending
	})
	a := h.audience(id.User)
	if !pending || a.live[id.Prompt] != nil {
		return // somebody has it already
	}
	a.waits[id.Prompt] = nodes
	a.show(client, nodes, waitsForGPU)
}

// started takes back from the nodes of a job that it waits for a GPU: it began,
// or it ended without beginning.
func (a *audience) started(client, prompt string) {
	a.show(client, a.waits[prompt], noText)
	delete(a.waits, prompt)
}

// noText is what a page shows as nothing: it passes over a text that is empty.
const noText = " "

// show writes a text on nodes, at the pages of one client id.
func (a *audience) show(client string, nodes []string, text string) {
	for _, node := range nodes {
		f := comfy.NewText(node, text)
		for s := range a.socks {
			if s.client == client {
				s.enqueue(frame{op: opBinary, data: f.Raw})
			}
		}
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
