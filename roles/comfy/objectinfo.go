package comfy

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// ObjectInfo is what classes of node a server has. It never changes: the With
// methods return another one that shares what stayed the same.
type ObjectInfo struct {
	names   []string
	classes map[string]*Class
}

// Class is one class of node. Raw is the server's own description, which is what
// a page gets to see; the rest is read from it.
type Class struct {
	Name         string
	Raw          json.RawMessage
	DisplayName  string
	Category     string
	PythonModule string
	Inputs       []InputSpec // required, then optional, then hidden, each in order
	Outputs      []string    // types; a combo output is "COMBO"
	OutputNode   bool
	APINode      bool // calls a paid service
}

// Section says whether an input must be given.
type Section string

// The sections of a class's inputs.
const (
	Required Section = "required"
	Optional Section = "optional"
	Hidden   Section = "hidden"
)

// TypeCombo is the Type of an input that is chosen from a list.
const TypeCombo = "COMBO"

// InputSpec describes one input of a class.
type InputSpec struct {
	Name        string
	Section     Section
	Type        string            // "INT", "IMAGE", TypeCombo; may be "*" or "A,B"
	Options     []json.RawMessage // of a combo, nil when the list is fetched from elsewhere
	Config      json.RawMessage   // the options object, nil when there is none
	Default     json.RawMessage
	Min, Max    *json.Number
	Upload      string // the *_upload flag that is set, "" for none
	Folder      string // image_folder: "input", "output", "temp" or ""
	Multiselect bool
	Remote      bool
}

// NewObjectInfo gathers classes in the order given; a later one of the same name wins.
func NewObjectInfo(classes ...*Class) *ObjectInfo {
	return (&ObjectInfo{}).With(classes...)
}

// ParseObjectInfo reads the answer of GET /object_info. A class that cannot be
// understood stays usable by name: one odd custom node must not hide all others.
func ParseObjectInfo(raw []byte) (*ObjectInfo, error) {
	fields, err := ParseObject(Sanitize(raw))
	if err != nil {
		return nil, fmt.Errorf("read object_info: %w", err)
	}
	classes := make([]*Class, len(fields))
	for i, f := range fields {
		classes[i] = ParseClass(f.Key, f.Value)
	}
	return NewObjectInfo(classes...), nil
}

// With returns an ObjectInfo in which classes replace or join those of o.
func (o *ObjectInfo) With(classes ...*Class) *ObjectInfo {
	out := &ObjectInfo{names: slices.Clone(o.names), classes: make(map[string]*Class, len(o.classes)+len(classes))}
	for name, c := range o.classes {
		out.classes[name] = c
	}
	for _, c := range classes {
		if _, known := out.classes[c.Name]; !known {
			out.names = append(out.names, c.Name)
		}
		out.classes[c.Name] = c
	}
	return out
}

// WithOptions replaces the list of one combo.
func (o *ObjectInfo) WithOptions(class, input string, options []string) (*ObjectInfo, error) {
	c, ok := o.Class(class)
	if !ok {
		return nil, fmt.Errorf("replace options of %s.%s: no such class", class, input)
	}
	changed, err := c.WithOptions(input, options)
	if err != nil {
		return nil, err
	}
	return o.With(changed), nil
}

// Class returns the class called name.
func (o *ObjectInfo) Class(name string) (*Class, bool) {
	if o == nil {
		return nil, false
	}
	c, ok := o.classes[name]
	return c, ok
}

// Names lists the classes in the server's order.
func (o *ObjectInfo) Names() []string {
	if o == nil {
		return nil
	}
	return slices.Clone(o.names)
}

// Len is how many classes there are.
func (o *ObjectInfo) Len() int {
	if o == nil {
		return 0
	}
	return len(o.names)
}

// Marshal writes what GET /object_info answers.
func (o *ObjectInfo) Marshal() json.RawMessage {
	all := make(Object, 0, o.Len())
	for _, name := range o.Names() {
		all = append(all, Field{name, o.classes[name].Raw})
	}
	return all.bytes()
}

// ParseClass reads one class. It never fails; what is not understood is left
// empty and only Raw speaks.
func ParseClass(name string, raw json.RawMessage) *Class {
	c := &Class{Name: name, Raw: raw}
	fields, err := ParseObject(raw)
	if err != nil {
		return c
	}
	c.DisplayName = lookupText(fields, "display_name")
	c.Category = lookupText(fields, "category")
	c.PythonModule = lookupText(fields, "python_module")
	c.OutputNode = lookupTrue(fields, "output_node")
	c.APINode = lookupTrue(fields, "api_node")
	if outputs, ok := fields.Lookup("output"); ok {
		elements, _ := ParseArray(outputs) // null or odd: no outputs known
		for _, e := range elements {
			c.Outputs = append(c.Outputs, typeName(e))
		}
	}
	c.Inputs = classInputs(fields)
	return c
}

func classInputs(fields Object) []InputSpec {
	raw, _ := fields.Lookup("input")
	sections, err := ParseObject(raw)
	if err != nil {
		return nil
	}
	var out []InputSpec
	for _, section := range []Section{Required, Optional, Hidden} {
		value, _ := sections.Lookup(string(section))
		inputs, err := ParseObject(value)
		if err != nil {
			continue // null, or a kind of section that is not known here
		}
		for _, in := range inputs {
			out = append(out, parseInputSpec(in.Key, section, in.Value))
		}
	}
	return out
}

func parseInputSpec(name string, section Section, raw json.RawMessage) InputSpec {
	in := InputSpec{Name: name, Section: section}
	parts, err := ParseArray(raw)
	if err != nil || len(parts) == 0 { // hidden inputs are plain strings
		in.Type = typeName(raw)
		return in
	}
	in.Type = typeName(parts[0])
	if in.Type == TypeCombo {
		in.Options, _ = ParseArray(parts[0]) // the newer syntax has them in the config
	}
	if len(parts) < 2 {
		return in
	}
	config, err := ParseObject(parts[1])
	if err != nil {
		return in
	}
	in.Config = parts[1]
	in.Default, _ = config.Lookup("default")
	in.Min, in.Max = lookupNumber(config, "min"), lookupNumber(config, "max")
	in.Folder = lookupText(config, "image_folder")
	in.Multiselect = lookupTrue(config, "multiselect") || lookupObject(config, "multi_select")
	in.Remote = lookupObject(config, "remote")
	if options, ok := config.Lookup("options"); ok && in.Type == TypeCombo && in.Options == nil {
		in.Options, _ = ParseArray(options)
	}
	for _, f := range config {
		if strings.HasSuffix(f.Key, "_upload") && string(f.Value) == "true" {
			in.Upload = f.Key
			break
		}
	}
	return in
}

// Input returns the input called name.
func (c *Class) Input(name string) (InputSpec, bool) {
	for _, in := range c.Inputs {
		if in.Name == name {
			return in, true
		}
	}
	return InputSpec{}, false
}

// OptionNames lists the options that are strings, as model and file names are.
func (in InputSpec) OptionNames() []string {
	out := make([]string, 0, len(in.Options))
	for _, o := range in.Options {
		if s, ok := text(o); ok {
			out = append(out, s)
		}
	}
	return out
}

// Offers reports whether a combo's list holds the value.
func (in InputSpec) Offers(value json.RawMessage) bool {
	want, isText := text(value)
	for _, o := range in.Options {
		if have, ok := text(o); ok && isText && have == want || !isText && string(o) == string(value) {
			return true
		}
	}
	return false
}

// WithOptions returns a copy of the class in which one combo lists options.
func (c *Class) WithOptions(input string, options []string) (*Class, error) {
	at, ok := c.optionsSpan(input)
	if !ok {
		return nil, fmt.Errorf("replace options of %s.%s: not a list", c.Name, input)
	}
	return ParseClass(c.Name, splice(c.Raw, []edit{{at.start, at.end, encode(notNil(options))}})), nil
}

// optionsSpan finds the list inside Raw, in either of its syntaxes.
func (c *Class) optionsSpan(input string) (span, bool) {
	if checkJSON(c.Raw) != nil {
		return span{}, false
	}
	top, _ := objectSpans(c.Raw, 0)
	in, ok := find(top, "input")
	if !ok {
		return span{}, false
	}
	sections, _ := objectSpans(c.Raw, in.start)
	for _, section := range sections {
		inputs, _ := objectSpans(c.Raw, section.start)
		spec, ok := find(inputs, input)
		if !ok {
			continue
		}
		parts, _ := arraySpans(c.Raw, spec.start)
		if len(parts) == 0 {
			return span{}, false
		}
		if c.Raw[parts[0].start] == '[' {
			return parts[0], true
		}
		if len(parts) < 2 {
			return span{}, false
		}
		config, _ := objectSpans(c.Raw, parts[1].start)
		return find(config, "options")
	}
	return span{}, false
}

func typeName(raw json.RawMessage) string {
	if i := skipSpace(raw, 0); i < len(raw) && raw[i] == '[' {
		return TypeCombo
	}
	name, _ := text(raw)
	return name
}

func lookupText(o Object, key string) string {
	v, _ := o.Lookup(key)
	s, _ := text(v)
	return s
}

func lookupTrue(o Object, key string) bool {
	v, _ := o.Lookup(key)
	return string(v) == "true"
}

func lookupObject(o Object, key string) bool {
	v, ok := o.Lookup(key)
	return ok && len(v) > 0 && v[0] == '{'
}

func lookupNumber(o Object, key string) *json.Number {
	v, ok := o.Lookup(key)
	var n json.Number
	if !ok || json.Unmarshal(v, &n) != nil || n == "" {
		return nil
	}
	return &n
}
