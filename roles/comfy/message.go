package comfy

import (
	"encoding/json"
	"fmt"
)

// The types of JSON messages that this package names. Custom nodes send others,
// which travel as they are.
const (
	TypeStatus               = "status"
	TypeExecutionStart       = "execution_start"
	TypeExecutionCached      = "execution_cached"
	TypeExecuting            = "executing"
	TypeProgress             = "progress"
	TypeProgressState        = "progress_state"
	TypeExecuted             = "executed"
	TypeExecutionSuccess     = "execution_success"
	TypeExecutionError       = "execution_error"
	TypeExecutionInterrupted = "execution_interrupted"
	TypeFeatureFlags         = "feature_flags"
	TypeNotification         = "notification"
	TypeLogs                 = "logs"
)

// Message is one JSON text frame of the socket.
type Message struct {
	Type string          `json:"type"`
	Data json.RawMessage `json:"data"`
}

// ParseMessage reads a text frame, tolerating Python's NaN.
func ParseMessage(raw []byte) (Message, error) {
	fields, err := ParseObject(Sanitize(raw))
	if err != nil {
		return Message{}, fmt.Errorf("read message: %w", err)
	}
	typ, _ := fields.Lookup("type")
	name, ok := text(typ)
	if !ok {
		return Message{}, fmt.Errorf("read message: %w: no type", ErrMalformed)
	}
	data, _ := fields.Lookup("data")
	return Message{Type: name, Data: data}, nil
}

// Encode writes {"type":...,"data":...}, data as it is.
func (m Message) Encode() []byte {
	out := append([]byte(`{"type":`), quote(m.Type)...)
	out = append(out, `,"data":`...)
	if len(m.Data) == 0 {
		out = append(out, "null"...)
	}
	out = append(out, m.Data...)
	return append(out, '}')
}

// Decode reads the data into one of this package's structs.
func (m Message) Decode(into any) error {
	if err := json.Unmarshal(m.Data, into); err != nil {
		return fmt.Errorf("read %s message: %w", m.Type, err)
	}
	return nil
}

// Ends reports whether m is the last message of its job: executing without a
// node. Clients fetch history as soon as they see it.
func (m Message) Ends() bool {
	if m.Type != TypeExecuting {
		return false
	}
	data, err := ParseObject(m.Data)
	if err != nil {
		return false
	}
	node, ok := data.Lookup("node")
	return ok && isNull(node)
}

// Terminal reports whether m tells how its job ended.
func (m Message) Terminal() bool {
	switch m.Type {
	case TypeExecutionSuccess, TypeExecutionError, TypeExecutionInterrupted:
		return true
	}
	return false
}

// PromptID returns the prompt that m is about, if it names one.
func (m Message) PromptID() (string, bool) {
	if len(m.Data) == 0 || checkJSON(m.Data) != nil {
		return "", false
	}
	spans, ok := objectSpans(m.Data, 0)
	if !ok {
		return "", false
	}
	s, ok := find(spans, "prompt_id")
	if !ok {
		return "", false
	}
	return text(json.RawMessage(m.Data[s.start:s.end]))
}

// WithPromptID names another prompt everywhere m names one: at the top and, in
// progress_state, in each node's entry. All other bytes stay. A message that
// names no prompt is returned unchanged.
func (m Message) WithPromptID(id string) (Message, error) {
	if len(m.Data) == 0 {
		return m, nil
	}
	if err := checkJSON(m.Data); err != nil {
		return m, fmt.Errorf("rewrite prompt id of %s message: %w", m.Type, err)
	}
	top, ok := objectSpans(m.Data, 0)
	if !ok {
		return m, nil
	}
	value := quote(id)
	edits := promptIDEdits(nil, top, value)
	if nodes, ok := find(top, "nodes"); ok && m.Type == TypeProgressState {
		entries, _ := objectSpans(m.Data, nodes.start)
		for _, e := range entries {
			entry, _ := objectSpans(m.Data, e.start)
			edits = promptIDEdits(edits, entry, value)
		}
	}
	m.Data = splice(m.Data, edits)
	return m, nil
}

func promptIDEdits(edits []edit, spans []span, value []byte) []edit {
	for _, s := range spans {
		if s.key == "prompt_id" {
			edits = append(edits, edit{s.start, s.end, value})
		}
	}
	return edits
}
