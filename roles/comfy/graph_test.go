package comfy_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/ahelme/comfyume/roles/comfy"
)

const oddPrompt = `{
 "12:3": {"inputs": {"seed": 18446744073709551615, "cfg": 8.0, "model": ["4", 0], "odd": {"__value__": ["a", 1]}}, "class_type": "KSampler", "_meta": {"title": "Sämpler"}, "is_changed": ["x"]},
 "4" : {"class_type":"CheckpointLoaderSimple", "inputs" : {"ckpt_name":"a/b <c>.safetensors"}},
 "7": {"class_type": "Text", "inputs": {}}
}`

func parseGraph(t *testing.T, raw string) *comfy.Graph {
	t.Helper()
	g, err := comfy.ParseGraph(json.RawMessage(raw))
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func TestGraphReadsNodesInOrder(t *testing.T) {
	g := parseGraph(t, oddPrompt)
	var ids []string
	for _, n := range g.Nodes {
		ids = append(ids, n.ID)
	}
	if got := strings.Join(ids, " "); got != "12:3 4 7" {
		t.Errorf("nodes %s", got)
	}
	n, ok := g.Node("12:3")
	if !ok || n.ClassType != "KSampler" || n.Title != "Sämpler" || len(n.Inputs) != 4 {
		t.Fatalf("node is %+v", n)
	}
	in, _ := n.Input("model")
	if in.Link == nil || *in.Link != (comfy.Link{Node: "4", Slot: 0}) {
		t.Errorf("link is %v", in.Link)
	}
	if in, _ := n.Input("odd"); in.Link != nil {
		t.Errorf("a wrapped list was read as a link")
	}
	if got := g.Classes(); strings.Join(got, " ") != "KSampler CheckpointLoaderSimple Text" {
		t.Errorf("classes %v", got)
	}
}

func TestGraphChangesOnlyWhatWasSet(t *testing.T) {
	g := parseGraph(t, oddPrompt)
	if got := string(g.Bytes()); got != oddPrompt {
		t.Fatalf("an untouched prompt became\n%s", got)
	}
	if err := g.SetText("4", "ckpt_name", "new & old"); err != nil {
		t.Fatal(err)
	}
	if err := g.SetInput("12:3", "cfg", json.RawMessage("7.50")); err != nil {
		t.Fatal(err)
	}
	want := strings.Replace(strings.Replace(oddPrompt, `"a/b <c>.safetensors"`, `"new & old"`, 1), "8.0", "7.50", 1)
	if got := string(g.Bytes()); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	for _, c := range []struct{ node, input, raw string }{{"9", "a", "1"}, {"4", "no", "1"}, {"4", "ckpt_name", "{"}} {
		if err := g.SetInput(c.node, c.input, json.RawMessage(c.raw)); err == nil {
			t.Errorf("setting %v was accepted", c)
		}
	}
}

func TestGraphRewritesStringsEverywhere(t *testing.T) {
	raw := `{"1":{"class_type":"L","inputs":{"image":"a.png","list":{"__value__":["a.png","b.png"]},"model":{"image":"threed/a.png [temp]","n":[1]},"link":["a.png",0]}}}`
	g := parseGraph(t, raw)
	err := g.Strings(func(_ *comfy.Node, _, value string) (string, error) {
		base, folder := comfy.SplitAnnotation(value)
		if base == "b.png" {
			return value, nil
		}
		return "gw/" + base + folder, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want := `{"1":{"class_type":"L","inputs":{"image":"gw/a.png","list":{"__value__":["gw/a.png","b.png"]},"model":{"image":"gw/threed/a.pngtemp","n":[1]},"link":["a.png",0]}}}`
	if got := string(g.Bytes()); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if err := g.Strings(func(*comfy.Node, string, string) (string, error) { return "", os.ErrInvalid }); !errors.Is(err, os.ErrInvalid) {
		t.Errorf("error %v", err)
	}
}

func TestGraphRefuses(t *testing.T) {
	for name, raw := range map[string]string{
		"list": `[]`, "null": `null`, "node is text": `{"1":"x"}`, "node twice": `{"1":{},"1":{}}`, "inputs is list": `{"1":{"inputs":[]}}`,
		"input twice": `{"1":{"inputs":{"a":1,"a":2}}}`, "class twice": `{"1":{"class_type":"a","class_type":"b"}}`, "broken": `{"1":`,
	} {
		if _, err := comfy.ParseGraph(json.RawMessage(raw)); !errors.Is(err, comfy.ErrMalformed) {
			t.Errorf("%s: error %v, want malformed", name, err)
		}
	}
	var big strings.Builder
	for i := range comfy.MaxNodes + 1 {
		fmt.Fprintf(&big, `,"%d":{}`, i)
	}
	if _, err := comfy.ParseGraph(json.RawMessage("{" + big.String()[1:] + "}")); !errors.Is(err, comfy.ErrTooLarge) {
		t.Errorf("%d nodes: error %v, want too large", comfy.MaxNodes+1, err)
	}
}

func TestParseLink(t *testing.T) {
	for raw, want := range map[string]*comfy.Link{
		`["4",0]`: {Node: "4"}, ` [ "12:3" , 2 ] `: {Node: "12:3", Slot: 2}, `["4"]`: nil, `[4,0]`: nil, `["4","0"]`: nil, `["4",0,1]`: nil, `"4"`: nil, `["4",0.5]`: nil,
	} {
		got := comfy.ParseLink(json.RawMessage(raw))
		if (got == nil) != (want == nil) || got != nil && *got != *want {
			t.Errorf("%s: %v, want %v", raw, got, want)
		}
	}
}

func FuzzParseGraph(f *testing.F) {
	f.Add([]byte(oddPrompt))
	f.Add([]byte(`{"1":{"inputs":{"a":["1",0]},"class_type":"X"}}`))
	f.Add([]byte(`{"\u0031":{"inputs":{"\"":"\u0000"}}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		g, err := comfy.ParseGraph(raw)
		if err != nil {
			return
		}
		if string(g.Bytes()) != string(raw) {
			t.Fatalf("an untouched prompt changed")
		}
		for _, n := range g.Nodes {
			for _, in := range n.Inputs {
				if err := g.SetInput(n.ID, in.Name, json.RawMessage("12345")); err != nil {
					t.Fatal(err)
				}
			}
		}
		again, err := comfy.ParseGraph(g.Bytes())
		if err != nil {
			t.Fatalf("the changed prompt cannot be read: %v", err)
		}
		for i, n := range again.Nodes {
			if n.ID != g.Nodes[i].ID || len(n.Inputs) != len(g.Nodes[i].Inputs) {
				t.Fatalf("node %q became %q", g.Nodes[i].ID, n.ID)
			}
			for _, in := range n.Inputs {
				if string(in.Raw) != "12345" {
					t.Fatalf("input %q is %s", in.Name, in.Raw)
				}
			}
		}
	})
}
