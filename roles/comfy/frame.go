package comfy

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
)

// The events of binary frames that this package can take apart.
const (
	EventPreview         uint32 = 1
	EventUnencoded       uint32 = 2
	EventText            uint32 = 3
	EventPreviewMetadata uint32 = 4
)

// The picture formats of an EventPreview.
const (
	FormatJPEG uint32 = 1
	FormatPNG  uint32 = 2
)

// Frame is one binary frame. Raw is always the whole of it; the other fields are
// set as far as the event is known: Format for previews, Meta for previews with
// metadata, Node for progress text. Payload is the picture or the text; for an
// unknown event it is all that follows the event number.
type Frame struct {
	Event   uint32
	Format  uint32
	Meta    json.RawMessage
	Node    string
	Payload []byte
	Raw     []byte
}

// PreviewMeta is the metadata of an EventPreviewMetadata frame.
type PreviewMeta struct {
	NodeID        string  `json:"node_id"`
	PromptID      string  `json:"prompt_id"`
	DisplayNodeID string  `json:"display_node_id"`
	ParentNodeID  *string `json:"parent_node_id"`
	RealNodeID    string  `json:"real_node_id"`
	ImageType     string  `json:"image_type"`
}

// ParseFrame takes raw apart, which the frame then aliases. A frame of a known
// event whose inside is broken is an error; an unknown event never is, because
// custom nodes send their own and those travel verbatim.
func ParseFrame(raw []byte) (Frame, error) {
	if len(raw) < 4 {
		return Frame{}, fmt.Errorf("read frame of %d bytes: %w", len(raw), ErrMalformed)
	}
	f := Frame{Event: binary.BigEndian.Uint32(raw), Payload: raw[4:], Raw: raw}
	switch f.Event {
	case EventPreview:
		if len(f.Payload) < 4 {
			return Frame{}, fmt.Errorf("read preview frame: %w", ErrMalformed)
		}
		f.Format, f.Payload = binary.BigEndian.Uint32(f.Payload), f.Payload[4:]
	case EventText:
		node, rest, ok := cutCounted(f.Payload)
		if !ok {
			return Frame{}, fmt.Errorf("read text frame: %w", ErrMalformed)
		}
		f.Node, f.Payload = string(node), rest
	case EventPreviewMetadata:
		meta, rest, ok := cutCounted(f.Payload)
		if !ok {
			return Frame{}, fmt.Errorf("read preview frame: %w: metadata longer than the frame", ErrMalformed)
		}
		if err := checkJSON(meta); err != nil {
			return Frame{}, fmt.Errorf("read preview frame: %w", err)
		}
		var m PreviewMeta
		if err := json.Unmarshal(meta, &m); err != nil {
			return Frame{}, fmt.Errorf("read preview frame: %w: %w", ErrMalformed, err)
		}
		f.Meta, f.Payload, f.Format = meta, rest, formatOf(m.ImageType)
	}
	return f, nil
}

// NewPreview makes the older preview frame, which every client understands.
func NewPreview(format uint32, picture []byte) Frame {
	f := Frame{Event: EventPreview, Format: format, Payload: picture}
	f.Raw = f.Encode()
	return f
}

// NewPreviewMetadata makes the newer preview frame, only for clients that asked
// for supports_preview_metadata. An empty ImageType becomes JPEG.
func NewPreviewMetadata(m PreviewMeta, picture []byte) Frame {
	if m.ImageType == "" {
		m.ImageType = "image/jpeg"
	}
	f := Frame{Event: EventPreviewMetadata, Format: formatOf(m.ImageType), Meta: encode(m), Payload: picture}
	f.Raw = f.Encode()
	return f
}

// NewText makes a frame of progress text for a node, in the short layout.
func NewText(node, line string) Frame {
	f := Frame{Event: EventText, Node: node, Payload: []byte(line)}
	f.Raw = f.Encode()
	return f
}

// Encode writes the frame from its parts.
func (f Frame) Encode() []byte {
	out := binary.BigEndian.AppendUint32(make([]byte, 0, 12+len(f.Meta)+len(f.Node)+len(f.Payload)), f.Event)
	switch f.Event {
	case EventPreview:
		out = binary.BigEndian.AppendUint32(out, f.Format)
	case EventText:
		out = binary.BigEndian.AppendUint32(out, uint32(len(f.Node)))
		out = append(out, f.Node...)
	case EventPreviewMetadata:
		out = binary.BigEndian.AppendUint32(out, uint32(len(f.Meta)))
		out = append(out, f.Meta...)
	}
	return append(out, f.Payload...)
}

// Preview reports whether f is a picture that a slow reader may miss.
func (f Frame) Preview() bool {
	return f.Event == EventPreview && f.Format == FormatJPEG || f.Event == EventPreviewMetadata
}

// PromptID returns the prompt named in the metadata, if there is one.
func (f Frame) PromptID() (string, bool) {
	return Message{Data: f.Meta}.PromptID()
}

// NodeID returns the node that the frame is about, if it names one.
func (f Frame) NodeID() (string, bool) {
	if f.Event == EventText {
		return f.Node, true
	}
	fields, err := ParseObject(f.Meta)
	if err != nil {
		return "", false
	}
	v, _ := fields.Lookup("node_id")
	return text(v)
}

// WithPromptID names another prompt in the metadata and counts its bytes anew.
// Frames that name no prompt are returned unchanged.
func (f Frame) WithPromptID(id string) (Frame, error) {
	if f.Event != EventPreviewMetadata {
		return f, nil
	}
	m, err := Message{Type: "preview", Data: f.Meta}.WithPromptID(id)
	if err != nil {
		return f, err
	}
	f.Meta = m.Data
	f.Raw = f.Encode()
	return f, nil
}

// Downgrade turns a preview with metadata into the older one, for clients that
// never said they understand the newer. Other frames are returned unchanged.
func (f Frame) Downgrade() Frame {
	if f.Event != EventPreviewMetadata {
		return f
	}
	return NewPreview(f.Format, f.Payload)
}

func formatOf(imageType string) uint32 {
	if imageType == "image/png" {
		return FormatPNG
	}
	return FormatJPEG
}

// cutCounted splits a length-prefixed part off the front.
func cutCounted(b []byte) (part, rest []byte, ok bool) {
	if len(b) < 4 {
		return nil, nil, false
	}
	n := uint64(binary.BigEndian.Uint32(b))
	if n > uint64(len(b)-4) {
		return nil, nil, false
	}
	return b[4 : 4+n : 4+n], b[4+n:], true
}
