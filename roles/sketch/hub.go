package sketch

import (
	"encoding/json"
	"net/http"
	"sync"

	"github.com/ahelme/comfyume/roles/comfy"
	"github.com/fasthttp/websocket"
	"github.com/google/uuid"
)

// hub holds the open sockets. As in ComfyUI a client id has one socket that
// hears of its prompts, the newest.
type hub struct {
	mu     sync.Mutex
	byID   map[string]*client
	all    map[*client]bool
	closed bool
}

// client is one open socket.
type client struct {
	id       string
	conn     *websocket.Conn
	out      chan packet   // never closed: senders may outlive the socket
	gone     chan struct{} // closed by the handler when it ends
	mu       sync.Mutex
	previews bool // asked for previews with metadata
}

type packet struct {
	kind int
	data []byte
}

// backlog is how many packets a slow reader may be behind before its socket is
// cut; previews are dropped long before.
const backlog = 4096

func newHub() *hub {
	return &hub{byID: map[string]*client{}, all: map[*client]bool{}}
}

// serve runs one socket until it ends. hello is sent first.
func (h *hub) serve(w http.ResponseWriter, r *http.Request, flags map[string]any, hello func(id string) []comfy.Message) {
	upgrader := websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }} // bound to loopback by its owner
	conn, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return // the upgrader has answered
	}
	defer conn.Close()
	conn.SetReadLimit(1 << 20)
	c := &client{id: r.URL.Query().Get("clientId"), conn: conn, out: make(chan packet, backlog), gone: make(chan struct{})}
	if c.id == "" {
		id := uuid.New()
		c.id = hexID(id)
	}
	if !h.add(c, hello) {
		return
	}
	defer h.remove(c)
	var writer sync.WaitGroup
	writer.Go(c.write)
	c.read(flags)
	close(c.gone)
	conn.Close()
	writer.Wait()
}

func hexID(id uuid.UUID) string {
	s := id.String()
	return s[:8] + s[9:13] + s[14:18] + s[19:23] + s[24:]
}

// add makes a socket known. hello is sent under the same lock: before any other
// message, and without missing a status in between.
func (h *hub) add(c *client, hello func(id string) []comfy.Message) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return false
	}
	for _, m := range hello(c.id) {
		c.send(m)
	}
	h.byID[c.id] = c
	h.all[c] = true
	return true
}

func (h *hub) remove(c *client) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.all, c)
	if h.byID[c.id] == c {
		delete(h.byID, c.id)
	}
}

// close cuts all sockets, which ends their handlers.
func (h *hub) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for c := range h.all {
		c.conn.Close()
	}
}

// send gives m to the client's socket, if it has one.
func (h *hub) send(id string, m comfy.Message) {
	if c := h.client(id); c != nil {
		c.send(m)
	}
}

// broadcast gives m to all sockets.
func (h *hub) broadcast(m comfy.Message) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for c := range h.all {
		c.send(m)
	}
}

// preview gives a picture to the client's socket in the form it asked for.
func (h *hub) preview(id string, f comfy.Frame) {
	c := h.client(id)
	if c == nil {
		return
	}
	c.mu.Lock()
	newer := c.previews
	c.mu.Unlock()
	if !newer {
		f = f.Downgrade()
	}
	if len(c.out) < backlog/2 { // a reader this far behind misses pictures first
		c.put(packet{websocket.BinaryMessage, f.Raw})
	}
}

func (h *hub) client(id string) *client {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.byID[id]
}

func (c *client) send(m comfy.Message) { c.put(packet{websocket.TextMessage, m.Encode()}) }

// put never waits: the executor must not stand still for one slow reader.
func (c *client) put(p packet) {
	select {
	case c.out <- p:
	default:
		c.conn.Close()
	}
}

func (c *client) write() {
	for {
		select {
		case p := <-c.out:
			if err := c.conn.WriteMessage(p.kind, p.data); err != nil {
				c.conn.Close()
				return
			}
		case <-c.gone:
			return
		}
	}
}

// read waits for the socket to end. Only the very first message can say what the
// client understands.
func (c *client) read(flags map[string]any) {
	for first := true; ; first = false {
		_, raw, err := c.conn.ReadMessage()
		if err != nil {
			return
		}
		m, err := comfy.ParseMessage(raw)
		if err != nil || !first || m.Type != comfy.TypeFeatureFlags {
			continue
		}
		var asked map[string]json.RawMessage
		if json.Unmarshal(m.Data, &asked) == nil {
			c.mu.Lock()
			c.previews = string(asked["supports_preview_metadata"]) == "true"
			c.mu.Unlock()
		}
		c.send(comfy.FeatureFlags(flags))
	}
}
