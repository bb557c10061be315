package sketch_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/ahelme/comfyume/roles/comfy"
	"github.com/ahelme/comfyume/roles/sketch"
)

// bench is a running sketch with a client on it.
type bench struct {
	t      *testing.T
	server *sketch.Server
	client *comfy.Client
	ended  chan error // Run's answer
	stop   context.CancelFunc
}

func start(t *testing.T, cfg sketch.Config) *bench {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	server, err := sketch.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background()) // t.Context ends before clean-up waits
	b := &bench{t: t, server: server, ended: make(chan error, 1), stop: stop}
	go func() { b.ended <- server.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		select {
		case err := <-b.ended:
			if err != nil && !errors.Is(err, sketch.ErrExited) {
				t.Errorf("Run returned %v", err)
			}
		case <-time.After(20 * time.Second):
			t.Error("the server does not end")
		}
	})
	if b.client, err = comfy.NewClient(comfy.ClientConfig{BaseURL: server.URL()}); err != nil {
		t.Fatal(err)
	}
	return b
}

// ctx bounds what a test may wait for.
func (b *bench) ctx() context.Context {
	ctx, cancel := context.WithTimeout(b.t.Context(), 20*time.Second)
	b.t.Cleanup(cancel)
	return ctx
}

func (b *bench) dial(id string, flags map[string]any) *comfy.Socket {
	b.t.Helper()
	s, err := b.client.Dial(b.ctx(), id, flags)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = s.Close() })
	e := b.read(s)
	if e.Message == nil || !strings.Contains(string(e.Message.Data), `"sid":"`+id+`"`) {
		b.t.Fatalf("the first message is %+v", e)
	}
	return s
}

func (b *bench) read(s *comfy.Socket) comfy.Event {
	b.t.Helper()
	e, err := s.Read(b.ctx())
	if err != nil {
		b.t.Fatal(err)
	}
	return e
}

func (b *bench) prompt(clientID, id, graph string) comfy.PromptResponse {
	b.t.Helper()
	r, err := b.submit(clientID, id, graph)
	if err != nil {
		b.t.Fatal(err)
	}
	return r
}

func (b *bench) submit(clientID, id, graph string) (comfy.PromptResponse, error) {
	req := comfy.PromptRequest{
		ClientID: clientID, PromptID: id, Prompt: json.RawMessage(graph),
		ExtraData: json.RawMessage(`{"extra_pnginfo":{"workflow":{"id":"w-1","note":"Grüße"}}}`),
	}
	body, err := req.Encode()
	if err != nil {
		b.t.Fatal(err)
	}
	return b.client.Prompt(b.ctx(), body)
}

// follow reads until the job's last message and returns all events.
func (b *bench) follow(s *comfy.Socket, id string) []comfy.Event {
	b.t.Helper()
	var out []comfy.Event
	for {
		e := b.read(s)
		out = append(out, e)
		if e.Message != nil && e.Message.Ends() {
			if got, _ := e.Message.PromptID(); got != id {
				b.t.Fatalf("the end of %q came, want %q", got, id)
			}
			return out
		}
	}
}

// wait polls history until a job is over, for clients without a socket.
func (b *bench) wait(id string) comfy.HistoryEntry {
	b.t.Helper()
	ctx := b.ctx()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		h, ok, err := b.client.History(ctx, id)
		if err != nil {
			b.t.Fatal(err)
		}
		if ok {
			return h
		}
		<-tick.C
	}
}

// shape writes events short: types, and what they say of nodes.
func shape(events []comfy.Event) []string {
	var out []string
	for _, e := range events {
		if e.Frame != nil {
			node, _ := e.Frame.NodeID()
			out = append(out, fmt.Sprintf("frame %d %s", e.Frame.Event, node))
			continue
		}
		var d struct {
			Node   *string  `json:"node"`
			Cached []string `json:"nodes"`
			Value  float64  `json:"value"`
			Status struct {
				Info comfy.ExecInfo `json:"exec_info"`
			} `json:"status"`
		}
		var state comfy.ProgressStateData
		switch e.Message.Type {
		case comfy.TypeProgressState:
			_ = e.Message.Decode(&state) // an odd message shows below
			var nodes []string
			for id, p := range state.Nodes {
				if p.State == comfy.StateRunning {
					nodes = append(nodes, fmt.Sprintf("%s=%g/%g", id, p.Value, p.Max))
				}
			}
			out = append(out, strings.TrimSpace(fmt.Sprintf("progress_state %d %s", len(state.Nodes), strings.Join(nodes, " "))))
			continue
		}
		_ = json.Unmarshal(e.Message.Data, &d) // as above
		line := e.Message.Type
		switch {
		case e.Message.Type == comfy.TypeStatus:
			line += fmt.Sprintf(" %d", d.Status.Info.QueueRemaining)
		case e.Message.Type == comfy.TypeExecutionCached:
			line += fmt.Sprintf(" %v", d.Cached)
		case d.Node != nil:
			line += " " + *d.Node
		case e.Message.Type == comfy.TypeExecuting:
			line += " null"
		}
		out = append(out, line)
	}
	return out
}

func only(lines []string, prefixes ...string) []string {
	var out []string
	for _, l := range lines {
		for _, p := range prefixes {
			if strings.HasPrefix(l, p) {
				out = append(out, l)
			}
		}
	}
	return out
}

// fetch reads a file of the server.
func (b *bench) fetch(f comfy.FileItem) []byte {
	b.t.Helper()
	body, size, err := b.client.View(b.ctx(), f)
	if err != nil {
		b.t.Fatal(err)
	}
	defer body.Close()
	raw, err := io.ReadAll(body)
	if err != nil {
		b.t.Fatal(err)
	}
	if int64(len(raw)) != size {
		b.t.Errorf("%s has %d bytes, told %d", f.Filename, len(raw), size)
	}
	return raw
}

// outputs lists the files in history.
func outputs(t *testing.T, h comfy.HistoryEntry) []comfy.FileItem {
	t.Helper()
	var out []comfy.FileItem
	for _, node := range h.Outputs {
		files, err := comfy.OutputFiles(node.Value)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			out = append(out, f.Item)
		}
	}
	return out
}

// saved runs a graph whose node "9" saves and returns the first picture.
func (b *bench) saved(id, graph string) image.Image {
	b.t.Helper()
	b.prompt("", id, graph)
	h := b.wait(id)
	if h.Status.StatusStr != comfy.HistorySuccess {
		b.t.Fatalf("%s ended with %s", id, h.Encode())
	}
	img, err := png.Decode(bytes.NewReader(b.fetch(outputs(b.t, h)[0])))
	if err != nil {
		b.t.Fatal(err)
	}
	return img
}

func pixel(img image.Image, x, y int) [3]int {
	c := color.NRGBAModel.Convert(img.At(x, y)).(color.NRGBA)
	return [3]int{int(c.R), int(c.G), int(c.B)}
}

func (b *bench) get(path string) (int, string) {
	b.t.Helper()
	return b.do(http.MethodGet, path, "")
}

func (b *bench) do(method, path, body string) (int, string) {
	b.t.Helper()
	req, err := http.NewRequestWithContext(b.ctx(), method, b.server.URL()+path, strings.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return resp.StatusCode, string(raw)
}

func empty(id string, w, h, color int) string {
	return fmt.Sprintf(`"%s":{"class_type":"EmptyImage","inputs":{"width":%d,"height":%d,"batch_size":1,"color":%d}}`, id, w, h, color)
}

func save(id, from string) string {
	return fmt.Sprintf(`"%s":{"class_type":"SaveImage","inputs":{"images":["%s",0],"filename_prefix":"shot"}}`, id, from)
}

func graph(nodes ...string) string { return "{" + strings.Join(nodes, ",") + "}" }

// texts reads the tEXt chunks of a PNG.
func texts(t *testing.T, raw []byte) map[string]string {
	t.Helper()
	out := map[string]string{}
	for i := 8; i+12 <= len(raw); {
		n := int(raw[i])<<24 | int(raw[i+1])<<16 | int(raw[i+2])<<8 | int(raw[i+3])
		if string(raw[i+4:i+8]) == "tEXt" {
			key, value, _ := strings.Cut(string(raw[i+8:i+8+n]), "\x00")
			out[key] = value
		}
		i += 12 + n
	}
	return out
}
