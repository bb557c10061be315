package gateway_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fasthttp/websocket"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/roles/comfy"
)

// page is one open page's socket: it reads everything at once and keeps it.
type page struct {
	t    testing.TB
	w    *world
	conn *websocket.Conn
	sid  string

	mu    sync.Mutex
	heard []heard
	err   error
	news  chan struct{} // one token
	done  chan struct{} // the reader ended
}

// heard is one frame: a message, or a binary frame.
type heard struct {
	m   comfy.Message
	bin []byte
}

// String says type and, where it has one, prompt and node: "executing p1 9".
func (h heard) String() string {
	if h.bin != nil {
		f, err := comfy.ParseFrame(h.bin)
		if err != nil {
			return "broken frame"
		}
		return "frame " + map[uint32]string{comfy.EventPreview: "preview", comfy.EventPreviewMetadata: "preview with metadata", comfy.EventText: "text"}[f.Event] + " " + string(f.Payload[:min(16, len(f.Payload))])
	}
	var d struct {
		PromptID string          `json:"prompt_id"`
		Node     json.RawMessage `json:"node"`
		Status   struct {
			Exec struct {
				Remaining json.RawMessage `json:"queue_remaining"`
			} `json:"exec_info"`
		} `json:"status"`
	}
	_ = json.Unmarshal(h.m.Data, &d) // some types hold none of them
	parts := []string{h.m.Type}
	for _, s := range []string{d.PromptID, strings.Trim(string(d.Node), `"`), string(d.Status.Exec.Remaining)} {
		if s != "" {
			parts = append(parts, s)
		}
	}
	return strings.Join(parts, " ")
}

// dial opens a socket without waiting for anything.
func (w *world) dial(u cluster.User, target string, header ...string) (*websocket.Conn, *http.Response, error) {
	h := http.Header{}
	for _, line := range append(header, authorization(u, "")...) {
		k, v, _ := strings.Cut(line, ": ")
		h.Set(k, v)
	}
	d := websocket.Dialer{HandshakeTimeout: 10 * time.Second}
	return d.Dial("ws://"+w.addr+target, h)
}

// page opens a socket as a page does and waits for its first status.
func (w *world) page(u cluster.User, client string, header ...string) *page {
	w.t.Helper()
	conn, _, err := w.dial(u, "/ws?clientId="+client, header...)
	if err != nil {
		w.t.Fatal(err)
	}
	p := &page{t: w.t, w: w, conn: conn, news: make(chan struct{}, 1), done: make(chan struct{})}
	go p.read()
	w.t.Cleanup(p.close)
	first := p.wait("the first status", func(all []heard) bool { return len(all) > 0 })[0]
	var d struct {
		SID string `json:"sid"`
	}
	if err := first.m.Decode(&d); err != nil || first.m.Type != comfy.TypeStatus {
		w.t.Fatalf("the first frame is %s (%v)", first, err)
	}
	p.sid = d.SID
	return p
}

func (p *page) read() {
	defer close(p.done)
	for {
		kind, raw, err := p.conn.ReadMessage()
		h := heard{bin: raw}
		if kind == websocket.TextMessage {
			h.bin = nil
			if err == nil {
				h.m, err = comfy.ParseMessage(raw)
			}
		}
		p.mu.Lock()
		if err != nil {
			p.err = err
		} else {
			p.heard = append(p.heard, h)
		}
		p.mu.Unlock()
		select {
		case p.news <- struct{}{}:
		default:
		}
		if err != nil {
			return
		}
	}
}

func (p *page) close() {
	_ = p.conn.Close()
	<-p.done
}

// say sends a text frame.
func (p *page) say(text string) {
	p.t.Helper()
	if err := p.conn.WriteMessage(websocket.TextMessage, []byte(text)); err != nil {
		p.t.Fatal(err)
	}
}

func (p *page) all() []heard {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]heard(nil), p.heard...)
}

// wait returns all frames so far once ok likes them.
func (p *page) wait(what string, ok func([]heard) bool) []heard {
	p.t.Helper()
	timeout := time.NewTimer(10 * time.Second)
	defer timeout.Stop()
	for {
		if all := p.all(); ok(all) {
			return all
		}
		select {
		case <-p.news:
		case <-timeout.C:
			p.t.Fatalf("waited 10 s in vain: %s; heard %v", what, p.all())
		}
	}
}

// waitFor waits for a frame that reads like this and returns all so far.
func (p *page) waitFor(want string) []heard {
	p.t.Helper()
	return p.wait(want, func(all []heard) bool { return index(all, want) >= 0 })
}

// index is where the first frame that reads like this is, -1 for nowhere.
func index(all []heard, want string) int {
	for i, h := range all {
		if h.String() == want {
			return i
		}
	}
	return -1
}

// ended waits until the server has closed the socket.
func (p *page) ended() error {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(10 * time.Second):
		p.t.Fatal("the socket is still open")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		return errors.New("ended without an error")
	}
	return p.err
}

// texts are the frames as they read.
func texts(all []heard) []string {
	out := make([]string, len(all))
	for i, h := range all {
		out[i] = h.String()
	}
	return out
}

// about keeps what names a prompt.
func about(all []heard, prompt string) (out []string) {
	for _, h := range all {
		if id, ok := h.m.PromptID(); ok && id == prompt {
			out = append(out, h.String())
		}
	}
	return out
}
