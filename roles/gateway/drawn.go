package gateway

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/ahelme/comfyume/roles/comfy"
)

// savedInput is an input or an output of a node in a saved workflow.
type savedInput struct {
	Name   string          `json:"name"`
	Type   json.RawMessage `json:"type"`
	Shape  int             `json:"shape"`
	Widget *struct {
		Name string `json:"name"`
	} `json:"widget"`
}

// optionalShape marks an input that may be left open.
const optionalShape = 7

// typeText is the type's name; of a list of choices, the newer word for one.
func (in savedInput) typeText() string {
	var s string
	if json.Unmarshal(in.Type, &s) == nil && s != "" {
		return s
	}
	if len(in.Type) > 0 && in.Type[0] == '[' {
		return comfy.TypeCombo
	}
	return "*"
}

// drawing is a class of node as workflows show it: what a page needs to open
// and edit them before any ComfyUI has said what it has.
type drawing struct {
	inputs  []savedInput
	outputs []savedInput
	values  [][]json.RawMessage // of the widgets, one list for each node seen
}

// drawClasses makes descriptions of the classes that workflows use, out of the
// workflows themselves. Choices are those that were made there. A class whose
// widgets a workflow does not name (old ones do not) is left out: guessed names
// would lose what was typed.
func drawClasses(workflows [][]byte) *comfy.ObjectInfo {
	seen := map[string]*drawing{}
	var order []string
	for _, raw := range workflows {
		var w savedWorkflow
		if json.Unmarshal(raw, &w) != nil {
			continue // loadTemplates has refused those; a drawing is never needed to serve
		}
		own := map[string]bool{}
		all := w.Nodes
		for _, s := range w.Definitions.Subgraphs {
			own[s.ID] = true
			all = slices.Concat(all, s.Nodes)
		}
		for _, n := range all {
			if own[n.Type] || n.Type == "" || slices.Contains(pageOnly(), n.Type) {
				continue
			}
			if seen[n.Type] == nil {
				seen[n.Type] = &drawing{}
				order = append(order, n.Type)
			}
			seen[n.Type].add(n)
		}
	}
	slices.Sort(order)
	var classes []*comfy.Class
	for _, name := range order {
		if raw, ok := seen[name].describe(name); ok {
			classes = append(classes, comfy.ParseClass(name, raw))
		}
	}
	return comfy.NewObjectInfo(classes...)
}

func (d *drawing) add(n savedNode) {
	for _, in := range n.Inputs {
		if !slices.ContainsFunc(d.inputs, func(have savedInput) bool { return have.Name == in.Name }) {
			d.inputs = append(d.inputs, in)
		}
	}
	if len(d.outputs) == 0 {
		d.outputs = n.Outputs
	}
	var values []json.RawMessage
	if json.Unmarshal(n.Values, &values) == nil {
		d.values = append(d.values, values)
	}
}

func (d *drawing) describe(name string) (json.RawMessage, bool) {
	widgets := slices.ContainsFunc(d.inputs, func(in savedInput) bool { return in.Widget != nil })
	if !widgets && slices.ContainsFunc(d.values, func(v []json.RawMessage) bool { return len(v) > 0 }) {
		return nil, false
	}
	required, optional := comfy.Object{}, comfy.Object{}
	at := 0 // in the widgets' values
	for i, in := range d.inputs {
		section := &required
		if in.Shape == optionalShape {
			section = &optional
		}
		if in.Widget == nil {
			section.Set(in.Name, jsonOf([]any{in.typeText()}))
			continue
		}
		spec, took := d.widget(i, at)
		at += took
		if spec != nil {
			section.Set(in.Name, spec)
		}
	}
	types, names, lists := []string{}, []string{}, []bool{}
	for _, out := range d.outputs {
		types, names, lists = append(types, out.typeText()), append(names, out.Name), append(lists, false)
	}
	return jsonOf(comfy.Object{
		{Key: "input", Value: jsonOf(comfy.Object{{Key: "required", Value: jsonOf(required)}, {Key: "optional", Value: jsonOf(optional)}})},
		{Key: "input_order", Value: jsonOf(map[string][]string{"required": keys(required), "optional": keys(optional)})},
		{Key: "output", Value: jsonOf(types)},
		{Key: "output_is_list", Value: jsonOf(lists)},
		{Key: "output_name", Value: jsonOf(names)},
		{Key: "name", Value: jsonOf(name)},
		{Key: "display_name", Value: jsonOf(name)},
		{Key: "description", Value: jsonOf("Known from the workshop's workflows only. Its choices are complete when a GPU has joined.")},
		{Key: "python_module", Value: jsonOf("nodes")},
		{Key: "category", Value: jsonOf("workshop")},
		{Key: "output_node", Value: jsonOf(len(types) == 0)},
	}), true
}

// widget describes input i, whose values stand at the index at, and says how
// many values it takes: a seed is followed by what becomes of it.
func (d *drawing) widget(i, at int) (spec json.RawMessage, took int) {
	in := d.inputs[i]
	var seen []json.RawMessage
	controlled := false
	for _, v := range d.values {
		if at < len(v) && !slices.ContainsFunc(seen, func(s json.RawMessage) bool { return string(s) == string(v[at]) }) {
			seen = append(seen, v[at])
		}
		controlled = controlled || at+1 < len(v) && control(v[at+1])
	}
	config := map[string]any{}
	if len(seen) > 0 {
		config["default"] = seen[0]
	}
	switch typ := in.typeText(); typ {
	case comfy.TypeCombo:
		if i+1 < len(d.inputs) && strings.HasSuffix(d.inputs[i+1].typeText(), "UPLOAD") {
			kind := strings.ToLower(strings.TrimSuffix(d.inputs[i+1].typeText(), "UPLOAD"))
			return jsonOf([]any{[]string{}, map[string]any{kind + "_upload": true}}), 1
		}
		choices := slices.DeleteFunc(seen, func(s json.RawMessage) bool { return string(s) == "null" })
		return jsonOf([]any{append([]json.RawMessage{}, choices...), config}), 1
	case "IMAGEUPLOAD", "AUDIOUPLOAD", "VIDEOUPLOAD", "FILEUPLOAD":
		return nil, 1 // a button of the page, not an input
	case "INT":
		config["min"], config["max"] = json.RawMessage("-2147483648"), json.RawMessage("2147483647")
		if controlled {
			config["min"], config["max"], config["control_after_generate"] = json.RawMessage("0"), json.RawMessage("18446744073709551615"), true
			return jsonOf([]any{typ, config}), 2
		}
		return jsonOf([]any{typ, config}), 1
	case "FLOAT":
		config["min"], config["max"], config["step"] = -1e6, 1e6, 0.01
		return jsonOf([]any{typ, config}), 1
	case "STRING":
		config["multiline"] = slices.ContainsFunc(seen, func(s json.RawMessage) bool { return len(s) > 40 }) || in.Name == "text" || in.Name == "prompt"
		return jsonOf([]any{typ, config}), 1
	default:
		return jsonOf([]any{typ, config}), 1
	}
}

// control reports whether a widget's value is what happens to the number
// before it after each run.
func control(raw json.RawMessage) bool {
	return slices.Contains([]string{`"fixed"`, `"increment"`, `"decrement"`, `"randomize"`}, string(raw))
}

func keys(o comfy.Object) []string {
	out := make([]string, len(o))
	for i, f := range o {
		out[i] = f.Key
	}
	return out
}

// jsonOf writes a value of our own making, which cannot fail.
func jsonOf(v any) json.RawMessage {
	raw, err := json.Marshal(v)
	if err != nil {
		return json.RawMessage("null")
	}
	return raw
}
