package gateway

import (
	"encoding/json"
	"strings"
	"sync"
	"time"

	"github.com/fasthttp/websocket"
	"github.com/google/uuid"
	"github.com/valyala/fasthttp"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/roles/comfy"
)

// Bounds of one socket.
const (
	pingEvery    = 25 * time.Second
	pongWithin   = 70 * time.Second
	writeWithin  = 20 * time.Second
	maxSaid      = 1 << 20  // bytes of one frame from a page
	softQueue    = 16       // frames waiting over which previews are dropped
	hardQueue    = 4096     // frames waiting over which the socket is too slow to keep
	hardBytes    = 64 << 20 // and their bytes: a node may send pictures that are results
	maxClientID  = 128
	closeMessage = "the workshop's server is restarting"
)

// frame is what waits to be written to one socket.
type frame struct {
	kind int // websocket.TextMessage or BinaryMessage
	data []byte
}

// sock is one open page. Several may share a client id: a reconnect overlaps
// the connection it replaces.
type sock struct {
	user   cluster.User
	client string
	conn   *websocket.Conn

	mu       sync.Mutex
	queue    []frame
	waiting  int           // bytes in it and in the batch that is being written
	wake     chan struct{} // one token
	closed   chan struct{} // closed once by close
	once     sync.Once
	metadata bool // wants previews that name their node
}

// socket is GET /ws.
func (g *Gateway) socket(c *call) {
	if !isUpgrade(c.RequestCtx) {
		plain(c.RequestCtx, fasthttp.StatusBadRequest, "400: Bad Request")
		return
	}
	client := string(c.QueryArgs().Peek("clientId"))
	if client == "" || len(client) > maxClientID || strings.ContainsFunc(client, func(r rune) bool { return r < 0x20 }) {
		client = strings.ReplaceAll(uuid.NewString(), "-", "")
	}
	s := &sock{user: c.user, client: client, wake: make(chan struct{}, 1), closed: make(chan struct{})}
	up := websocket.FastHTTPUpgrader{
		ReadBufferSize: 1 << 10, WriteBufferSize: 4 << 10,
		// sameSite has judged the origin already.
		CheckOrigin: func(*fasthttp.RequestCtx) bool { return true },
	}
	err := up.Upgrade(c.RequestCtx, func(conn *websocket.Conn) {
		defer conn.Close()
		s.conn = conn
		g.hub.serve(s)
	})
	if err != nil {
		g.log.Debug("socket not opened", "user", c.user, "err", err)
	}
}

// serve runs a socket until it ends: a reader here, a writer beside it.
func (h *hub) serve(s *sock) {
	if !h.join(s) {
		_ = s.conn.Close()
		return
	}
	defer h.serving.Done()
	done := make(chan struct{}) // closed by the writer
	go func() { defer close(done); s.write() }()
	s.read(h)
	h.leave(s)
	s.close()
	<-done
}

// read takes what the page says: only its feature flags mean something, and
// only when they are the first thing it says.
func (s *sock) read(h *hub) {
	s.conn.SetReadLimit(maxSaid)
	extend := func(string) error { return s.conn.SetReadDeadline(time.Now().Add(pongWithin)) }
	s.conn.SetPongHandler(extend)
	if extend("") != nil {
		return
	}
	for first := true; ; first = false {
		kind, raw, err := s.conn.ReadMessage()
		if err != nil {
			return
		}
		if extend("") != nil {
			return
		}
		if kind != websocket.TextMessage || !first {
			continue
		}
		m, err := comfy.ParseMessage(raw)
		if err != nil || m.Type != comfy.TypeFeatureFlags {
			continue
		}
		var flags struct {
			Metadata bool `json:"supports_preview_metadata"`
		}
		if json.Unmarshal(m.Data, &flags) == nil {
			s.mu.Lock()
			s.metadata = flags.Metadata
			s.mu.Unlock()
		}
		s.send(comfy.FeatureFlags(h.g.flags()))
	}
}

// write drains the queue; it owns the connection's writing side.
func (s *sock) write() {
	defer s.close()
	ping := time.NewTicker(pingEvery)
	defer ping.Stop()
	for {
		s.mu.Lock()
		batch := s.queue
		s.queue = nil
		s.mu.Unlock()
		for _, f := range batch {
			if s.conn.SetWriteDeadline(time.Now().Add(writeWithin)) != nil || s.conn.WriteMessage(f.kind, f.data) != nil {
				return
			}
			s.wrote(len(f.data))
		}
		select {
		case <-s.wake:
		case <-ping.C:
			if s.conn.WriteControl(websocket.PingMessage, nil, time.Now().Add(writeWithin)) != nil {
				return
			}
		case <-s.closed:
			return
		}
	}
}

func (s *sock) wrote(n int) {
	s.mu.Lock()
	s.waiting -= n
	s.mu.Unlock()
}

// drop ends a socket without a word and without waiting.
func (s *sock) drop() {
	s.once.Do(func() {
		close(s.closed)
		_ = s.conn.Close()
	})
}

func (s *sock) close() {
	s.once.Do(func() {
		close(s.closed)
		_ = s.conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseGoingAway, closeMessage), time.Now().Add(time.Second))
		_ = s.conn.Close()
	})
}

func (s *sock) send(m comfy.Message) { s.enqueue(frame{websocket.TextMessage, m.Encode()}, false) }

// enqueue never blocks. A slow page loses pictures and progress first; one that
// cannot even take what is in order is dropped and will connect again.
func (s *sock) enqueue(f frame, droppable bool) {
	s.mu.Lock()
	if droppable && len(s.queue) >= softQueue {
		s.mu.Unlock()
		return
	}
	s.queue = append(s.queue, f)
	s.waiting += len(f.data)
	full := len(s.queue) > hardQueue || s.waiting > hardBytes
	s.mu.Unlock()
	if full {
		s.drop() // the lock of the hub may be held
		return
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// wantsMetadata reports whether previews may name their node.
func (s *sock) wantsMetadata() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.metadata
}
