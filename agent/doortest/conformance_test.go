package doortest_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"mime/multipart"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ahelme/comfyume/agent/doortest"
)

// TestConformance sends the same workflows to a real ComfyUI and through an
// agent in front of it, and wants the same answers, events and pictures.
func TestConformance(t *testing.T) {
	url := os.Getenv("COMFYUME_CONFORMANCE_URL")
	if url == "" {
		t.Skip("COMFYUME_CONFORMANCE_URL names no real ComfyUI; `make conformance COMFYUI_URL=...` does")
	}
	direct := &doortest.Client{Base: strings.TrimSuffix(url, "/")}
	var stats struct {
		System struct {
			Version string `json:"comfyui_version"`
		} `json:"system"`
	}
	direct.JSON(t, "GET", "/system_stats", nil, &stats)
	a := doortest.Start(t, doortest.Options{Args: []string{"--comfyui-url", url}})
	door := a.Client("user001")
	doortest.Until(t, 2*time.Minute, "the ComfyUI's nodes are known", func() bool {
		code, _, raw, err := door.Do("GET", "/object_info/SaveImage", nil)
		return err == nil && code == 200 && len(raw) > 10
	})
	t.Run("picture", func(t *testing.T) { conformPicture(t, direct, door) })
	t.Run("upload", func(t *testing.T) { conformUpload(t, direct, door) })
	t.Run("failure", func(t *testing.T) { conformFailure(t, direct, door) })
	t.Run("refusals", func(t *testing.T) { conformRefusals(t, direct, door) })
	t.Run("interrupt", func(t *testing.T) { conformInterrupt(t, direct, door) })
	t.Run("routes", func(t *testing.T) { conformRoutes(t, direct, door) })
	t.Run("history", func(t *testing.T) { conformHistory(t, direct, door) })
	t.Run("cached", func(t *testing.T) { conformCached(t, direct, door) })
	t.Run("metadata", func(t *testing.T) { conformMetadata(t, door) })
	fmt.Printf("conformance comfyui=%s url=%s failed=%v\n", stats.System.Version, url, t.Failed())
}

// story is the order of event types without those whose number varies.
func story(ms []doortest.Message) string {
	var out []string
	for _, m := range ms {
		switch m.Type {
		case "status", "progress", "progress_state", "binary", "feature_flags", "logs", "crystools.monitor":
			continue
		}
		out = append(out, m.Type)
	}
	return strings.Join(out, " ")
}

func conformPicture(t *testing.T, direct, door *doortest.Client) {
	var stories []string
	for i, c := range []*doortest.Client{direct, door} {
		g := doortest.Inverted(0x203040+i, 40, "conform")
		e, seen := run(t, c, g, fmt.Sprint("conform-", i))
		if err := doortest.Near(c.Fetch(t, e, "9"), doortest.Invert(0x203040+i), 40, 1); err != nil {
			t.Error(err)
		}
		if e.Status.Str != "success" || len(e.Prompt) < 5 {
			t.Errorf("entry %+v", e)
		}
		stories = append(stories, story(seen)+" | "+e.Told())
	}
	if stories[0] != stories[1] {
		t.Errorf("ComfyUI itself: %s\nthrough the door: %s", stories[0], stories[1])
	}
}

// upload posts a file the way the page does.
func upload(t *testing.T, c *doortest.Client, name string, content []byte) string {
	t.Helper()
	var buf bytes.Buffer
	w := multipart.NewWriter(&buf)
	part, err := w.CreateFormFile("image", name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := part.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	code, _, raw, err := c.Do("POST", "/upload/image", buf.Bytes(), "Content-Type", w.FormDataContentType())
	var got struct{ Name string }
	if err != nil || code != 200 || json.Unmarshal(raw, &got) != nil {
		t.Fatalf("upload answered %d, %v: %s", code, err, raw)
	}
	return got.Name
}

func picture(t *testing.T, size int, at func(x, y int) color.Color) []byte {
	t.Helper()
	img := image.NewRGBA(image.Rect(0, 0, size, size))
	for y := range size {
		for x := range size {
			img.Set(x, y, at(x, y))
		}
	}
	var buf bytes.Buffer
	if err := png.Encode(&buf, img); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func conformUpload(t *testing.T, direct, door *doortest.Client) {
	rgb := 0x123456 + int(time.Now().UnixNano()%1000)
	raw := picture(t, 32, func(int, int) color.Color {
		return color.RGBA{uint8(rgb >> 16), uint8(rgb >> 8), uint8(rgb), 255}
	})
	for i, c := range []*doortest.Client{direct, door} {
		name := upload(t, c, fmt.Sprintf("conform %d.png", i), raw)
		g := doortest.Graph{
			"1": {Class: "LoadImage", Inputs: map[string]any{"image": name}},
			"2": {Class: "ImageInvert", Inputs: map[string]any{"image": doortest.Link("1", 0)}},
			"8": {Class: "PreviewImage", Inputs: map[string]any{"images": doortest.Link("2", 0)}},
			"9": {Class: "SaveImage", Inputs: map[string]any{"images": doortest.Link("2", 0), "filename_prefix": "sub/conform"}},
		}
		e, _ := run(t, c, g, fmt.Sprint("upload-", i))
		for _, node := range []string{"8", "9"} {
			if err := doortest.Near(c.Fetch(t, e, node), doortest.Invert(rgb), 32, 1); err != nil {
				t.Errorf("node %s: %v", node, err)
			}
		}
		if got := e.Outputs["9"]["images"][0]; got.Subfolder != "sub" || got.Type != "output" || !strings.HasPrefix(got.Filename, "conform_") {
			t.Errorf("saved as %+v", got)
		}
		if got := e.Outputs["8"]["images"][0]; got.Type != "temp" {
			t.Errorf("previewed as %+v", got)
		}
	}
}

func conformFailure(t *testing.T, direct, door *doortest.Client) {
	var stories []string
	for i, c := range []*doortest.Client{direct, door} {
		name := upload(t, c, fmt.Sprintf("broken %d.png", i), []byte("this is no picture"))
		g := doortest.Graph{
			"1": {Class: "LoadImage", Inputs: map[string]any{"image": name}},
			"9": {Class: "SaveImage", Inputs: map[string]any{"images": doortest.Link("1", 0), "filename_prefix": "broken"}},
		}
		e, seen := run(t, c, g, fmt.Sprint("broken-", i))
		if e.Status.Str != "error" || e.Status.Completed {
			t.Errorf("status %+v", e.Status)
		}
		at := slices.IndexFunc(seen, func(m doortest.Message) bool { return m.Type == "execution_error" })
		if at < 0 {
			t.Fatalf("no execution_error in %s", doortest.Types(seen))
		}
		m := seen[at]
		if m.Field("node_id") != "1" || m.Field("node_type") != "LoadImage" || m.Field("exception_message") == "" {
			t.Errorf("error %s", m.Data)
		}
		if bytes.Contains(m.Data, []byte("gw/")) {
			t.Errorf("the error shows the worker's own names: %s", m.Data)
		}
		message := m.Field("exception_message")
		if c == door && !errorID.MatchString(message) {
			t.Errorf("the door gave no error id: %q", message)
		}
		stories = append(stories, fmt.Sprintf("%s %s %s %q", story(seen), keysOf(fieldsOf(t, m.Data)), m.Field("exception_type"), withoutID(message)))
	}
	if stories[0] != stories[1] {
		t.Errorf("ComfyUI itself: %s\nthrough the door: %s", stories[0], stories[1])
	}
}

// errorID is what the door adds to an error and a ComfyUI does not: the id by
// which it is found (deploy/guide/workshop.md).
var errorID = regexp.MustCompile(`\n?Error id [0-9a-z-]{8}\n?$`)

// withoutID is an error's text without that id and without the name of the file
// that it is about: each side has a file of its own.
func withoutID(text string) string {
	text = strings.TrimRight(errorID.ReplaceAllString(text, ""), "\n")
	return ownFile.ReplaceAllString(text, "the file")
}

// ownFile matches the picture of conformFailure, with folders before it.
var ownFile = regexp.MustCompile(`[^'" ]*broken[ _]\d\.png`)

func fieldsOf(t *testing.T, raw []byte) (fields map[string]any) {
	t.Helper()
	if err := json.Unmarshal(raw, &fields); err != nil {
		t.Fatalf("%v in %s", err, raw)
	}
	return fields
}

func conformRefusals(t *testing.T, direct, door *doortest.Client) {
	cases := map[string]any{
		"no prompt":     map[string]any{"client_id": "x"},
		"unknown class": map[string]any{"prompt": doortest.Graph{"7": {Class: "NoSuchClass", Inputs: map[string]any{}}}},
		"no output":     map[string]any{"prompt": doortest.Graph{"1": {Class: "EmptyImage", Inputs: map[string]any{"width": 8, "height": 8, "batch_size": 1, "color": 0}}}},
		"missing input": map[string]any{"prompt": doortest.Graph{"9": {Class: "SaveImage", Inputs: map[string]any{"filename_prefix": "x"}}}},
		"missing file": map[string]any{"prompt": doortest.Graph{
			"1": {Class: "LoadImage", Inputs: map[string]any{"image": "nowhere.png"}},
			"9": {Class: "SaveImage", Inputs: map[string]any{"images": doortest.Link("1", 0), "filename_prefix": "x"}},
		}},
	}
	type answer struct {
		Error struct {
			Type    string `json:"type"`
			Message string `json:"message"`
			Details string `json:"details"`
		} `json:"error"`
		Nodes map[string]struct {
			Errors []struct {
				Type    string `json:"type"`
				Message string `json:"message"`
				Details string `json:"details"`
			} `json:"errors"`
			Class string `json:"class_type"`
		} `json:"node_errors"`
	}
	for what, body := range cases {
		var got [2]answer
		var codes [2]int
		for i, c := range []*doortest.Client{direct, door} {
			code, _, raw, err := c.Do("POST", "/prompt", body)
			if err != nil || json.Unmarshal(raw, &got[i]) != nil {
				t.Fatalf("%s: %d %v %s", what, code, err, raw)
			}
			codes[i] = code
		}
		if !errorID.MatchString(got[1].Error.Details) {
			t.Errorf("%s: the door gave no error id: %+v", what, got[1].Error)
		}
		got[1].Error.Details = withoutID(got[1].Error.Details)
		same := got[0].Error == got[1].Error ||
			// Newer servers name this class of error apart.
			what == "unknown class" && got[1].Error.Type == "invalid_prompt"
		if codes[0] != http.StatusBadRequest || codes[0] != codes[1] || !same || fmt.Sprint(got[0].Nodes) != fmt.Sprint(got[1].Nodes) {
			t.Errorf("%s\nComfyUI itself: %d %+v\nthrough the door: %d %+v", what, codes[0], got[0], codes[1], got[1])
		}
	}
}

// heavy is a chain of work that takes a CPU several seconds, in many nodes so
// that an interrupt finds a place to take hold.
func heavy(seed int) doortest.Graph {
	g := doortest.Graph{"1": {Class: "EmptyImage", Inputs: map[string]any{"width": 1024, "height": 1024, "batch_size": 4, "color": seed}}}
	last := "1"
	for i := range 30 {
		id := fmt.Sprint(10 + i)
		g[id] = doortest.Node{Class: "ImageScale", Inputs: map[string]any{"image": doortest.Link(last, 0), "upscale_method": "lanczos", "width": 1024 + 8*i, "height": 1024 + 8*i, "crop": "disabled"}}
		last = id
	}
	g["9"] = doortest.Node{Class: "SaveImage", Inputs: map[string]any{"images": doortest.Link(last, 0), "filename_prefix": "heavy"}}
	return g
}

func conformInterrupt(t *testing.T, direct, door *doortest.Client) {
	var ends []string
	for i, c := range []*doortest.Client{direct, door} {
		client := fmt.Sprint("interrupt-", i)
		ws := c.Socket(t, client)
		var accepted struct {
			PromptID string `json:"prompt_id"`
		}
		c.JSON(t, "POST", "/prompt", map[string]any{"prompt": heavy(77 + i), "client_id": client}, &accepted)
		asked := false
		var types []string
		for deadline := time.Now().Add(2 * time.Minute); ; {
			m, err := ws.Next(time.Until(deadline))
			if err != nil {
				t.Fatalf("%v after %v", err, types)
			}
			types = append(types, m.Type)
			if m.Type == "executing" && !asked {
				asked = true
				if code, _, _, err := c.Do("POST", "/interrupt", map[string]any{"prompt_id": accepted.PromptID}); err != nil || code != 200 {
					t.Fatalf("interrupt: %d, %v", code, err)
				}
			}
			if m.EndOf(accepted.PromptID) {
				break
			}
		}
		end := "neither"
		for _, typ := range []string{"execution_interrupted", "execution_success"} {
			if slices.Contains(types, typ) {
				end = typ
			}
		}
		var history map[string]doortest.Entry
		c.JSON(t, "GET", "/history/"+accepted.PromptID, nil, &history)
		ends = append(ends, end+" "+history[accepted.PromptID].Status.Str)
	}
	if ends[0] != ends[1] || ends[1] != "execution_interrupted error" {
		t.Errorf("ComfyUI itself: %s\nthrough the door: %s", ends[0], ends[1])
	}
}

// nonce makes names and colours that no run before had: a ComfyUI keeps files
// and a cache.
func nonce() int { return int(time.Now().UnixNano() / 1000 % 0xffffff) }

// conformHistory wants an entry of the same shape: what a script reads of one it
// can read of the other.
func conformHistory(t *testing.T, direct, door *doortest.Client) {
	var entries [2]map[string]any
	for i, c := range []*doortest.Client{direct, door} {
		id := fmt.Sprintf("00000000-0000-4000-8000-%012x", nonce())
		ws := c.Socket(t, "history")
		c.JSON(t, "POST", "/prompt", map[string]any{"prompt": doortest.Inverted(nonce(), 16, "shape"), "client_id": "history", "prompt_id": id}, nil)
		ws.UntilEnd(t, id, time.Minute)
		var all map[string]map[string]any
		c.JSON(t, "GET", "/history/"+id, nil, &all)
		c.JSON(t, "GET", "/history?max_items=1", nil, &all)
		if len(all) != 1 || all[id] == nil {
			t.Fatalf("the newest entry is not the last job's: %v", all)
		}
		entries[i] = all[id]
	}
	a, b := entries[0], entries[1]
	dropKey(a, "abs_path") // the 0.12 fork tells where its disk is; the door does not
	if keysOf(a) != keysOf(b) {
		t.Errorf("ComfyUI itself: %s\nthrough the door: %s", keysOf(a), keysOf(b))
	}
	for _, part := range []string{"outputs", "meta"} {
		if x, y := fmt.Sprint(shape(a[part])), fmt.Sprint(shape(b[part])); x != y {
			t.Errorf("%s\nComfyUI itself: %s\nthrough the door: %s", part, x, y)
		}
	}
	x, y := a["prompt"].([]any), b["prompt"].([]any)
	for k := range 5 {
		if k >= len(x) || k >= len(y) || k != 3 && fmt.Sprint(shape(x[k])) != fmt.Sprint(shape(y[k])) {
			t.Errorf("prompt[%d]\nComfyUI itself: %v\nthrough the door: %v", k, x, y)
		}
	}
}

// dropKey takes every member of a name out of a document.
func dropKey(v any, key string) {
	switch v := v.(type) {
	case map[string]any:
		delete(v, key)
		for _, inner := range v {
			dropKey(inner, key)
		}
	case []any:
		for _, inner := range v {
			dropKey(inner, key)
		}
	}
}

// conformCached queues the same again: everything comes out of a cache, in one
// burst.
func conformCached(t *testing.T, direct, door *doortest.Client) {
	rgb := nonce()
	for i, c := range []*doortest.Client{direct, door} {
		g := doortest.Inverted(rgb+i, 24, "cached")
		g["8"] = doortest.Node{Class: "PreviewImage", Inputs: map[string]any{"images": doortest.Link("2", 0)}}
		run(t, c, g, "cached-first")
		e, seen := run(t, c, g, "cached-again")
		told := story(seen)
		// Through the door the node that saves works again: it has a name of the
		// job's own, so that nobody is handed another's picture.
		if told = strings.ReplaceAll(told, "executing executed", "executed"); !strings.HasPrefix(told, "execution_start execution_cached executed executed execution_success") {
			t.Errorf("client %d heard %s", i, story(seen))
		}
		if err := doortest.Near(c.Fetch(t, e, "8"), doortest.Invert(rgb+i), 24, 1); err != nil {
			t.Error(err)
		}
	}
}

// conformMetadata wants the picture to carry the user's own prompt: not the
// names under which the worker ran it.
func conformMetadata(t *testing.T, door *doortest.Client) {
	e, _ := run(t, door, doortest.Inverted(0x777777, 16, "meta"), "meta")
	raw := door.Fetch(t, e, "9")
	if !bytes.Contains(raw, []byte(`"filename_prefix": "meta"`)) && !bytes.Contains(raw, []byte(`"filename_prefix":"meta"`)) {
		t.Error("the picture does not carry the user's own prompt")
	}
	if bytes.Contains(raw, []byte("gw/")) {
		t.Error("the picture carries the worker's names")
	}
}
