package comfy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"sync"
	"time"

	"github.com/fasthttp/websocket"
)

// MaxFrame is the largest frame that is read: pictures travel in one.
const MaxFrame = 256 << 20

// ErrSocketClosed is what Read returns after Close.
var ErrSocketClosed = errors.New("socket is closed")

// Event is what a socket delivers: either a Message or a Frame.
type Event struct {
	Message *Message
	Frame   *Frame
}

// Socket is one connection to a server's /ws. Events come in the server's order.
// A socket that has failed stays failed: dial anew.
type Socket struct {
	conn   *websocket.Conn
	events chan Event    // closed by receive
	done   chan struct{} // closed by Close
	once   sync.Once
	wg     sync.WaitGroup
	err    error // set before events is closed
}

// Dial opens a socket as clientID and sends flags first, as a server demands of
// those who want more than the oldest protocol. Nil flags send none. ctx bounds
// the opening only.
func (c *Client) Dial(ctx context.Context, clientID string, flags map[string]any) (*Socket, error) {
	u := *c.base
	u.Scheme = map[string]string{"http": "ws", "https": "wss"}[u.Scheme]
	u.Path += "/ws"
	u.RawQuery = url.Values{"clientId": {clientID}}.Encode()
	dialer := websocket.Dialer{
		NetDialContext:   (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		HandshakeTimeout: 2 * time.Minute, // a server that loads a model answers late
		ReadBufferSize:   64 << 10,
	}
	conn, resp, err := dialer.DialContext(ctx, u.String(), nil)
	if err != nil {
		if resp != nil {
			return nil, fmt.Errorf("open socket: %w", &StatusError{Method: "GET", Path: "/ws", Status: resp.StatusCode})
		}
		return nil, fmt.Errorf("open socket: %w", err)
	}
	conn.SetReadLimit(MaxFrame)
	if flags != nil {
		if err := conn.WriteMessage(websocket.TextMessage, FeatureFlags(flags).Encode()); err != nil {
			conn.Close()
			return nil, fmt.Errorf("open socket: %w", err)
		}
	}
	s := &Socket{conn: conn, events: make(chan Event, 16), done: make(chan struct{})}
	s.wg.Go(func() { s.receive(c) })
	s.wg.Go(func() { s.ping(c.idle) })
	return s, nil
}

// Read waits for the next event. When the socket is lost it returns the events
// that had arrived, then the reason.
func (s *Socket) Read(ctx context.Context) (Event, error) {
	select {
	case e, ok := <-s.events:
		if !ok {
			return Event{}, s.err
		}
		return e, nil
	case <-ctx.Done():
		return Event{}, ctx.Err()
	}
}

// Close ends the socket and waits for its goroutines. It may be called again.
func (s *Socket) Close() error {
	s.once.Do(func() {
		close(s.done)
		bye := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")
		// The other side may be gone already; there is nothing to do about it.
		_ = s.conn.WriteControl(websocket.CloseMessage, bye, time.Now().Add(time.Second))
		_ = s.conn.Close()
	})
	s.wg.Wait()
	return nil
}

// receive is the only reader of the connection. What it cannot understand it
// passes over: one odd message of a custom node must not end the relay.
func (s *Socket) receive(c *Client) {
	defer close(s.events)
	alive := func() { _ = s.conn.SetReadDeadline(time.Now().Add(c.idle)) } // fails only when closed
	s.conn.SetPongHandler(func(string) error { alive(); return nil })
	for {
		alive()
		kind, raw, err := s.conn.ReadMessage()
		if err != nil {
			s.fail(err)
			return
		}
		e, err := parseEvent(kind, raw)
		if err != nil {
			c.log.Warn("passing over an event", "bytes", len(raw), "err", err)
			continue
		}
		select {
		case s.events <- e:
		case <-s.done:
			s.fail(ErrSocketClosed)
			return
		}
	}
}

func (s *Socket) fail(err error) {
	select {
	case <-s.done:
		s.err = ErrSocketClosed
	default:
		s.err = fmt.Errorf("read socket: %w", err)
	}
}

func parseEvent(kind int, raw []byte) (Event, error) {
	if kind == websocket.BinaryMessage {
		f, err := ParseFrame(raw)
		return Event{Frame: &f}, err
	}
	m, err := ParseMessage(raw)
	return Event{Message: &m}, err
}

// ping keeps middle boxes and the other side aware of a quiet socket.
func (s *Socket) ping(idle time.Duration) {
	tick := time.NewTicker(min(25*time.Second, idle/3))
	defer tick.Stop()
	for {
		select {
		case <-s.done:
			return
		case <-tick.C:
			if s.conn.WriteControl(websocket.PingMessage, nil, time.Now().Add(10*time.Second)) != nil {
				return // receive learns of it, too
			}
		}
	}
}
