package comfy

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
)

// MergeObjects joins two JSON objects, and the objects inside them. Where both
// have another kind of value a wins. What is no object counts as an empty one.
func MergeObjects(a, b json.RawMessage) json.RawMessage {
	left, errA := ParseObject(a)
	right, errB := ParseObject(b)
	switch {
	case errB != nil && errA != nil:
		return nil
	case errB != nil:
		return a
	case errA != nil:
		return b
	}
	left = slices.Clone(left)
	for _, f := range right {
		have, ok := left.Lookup(f.Key)
		switch {
		case !ok:
			left.Set(f.Key, f.Value)
		case isObject(have) && isObject(f.Value):
			left.Set(f.Key, MergeObjects(have, f.Value))
		}
	}
	return left.bytes()
}

func isObject(raw json.RawMessage) bool {
	raw = bytes.TrimSpace(raw)
	return len(raw) > 0 && raw[0] == '{'
}

// MergeObjectInfo is the union of what several servers have. Where two describe
// a class, the first speaks; the lists of its combos are joined, so that what any
// of them has can be chosen. Names
// with backslashes, as servers on Windows list them, get slashes: the same model
// is one name everywhere.
func MergeObjectInfo(infos ...*ObjectInfo) *ObjectInfo {
	out := &ObjectInfo{classes: map[string]*Class{}}
	for _, info := range infos {
		for _, name := range info.Names() {
			class, _ := info.Class(name)
			class = class.slashed()
			have, known := out.classes[name]
			if known {
				class = have.joined(class)
			} else {
				out.names = append(out.names, name)
			}
			out.classes[name] = class
		}
	}
	return out
}

// joined has the options of both.
func (c *Class) joined(o *Class) *Class {
	for _, in := range o.Inputs {
		mine, ok := c.Input(in.Name)
		if !ok || in.Type != TypeCombo || in.Options == nil || mine.Options == nil {
			continue
		}
		have := make(map[string]bool, len(mine.Options))
		for _, v := range mine.Options {
			have[string(v)] = true
		}
		all := slices.Clone(mine.Options)
		for _, v := range in.Options {
			if !have[string(v)] {
				all = append(all, v)
			}
		}
		if len(all) > len(mine.Options) {
			c = c.withRawOptions(in.Name, all)
		}
	}
	return c
}

// slashed is the class with slashes in the file names that it offers.
func (c *Class) slashed() *Class {
	if !bytes.Contains(c.Raw, []byte(`\\`)) {
		return c
	}
	for _, in := range c.Inputs {
		changed := false
		all := slices.Clone(in.Options)
		for i, v := range all {
			if s, ok := text(v); ok && SlashedName(s) != s {
				all[i], changed = quote(SlashedName(s)), true
			}
		}
		if changed {
			c = c.withRawOptions(in.Name, all)
		}
	}
	return c
}

func (c *Class) withRawOptions(input string, options []json.RawMessage) *Class {
	at, ok := c.optionsSpan(input)
	if !ok {
		return c
	}
	return ParseClass(c.Name, splice(c.Raw, []edit{{at.start, at.end, list(options)}}))
}

// SlashedName is a file name with slashes between its folders, also when it
// comes from Windows. Text that is no file name stays as it is.
func SlashedName(s string) string {
	i := strings.LastIndexByte(s, '.')
	if i <= 0 || len(s)-i > 12 || !strings.Contains(s, `\`) || strings.ContainsAny(s, "\n\t ") && strings.HasPrefix(s, `\`) {
		return s
	}
	return strings.ReplaceAll(s, `\`, "/")
}
