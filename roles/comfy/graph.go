package comfy

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// MaxNodes is how many nodes a prompt may have. The largest workflows seen have
// some hundreds.
const MaxNodes = 10_000

// Graph is a prompt in API form: its nodes in the order of the document. It can
// be edited in place; all that was not set keeps its bytes.
type Graph struct {
	Nodes []*Node
	raw   []byte
	byID  map[string]*Node
}

// Node is one step of a Graph.
type Node struct {
	ID        string
	ClassType string // "" when the document has none
	Title     string // _meta.title
	Inputs    []Input
}

// Input is one named value of a Node, either a literal or a link.
type Input struct {
	Name string
	Raw  json.RawMessage // as it stands now
	Link *Link           // nil for a literal

	start, end int
	changed    bool
}

// Link is where a value comes from: an output slot of another node.
type Link struct {
	Node string
	Slot int
}

// ParseGraph reads the prompt of POST /prompt. It refuses what is not an object
// of objects, and ids or inputs that stand twice: Python would take the last
// one, another reader the first, and what was checked must be what runs.
func ParseGraph(raw json.RawMessage) (*Graph, error) {
	if err := checkJSON(raw); err != nil {
		return nil, fmt.Errorf("read prompt: %w", err)
	}
	spans, ok := objectSpans(raw, 0)
	if !ok {
		return nil, fmt.Errorf("read prompt: %w: it is not an object of nodes", ErrMalformed)
	}
	if len(spans) > MaxNodes {
		return nil, fmt.Errorf("read prompt of %d nodes: %w", len(spans), ErrTooLarge)
	}
	g := &Graph{raw: raw, byID: make(map[string]*Node, len(spans))}
	for _, s := range spans {
		if _, twice := g.byID[s.key]; twice {
			return nil, fmt.Errorf("read prompt: %w: node %q stands twice", ErrMalformed, s.key)
		}
		n, err := parseNode(raw, s)
		if err != nil {
			return nil, err
		}
		g.Nodes = append(g.Nodes, n)
		g.byID[n.ID] = n
	}
	return g, nil
}

func parseNode(raw []byte, at span) (*Node, error) {
	fields, ok := objectSpans(raw, at.start)
	if !ok {
		return nil, fmt.Errorf("read node %q: %w: it is not an object", at.key, ErrMalformed)
	}
	n := &Node{ID: at.key}
	seen := map[string]bool{}
	for _, f := range fields {
		if seen[f.key] {
			return nil, fmt.Errorf("read node %q: %w: %q stands twice", n.ID, ErrMalformed, f.key)
		}
		seen[f.key] = true
		value := json.RawMessage(raw[f.start:f.end])
		switch f.key {
		case "class_type":
			n.ClassType, _ = text(value)
		case "_meta":
			n.Title = metaTitle(value)
		case "inputs":
			inputs, err := parseInputs(raw, f, n.ID)
			if err != nil {
				return nil, err
			}
			n.Inputs = inputs
		}
	}
	return n, nil
}

func parseInputs(raw []byte, at span, node string) ([]Input, error) {
	spans, ok := objectSpans(raw, at.start)
	if !ok {
		return nil, fmt.Errorf("read inputs of node %q: %w: not an object", node, ErrMalformed)
	}
	inputs := make([]Input, 0, len(spans))
	seen := make(map[string]bool, len(spans))
	for _, s := range spans {
		if seen[s.key] {
			return nil, fmt.Errorf("read inputs of node %q: %w: %q stands twice", node, ErrMalformed, s.key)
		}
		seen[s.key] = true
		value := json.RawMessage(raw[s.start:s.end:s.end])
		inputs = append(inputs, Input{Name: s.key, Raw: value, Link: ParseLink(value), start: s.start, end: s.end})
	}
	return inputs, nil
}

func metaTitle(raw json.RawMessage) string {
	spans, _ := objectSpans(raw, 0)
	if t, ok := find(spans, "title"); ok {
		title, _ := text(json.RawMessage(raw[t.start:t.end]))
		return title
	}
	return ""
}

// ParseLink reads [node, slot]. It returns nil for anything else; ids are
// strings, a number in their place finds no node in ComfyUI either.
func ParseLink(raw json.RawMessage) *Link {
	if i := skipSpace(raw, 0); i >= len(raw) || raw[i] != '[' {
		return nil
	}
	parts, err := ParseArray(raw)
	if err != nil || len(parts) != 2 {
		return nil
	}
	node, ok := text(parts[0])
	if !ok {
		return nil
	}
	slot, err := strconv.Atoi(string(parts[1]))
	if err != nil {
		return nil
	}
	return &Link{Node: node, Slot: slot}
}

// Node returns the node called id.
func (g *Graph) Node(id string) (*Node, bool) {
	n, ok := g.byID[id]
	return n, ok
}

// Classes lists each class_type once, in the order of first use.
func (g *Graph) Classes() []string {
	var out []string
	seen := map[string]bool{}
	for _, n := range g.Nodes {
		if n.ClassType != "" && !seen[n.ClassType] {
			seen[n.ClassType] = true
			out = append(out, n.ClassType)
		}
	}
	return out
}

// Input returns the input called name.
func (n *Node) Input(name string) (Input, bool) {
	for _, in := range n.Inputs {
		if in.Name == name {
			return in, true
		}
	}
	return Input{}, false
}

// Text returns the input called name when it is a literal string.
func (n *Node) Text(name string) (string, bool) {
	in, ok := n.Input(name)
	if !ok {
		return "", false
	}
	return text(in.Raw)
}

// SetInput replaces one existing value. raw must be JSON.
func (g *Graph) SetInput(node, input string, raw json.RawMessage) error {
	n, ok := g.byID[node]
	if !ok {
		return fmt.Errorf("set input %q of node %q: no such node", input, node)
	}
	if err := checkJSON(raw); err != nil {
		return fmt.Errorf("set input %q of node %q: %w", input, node, err)
	}
	for i := range n.Inputs {
		if in := &n.Inputs[i]; in.Name == input {
			in.Raw, in.Link, in.changed = raw, ParseLink(raw), true
			return nil
		}
	}
	return fmt.Errorf("set input %q of node %q: no such input", input, node)
}

// SetText replaces one existing value by a string.
func (g *Graph) SetText(node, input, value string) error {
	return g.SetInput(node, input, quote(value))
}

// Bytes writes the prompt: the document as it was read, but for the values set
// since.
func (g *Graph) Bytes() json.RawMessage {
	var edits []edit
	for _, n := range g.Nodes {
		for _, in := range n.Inputs {
			if in.changed {
				edits = append(edits, edit{in.start, in.end, in.Raw})
			}
		}
	}
	return splice(g.raw, edits)
}

// Strings calls fn for every string inside an input's literal value, however
// deep, and replaces it by what fn returns: pictures are named in plain strings,
// in lists wrapped in __value__ and in objects (LOAD_3D). Links are left alone.
func (g *Graph) Strings(fn func(n *Node, input, value string) (string, error)) error {
	for _, n := range g.Nodes {
		for i := range n.Inputs {
			in := &n.Inputs[i]
			if in.Link != nil {
				continue
			}
			raw, err := rewriteStrings(in.Raw, func(s string) (string, error) { return fn(n, in.Name, s) })
			if err != nil {
				return fmt.Errorf("rewrite input %q of node %q: %w", in.Name, n.ID, err)
			}
			if raw != nil {
				in.Raw, in.changed = raw, true
			}
		}
	}
	return nil
}

// rewriteStrings returns nil when nothing changed. Keys are not values.
func rewriteStrings(raw json.RawMessage, fn func(string) (string, error)) (json.RawMessage, error) {
	var edits []edit
	var walk func(start, end int) error
	walk = func(start, end int) error {
		var inner []span
		switch raw[start] {
		case '"':
			old := unquote(raw[start:end])
			now, err := fn(old)
			if err != nil {
				return err
			}
			if now != old {
				edits = append(edits, edit{start, end, quote(now)})
			}
		case '{':
			inner, _ = objectSpans(raw, start)
		case '[':
			inner, _ = arraySpans(raw, start)
		}
		for _, s := range inner {
			if err := walk(s.start, s.end); err != nil {
				return err
			}
		}
		return nil
	}
	start := skipSpace(raw, 0)
	if err := walk(start, skipValue(raw, start)); err != nil || len(edits) == 0 {
		return nil, err
	}
	return splice(raw, edits), nil
}

// SplitAnnotation takes " [input]", " [output]" or " [temp]" off a file name.
// folder is "" when there was none.
func SplitAnnotation(name string) (base, folder string) {
	for _, f := range []string{"input", "output", "temp"} {
		if b, ok := strings.CutSuffix(name, " ["+f+"]"); ok {
			return b, f
		}
	}
	return name, ""
}
