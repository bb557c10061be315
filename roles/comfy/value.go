package comfy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
)

// Limits on foreign JSON. A workflow with pictures pasted into it (krita sends
// them in the prompt) reaches tens of MB; depth beyond a few dozen is an attack.
const (
	MaxDepth = 128
	MaxBytes = 256 << 20
)

// Field is one member of a JSON object: its decoded key and its value as it
// stood in the input.
type Field struct {
	Key   string
	Value json.RawMessage
}

// Object is a JSON object whose members keep their order.
type Object []Field

// Lookup finds the value of key. When a key stands twice the last one counts,
// as it does for Python and for browsers.
func (o Object) Lookup(key string) (json.RawMessage, bool) {
	for _, f := range slices.Backward(o) {
		if f.Key == key {
			return f.Value, true
		}
	}
	return nil, false
}

// Set replaces the value of key or appends it.
func (o *Object) Set(key string, value json.RawMessage) {
	for i := range *o {
		if (*o)[i].Key == key {
			(*o)[i].Value = value
			return
		}
	}
	*o = append(*o, Field{Key: key, Value: value})
}

// Delete removes every member called key.
func (o *Object) Delete(key string) {
	*o = slices.DeleteFunc(*o, func(f Field) bool { return f.Key == key })
}

// MarshalJSON writes the members in order. A nil Object is {}.
func (o Object) MarshalJSON() ([]byte, error) { return o.bytes(), nil }

// bytes writes the members without looking at their values again: documents of
// many MB pass through here, and the standard encoder would compact each level.
func (o Object) bytes() json.RawMessage {
	size := 2
	for _, f := range o {
		size += len(f.Key) + len(f.Value) + 8
	}
	b := append(make([]byte, 0, size), '{')
	for i, f := range o {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(append(b, quote(f.Key)...), ':')
		if len(f.Value) == 0 {
			b = append(b, "null"...)
		}
		b = append(b, f.Value...)
	}
	return append(b, '}')
}

// list writes an array of values that are JSON already.
func list(values []json.RawMessage) json.RawMessage {
	b := []byte{'['}
	for i, v := range values {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, v...)
	}
	return append(b, ']')
}

// UnmarshalJSON reads an object; null becomes an empty one.
func (o *Object) UnmarshalJSON(raw []byte) error {
	if isNull(raw) {
		*o = nil
		return nil
	}
	parsed, err := ParseObject(slices.Clone(raw))
	if err != nil {
		return err
	}
	*o = parsed
	return nil
}

// ParseObject reads raw as an object without touching its values, which alias raw.
func ParseObject(raw json.RawMessage) (Object, error) {
	if err := checkJSON(raw); err != nil {
		return nil, err
	}
	spans, ok := objectSpans(raw, 0)
	if !ok {
		return nil, fmt.Errorf("read object: %w: it begins with %.10q", ErrMalformed, raw)
	}
	out := make(Object, len(spans))
	for i, s := range spans {
		out[i] = Field{Key: s.key, Value: json.RawMessage(raw[s.start:s.end:s.end])}
	}
	return out, nil
}

// ParseArray reads raw as an array without touching its values, which alias raw.
func ParseArray(raw json.RawMessage) ([]json.RawMessage, error) {
	if err := checkJSON(raw); err != nil {
		return nil, err
	}
	spans, ok := arraySpans(raw, 0)
	if !ok {
		return nil, fmt.Errorf("read array: %w: it begins with %.10q", ErrMalformed, raw)
	}
	out := make([]json.RawMessage, len(spans))
	for i, s := range spans {
		out[i] = json.RawMessage(raw[s.start:s.end:s.end])
	}
	return out, nil
}

// checkJSON accepts exactly one JSON value within the limits. The span walkers
// below rely on it and do not check grammar again.
func checkJSON(raw []byte) error {
	if len(raw) > MaxBytes {
		return fmt.Errorf("check JSON of %d bytes: %w", len(raw), ErrTooLarge)
	}
	if depth(raw) > MaxDepth {
		return fmt.Errorf("check JSON nested over %d levels: %w", MaxDepth, ErrTooLarge)
	}
	if !json.Valid(raw) {
		var v any
		err := json.Unmarshal(raw, &v)
		return fmt.Errorf("check JSON: %w: %w", ErrMalformed, err)
	}
	return nil
}

// depth counts brackets outside strings. It needs no valid input.
func depth(raw []byte) int {
	level, deepest, inString := 0, 0, false
	for i := 0; i < len(raw); i++ {
		switch c := raw[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == '{' || c == '[':
			level++
			deepest = max(deepest, level)
		case c == '}' || c == ']':
			level--
		}
	}
	return deepest
}

// span is where a value stands in its document; members of objects also have a
// key and the place where it begins.
type span struct {
	key        string
	keyStart   int
	start, end int
}

// edit replaces the bytes of a span.
type edit struct {
	start, end int
	value      []byte
}

// splice applies edits, which must not overlap, and leaves all other bytes.
func splice(raw []byte, edits []edit) []byte {
	if len(edits) == 0 {
		return raw
	}
	slices.SortFunc(edits, func(a, b edit) int { return a.start - b.start })
	size := len(raw)
	for _, e := range edits {
		size += len(e.value) - (e.end - e.start)
	}
	out := make([]byte, 0, size)
	at := 0
	for _, e := range edits {
		out = append(out, raw[at:e.start]...)
		out = append(out, e.value...)
		at = e.end
	}
	return append(out, raw[at:]...)
}

// objectSpans lists the members of the object at or after offset i of a valid
// document; ok is false when something else stands there.
func objectSpans(raw []byte, i int) (spans []span, ok bool) {
	i = skipSpace(raw, i)
	if i >= len(raw) || raw[i] != '{' {
		return nil, false
	}
	i = skipSpace(raw, i+1)
	for i < len(raw) && raw[i] != '}' {
		keyEnd := skipValue(raw, i)
		key := unquote(raw[i:keyEnd])
		start := skipSpace(raw, skipSpace(raw, keyEnd)+1) // past the colon
		end := skipValue(raw, start)
		spans = append(spans, span{key: key, keyStart: i, start: start, end: end})
		i = skipSpace(raw, end)
		if i < len(raw) && raw[i] == ',' {
			i = skipSpace(raw, i+1)
		}
	}
	return spans, true
}

// arraySpans lists the elements of the array at or after offset i of a valid document.
func arraySpans(raw []byte, i int) (spans []span, ok bool) {
	i = skipSpace(raw, i)
	if i >= len(raw) || raw[i] != '[' {
		return nil, false
	}
	i = skipSpace(raw, i+1)
	for i < len(raw) && raw[i] != ']' {
		end := skipValue(raw, i)
		spans = append(spans, span{start: i, end: end})
		i = skipSpace(raw, end)
		if i < len(raw) && raw[i] == ',' {
			i = skipSpace(raw, i+1)
		}
	}
	return spans, true
}

// find returns the last span called key.
func find(spans []span, key string) (span, bool) {
	for _, s := range slices.Backward(spans) {
		if s.key == key {
			return s, true
		}
	}
	return span{}, false
}

func skipSpace(raw []byte, i int) int {
	for i < len(raw) && (raw[i] == ' ' || raw[i] == '\n' || raw[i] == '\t' || raw[i] == '\r') {
		i++
	}
	return i
}

// skipValue returns the offset just after the value that begins at i.
func skipValue(raw []byte, i int) int {
	if i >= len(raw) {
		return len(raw)
	}
	switch raw[i] {
	case '"':
		return skipString(raw, i)
	case '{', '[':
		level := 0
		for i < len(raw) {
			switch raw[i] {
			case '"':
				i = skipString(raw, i)
				continue
			case '{', '[':
				level++
			case '}', ']':
				level--
			}
			i++
			if level == 0 {
				return i
			}
		}
		return i
	}
	start := i
	for i < len(raw) && !bytes.ContainsRune([]byte(",}] \n\t\r"), rune(raw[i])) {
		i++
	}
	return max(i, start+1)
}

func skipString(raw []byte, i int) int {
	for i++; i < len(raw); i++ {
		switch raw[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(raw)
}

// quote writes s as a JSON string without HTML escaping: ids and names shall
// look on the wire as they look to people.
func quote(s string) json.RawMessage {
	if plainString([]byte(s)) {
		return json.RawMessage(`"` + s + `"`)
	}
	return encode(s)
}

// encode marshals a value of our own making, which cannot fail, without HTML
// escaping.
func encode(v any) json.RawMessage {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return json.RawMessage("null")
	}
	return bytes.TrimRight(b.Bytes(), "\n")
}

// unquote decodes a JSON string; anything else gives "".
func unquote(raw []byte) string {
	if n := len(raw); n >= 2 && raw[0] == '"' && plainString(raw[1:n-1]) {
		return string(raw[1 : n-1])
	}
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return ""
	}
	return s
}

// plainString reports that inner needs no decoding: printable ASCII, no escape.
func plainString(inner []byte) bool {
	for _, c := range inner {
		if c == '\\' || c == '"' || c < 0x20 || c >= 0x80 {
			return false
		}
	}
	return true
}

// text decodes raw when it is a JSON string.
func text(raw json.RawMessage) (string, bool) {
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 || raw[0] != '"' {
		return "", false
	}
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		return "", false
	}
	return s, true
}

func isNull(raw []byte) bool {
	raw = bytes.TrimSpace(raw)
	return len(raw) == 0 || string(raw) == "null"
}
