package browsertest

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/chromedp/chromedp"
)

// DragNode drags a node by its title with the mouse, as somebody who edits a workflow does, and waits until it has moved.
func (p *Page) DragNode(id string, dx, dy float64) {
	p.t.Helper()
	place := fmt.Sprintf(`(() => {
		const n = (window.app.rootGraph || window.app.graph).nodes.find(n => String(n.id) === %q), ds = window.app.canvas.ds;
		const r = document.querySelector('canvas#graph-canvas').getBoundingClientRect();
		return JSON.stringify([r.x + (n.pos[0] + n.size[0] / 2 + ds.offset[0]) * ds.scale, r.y + (n.pos[1] - 14 + ds.offset[1]) * ds.scale, n.pos[0], n.pos[1]]);
	})()`, id)
	at := func() (xy [4]float64) {
		if err := json.Unmarshal([]byte(look[string](p, "find node "+id, place)), &xy); err != nil {
			p.t.Fatalf("read the place of node %s: %v", id, err)
		}
		return xy
	}
	from := at()
	p.do("take node "+id, chromedp.MouseEvent(chromedp.MousePressed, from[0], from[1], chromedp.ButtonLeft, chromedp.ClickCount(1)))
	for step := 1.0; step <= 4; step++ {
		p.do("drag node "+id, chromedp.MouseEvent(chromedp.MouseMoved, from[0]+dx*step/4, from[1]+dy*step/4, chromedp.ButtonLeft))
	}
	p.do("drop node "+id, chromedp.MouseEvent(chromedp.MouseReleased, from[0]+dx, from[1]+dy, chromedp.ButtonLeft, chromedp.ClickCount(1)))
	p.until("node "+id+" to have moved", func() bool { now := at(); return now[2] != from[2] || now[3] != from[3] })
}

// workflowStore is the frontend's own store of open workflows.
const workflowStore = `window.app.extensionManager.workflow`

// RenameWorkflow renames the open workflow by the frontend's own store and so by its own requests.
func (p *Page) RenameWorkflow(name string) {
	p.t.Helper()
	evaluate[bool](p, "rename the workflow", fmt.Sprintf(
		`(async () => { const s = %s; await s.renameWorkflow(s.activeWorkflow, 'workflows/' + %q + '.json'); return true })()`, workflowStore, name))
	p.WaitQuiet()
}

// DeleteWorkflow closes the open workflow and deletes it, likewise.
func (p *Page) DeleteWorkflow() {
	p.t.Helper()
	evaluate[bool](p, "delete the workflow", fmt.Sprintf(`(async () => {
		const s = %s, w = s.activeWorkflow;
		await window.app.extensionManager.command.execute('Comfy.NewBlankWorkflow');
		await s.closeWorkflow(w);
		await s.deleteWorkflow(w);
		return true;
	})()`, workflowStore))
	p.WaitQuiet()
}

// Interrupt stops what runs, by the frontend's own command.
func (p *Page) Interrupt() {
	p.t.Helper()
	evaluate[bool](p, "interrupt", `(async () => { await window.app.extensionManager.command.execute('Comfy.Interrupt'); return true })()`)
}

// SetBatchCount sets the number beside the Run button: how many jobs one click queues.
func (p *Page) SetBatchCount(n int) {
	p.t.Helper()
	evaluate[bool](p, "set the batch count", fmt.Sprintf(
		`(() => { document.querySelector('#vue-app').__vue_app__.config.globalProperties.$pinia._s.get('queueSettingsStore').batchCount = %d; return true })()`, n))
}

// PasteImage hands a small picture to a Load Image node as pasting does, and waits until the node's widget names the upload.
func (p *Page) PasteImage(nodeID, name string) {
	p.t.Helper()
	evaluate[bool](p, "paste a picture", fmt.Sprintf(`(async () => {
		const canvas = Object.assign(document.createElement('canvas'), {width: 24, height: 16});
		canvas.getContext('2d').fillRect(0, 0, 12, 16);
		const blob = await new Promise(done => canvas.toBlob(done, 'image/png'));
		const node = (window.app.rootGraph || window.app.graph).nodes.find(n => String(n.id) === %q);
		node.pasteFiles([new File([blob], %q, {type: 'image/png'})]);
		return true;
	})()`, nodeID, name))
	p.until("the upload "+name+" in node "+nodeID, func() bool {
		return look[bool](p, "read the node", fmt.Sprintf(
			`((window.app.rootGraph || window.app.graph).nodes.find(n => String(n.id) === %q).widgets || []).some(w => String(w.value) === %q)`, nodeID, name))
	})
}

// RedNodes lists the ids of the nodes that the frontend marks as wrong.
func (p *Page) RedNodes() (ids []string) {
	p.t.Helper()
	text := look[string](p, "look for red nodes", `JSON.stringify((window.app.rootGraph || window.app.graph).nodes.filter(
		n => n.has_errors || (window.app.lastNodeErrors || {})[n.id] || String(window.app.lastExecutionError?.node_id) === String(n.id)).map(n => String(n.id)))`)
	if err := json.Unmarshal([]byte(text), &ids); err != nil {
		p.t.Fatalf("read the red nodes: %v", err)
	}
	return ids
}

// WaitRed waits until the frontend marks a node as wrong.
func (p *Page) WaitRed(id string) {
	p.t.Helper()
	p.until("node "+id+" to be red", func() bool { return slices.Contains(p.RedNodes(), id) })
}

// WaitFrame waits until the page has had n socket messages of a type.
func (p *Page) WaitFrame(kind string, n int) {
	p.t.Helper()
	p.until(fmt.Sprintf("%d messages %s", n, kind), func() bool { return p.Frames().Types[kind] >= n })
}

// Storage is what the frontend keeps in this browser's localStorage for the page's address, as JSON.
func (p *Page) Storage() string {
	p.t.Helper()
	return look[string](p, "read the storage", `JSON.stringify({...localStorage}, null, 1)`)
}

// FillStorage writes entries of Storage into this browser for the page's address. Nothing else of the frontend may run in
// the tab at that time: the sign-in page is a good place.
func (p *Page) FillStorage(entries string) {
	p.t.Helper()
	evaluate[bool](p, "fill the storage", fmt.Sprintf(`(() => { for (const [k, v] of Object.entries(%s)) localStorage.setItem(k, v); return true })()`, entries))
}
