package browsertest

import (
	"cmp"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
)

// External stands for every host that is not the one under test: the tests cut the internet off, and which of its hosts a
// frontend tries is the frontend's affair.
const External = "external"

// Failure is one request that the page made in vain. Status is 0 when there was no answer at all.
type Failure struct {
	Method string `json:"method"`
	Path   string `json:"path"`
	Status int64  `json:"status"`
}

// Request is one request that the page made, in the order of sending.
type Request struct {
	Method, Path string
	Status       int64
	Body         string
}

// Frames counts what came over the web sockets.
type Frames struct {
	Sent, Received, Binary int
	Types                  map[string]int // received JSON frames by their type
}

// collector keeps what the browser reports. The browser's reader calls see, the test reads the rest.
type collector struct {
	home string // host:port of the page under test

	mu       sync.Mutex
	sent     map[network.RequestID]*Request
	order    []*Request
	open     map[network.RequestID]cdp.LoaderID // by the page that asked
	changed  time.Time
	failures []Failure
	console  []string
	raw      []string // the same with its stack, for somebody who looks into it
	frames   Frames
}

func newCollector(home string) *collector {
	return &collector{
		home: home, sent: map[network.RequestID]*Request{}, open: map[network.RequestID]cdp.LoaderID{}, changed: time.Now(),
		frames: Frames{Types: map[string]int{}},
	}
}

// see is called for every event of the tab, in order. It must not block.
func (c *collector) see(ev any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch e := ev.(type) {
	case *network.EventRequestWillBeSent:
		c.request(e)
	case *network.EventResponseReceived:
		c.response(e)
	case *network.EventDataReceived:
		c.changed = time.Now()
	case *network.EventLoadingFinished:
		c.done(e.RequestID)
	case *network.EventLoadingFailed:
		r := c.sent[e.RequestID]
		if r != nil && !e.Canceled && r.Status < 400 {
			c.failures = append(c.failures, Failure{Method: r.Method, Path: r.Path})
		}
		c.done(e.RequestID)
	case *page.EventFrameNavigated:
		// What the page before it had under way is dropped, not always with an event.
		if e.Frame.ParentID == "" {
			maps.DeleteFunc(c.open, func(_ network.RequestID, by cdp.LoaderID) bool { return by != e.Frame.LoaderID })
			c.changed = time.Now()
		}
	case *network.EventWebSocketFrameReceived:
		c.frame(e.Response)
	case *network.EventWebSocketFrameSent:
		c.frames.Sent++
	case *runtime.EventConsoleAPICalled:
		if e.Type == "error" {
			c.complain(spell(e.Args))
		}
	case *runtime.EventExceptionThrown:
		c.complain(exception(e.ExceptionDetails))
	case *log.EventEntryAdded:
		// The browser's own line about a failed request repeats what failures already hold.
		if e.Entry.Level == "error" && !strings.HasPrefix(e.Entry.Text, "Failed to load resource") {
			c.complain(e.Entry.Text)
		}
	}
}

func (c *collector) complain(text string) {
	c.console = append(c.console, Normalise(text))
	c.raw = append(c.raw, time.Now().Format(time.TimeOnly)+" "+text)
}

func (c *collector) request(e *network.EventRequestWillBeSent) {
	if strings.HasPrefix(e.Request.URL, "data:") || strings.HasPrefix(e.Request.URL, "blob:") {
		return
	}
	r := &Request{Method: e.Request.Method, Path: c.path(e.Request.URL)}
	for _, part := range e.Request.PostDataEntries {
		r.Body += string(part.Bytes)
	}
	c.sent[e.RequestID] = r
	c.order = append(c.order, r)
	if !strings.Contains(r.Path, "favicon") { // an icon that the next one replaces is dropped without an event
		c.open[e.RequestID] = e.LoaderID
	}
	c.changed = time.Now()
}

func (c *collector) response(e *network.EventResponseReceived) {
	r := c.sent[e.RequestID]
	if r == nil {
		return
	}
	// A body that the page never reads never finishes loading, so an answered request is no longer under way.
	r.Status = e.Response.Status
	c.done(e.RequestID)
	if r.Status >= 400 {
		c.failures = append(c.failures, Failure{Method: r.Method, Path: r.Path, Status: r.Status})
	}
}

func (c *collector) done(id network.RequestID) {
	delete(c.open, id)
	c.changed = time.Now()
}

var frameType = regexp.MustCompile(`^\s*\{\s*"type"\s*:\s*"([^"]+)"`)

func (c *collector) frame(f *network.WebSocketFrame) {
	c.frames.Received++
	if f.Opcode == 2 {
		c.frames.Binary++
		return
	}
	if m := frameType.FindSubmatch(f.PayloadData); m != nil {
		c.frames.Types[string(m[1])]++
	}
}

// quiet says whether every request is answered and nothing has come for a while. Web sockets do not count.
func (c *collector) quiet(spell time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.open) == 0 && time.Since(c.changed) >= spell
}

// pending lists what is under way.
func (c *collector) pending() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []string
	for id := range c.open {
		out = append(out, c.sent[id].Method+" "+c.sent[id].Path)
	}
	slices.Sort(out)
	return out
}

func (c *collector) failed() []Failure {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := slices.Clone(c.failures)
	slices.SortFunc(out, compareFailures)
	return slices.Compact(out)
}

func (c *collector) errors() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := slices.Clone(c.console)
	slices.Sort(out)
	return slices.Compact(out)
}

func (c *collector) complaints() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.raw)
}

func (c *collector) requests() []Request {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]Request, len(c.order))
	for i, r := range c.order {
		out[i] = *r
	}
	return out
}

func (c *collector) counted() Frames {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := c.frames
	out.Types = make(map[string]int, len(c.frames.Types))
	for k, v := range c.frames.Types {
		out.Types[k] = v
	}
	return out
}

func compareFailures(a, b Failure) int {
	return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Method, b.Method), cmp.Compare(a.Status, b.Status))
}

var userPrefix = regexp.MustCompile(`^/user\d{3}(/|$)`)

// path reduces an address to what two servers have in common: no host, no /userNNN, no query but the folder of a listing.
func (c *collector) path(raw string) string {
	u, err := url.Parse(raw)
	if err != nil || u.Host != c.home {
		return External
	}
	path := userPrefix.ReplaceAllString(u.EscapedPath(), "/")
	path = assetHash.ReplaceAllString(path, "$1")
	if dir := u.Query().Get("dir"); dir != "" {
		path += "?dir=" + dir
	}
	return path
}

// spell writes the arguments of a console call as one text.
func spell(args []*runtime.RemoteObject) string {
	words := make([]string, 0, len(args))
	for _, a := range args {
		if len(a.Value) > 0 {
			words = append(words, strings.Trim(string(a.Value), `"`))
			continue
		}
		words = append(words, a.Description)
	}
	return strings.Join(words, " ")
}

func exception(d *runtime.ExceptionDetails) string {
	if d.Exception != nil && d.Exception.Description != "" {
		return fmt.Sprintf("%s %s", d.Text, d.Exception.Description)
	}
	return d.Text
}

var (
	assetHash = regexp.MustCompile(`-[A-Za-z0-9_-]{8}(\.(?:js|css|mjs|woff2|svg|png|json|webp))`)
	origins   = regexp.MustCompile(`(?:https?|wss?)://(127\.0\.0\.1|localhost)(:\d+)?(/user\d{3})?`)
	elsewhere = regexp.MustCompile(`(?:https?|wss?)://[^\s'"/]+[^\s'")]*`)
	uuids     = regexp.MustCompile(`[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}`)
	positions = regexp.MustCompile(`:\d+:\d+\b`)
	longDigit = regexp.MustCompile(`\d{4,}`)
)

// Normalise reduces a console message to its first line without addresses, hashes, ids and times, so that the same
// complaint reads the same on every server and every day.
func Normalise(text string) string {
	text, _, _ = strings.Cut(text, "\n")
	text, _, _ = strings.Cut(text, `\n`)
	text = origins.ReplaceAllString(text, "")
	text = elsewhere.ReplaceAllString(text, External)
	text = assetHash.ReplaceAllString(text, "$1")
	text = uuids.ReplaceAllString(text, "ID")
	text = positions.ReplaceAllString(text, "")
	text = longDigit.ReplaceAllString(text, "N")
	return strings.Join(strings.Fields(text), " ")
}
