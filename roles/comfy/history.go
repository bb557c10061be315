package comfy

import (
	"encoding/json"
	"fmt"
	"strings"
)

// QueueItem is a prompt in /queue and in history: on the wire a list of
// [number, prompt_id, prompt, extra_data, outputs_to_execute]. A sixth element,
// which some servers send and which holds secrets, is dropped on reading.
type QueueItem struct {
	Number    float64
	PromptID  string
	Prompt    json.RawMessage
	ExtraData json.RawMessage
	Outputs   []string
}

// MarshalJSON writes the list.
func (q QueueItem) MarshalJSON() ([]byte, error) {
	return q.bytes(), nil
}

func (q QueueItem) bytes() json.RawMessage {
	return list([]json.RawMessage{encode(q.Number), quote(q.PromptID), orEmpty(q.Prompt), orEmpty(q.ExtraData), encode(notNil(q.Outputs))})
}

// Head is the beginning of the list, up to the prompt; Tail is the rest, which is
// the same wherever the item stands.
func (q QueueItem) Head() string {
	return "[" + string(encode(q.Number)) + "," + string(quote(q.PromptID)) + ","
}

// Tail is the list from the prompt on.
func (q QueueItem) Tail() json.RawMessage {
	return list([]json.RawMessage{orEmpty(q.Prompt), orEmpty(q.ExtraData), encode(notNil(q.Outputs))})[1:]
}

// UnmarshalJSON reads the list.
func (q *QueueItem) UnmarshalJSON(raw []byte) error {
	parts, err := ParseArray(raw)
	if err != nil {
		return fmt.Errorf("read queue item: %w", err)
	}
	if len(parts) < 4 {
		return fmt.Errorf("read queue item of %d elements: %w", len(parts), ErrMalformed)
	}
	var out QueueItem
	if err := json.Unmarshal(parts[0], &out.Number); err != nil {
		return fmt.Errorf("read queue item: %w", err)
	}
	out.PromptID = scalar(parts[1])
	out.Prompt = append(out.Prompt, parts[2]...)
	out.ExtraData = append(out.ExtraData, parts[3]...)
	if len(parts) > 4 && !isNull(parts[4]) {
		if err := json.Unmarshal(parts[4], &out.Outputs); err != nil {
			return fmt.Errorf("read queue item: %w", err)
		}
	}
	*q = out
	return nil
}

// Queue is the answer of GET /queue.
type Queue struct {
	Running []QueueItem `json:"queue_running"`
	Pending []QueueItem `json:"queue_pending"`
}

// MarshalJSON writes empty lists for nil.
func (q Queue) MarshalJSON() ([]byte, error) { return q.Encode(), nil }

// Encode writes the body without walking the prompts again.
func (q Queue) Encode() json.RawMessage {
	items := func(in []QueueItem) json.RawMessage {
		out := make([]json.RawMessage, len(in))
		for i, item := range in {
			out[i] = item.bytes()
		}
		return list(out)
	}
	return Object{{"queue_running", items(q.Running)}, {"queue_pending", items(q.Pending)}}.bytes()
}

// Status words of a HistoryStatus.
const (
	HistorySuccess = "success"
	HistoryError   = "error" // also when interrupted
)

// HistoryStatus says how a prompt went.
type HistoryStatus struct {
	StatusStr string           `json:"status_str"`
	Completed bool             `json:"completed"`
	Messages  []HistoryMessage `json:"messages"`
}

// MarshalJSON writes an empty list for no messages.
func (s HistoryStatus) MarshalJSON() ([]byte, error) {
	type plain HistoryStatus
	p := plain(s)
	if p.Messages == nil {
		p.Messages = []HistoryMessage{}
	}
	return encode(p), nil
}

// Interrupted reports whether the prompt was stopped on request.
func (s HistoryStatus) Interrupted() bool {
	_, ok := s.Message(TypeExecutionInterrupted)
	return ok
}

// Message returns the message of a type, if history kept one.
func (s HistoryStatus) Message(typ string) (Message, bool) {
	for _, m := range s.Messages {
		if m.Type == typ {
			return Message(m), true
		}
	}
	return Message{}, false
}

// HistoryMessage is a Message written as [type, data].
type HistoryMessage Message

// MarshalJSON writes the pair.
func (m HistoryMessage) MarshalJSON() ([]byte, error) {
	return list([]json.RawMessage{quote(m.Type), orEmpty(m.Data)}), nil
}

// UnmarshalJSON reads the pair, or a bare type with perhaps ": why" after it:
// some servers keep no more. The reason becomes the exception's message.
func (m *HistoryMessage) UnmarshalJSON(raw []byte) error {
	if line, ok := text(raw); ok {
		typ, why, reasoned := strings.Cut(line, ": ")
		m.Type, m.Data = typ, nil
		if reasoned {
			m.Data = encode(ExecutionErrorData{ExceptionMessage: why})
		}
		return nil
	}
	parts, err := ParseArray(raw)
	if err != nil {
		return fmt.Errorf("read history message: %w", err)
	}
	if len(parts) != 2 {
		return fmt.Errorf("read history message of %d elements: %w", len(parts), ErrMalformed)
	}
	m.Type = scalar(parts[0])
	m.Data = append(json.RawMessage(nil), parts[1]...)
	return nil
}

// HistoryEntry is one finished prompt: its outputs by node id, and who shows them.
type HistoryEntry struct {
	Prompt  QueueItem     `json:"prompt"`
	Outputs Object        `json:"outputs"`
	Status  HistoryStatus `json:"status"`
	Meta    Object        `json:"meta"`
}

// NodeMeta is one entry of HistoryEntry.Meta.
type NodeMeta struct {
	NodeID      string  `json:"node_id"`
	DisplayNode string  `json:"display_node"`
	ParentNode  *string `json:"parent_node"`
	RealNodeID  string  `json:"real_node_id"`
}

// Encode writes the entry as a value of the history object.
func (h HistoryEntry) Encode() json.RawMessage {
	return Object{{"prompt", h.Prompt.bytes()}, {"outputs", h.Outputs.bytes()}, {"status", encode(h.Status)}, {"meta", h.Meta.bytes()}}.bytes()
}

// Head is the beginning of the entry as a member of the history object, up to the
// prompt; Tail is the rest.
func (h HistoryEntry) Head() string {
	return string(quote(h.Prompt.PromptID)) + `:{"prompt":` + h.Prompt.Head()
}

// Tail is the entry from the prompt on.
func (h HistoryEntry) Tail() json.RawMessage {
	rest := Object{{"outputs", h.Outputs.bytes()}, {"status", encode(h.Status)}, {"meta", h.Meta.bytes()}}.bytes()
	return append(append(h.Prompt.Tail(), ','), rest[1:]...)
}

// EncodeHistory writes the answer of GET /history: entries in the order given,
// which must be oldest first.
func EncodeHistory(entries []HistoryEntry) json.RawMessage {
	all := make(Object, len(entries))
	for i, e := range entries {
		all[i] = Field{e.Prompt.PromptID, e.Encode()}
	}
	return all.bytes()
}

func orEmpty(raw json.RawMessage) json.RawMessage {
	if len(raw) == 0 {
		return json.RawMessage("{}")
	}
	return raw
}
