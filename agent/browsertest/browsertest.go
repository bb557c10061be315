// Package browsertest drives the stock ComfyUI frontend in a real headless Chromium, the way a participant does.
//
// It promises that what it clicks is the frontend's own button, that no script is added to the page, and that every failed
// request and every console error of the visit is kept for the test to judge. It refuses to look outside 127.0.0.1: every
// other host name fails to resolve, so a test can never depend on the internet.
package browsertest

import (
	"context"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// patience is how long a wait may take before the test is called failed. The pages are large and a CI machine is slow.
const patience = 150 * time.Second

// Options say which page to open and as whom.
type Options struct {
	URL           string   // where to go first, for example http://127.0.0.1:8080/user001/
	User          string   // sign-in name; empty opens the page without credentials
	Password      string   // sign-in password
	FrontendLabel string   // the frontend's version, used in messages and to name files
	Browser       *Browser // nil: a fresh one that ends with the test
}

// Page is one browser tab on one frontend. It is for one goroutine, except that Failures and the other readings may be
// called at any time.
type Page struct {
	t    testing.TB
	ctx  context.Context
	opts Options
	seen *collector
}

// chromiumPaths are where Debian, Ubuntu and Fedora put the browser.
var chromiumPaths = []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable"}

// Require returns the path of the browser. Without one the test is skipped with a sentence, except on CI, where it fails:
// there the browser is part of the contract.
func Require(t testing.TB) string {
	t.Helper()
	for _, name := range chromiumPaths {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	const missing = "no Chromium on this machine: install the package chromium to run the browser tests"
	if os.Getenv("CI") == "true" {
		t.Fatal(missing)
	}
	t.Skip(missing)
	return ""
}

// shared is the one browser process of a test binary: starting one costs seconds of a CPU, and what tests must not share is
// kept apart by the browser itself.
var shared struct {
	sync.Mutex
	ctx  context.Context
	free []func()
}

// process returns the context of the running browser, and starts it at the first call.
func process(t testing.TB) context.Context {
	t.Helper()
	path := Require(t)
	shared.Lock()
	defer shared.Unlock()
	if shared.ctx != nil {
		return shared.ctx
	}
	alloc, freeAlloc := chromedp.NewExecAllocator(context.Background(), allocatorOptions(path)...)
	ctx, free := chromedp.NewContext(alloc)
	// The first run binds the life of the browser to its context, so it must carry no deadline.
	if err := chromedp.Do(ctx); err != nil {
		freeAlloc()
		t.Fatalf("start %s: %v", path, err)
	}
	shared.ctx, shared.free = ctx, []func(){free, freeAlloc}
	return ctx
}

// Finish ends the browser process, if one was started. It is for TestMain.
func Finish() {
	shared.Lock()
	defer shared.Unlock()
	for _, free := range shared.free {
		free()
	}
	shared.ctx, shared.free = nil, nil
}

// Browser keeps cookies, storage and cache of its own, as a browser that was just installed does. Pages that are opened in
// it one after the other are visits of the same browser.
type Browser struct{ ctx context.Context }

// NewBrowser makes a browser that ends with the test.
func NewBrowser(t testing.TB) *Browser {
	t.Helper()
	ctx, free := chromedp.NewContext(process(t), chromedp.WithNewBrowserContext())
	t.Cleanup(free)
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("make a browser context: %v", err)
	}
	return &Browser{ctx}
}

// Open goes to the page in a tab of its own, which closes with the test.
func Open(t testing.TB, o Options) *Page {
	t.Helper()
	home, err := url.Parse(o.URL)
	if err != nil {
		t.Fatalf("parse page address: %v", err)
	}
	if o.Browser == nil {
		o.Browser = NewBrowser(t)
	}
	p := &Page{t: t, opts: o, seen: newCollector(home.Host)}
	var free context.CancelFunc
	p.ctx, free = chromedp.NewContext(o.Browser.ctx, chromedp.WithListener(p.seen.see))
	t.Cleanup(free)
	// As above: no deadline for the first run. The size is small because the canvas is painted without a GPU here.
	if err := chromedp.Do(p.ctx, chromedp.EmulateViewport(1280, 800)); err != nil {
		t.Fatalf("open a tab: %v", err)
	}
	if o.User != "" {
		p.signIn()
	}
	p.do("open "+o.URL, chromedp.Navigate(o.URL))
	p.FillSignIn()
	return p
}

// In is the same page for a subtest, whose failures it then reports.
func (p *Page) In(t testing.TB) *Page {
	q := *p
	q.t = t
	return &q
}

// allocatorOptions are the browser's flags: no sandbox because tests run as root in containers, and no network but loopback.
func allocatorOptions(path string) []chromedp.ExecAllocatorOption {
	return append(slices.Clone(chromedp.DefaultExecAllocatorOptions[:]),
		chromedp.ExecPath(path),
		chromedp.NoSandbox,
		chromedp.DisableGPU,
		chromedp.Flag("headless", "new"),
		chromedp.Flag("disable-quic", true),
		chromedp.Flag("disable-component-update", true),
		chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"),
		chromedp.Flag("no-proxy-server", true),
		chromedp.WindowSize(1280, 800),
	)
}

// do runs actions within the page's patience and ends the test on an error.
func (p *Page) do(what string, actions ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	ctx, stop := context.WithTimeout(p.ctx, patience)
	defer stop()
	if err := chromedp.Do(ctx, actions...); err != nil {
		p.t.Fatalf("%s: %s: %v", p.opts.FrontendLabel, what, err)
	}
}

// evaluate runs an expression in the page, once, and returns its value.
func evaluate[T any](p *Page, what, expression string) T {
	p.t.Helper()
	ctx, stop := context.WithTimeout(p.ctx, patience)
	defer stop()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
	if err != nil {
		p.t.Fatalf("%s: %s: %v", p.opts.FrontendLabel, what, err)
	}
	return v
}

// betweenPages is what Chromium says of an expression that its page left behind.
var betweenPages = []string{"navigated or closed", "context was destroyed", "Cannot find context"}

// look evaluates an expression that only reads. While the page goes from one
// address to the next it can be cut off, and looks again.
func look[T any](p *Page, what, expression string) T {
	p.t.Helper()
	ctx, stop := context.WithTimeout(p.ctx, patience)
	defer stop()
	for {
		v, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
		if err == nil {
			return v
		}
		if ctx.Err() != nil || !slices.ContainsFunc(betweenPages, func(said string) bool { return strings.Contains(err.Error(), said) }) {
			p.t.Fatalf("%s: %s: %v", p.opts.FrontendLabel, what, err)
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// until asks ready again and again until it is true, and ends the test when the patience is over.
func (p *Page) until(what string, ready func() bool) {
	p.t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for !ready() {
		select {
		case <-tick.C:
		case <-deadline.C:
			p.Explain()
			p.t.Fatalf("%s: waited %s for: %s", p.opts.FrontendLabel, patience, what)
		case <-p.ctx.Done():
			p.t.Fatalf("%s: the browser ended while waiting for: %s", p.opts.FrontendLabel, what)
		}
	}
}

// Explain logs what the visit has seen so far, so that a failure can be understood from the test's output.
func (p *Page) Explain() {
	p.t.Helper()
	for _, r := range p.seen.pending() {
		p.t.Logf("still under way: %s", r)
	}
	for _, f := range p.seen.failed() {
		p.t.Logf("failed request: %s %s %d", f.Method, f.Path, f.Status)
	}
	for _, e := range p.seen.complaints() {
		p.t.Logf("console error: %.1500s", e)
	}
	ctx, stop := context.WithTimeout(p.ctx, 10*time.Second)
	defer stop()
	if text, err := chromedp.Run(ctx, chromedp.Evaluate[string](dialogScript)); err == nil && text != "" {
		p.t.Logf("dialogs: %.400s", text)
	}
	if dir := os.Getenv("COMFYUME_SCREENSHOTS"); dir != "" {
		p.Screenshot(filepath.Join(dir, "waited-in-vain-"+strings.ReplaceAll(p.opts.FrontendLabel, " ", "-")+".png"))
	}
}
