package doortest

import (
	"bytes"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"strings"
	"testing"
)

// Node of a prompt in API form.
type Node struct {
	Class  string         `json:"class_type"`
	Inputs map[string]any `json:"inputs"`
}

// Graph is a prompt in API form.
type Graph map[string]Node

// Link is an input that comes from another node.
func Link(node string, slot int) []any { return []any{node, slot} }

// Inverted is an image of one colour, inverted and saved: core nodes only, so
// that every ComfyUI can run it. Colour is 0xRRGGBB.
func Inverted(rgb, size int, prefix string) Graph {
	return Graph{
		"1": {"EmptyImage", map[string]any{"width": size, "height": size, "batch_size": 1, "color": rgb}},
		"2": {"ImageInvert", map[string]any{"image": Link("1", 0)}},
		"9": {"SaveImage", map[string]any{"images": Link("2", 0), "filename_prefix": prefix}},
	}
}

// Slow is an image of one colour that takes its time (sketch only).
func Slow(rgb, size int, seconds float64, steps int) Graph {
	return Graph{
		"1": {"EmptyImage", map[string]any{"width": size, "height": size, "batch_size": 1, "color": rgb}},
		"2": {"SketchSlow", map[string]any{"image": Link("1", 0), "seconds": seconds, "steps": steps}},
		"9": {"SaveImage", map[string]any{"images": Link("2", 0), "filename_prefix": "slow"}},
	}
}

// Invert of a colour.
func Invert(rgb int) int { return 0xffffff ^ rgb }

// Uniform checks that a PNG is of exactly one colour, and of a size.
func Uniform(raw []byte, rgb, size int) error { return Near(raw, rgb, size, 0) }

// Near is Uniform with a tolerance for each channel: a real ComfyUI computes in
// floats and cuts off, so an inverted colour may be one lower.
func Near(raw []byte, rgb, size, tolerance int) error {
	img, err := png.Decode(bytes.NewReader(raw))
	if err != nil {
		return fmt.Errorf("decode %d bytes: %w", len(raw), err)
	}
	if img.Bounds() != image.Rect(0, 0, size, size) {
		return fmt.Errorf("size %v, want %d", img.Bounds(), size)
	}
	want := color.RGBA{uint8(rgb >> 16), uint8(rgb >> 8), uint8(rgb), 255}
	for y := range size {
		for x := range size {
			got := color.RGBAModel.Convert(img.At(x, y)).(color.RGBA)
			if off(got.R, want.R) > tolerance || off(got.G, want.G) > tolerance || off(got.B, want.B) > tolerance || got.A != 255 {
				return fmt.Errorf("pixel %d,%d is %v, want %v", x, y, got, want)
			}
		}
	}
	return nil
}

func off(a, b uint8) int { return max(int(a)-int(b), int(b)-int(a)) }

// Image is one output file as history names it.
type Image struct {
	Filename  string `json:"filename"`
	Subfolder string `json:"subfolder"`
	Type      string `json:"type"`
}

// Path of the image at GET /view.
func (i Image) Path() string {
	return "/view?filename=" + queryEscape(i.Filename) + "&subfolder=" + queryEscape(i.Subfolder) + "&type=" + i.Type
}

// Entry is one entry of history, as far as tests read it.
type Entry struct {
	Prompt  []any                         `json:"prompt"`
	Outputs map[string]map[string][]Image `json:"outputs"`
	Status  struct {
		Str       string `json:"status_str"`
		Completed bool   `json:"completed"`
		Messages  []any  `json:"messages"`
	} `json:"status"`
}

// Told lists the types of the messages that the entry kept: [type, data] pairs,
// or "type: text" in the 0.12 fork.
func (e Entry) Told() string {
	var out []string
	for _, m := range e.Status.Messages {
		switch m := m.(type) {
		case []any:
			out = append(out, fmt.Sprint(m[0]))
		case string:
			name, _, _ := strings.Cut(m, ":")
			out = append(out, name)
		}
	}
	return strings.Join(out, " ")
}

// Fetch reads an image of a history entry.
func (c *Client) Fetch(t testing.TB, e Entry, node string) []byte {
	t.Helper()
	imgs := e.Outputs[node]["images"]
	if len(imgs) != 1 {
		t.Fatalf("node %s has %d images: %+v", node, len(imgs), e.Outputs)
	}
	code, _, raw, err := c.Do("GET", imgs[0].Path(), nil)
	if err != nil || code != 200 {
		t.Fatalf("GET %s answered %d, %v", imgs[0].Path(), code, err)
	}
	return raw
}
