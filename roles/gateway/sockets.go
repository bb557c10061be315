package gateway

import (
	"bufio"
	"encoding/json"
	"errors"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fasthttp/websocket"
	"github.com/google/uuid"
	"github.com/valyala/fasthttp"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/roles/comfy"
	"github.com/ahelme/comfyume/roles/gateway/signin"
)

// Bounds of one socket.
const (
	pingEvery   = 25 * time.Second
	pongWithin  = 70 * time.Second
	writeWithin = 20 * time.Second // for one piece
	byeWithin   = time.Second
	pieceSize   = 16 << 10 // bytes that a slow line must take within writeWithin
	softQueue   = 16       // frames waiting over which an older preview gives way to a newer
	hardQueue   = 4096     // frames waiting over which the socket is too slow to keep
	maxClientID = 128
)

// lane is what a frame that is not of its own kind supersedes: the older one of
// its lane and prompt.
type lane byte

const (
	noLane lane = iota
	previewLane
	progressLane
	stateLane
	pongLane
)

// lanes are those of what a job says, by type.
var lanes = map[string]lane{comfy.TypePreview: previewLane, comfy.TypeProgress: progressLane, comfy.TypeProgressState: stateLane}

// frame is what waits to be written to one socket.
type frame struct {
	op     opcode
	lane   lane
	prompt string // with a lane
	data   []byte // shared by sockets: never written to
}

// sock is one open page. Several may share a client id: a reconnect overlaps
// the connection it replaces. While nothing is said, no goroutine is its own.
type sock struct {
	h      *hub
	user   cluster.User
	client string
	id     signin.Identity // who opened it, and by what
	conn   net.Conn
	ticket int32 // in the pond

	// Under the hub's lock.
	metadata bool  // wants previews that name their node
	upTo     int64 // it follows jobs of other pages up to this number,
	came     int64 // and those made before this, in Unix ms: this gateway may hear of them later

	// Of whoever reads, one at a time.
	in    inbound
	said  []byte // of its first message
	spoke bool   // the first message is over

	heard atomic.Int64 // when it last said anything, in Unix seconds

	mu      sync.Mutex
	queue   []frame
	waiting int   // bytes in it and in the frame that is being written
	writing bool  // somebody writes
	gone    bool  // closed, or about to be
	pinged  int64 // in Unix seconds

	over sync.Once
}

// socket is GET /ws.
func (g *Gateway) socket(c *call) {
	if !isUpgrade(c.RequestCtx) {
		plain(c.RequestCtx, fasthttp.StatusBadRequest, "400: Bad Request")
		return
	}
	if g.hub.crowded(c.user) {
		fail(c.RequestCtx, cluster.Errorf(cluster.Quota, "You have %d pages or programs connected. Close some of them.", maxSockets))
		return
	}
	client := string(c.QueryArgs().Peek("clientId"))
	if client == "" || len(client) > maxClientID || strings.ContainsFunc(client, func(r rune) bool { return r < 0x20 }) {
		client = strings.ReplaceAll(uuid.NewString(), "-", "")
	}
	s := &sock{h: g.hub, user: c.user, id: c.id, client: client}
	up := websocket.FastHTTPUpgrader{
		// sameOrigin has judged the origin already.
		CheckOrigin: func(*fasthttp.RequestCtx) bool { return true },
	}
	// The handshake is the library's; its connection would keep the request and
	// three buffers for as long as the page is open.
	err := up.Upgrade(c.RequestCtx, func(conn *websocket.Conn) { s.open(conn.NetConn()) })
	if err != nil {
		g.log.Debug("socket not opened", "user", c.user, "err", err)
	}
}

// open takes the connection over from the HTTP server.
func (s *sock) open(hijacked net.Conn) {
	conn, early, err := bare(hijacked)
	s.conn = conn
	s.heard.Store(time.Now().Unix())
	if err != nil || !s.h.join(s) {
		_ = conn.Close()
		return
	}
	if len(early) > 0 && s.take(early) != nil {
		s.drop()
		return
	}
	if !s.h.pond.add(s) {
		go s.listen()
	}
}

// bare is the connection beneath a hijacked one, and what came with the
// handshake. The hijacked one holds on to a buffer.
func bare(hijacked net.Conn) (conn net.Conn, early []byte, err error) {
	h, ok := hijacked.(interface{ UnsafeConn() net.Conn })
	if !ok {
		return hijacked, nil, nil
	}
	// In the past nothing is read but what is in the buffer.
	if err := hijacked.SetDeadline(time.Unix(1, 0)); err != nil {
		return h.UnsafeConn(), nil, err
	}
	var buf [512]byte
	for n := 0; err == nil; early = append(early, buf[:n]...) {
		n, err = hijacked.Read(buf[:])
	}
	return h.UnsafeConn(), early, hijacked.SetDeadline(time.Time{})
}

// listen reads a socket that cannot be in the pond.
func (s *sock) listen() {
	defer s.drop()
	buf := make([]byte, 512)
	for {
		n, err := s.conn.Read(buf)
		if n > 0 && s.take(buf[:n]) != nil || err != nil {
			return
		}
	}
}

// errBye is a page that closed its socket in order.
var errBye = errors.New("the page said goodbye")

// take handles what came. After an error the socket is dropped.
func (s *sock) take(b []byte) error {
	s.heard.Store(time.Now().Unix())
	err := s.in.feed(b, s.frame)
	switch {
	case errors.Is(err, errBye):
		s.bye(closeNormal, "")
	case err != nil:
		s.bye(closeProtocol, "")
	}
	return err
}

// frame handles one frame. Only a page's feature flags mean something, and only
// when they are the first thing it says.
func (s *sock) frame(f received) error {
	switch {
	case f.op == opPing:
		s.enqueue(frame{op: opPong, lane: pongLane, data: slices.Clone(f.payload)})
	case f.op == opClose:
		return errBye
	case f.op == opPong || s.spoke:
	case f.op == opContinue && s.said == nil, f.op != opContinue && s.said != nil:
		return errProtocol
	case f.over || f.op == opBinary || len(s.said)+len(f.payload) > maxSaid:
		s.spoke, s.said = true, nil
	default:
		s.said = append(s.said, f.payload...)
		if s.said == nil {
			s.said = []byte{}
		}
		if f.last {
			s.greeted(s.said)
			s.spoke, s.said = true, nil
		}
	}
	return nil
}

// greeted reads a page's first message.
func (s *sock) greeted(raw []byte) {
	m, err := comfy.ParseMessage(raw)
	if err != nil || m.Type != comfy.TypeFeatureFlags {
		return
	}
	var flags struct {
		Metadata bool `json:"supports_preview_metadata"`
	}
	if json.Unmarshal(m.Data, &flags) != nil {
		flags.Metadata = false // as odd flags are to a ComfyUI: it answers
	}
	s.h.greet(s, flags.Metadata)
}

func (s *sock) send(m comfy.Message) { s.enqueue(frame{op: opText, data: m.Encode()}) }

// enqueue never blocks. Of what a slow page may miss it gets the newest; one that
// cannot even take what is in order is dropped and will connect again.
func (s *sock) enqueue(f frame) {
	s.mu.Lock()
	if s.gone {
		s.mu.Unlock()
		return
	}
	if f.lane == pongLane || f.lane != noLane && len(s.queue) >= softQueue {
		s.supersede(f)
	}
	s.queue = append(s.queue, f)
	s.waiting += len(f.data)
	full := len(s.queue) > hardQueue
	idle := !s.writing
	s.writing = true
	s.mu.Unlock()
	switch {
	case full:
		s.drop()
	case idle:
		go s.drain()
	}
}

// supersede takes the frame out that f is the newer of.
func (s *sock) supersede(f frame) {
	at := slices.IndexFunc(s.queue, func(q frame) bool { return q.lane == f.lane && q.prompt == f.prompt })
	if at >= 0 {
		s.waiting -= len(s.queue[at].data)
		s.queue = slices.Delete(s.queue, at, at+1)
	}
}

// steady writes to a line of any speed: as long as it takes a piece in time, it
// is not cut off.
type steady struct{ net.Conn }

func (c steady) Write(b []byte) (n int, err error) {
	for len(b) > 0 && err == nil {
		if err = c.SetWriteDeadline(time.Now().Add(writeWithin)); err != nil {
			break
		}
		var m int
		m, err = c.Conn.Write(b[:min(len(b), pieceSize)])
		n, b = n+m, b[m:]
	}
	return n, err
}

var writers = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, 32<<10) }}

// drain writes until nothing waits. Whoever sets writing runs it.
func (s *sock) drain() {
	w := writers.Get().(*bufio.Writer)
	w.Reset(steady{s.conn})
	defer func() { w.Reset(nil); writers.Put(w) }()
	for size := 0; ; {
		s.mu.Lock()
		s.waiting -= size
		if len(s.queue) == 0 && w.Buffered() == 0 {
			s.queue, s.writing = nil, false
			last := s.gone
			s.mu.Unlock()
			if last {
				s.end()
			}
			return
		}
		var f frame
		more := len(s.queue) > 0
		if more {
			f = s.queue[0]
			s.queue[0] = frame{}
			s.queue = s.queue[1:]
		}
		s.mu.Unlock()
		var err error
		if more {
			err = writeFrame(w, f.op, f.data)
		} else {
			err = w.Flush()
		}
		if err != nil {
			s.drop()
			s.end()
			return
		}
		size = len(f.data)
	}
}

// look is called now and then: a page that has not answered for long is gone,
// and one that is silent is asked. It may write, but not for long: nothing waits
// in front of a ping.
func (s *sock) look(now time.Time) {
	if now.Unix()-s.heard.Load() > int64(pongWithin/time.Second) {
		s.drop()
		return
	}
	s.mu.Lock()
	if s.writing || s.gone || now.Unix()-max(s.pinged, s.heard.Load()) < int64(pingEvery/time.Second) {
		s.mu.Unlock()
		return
	}
	s.writing, s.pinged = true, now.Unix()
	s.mu.Unlock()
	err := s.conn.SetWriteDeadline(now.Add(pingWithin))
	if err == nil {
		_, err = s.conn.Write(appendHeader(nil, opPing, 0))
	}
	if err != nil {
		s.drop()
		return
	}
	s.rest()
}

// pingWithin is short: the line of a socket for which nothing waits is free.
const pingWithin = 200 * time.Millisecond

// rest hands over what came while somebody else than drain wrote.
func (s *sock) rest() {
	s.mu.Lock()
	more := len(s.queue) > 0
	s.writing = more
	s.mu.Unlock()
	if more {
		go s.drain()
	}
}

// drop ends a socket without a word and without waiting.
func (s *sock) drop() {
	s.mu.Lock()
	was := s.gone
	s.gone = true
	s.mu.Unlock()
	if !was {
		s.end()
	}
}

func (s *sock) end() {
	s.over.Do(func() {
		_ = s.conn.Close()
		go s.h.leave(s) // whose lock the caller may hold
	})
}

// bye ends a socket with a word. What waited is not sent any more; a message
// that is being written is, and if that takes long there is no word.
func (s *sock) bye(code uint16, reason string) {
	f := frame{op: opClose, data: closing(code, reason)}
	s.mu.Lock()
	if s.gone {
		s.mu.Unlock()
		return
	}
	for _, q := range s.queue {
		s.waiting -= len(q.data)
	}
	s.queue, s.waiting = []frame{f}, s.waiting+len(f.data)
	idle := !s.writing
	s.gone, s.writing = true, true
	s.mu.Unlock()
	time.AfterFunc(byeWithin, s.end)
	if idle {
		s.drain()
	}
}

// backlog is how many bytes wait.
func (s *sock) backlog() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.waiting
}
