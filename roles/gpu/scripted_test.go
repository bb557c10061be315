package gpu_test

import (
	"bufio"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/ahelme/comfyume/roles/comfy"
)

// scripted is a ComfyUI that says what a test tells it to.
type scripted struct {
	t   *testing.T
	url string
	// prompt answers POST /prompt; id is the prompt's.
	prompt func(w http.ResponseWriter, id string)
	view   http.HandlerFunc
	upload func(name, folder string) string // answers the name a file got
	info   string                           // of its classes
	files  map[string]string                // other answers, by escaped path and query

	mu          sync.Mutex
	conns       map[net.Conn]bool
	dials       int
	queue       string
	history     map[string]string // by prompt id
	interrupted []string
	last        []byte // body of the last prompt
}

func newScripted(t *testing.T) *scripted {
	t.Helper()
	s := &scripted{t: t, conns: map[net.Conn]bool{}, history: map[string]string{}, queue: `{"queue_running":[],"queue_pending":[]}`}
	mux := http.NewServeMux()
	answer := func(path, body string) {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, body) })
	}
	answer("/system_stats", `{"system":{"comfyui_version":"9.9"},"devices":[{"name":"none","vram_total":1,"vram_free":1}]}`)
	s.info = `{"Thing":{"input":{},"output":[],"output_node":true},"SaveImageWebsocket":{"input":{},"output":[],"output_node":true}}`
	mux.HandleFunc("GET /object_info", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, s.info) })
	mux.HandleFunc("GET /", func(w http.ResponseWriter, r *http.Request) {
		body, ok := s.files[r.URL.RequestURI()]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		io.WriteString(w, body)
	})
	mux.HandleFunc("GET /ws", s.socket)
	mux.HandleFunc("GET /view", func(w http.ResponseWriter, r *http.Request) { s.view(w, r) })
	mux.HandleFunc("GET /queue", func(w http.ResponseWriter, _ *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		io.WriteString(w, s.queue)
	})
	mux.HandleFunc("GET /history/{id}", func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if h, ok := s.history[r.PathValue("id")]; ok {
			fmt.Fprintf(w, `{%q:%s}`, r.PathValue("id"), h)
			return
		}
		io.WriteString(w, "{}")
	})
	s.posts(mux)
	server := httptest.NewServer(mux)
	s.url = server.URL
	t.Cleanup(server.Close)
	t.Cleanup(s.cut)
	return s
}

func (s *scripted) posts(mux *http.ServeMux) {
	t := s.t
	mux.HandleFunc("POST /interrupt", func(_ http.ResponseWriter, r *http.Request) {
		raw, _ := io.ReadAll(r.Body)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.interrupted = append(s.interrupted, string(raw))
	})
	mux.HandleFunc("POST /prompt", func(w http.ResponseWriter, r *http.Request) {
		var body struct {
			ID     string `json:"prompt_id"`
			Client string `json:"client_id"`
		}
		raw, _ := io.ReadAll(r.Body)
		s.mu.Lock()
		s.last = raw
		s.mu.Unlock()
		if err := json.Unmarshal(raw, &body); err != nil || body.Client != "gw-node/0" {
			t.Errorf("prompt %+v, %v", body, err)
		}
		s.prompt(w, body.ID)
	})
	mux.HandleFunc("POST /queue", func(http.ResponseWriter, *http.Request) { // deletes what waits
		s.mu.Lock()
		defer s.mu.Unlock()
		if strings.Contains(s.queue, `"queue_running":[]`) {
			s.queue = `{"queue_running":[],"queue_pending":[]}`
		}
	})
	mux.HandleFunc("POST /upload/image", func(w http.ResponseWriter, r *http.Request) {
		_, head, err := r.FormFile("image")
		if err != nil {
			t.Error(err)
			return
		}
		fmt.Fprintf(w, `{"name":%q,"subfolder":%q,"type":"input"}`, s.upload(head.Filename, r.FormValue("subfolder")), r.FormValue("subfolder"))
	})
	mux.HandleFunc("POST /", func(http.ResponseWriter, *http.Request) {})
}

// socket speaks as much of RFC 6455 as a server needs that only sends.
func (s *scripted) socket(w http.ResponseWriter, r *http.Request) {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		s.t.Error(err)
		return
	}
	sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n", base64.StdEncoding.EncodeToString(sum[:]))
	s.mu.Lock()
	s.conns[conn] = true
	s.dials++
	s.mu.Unlock()
	go drain(rw.Reader, conn)
}

func drain(r *bufio.Reader, conn net.Conn) {
	_, _ = io.Copy(io.Discard, r)
	conn.Close()
}

// cut breaks the open sockets.
func (s *scripted) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.Close()
	}
	clear(s.conns)
}

func (s *scripted) send(opcode byte, payload []byte) {
	head := []byte{0x80 | opcode, 126}
	head = binary.BigEndian.AppendUint16(head, uint16(len(payload)))
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		if _, err := c.Write(append(head, payload...)); err != nil {
			s.t.Logf("send: %v", err)
		}
	}
}

// say sends messages; ID in them becomes the prompt's id.
func (s *scripted) say(id string, messages ...string) {
	for _, m := range messages {
		s.send(1, []byte(strings.ReplaceAll(m, "ID", id)))
	}
}

func (s *scripted) frame(f comfy.Frame) { s.send(2, f.Encode()) }

func (s *scripted) keep(id, entry string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.history[id] = strings.ReplaceAll(entry, "ID", id)
}

// body is the last prompt as it was sent; sent is its graph.
func (s *scripted) body() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return string(s.last)
}

func (s *scripted) sent() []byte {
	var body struct {
		Prompt json.RawMessage `json:"prompt"`
	}
	if err := json.Unmarshal([]byte(s.body()), &body); err != nil {
		s.t.Error(err)
	}
	return body.Prompt
}

func (s *scripted) accept(w http.ResponseWriter, id string) {
	fmt.Fprintf(w, `{"prompt_id":%q,"number":7,"node_errors":{}}`, id)
}

const (
	sayStart   = `{"type":"execution_start","data":{"prompt_id":"ID","timestamp":1700000000001}}`
	sayCached  = `{"type":"execution_cached","data":{"nodes":[],"prompt_id":"ID","timestamp":1700000000002}}`
	sayRuns    = `{"type":"executing","data":{"node":"1","display_node":"1","prompt_id":"ID"}}`
	sayPicture = `{"type":"executed","data":{"node":"1","display_node":"1","output":` + picture + `,"prompt_id":"ID"}}`
	saySuccess = `{"type":"execution_success","data":{"prompt_id":"ID","timestamp":1700000000009}}`
	sayOver    = `{"type":"executing","data":{"node":null,"prompt_id":"ID"}}`

	picture = `{"images":[{"filename":"a_00007_.png","subfolder":"gw/ID","type":"output","abs_path":"/root/ComfyUI/output/gw/ID/a_00007_.png","format":"odd"}],"animated":[false]}`
	// What a server says whose history keeps no more than headings.
	bareEntry = `{"prompt":[0,"ID",{},{},["1"]],"outputs":{"1":` + picture + `},"status":{"status_str":"success","completed":true,"messages":["execution_start","execution_cached","execution_success"]},"meta":{"1":{"node_id":"1","display_node":"1","parent_node":null,"real_node_id":"1"}}}`

	thing = `{"1":{"class_type":"Thing","inputs":{"filename_prefix":"a"}}}`
)
