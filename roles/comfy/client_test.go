package comfy_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/ahelme/comfyume/roles/comfy"
	"github.com/fasthttp/websocket"
)

func newClient(t *testing.T, h http.Handler) *comfy.Client {
	t.Helper()
	return newClientIdle(t, h, 0)
}

// newClientIdle makes a client whose sockets may be silent for idle: the shorter,
// the sooner a busy machine looks like a dead server.
func newClientIdle(t *testing.T, h http.Handler, idle time.Duration) *comfy.Client {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	c, err := comfy.NewClient(comfy.ClientConfig{BaseURL: server.URL + "/", SocketIdle: idle})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func answer(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body) // the test sees what arrives
	}
}

func TestNewClientWantsAnAddress(t *testing.T) {
	for _, bad := range []string{"", "127.0.0.1:8188", "ftp://x", "http://", "http://a b"} {
		if _, err := comfy.NewClient(comfy.ClientConfig{BaseURL: bad}); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
	c, err := comfy.NewClient(comfy.ClientConfig{BaseURL: "http://user:secret@127.0.0.1:8188/"})
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(c.URL(), "secret") {
		t.Errorf("a password stands in %s", c.URL())
	}
}

func TestClientReadsPython(t *testing.T) {
	c := newClient(t, answer(200, `{"system":{"comfyui_version":"0.3.64","argv":["main.py"]},"devices":[{"name":"cpu","vram_total":NaN}]}`))
	s, err := c.SystemStats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if s.System.ComfyUIVersion != "0.3.64" || len(s.Devices) != 1 || !json.Valid(s.Raw) {
		t.Errorf("stats are %+v", s)
	}
}

func TestClientTellsErrorsApart(t *testing.T) {
	var status *comfy.StatusError
	_, err := newClient(t, answer(404, "404: Not Found")).GetJSON(t.Context(), "/global_subgraphs")
	if !errors.As(err, &status) || !status.NotFound() {
		t.Errorf("a missing route gave %v", err)
	}
	_, err = newClient(t, answer(200, "<html>")).GetJSON(t.Context(), "/x")
	if !errors.Is(err, comfy.ErrMalformed) {
		t.Errorf("a page gave %v", err)
	}
	var refused *comfy.PromptError
	_, err = newClient(t, answer(400, `{"error":{"type":"prompt_no_outputs","message":"m","details":"d","extra_info":{}},"node_errors":{"3":{"errors":[],"dependent_outputs":["9"],"class_type":"K"}}}`)).Prompt(t.Context(), json.RawMessage(`{}`))
	if !errors.As(err, &refused) || refused.Detail.Type != "prompt_no_outputs" || refused.Nodes["3"].ClassType != "K" || refused.Status != 400 {
		t.Errorf("a refusal gave %v", err)
	}
	_, err = newClient(t, answer(400, `{"error":"plain","node_errors":[]}`)).Prompt(t.Context(), json.RawMessage(`{}`))
	if !errors.As(err, &refused) || refused.Detail.Message != "plain" {
		t.Errorf("a plain refusal gave %v", err)
	}
	_, err = newClient(t, answer(500, "Internal")).Prompt(t.Context(), json.RawMessage(`{}`))
	if !errors.As(err, &status) || status.Status != 500 {
		t.Errorf("a broken server gave %v", err)
	}
	ok, err := newClient(t, answer(200, `{"prompt_id":"p","number":1.0,"node_errors":[]}`)).Prompt(t.Context(), json.RawMessage(`{}`))
	if err != nil || ok.PromptID != "p" {
		t.Errorf("an odd acceptance gave %v, %v", ok, err)
	}
	if err := newClient(t, answer(200, "")).Interrupt(t.Context(), ""); err == nil {
		t.Error("an interrupt of nothing was sent")
	}
}

func TestUploadEndsWhenTheServerDoesNotRead(t *testing.T) {
	c := newClient(t, answer(400, ""))
	endless := io.MultiReader(strings.NewReader("x"), neverEnding{})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := c.Upload(ctx, comfy.Upload{Name: "x.png"}, endless); err == nil {
		t.Error("the upload was taken for done")
	}
}

type neverEnding struct{}

func (neverEnding) Read(b []byte) (int, error) { return len(b), nil }

// talk serves a socket with a script.
func talk(script func(conn *websocket.Conn)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		upgrader := websocket.Upgrader{}
		conn, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer conn.Close()
		script(conn)
		// A connection that is closed with pings unread is reset, and what is under
		// way to the client is lost: say goodbye and read until the client went.
		_ = conn.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseGoingAway, ""))
		for {
			if _, _, err := conn.ReadMessage(); err != nil {
				return
			}
		}
	})
}

func TestSocketPassesOverWhatItCannotRead(t *testing.T) {
	c := newClient(t, talk(func(conn *websocket.Conn) {
		_ = conn.WriteMessage(websocket.TextMessage, []byte(`nonsense`))
		_ = conn.WriteMessage(websocket.BinaryMessage, []byte(`ab`))
		_ = conn.WriteMessage(websocket.TextMessage, []byte(`{"type":"progress","data":{"value":NaN}}`))
		_ = conn.WriteMessage(websocket.BinaryMessage, append([]byte("\x00\x00\x00\x01\x00\x00\x00\x01"), make([]byte, 5<<20)...))
	}))
	s, err := c.Dial(t.Context(), "id", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	e, err := s.Read(t.Context())
	if err != nil || e.Message == nil || string(e.Message.Data) != `{"value":null}` {
		t.Errorf("first event %+v, %v", e, err)
	}
	e, err = s.Read(t.Context())
	if err != nil || e.Frame == nil || len(e.Frame.Payload) != 5<<20 {
		t.Errorf("second event %v", err)
	}
	if _, err = s.Read(t.Context()); err == nil || errors.Is(err, comfy.ErrSocketClosed) {
		t.Errorf("the end gave %v", err)
	}
	if _, again := s.Read(t.Context()); again == nil {
		t.Error("a lost socket works again")
	}
}

func TestSocketStaysAliveByPings(t *testing.T) {
	pinged := make(chan struct{}, 100)
	c := newClientIdle(t, talk(func(conn *websocket.Conn) {
		answer := conn.PingHandler()
		n := 0
		conn.SetPingHandler(func(data string) error {
			pinged <- struct{}{}
			if n++; n == 5 { // longer than the socket may be silent
				_ = conn.WriteMessage(websocket.TextMessage, comfy.Status(1, "").Encode())
			}
			return answer(data)
		})
		for {
			if _, _, err := conn.ReadMessage(); err != nil {
				return
			}
		}
	}), 2*time.Second)
	s, err := c.Dial(t.Context(), "id", map[string]any{"a": true})
	if err != nil {
		t.Fatal(err)
	}
	e, err := s.Read(t.Context())
	if err != nil || e.Message.Type != comfy.TypeStatus || len(pinged) < 5 {
		t.Errorf("event %+v, %v after %d pings", e, err, len(pinged))
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := s.Read(t.Context()); !errors.Is(err, comfy.ErrSocketClosed) {
		t.Errorf("reading a closed socket gave %v", err)
	}
}

func TestSocketNoticesSilence(t *testing.T) {
	quiet := make(chan struct{})
	c := newClientIdle(t, talk(func(*websocket.Conn) { <-quiet }), 300*time.Millisecond) // reads nothing, so answers no ping
	t.Cleanup(func() { close(quiet) })                                                   // before the server closes
	s, err := c.Dial(t.Context(), "id", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Read(t.Context()); err == nil || errors.Is(err, comfy.ErrSocketClosed) {
		t.Errorf("a dead server gave %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Read(ctx); err == nil {
		t.Error("a lost socket gave an event")
	}
}

func TestDialToldWhy(t *testing.T) {
	var status *comfy.StatusError
	if _, err := newClient(t, answer(401, "")).Dial(t.Context(), "id", nil); !errors.As(err, &status) || status.Status != 401 {
		t.Errorf("a refused socket gave %v", err)
	}
}
