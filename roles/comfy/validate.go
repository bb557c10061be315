package comfy

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// ValidateOptions says what Validate may know beyond the classes.
type ValidateOptions struct {
	// PartialTargets limits the outputs to these nodes; nil means all.
	PartialTargets []string
	// FileExists reports whether a file input's value names a file of this user.
	// The value is as in the prompt, " [output]" and subfolder included. Nil: file
	// inputs are not checked.
	FileExists func(name string) bool
	// FolderExists reports the same of a folder whose files a node reads. Nil: not
	// checked.
	FolderExists func(name string) bool
	// Replaced reports whether a server knows a class under a newer name, so that
	// its absence from the classes is no error. Nil: none is replaced.
	Replaced func(class string) bool
	// Strict also checks ranges, lists and the types of links. Only the server
	// that owns the classes may: elsewhere custom checks and dynamic inputs make
	// prompts good that look wrong from outside.
	Strict bool
}

// Validate checks a prompt against the classes of a server, in ComfyUI's order
// and words. outputs are the nodes that will give a result; nodeErrors can be
// there although some outputs are good. err is nil when at least one is. Without
// Strict only what any server would refuse is refused.
func Validate(g *Graph, info *ObjectInfo, opt ValidateOptions) (outputs []string, nodeErrors NodeErrors, err *PromptError) {
	if len(g.Nodes) == 0 {
		return nil, nil, EmptyPrompt()
	}
	v := &validation{graph: g, info: info, opt: opt, done: map[string]*verdict{}}
	candidates, err := v.outputs()
	if err != nil {
		return nil, nil, err
	}
	var lines []string
	nodeErrors = NodeErrors{}
	for _, id := range candidates {
		if v.check(id).ok {
			outputs = append(outputs, id)
			continue
		}
		for _, e := range v.done[id].errors {
			lines = append(lines, e.Message+": "+e.Details)
		}
		v.collect(id, id, nodeErrors, map[string]bool{})
	}
	if len(outputs) == 0 {
		return nil, nodeErrors, OutputsFailed(nodeErrors, lines)
	}
	return outputs, nodeErrors, nil
}

// validation is one run of Validate.
type validation struct {
	graph *Graph
	info  *ObjectInfo
	opt   ValidateOptions
	done  map[string]*verdict
}

// verdict is what was found about a node: its own errors, and ok only if the
// nodes that it needs are good as well.
type verdict struct {
	ok, busy bool
	errors   []ErrorDetail
	needs    []string
}

// outputs lists the nodes that give results. A node that a server will replace
// may be one, so it counts when nothing takes from it.
func (v *validation) outputs() ([]string, *PromptError) {
	used := map[string]bool{}
	for _, n := range v.graph.Nodes {
		for _, in := range n.Inputs {
			if in.Link != nil {
				used[in.Link.Node] = true
			}
		}
	}
	var out []string
	for _, n := range v.graph.Nodes {
		if n.ClassType == "" {
			return nil, MissingClassType(n.ID)
		}
		class, ok := v.info.Class(n.ClassType)
		if !ok && !v.replaced(n.ClassType) {
			return nil, UnknownClass(n.ID, n.ClassType, n.Title)
		}
		gives := ok && class.OutputNode || !ok && !used[n.ID]
		if gives && (v.opt.PartialTargets == nil || slices.Contains(v.opt.PartialTargets, n.ID)) {
			out = append(out, n.ID)
		}
	}
	if len(out) == 0 {
		return nil, NoOutputs()
	}
	return out, nil
}

func (v *validation) replaced(class string) bool {
	return v.opt.Replaced != nil && v.opt.Replaced(class)
}

// check judges a node and, through its links, all that it needs.
func (v *validation) check(id string) *verdict {
	if d, ok := v.done[id]; ok {
		if d.busy {
			return &verdict{errors: []ErrorDetail{{
				Type: "dependency_cycle", Message: "Dependency cycle detected",
				Details: fmt.Sprintf("Node ID '#%s' needs its own result", id),
			}}}
		}
		return d
	}
	d := &verdict{ok: true, busy: true}
	v.done[id] = d
	defer func() { d.busy = false }()
	n, _ := v.graph.Node(id)
	class, ok := v.info.Class(n.ClassType)
	if !ok { // replaced by the server: nothing is known of its inputs
		return d
	}
	for _, spec := range class.Inputs {
		if spec.Section == Hidden {
			continue
		}
		in, given := n.Input(spec.Name)
		switch {
		case !given && spec.Section == Required && !dynamic(spec.Type):
			d.add("required_input_missing", "Required input is missing", spec.Name, spec, nil)
		case !given:
		case len(in.Raw) > 0 && in.Raw[0] == '[':
			v.checkLink(d, spec, in)
		default:
			v.checkValue(d, n.ClassType, spec, in.Raw)
		}
	}
	d.ok = d.ok && len(d.errors) == 0
	return d
}

func (v *validation) checkLink(d *verdict, spec InputSpec, in Input) {
	if parts, err := ParseArray(in.Raw); err != nil || len(parts) != 2 {
		d.add("bad_linked_input", "Bad linked input, must be a length-2 list of [node_id, slot_index]", spec.Name, spec, in.Raw)
		return
	}
	if in.Link == nil {
		d.add("exception_during_validation", "Exception when validating node", spec.Name+": the link names no node and slot", spec, in.Raw)
		return
	}
	source, ok := v.graph.Node(in.Link.Node)
	if !ok {
		d.add("exception_during_validation", "Exception when validating node",
			fmt.Sprintf("%s: linked node '#%s' is not in the prompt", spec.Name, in.Link.Node), spec, in.Raw)
		return
	}
	if class, ok := v.info.Class(source.ClassType); ok && v.opt.Strict {
		if in.Link.Slot < 0 || in.Link.Slot >= len(class.Outputs) {
			d.add("exception_during_validation", "Exception when validating node",
				fmt.Sprintf("%s: node '#%s' has no output %d", spec.Name, source.ID, in.Link.Slot), spec, in.Raw)
			return
		}
		if have := class.Outputs[in.Link.Slot]; !fits(have, spec.Type) {
			d.add("return_type_mismatch", "Return type mismatch between linked nodes",
				fmt.Sprintf("%s, received_type(%s) mismatch input_type(%s)", spec.Name, have, spec.Type), spec, in.Raw)
			return
		}
	}
	d.needs = append(d.needs, source.ID)
	inner := v.check(source.ID)
	if !inner.ok {
		d.ok = false
		if inner != v.done[source.ID] { // the cycle closes here
			d.errors = append(d.errors, inner.errors...)
		}
	}
}

// checkValue looks at a literal.
func (v *validation) checkValue(d *verdict, class string, spec InputSpec, raw json.RawMessage) {
	if raw[0] == '{' {
		if wrapped, err := ParseObject(raw); err == nil {
			if inner, ok := wrapped.Lookup("__value__"); ok {
				raw = inner
			}
		}
	}
	switch spec.Type {
	case "INT", "FLOAT":
		if !convertible(spec.Type, raw) {
			d.add("invalid_input_type", fmt.Sprintf("Failed to convert an input value to a %s value", spec.Type),
				fmt.Sprintf("%s, %s", spec.Name, clip(raw)), spec, raw)
			return
		}
	}
	if spec.Upload != "" {
		v.checkFiles(d, spec, raw)
		return
	}
	if name, ok := text(raw); ok && ReadsFolder(class, spec.Name) && v.opt.FolderExists != nil && !v.opt.FolderExists(name) {
		d.add("value_not_in_list", "Value not in list", fmt.Sprintf("%s: '%s' is no folder of yours that has files", spec.Name, name), spec, raw)
		return
	}
	if v.opt.Strict {
		checkRange(d, spec, raw)
	}
}

// checkFiles asks for each file that the value names.
func (v *validation) checkFiles(d *verdict, spec InputSpec, raw json.RawMessage) {
	if v.opt.FileExists == nil {
		return
	}
	names := []json.RawMessage{raw}
	if raw[0] == '[' {
		names, _ = ParseArray(raw)
	}
	for _, r := range names {
		name, ok := text(r)
		if !ok || v.opt.FileExists(name) {
			continue
		}
		d.add("custom_validation_failed", "Custom validation failed for node",
			fmt.Sprintf("%s - Invalid %s file: %s", spec.Name, fileNoun(spec.Upload), name), spec, nil)
	}
}

func fileNoun(upload string) string {
	noun := strings.TrimPrefix(strings.TrimSuffix(upload, "_upload"), "animated_")
	if noun == "file" {
		return "input"
	}
	return noun
}

// checkRange applies limits and lists.
func checkRange(d *verdict, spec InputSpec, raw json.RawMessage) {
	if value, err := strconv.ParseFloat(strings.Trim(string(raw), `"`), 64); err == nil {
		if low, ok := number(spec.Min); ok && value < low {
			d.add("value_smaller_than_min", fmt.Sprintf("Value %s smaller than min of %s", raw, *spec.Min), spec.Name, spec, raw)
			return
		}
		if high, ok := number(spec.Max); ok && value > high {
			d.add("value_bigger_than_max", fmt.Sprintf("Value %s bigger than max of %s", raw, *spec.Max), spec.Name, spec, raw)
			return
		}
	}
	if spec.Type == TypeCombo && spec.Options != nil && !spec.Multiselect && !spec.Offers(raw) {
		list := "[" + strings.Join(spec.OptionNames(), ", ") + "]"
		if len(spec.Options) > 20 {
			list = fmt.Sprintf("(list of length %d)", len(spec.Options))
		}
		d.add("value_not_in_list", "Value not in list", fmt.Sprintf("%s: '%s' not in %s", spec.Name, scalar(raw), list), spec, raw)
	}
}

// add notes an error in ComfyUI's shape. Pages mark the input by its name.
func (d *verdict) add(typ, message, details string, spec InputSpec, received json.RawMessage) {
	extra := Object{{"input_name", quote(spec.Name)}}
	if config := spec.encode(); config != nil {
		extra.Set("input_config", config)
	}
	if received != nil && len(received) <= 1024 {
		extra.Set("received_value", received)
	}
	d.errors = append(d.errors, ErrorDetail{Type: typ, Message: message, Details: details, ExtraInfo: extra.bytes()})
	d.ok = false
}

// encode writes [type, config]; nil when a long list would only be a burden.
func (in InputSpec) encode() json.RawMessage {
	typ := quote(in.Type)
	if in.Options != nil {
		if len(in.Options) > 20 {
			return nil
		}
		typ = encode(in.Options)
	}
	config := in.Config
	if len(config) > 4096 {
		return nil
	}
	return encode([]json.RawMessage{typ, orEmpty(config)})
}

// collect gathers the errors of all that output needs.
func (v *validation) collect(output, id string, into NodeErrors, seen map[string]bool) {
	if seen[id] {
		return
	}
	seen[id] = true
	d, ok := v.done[id]
	if !ok {
		return
	}
	if len(d.errors) > 0 {
		e := into[id]
		if e == nil {
			n, _ := v.graph.Node(id)
			e = &NodeError{Errors: d.errors, ClassType: n.ClassType}
			into[id] = e
		}
		e.DependentOutputs = append(e.DependentOutputs, output)
	}
	for _, need := range d.needs {
		v.collect(output, need, into, seen)
	}
}

// dynamic types stand for inputs whose names are made up later ("images.0").
func dynamic(typ string) bool {
	return typ == "" || strings.HasPrefix(typ, "COMFY_")
}

// fits is the servers' own rule for links between classes they know.
func fits(have, want string) bool {
	if have == want || have == "*" || want == "*" {
		return true
	}
	wanted := strings.Split(want, ",")
	return slices.ContainsFunc(strings.Split(have, ","), func(t string) bool { return slices.Contains(wanted, t) })
}

// convertible follows Python's int() and float().
func convertible(typ string, raw json.RawMessage) bool {
	if s, ok := text(raw); ok {
		s = strings.ReplaceAll(strings.TrimSpace(s), "_", "")
		if typ == "FLOAT" {
			_, err := strconv.ParseFloat(s, 64)
			return err == nil || strings.Contains(err.Error(), "out of range")
		}
		digits := strings.TrimLeft(s, "+-")
		return digits != "" && len(s)-len(digits) <= 1 && strings.Trim(digits, "0123456789") == ""
	}
	switch raw[0] {
	case '{', '[', 'n':
		return false
	}
	return true
}

func number(n *json.Number) (float64, bool) {
	if n == nil {
		return 0, false
	}
	f, err := n.Float64()
	return f, err == nil
}

func clip(raw json.RawMessage) string {
	if len(raw) > 60 {
		return string(raw[:60]) + "..."
	}
	return string(raw)
}
