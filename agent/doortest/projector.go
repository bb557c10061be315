package doortest

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/fasthttp/websocket"
)

// Projector is as much of a ComfyUI as a worker needs, with one node class: Show
// sends previews of a size, in bytes, at a pace, for some seconds. Each begins
// with the time at which it was sent, so that a page can tell how long it took.
type Projector struct {
	URL string

	mu      sync.Mutex
	conn    *websocket.Conn
	running string
	entries map[string]json.RawMessage
	work    sync.WaitGroup
}

// show is the input of a Show node.
type show struct {
	Seconds float64 `json:"seconds"`
	FPS     float64 `json:"fps"`
	Bytes   int     `json:"bytes"`
}

// Show is a workflow of one Show node.
func Show(seconds, fps float64, bytes int) Graph {
	return Graph{"1": {Class: "Show", Inputs: map[string]any{"seconds": seconds, "fps": fps, "bytes": bytes}}}
}

const showInfo = `{"Show":{"input":{"required":{"seconds":["FLOAT",{"min":0,"max":3600}],"fps":["FLOAT",{"min":0,"max":1000}],"bytes":["INT",{"min":16,"max":100000000}]}},` +
	`"input_order":{"required":["seconds","fps","bytes"]},"output":[],"output_is_list":[],"output_name":[],"name":"Show","display_name":"Show","description":"","python_module":"nodes","category":"","output_node":true}}`

// NewProjector starts one; it ends with the test.
func NewProjector(t testing.TB) *Projector {
	p := &Projector{entries: map[string]json.RawMessage{}}
	mux := http.NewServeMux()
	say := func(pattern, body string) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, body) })
	}
	say("GET /system_stats", `{"system":{"os":"posix","comfyui_version":"0.3.64","python_version":"3","argv":[]},"devices":[{"name":"projector","type":"cpu","index":0,"vram_total":1,"vram_free":1}]}`)
	say("GET /object_info", showInfo)
	say("POST /", "")
	mux.HandleFunc("GET /ws", p.socket)
	mux.HandleFunc("POST /prompt", p.prompt)
	mux.HandleFunc("GET /queue", func(w http.ResponseWriter, _ *http.Request) {
		p.mu.Lock()
		defer p.mu.Unlock()
		running := "[]"
		if p.running != "" {
			running = fmt.Sprintf("[[0,%q,{},{},[]]]", p.running)
		}
		fmt.Fprintf(w, `{"queue_running":%s,"queue_pending":[]}`, running)
	})
	mux.HandleFunc("GET /history/{id}", func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		defer p.mu.Unlock()
		_ = json.NewEncoder(w).Encode(p.entry(r.PathValue("id"))) // the worker asks again
	})
	server := httptest.NewServer(mux)
	p.URL = server.URL
	t.Cleanup(func() {
		p.mu.Lock()
		if p.conn != nil {
			_ = p.conn.Close()
		}
		p.mu.Unlock()
		server.Close()
		p.work.Wait()
	})
	return p
}

func (p *Projector) entry(id string) map[string]json.RawMessage {
	if e, ok := p.entries[id]; ok {
		return map[string]json.RawMessage{id: e}
	}
	return map[string]json.RawMessage{}
}

func (p *Projector) socket(w http.ResponseWriter, r *http.Request) {
	conn, err := (&websocket.Upgrader{}).Upgrade(w, r, nil)
	if err != nil {
		return // the upgrader has answered
	}
	p.mu.Lock()
	p.conn = conn
	p.mu.Unlock()
	for err == nil {
		_, _, err = conn.NextReader()
	}
}

// say sends a message of the prompt that runs.
func (p *Projector) say(typ, format string, args ...any) {
	p.send(websocket.TextMessage, fmt.Appendf(nil, `{"type":%q,"data":%s}`, typ, fmt.Sprintf(format, args...)))
}

func (p *Projector) send(kind int, raw []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conn != nil {
		_ = p.conn.WriteMessage(kind, raw) // a worker that went away comes back
	}
}

func (p *Projector) prompt(w http.ResponseWriter, r *http.Request) {
	var body struct {
		ID     string `json:"prompt_id"`
		Prompt map[string]struct {
			Inputs show `json:"inputs"`
		} `json:"prompt"`
	}
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	p.mu.Lock()
	p.running = body.ID
	p.mu.Unlock()
	p.work.Go(func() { p.run(body.ID, body.Prompt["1"].Inputs) })
	fmt.Fprintf(w, `{"prompt_id":%q,"number":0,"node_errors":{}}`, body.ID)
}

func (p *Projector) run(id string, in show) {
	state := func(word string, at float64) {
		p.say("progress_state", `{"prompt_id":%q,"nodes":{"1":{"value":%v,"max":1,"state":%q,"node_id":"1","prompt_id":%q,"display_node_id":"1","parent_node_id":null,"real_node_id":"1"}}}`, id, at, word, id)
	}
	p.say("execution_start", `{"prompt_id":%q,"timestamp":%d}`, id, time.Now().UnixMilli())
	p.say("execution_cached", `{"nodes":[],"prompt_id":%q,"timestamp":%d}`, id, time.Now().UnixMilli())
	state("running", 0)
	p.say("executing", `{"node":"1","display_node":"1","prompt_id":%q}`, id)
	meta := fmt.Appendf(nil, `{"node_id":"1","prompt_id":%q,"display_node_id":"1","parent_node_id":null,"real_node_id":"1","image_type":"image/jpeg"}`, id)
	head := append(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, 4), uint32(len(meta))), meta...)
	tick := time.NewTicker(time.Duration(float64(time.Second) / in.FPS))
	defer tick.Stop()
	frames := int(in.Seconds * in.FPS)
	for i := range frames {
		<-tick.C
		state("running", float64(i)/float64(frames))
		p.say("progress", `{"value":%d,"max":%d,"prompt_id":%q,"node":"1"}`, i, frames, id)
		picture := binary.BigEndian.AppendUint64(nil, uint64(time.Now().UnixNano()))
		p.send(websocket.BinaryMessage, append(slices.Clone(head), append(picture, make([]byte, in.Bytes-len(picture))...)...))
	}
	state("finished", 1)
	p.say("execution_success", `{"prompt_id":%q,"timestamp":%d}`, id, time.Now().UnixMilli())
	p.mu.Lock()
	p.running = ""
	p.entries[id] = json.RawMessage(fmt.Sprintf(`{"prompt":[0,%q,{},{},["1"]],"outputs":{},"status":{"status_str":"success","completed":true,"messages":[]},"meta":{}}`, id))
	p.mu.Unlock()
	p.say("status", `{"status":{"exec_info":{"queue_remaining":0}}}`)
	p.say("executing", `{"node":null,"prompt_id":%q}`, id)
}

// Shown returns when a preview that a page got was sent, whether it came with
// metadata or not.
func (m Message) Shown() (at time.Time, ok bool) {
	b := m.Binary
	if len(b) < 8 {
		return at, false
	}
	skip := 8
	if binary.BigEndian.Uint32(b) == 4 {
		skip += int(binary.BigEndian.Uint32(b[4:]))
	}
	if len(b) < skip+8 {
		return at, false
	}
	return time.Unix(0, int64(binary.BigEndian.Uint64(b[skip:]))), true
}
