package doortest

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/fasthttp/websocket"
)

func queryEscape(s string) string { return url.QueryEscape(s) }

// Message is one frame from the socket: a JSON message, or Binary.
type Message struct {
	Type   string          `json:"type"`
	Data   json.RawMessage `json:"data"`
	Binary []byte          `json:"-"`
}

// Field reads one string member of the data, "" if it is not one.
func (m Message) Field(name string) string {
	var d map[string]any
	if json.Unmarshal(m.Data, &d) != nil {
		return ""
	}
	s, _ := d[name].(string)
	return s
}

// EndOf reports whether m is the executing message with no node for a prompt.
func (m Message) EndOf(prompt string) bool {
	var d struct {
		Node   *string `json:"node"`
		Prompt string  `json:"prompt_id"`
	}
	return m.Type == "executing" && json.Unmarshal(m.Data, &d) == nil && d.Node == nil && d.Prompt == prompt
}

// Socket of one client id.
type Socket struct{ *websocket.Conn }

// Socket opens /ws as the user with a client id.
func (c *Client) Socket(t testing.TB, clientID string) *Socket {
	t.Helper()
	h := http.Header{}
	if c.User != "" {
		h.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(c.User+":"+c.Pass)))
	}
	conn, _, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(c.Base, "http")+"/ws?clientId="+url.QueryEscape(clientID), h)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &Socket{conn}
}

// Next reads one frame.
func (s *Socket) Next(within time.Duration) (Message, error) {
	if err := s.SetReadDeadline(time.Now().Add(within)); err != nil {
		return Message{}, err
	}
	kind, raw, err := s.ReadMessage()
	if err != nil {
		return Message{}, err
	}
	if kind == websocket.BinaryMessage {
		return Message{Type: "binary", Binary: raw}, nil
	}
	var m Message
	if err := json.Unmarshal(raw, &m); err != nil {
		return Message{}, fmt.Errorf("%w: %.200s", err, raw)
	}
	return m, nil
}

// UntilEnd reads frames up to the one that ends a prompt and returns them all.
func (s *Socket) UntilEnd(t testing.TB, prompt string, within time.Duration) (seen []Message) {
	t.Helper()
	deadline := time.Now().Add(within)
	for {
		m, err := s.Next(time.Until(deadline))
		if err != nil {
			t.Fatalf("waiting for the end of %s: %v after %s", prompt, err, Types(seen))
		}
		seen = append(seen, m)
		if m.EndOf(prompt) {
			return seen
		}
	}
}

// Types is the sequence of message types, for comparing and for errors.
func Types(ms []Message) string {
	var out []string
	for _, m := range ms {
		out = append(out, m.Type)
	}
	return strings.Join(out, " ")
}
