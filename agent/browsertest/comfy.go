package browsertest

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/chromedp/chromedp"
)

// readyScript is true once the frontend has mounted its canvas and opened its first workflow. The names hold from 1.37 to 1.58.
const readyScript = `(() => {
	const a = window.app;
	return !!(a && a.vueAppReady && a.canvas && a.graph && a.extensionManager && a.extensionManager.workflow &&
		a.extensionManager.workflow.activeWorkflow && document.querySelector('canvas#graph-canvas'));
})()`

// WaitAppReady waits until the frontend works and has stopped asking the server for things.
func (p *Page) WaitAppReady() {
	p.t.Helper()
	p.until("the frontend to be ready", func() bool { return look[bool](p, "look at the app", readyScript) })
	p.WaitQuiet()
}

// WaitQuiet waits until no request has been under way for a while.
func (p *Page) WaitQuiet() {
	p.t.Helper()
	p.until("the page to fall quiet", func() bool { return p.seen.quiet(600 * time.Millisecond) })
}

// WaitSettled waits longer, for a judgement at the end of a visit: the frontend delays some of its calls by a second.
func (p *Page) WaitSettled() {
	p.t.Helper()
	p.until("the page to settle", func() bool { return p.seen.quiet(1500 * time.Millisecond) })
}

// LoadGraph opens a workflow (the UI format) as if it had been dropped onto the canvas.
func (p *Page) LoadGraph(workflowJSON string) {
	p.t.Helper()
	evaluate[bool](p, "load the workflow", fmt.Sprintf(`(async () => { await window.app.loadGraphData(%s); return true })()`, workflowJSON))
	p.until("the workflow's nodes", func() bool { return len(p.Nodes()) > 0 })
}

// Node is one node of the open workflow.
type Node struct {
	ID    string `json:"id"`
	Type  string `json:"type"`
	Title string `json:"title"`
}

// Nodes lists the nodes of the open workflow.
func (p *Page) Nodes() []Node {
	p.t.Helper()
	text := look[string](p, "list the nodes", `JSON.stringify(((window.app.rootGraph || window.app.graph).nodes || []).map(
		n => ({id: String(n.id), type: String(n.type), title: String(n.title || '')})))`)
	var nodes []Node
	if err := json.Unmarshal([]byte(text), &nodes); err != nil {
		p.t.Fatalf("read the nodes: %v", err)
	}
	return nodes
}

// queueButton finds the frontend's own Run button and gives its middle, or null while it is covered or absent.
const queueButton = `(() => {
	const candidates = ['[data-testid="queue-button"]', '.comfyui-queue-button button', '.queue-button-group button', '#queue-button'];
	for (const selector of candidates) {
		for (const found of document.querySelectorAll(selector)) {
			const button = found.matches('button') ? found : (found.querySelector('button') || found);
			const r = button.getBoundingClientRect();
			if (r.width < 4 || r.height < 4) continue;
			const x = r.x + r.width / 2, y = r.y + r.height / 2, top = document.elementFromPoint(x, y);
			if (top && (button.contains(top) || top.contains(button))) return JSON.stringify([x, y]);
		}
	}
	return '';
})()`

// QueueByButton clicks the frontend's own Run button with the mouse.
func (p *Page) QueueByButton() {
	p.t.Helper()
	var at []float64
	p.until("the Run button", func() bool {
		text := look[string](p, "find the Run button", queueButton)
		return text != "" && json.Unmarshal([]byte(text), &at) == nil && len(at) == 2
	})
	p.do("click Run", chromedp.MouseClickXY(at[0], at[1]))
}

// WaitExecutedImage waits until the node shows at least one finished image that the browser has really decoded, and returns
// the image's width and height.
func (p *Page) WaitExecutedImage(nodeID string) (width, height int) {
	p.t.Helper()
	script := fmt.Sprintf(`(async () => {
		const outputs = window.app.nodeOutputs || {};
		const shown = (outputs[%[1]q] || {}).images || [];
		if (!shown.length) return '';
		const i = shown[0], api = window.app.api || window.comfyAPI.api.api;
		const image = new Image();
		image.src = api.apiURL('/view?' + new URLSearchParams({filename: i.filename, subfolder: i.subfolder || '', type: i.type || 'output'}));
		try { await image.decode(); } catch (e) { return ''; }
		return JSON.stringify([image.naturalWidth, image.naturalHeight]);
	})()`, nodeID)
	p.until("an image on node "+nodeID, func() bool {
		text := look[string](p, "look at node "+nodeID, script)
		var size [2]int
		if text == "" || json.Unmarshal([]byte(text), &size) != nil {
			return false
		}
		width, height = size[0], size[1]
		return width > 0
	})
	return width, height
}

// WaitPreview waits until the frontend holds a live preview for the node, which it only does while the node works.
func (p *Page) WaitPreview(nodeID string) {
	p.t.Helper()
	script := fmt.Sprintf(`(() => { const held = (window.app.nodePreviewImages || {})[%[1]q]; return !!held && held.length > 0; })()`, nodeID)
	p.until("a preview on node "+nodeID, func() bool { return look[bool](p, "look for a preview on node "+nodeID, script) })
}

// WaitAssetImage opens the frontend's Assets side bar (Queue, in older ones), which shows the user's history, and waits until it shows a decoded
// picture whose file name holds the given text.
func (p *Page) WaitAssetImage(name string) {
	p.t.Helper()
	tab := "assets"
	if !look[bool](p, "look for the side bar", `window.app.extensionManager.command.commands.some(c => c.id === 'Workspace.ToggleSidebarTab.assets')`) {
		tab = "queue"
	}
	p.showSidebar(tab)
	script := fmt.Sprintf(`(() => [...document.querySelectorAll('img')].some(i => i.naturalWidth > 0 &&
		(new URL(i.src, location.href).searchParams.get('filename') || '').includes(%[1]q)))()`, name)
	p.until("a picture "+name+" among the assets", func() bool { return look[bool](p, "look at the assets", script) })
}

// showSidebar opens one of the frontend's side bars.
func (p *Page) showSidebar(tab string) {
	p.t.Helper()
	evaluate[bool](p, "show the side bar "+tab, fmt.Sprintf(`(async () => {
		const m = window.app.extensionManager, bar = m.sidebarTab;
		if (!bar || bar.activeSidebarTabId !== %[1]q) await m.command.execute('Workspace.ToggleSidebarTab.' + %[1]q);
		return true;
	})()`, tab))
}

// Workflow is what the frontend says about its open tab.
type Workflow struct {
	Path      string `json:"path"`
	Temporary bool   `json:"temporary"`
	Modified  bool   `json:"modified"`
}

const workflowScript = `(() => {
	const w = window.app.extensionManager.workflow.activeWorkflow;
	return JSON.stringify(w ? {path: w.path, temporary: !!w.isTemporary, modified: !!w.isModified} : {});
})()`

// ActiveWorkflow says which workflow is in front.
func (p *Page) ActiveWorkflow() Workflow {
	p.t.Helper()
	var w Workflow
	if err := json.Unmarshal([]byte(look[string](p, "ask for the open workflow", workflowScript)), &w); err != nil {
		p.t.Fatalf("read the open workflow: %v", err)
	}
	return w
}

// OpenWorkflow opens a workflow of the user's by its path below workflows/, by clicking it in the Workflows side bar.
func (p *Page) OpenWorkflow(path string) {
	p.t.Helper()
	p.showSidebar("workflows")
	name := filepath.Base(path)
	name = name[:len(name)-len(filepath.Ext(name))]
	find := fmt.Sprintf(`(() => {
		const labels = [...document.querySelectorAll('.workflows-sidebar-tab .node-label, .workflows-sidebar-tab .tree-node, .workflows-sidebar-tab [role=treeitem], .workflows-sidebar-tab span')];
		const hit = labels.filter(e => e.textContent.trim() === %[1]q || e.textContent.trim() === %[1]q + '.json').pop();
		if (!hit) return '';
		hit.scrollIntoView({block: 'center'});
		const r = hit.getBoundingClientRect();
		return JSON.stringify([r.x + Math.min(r.width / 2, 40), r.y + r.height / 2]);
	})()`, name)
	var at []float64
	p.until("the workflow "+path+" in the side bar", func() bool {
		text := look[string](p, "find the workflow in the side bar", find)
		return text != "" && json.Unmarshal([]byte(text), &at) == nil && len(at) == 2
	})
	p.do("click the workflow", chromedp.MouseClickXY(at[0], at[1]))
	p.until("the workflow "+path+" to be in front", func() bool { return p.ActiveWorkflow().Path == "workflows/"+path })
}

// SaveWorkflow saves the open workflow under a name without ending, over the frontend's own store and so over its own requests.
func (p *Page) SaveWorkflow(name string) {
	p.t.Helper()
	evaluate[bool](p, "save the workflow", fmt.Sprintf(`(async () => {
		const store = window.app.extensionManager.workflow, w = store.activeWorkflow, path = 'workflows/' + %[1]q + '.json';
		if (w.isTemporary || w.path === path) {
			if (w.path !== path) await store.renameWorkflow(w, path);
			w.changeTracker && w.changeTracker.checkState && w.changeTracker.checkState();
			await w.save();
			return true;
		}
		const copy = store.saveAs(w, path);
		await copy.save();
		return true;
	})()`, name))
	p.WaitQuiet()
}

// dialogScript joins the visible text of dialogs, toasts and error panels.
const dialogScript = `(() => {
	const roots = document.querySelectorAll('[role=dialog], [role=alertdialog], .p-dialog, .p-toast-message, [data-sonner-toast], [role=alert], [data-testid*="error-overlay"]');
	const texts = new Set();
	for (const e of roots) {
		const r = e.getBoundingClientRect();
		if (r.width > 0 && r.height > 0 && e.innerText.trim()) texts.add(e.innerText.trim());
	}
	return [...texts].join('\n---\n');
})()`

// DialogText is the visible text of dialogs, toasts and error panels, empty when there is none.
func (p *Page) DialogText() string {
	p.t.Helper()
	return look[string](p, "read the dialogs", dialogScript)
}

// closeButton gives the middle of the close button of what is in front: toasts first, because they lie over the dialogs'
// own buttons. It is "none" without a dialog and "" while there is no button. The same button is given again after three
// seconds only: a dialog that is fading out when its header is pressed complains (PrimeVue's initDrag, "reading 'style'").
const closeButton = `(() => {
	const middle = button => {
		const r = button.getBoundingClientRect();
		if (!(r.width > 0)) return null;
		if (Date.now() - (button.pressed || 0) < 3000) return '';
		button.pressed = Date.now();
		return JSON.stringify([r.x + r.width / 2, r.y + r.height / 2]);
	};
	for (const button of document.querySelectorAll('.p-toast-close-button, [data-sonner-toast] [data-close-button]')) {
		const at = middle(button);
		if (at !== null) return at;
	}
	const dialogs = [...document.querySelectorAll('[role=dialog], .p-dialog')].filter(e => e.getBoundingClientRect().width > 0);
	if (!dialogs.length) return 'none';
	const names = ['.p-dialog-close-button', 'button[aria-label*="lose"]', 'button:has(.pi-times)', 'button:has([class*="lucide--x]"])'];
	for (const dialog of dialogs.reverse()) {
		for (const name of names) {
			for (const button of dialog.querySelectorAll(name)) {
				const at = middle(button);
				if (at !== null) return at;
			}
		}
	}
	return '';
})()`

// WaitDialog waits until a dialog, a toast or an error panel says something.
func (p *Page) WaitDialog() {
	p.t.Helper()
	p.until("the frontend to say what is wrong", func() bool { return p.DialogText() != "" })
}

// ShowErrors opens the list behind a summary of errors. Frontend 1.37 has none: its dialogs name everything themselves.
func (p *Page) ShowErrors() {
	p.t.Helper()
	const behind = "See Errors|Show missing|View details"
	if !look[bool](p, "look for the list of errors", fmt.Sprintf(
		`[...document.querySelectorAll('button')].some(b => new RegExp(%q, 'i').test(b.innerText) && b.getBoundingClientRect().width > 0)`, behind)) {
		return
	}
	p.Click(behind)
}

// CloseDialogs clicks the close button of each dialog until none covers the canvas.
func (p *Page) CloseDialogs() {
	p.t.Helper()
	p.until("the dialogs to close", func() bool {
		text := look[string](p, "look for dialogs", closeButton)
		var at []float64
		if json.Unmarshal([]byte(text), &at) == nil && len(at) == 2 {
			p.do("close a dialog", chromedp.MouseClickXY(at[0], at[1]))
		}
		return text == "none"
	})
}

// ShowTemplates opens the frontend's Templates dialog.
func (p *Page) ShowTemplates() {
	p.t.Helper()
	evaluate[bool](p, "open the templates", `(async () => { await window.app.extensionManager.command.execute('Comfy.BrowseTemplates'); return true })()`)
	p.until("the Templates dialog", func() bool { return p.DialogText() != "" })
}

// Reload loads the page again, as the browser's own button does.
func (p *Page) Reload() {
	p.t.Helper()
	// Chromium may report a frame that stopped loading before the old page is gone, and the old page looks ready.
	evaluate[bool](p, "mark the page", `window.leaving = true`)
	p.do("reload", chromedp.Reload())
	p.until("the old page to be gone", func() bool { return !look[bool](p, "look for the old page", `!!window.leaving`) })
}

// Click clicks the first visible link or button whose text matches a pattern of
// JavaScript, letter case ignored, once it stands still and nothing is over it.
func (p *Page) Click(pattern string) {
	p.t.Helper()
	find := fmt.Sprintf(`(() => {
		for (const e of document.querySelectorAll('a, button, [role=button]')) {
			if (!new RegExp(%[1]q, 'i').test(e.innerText || '')) continue;
			const r = e.getBoundingClientRect();
			if (r.width === 0) continue;
			const x = r.x + r.width / 2, y = r.y + r.height / 2, top = document.elementFromPoint(x, y);
			if (top && (e === top || e.contains(top) || top.contains(e))) return JSON.stringify([x, y]);
			e.scrollIntoView({block: 'center'});
			return '';
		}
		return '';
	})()`, pattern)
	var at []float64
	last := ""
	p.until("something to click that says "+pattern, func() bool {
		text := look[string](p, "find "+pattern, find)
		still := text == last
		last = text
		return still && text != "" && json.Unmarshal([]byte(text), &at) == nil && len(at) == 2
	})
	p.do("click "+pattern, chromedp.MouseClickXY(at[0], at[1]))
}

// WaitText waits until the page's visible text holds a text.
func (p *Page) WaitText(text string) {
	p.t.Helper()
	script := fmt.Sprintf(`(document.body?.innerText ?? "").includes(%q)`, text) // none between two pages
	p.until("the text "+text, func() bool { return look[bool](p, "read the page", script) })
}

// Goto goes to another address in the same tab.
func (p *Page) Goto(address string) {
	p.t.Helper()
	p.do("go to "+address, chromedp.Navigate(address))
}

// Location is the address in the browser's bar.
func (p *Page) Location() string {
	p.t.Helper()
	return look[string](p, "read the address", `location.href`)
}

// Text evaluates an expression of the page that gives a string: for what a single test wants to know.
func (p *Page) Text(expression string) string {
	p.t.Helper()
	return evaluate[string](p, "evaluate", expression)
}

// Screenshot writes what the tab shows as a PNG.
func (p *Page) Screenshot(path string) {
	p.t.Helper()
	ctx, stop := context.WithTimeout(p.ctx, patience)
	defer stop()
	png, err := chromedp.Run(ctx, chromedp.CaptureScreenshot())
	if err != nil {
		p.t.Fatalf("take a screenshot: %v", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		p.t.Fatalf("keep a screenshot: %v", err)
	}
	if err := os.WriteFile(path, png, 0o644); err != nil {
		p.t.Fatalf("keep a screenshot: %v", err)
	}
}

// Failures are the requests that failed so far, sorted, each once.
func (p *Page) Failures() []Failure { return p.seen.failed() }

// ConsoleErrors are the console errors and uncaught exceptions so far, normalised, sorted, each once.
func (p *Page) ConsoleErrors() []string { return p.seen.errors() }

// Requests are all requests so far, in the order of sending.
func (p *Page) Requests() []Request { return p.seen.requests() }

// Frames counts the web socket frames so far.
func (p *Page) Frames() Frames { return p.seen.counted() }
