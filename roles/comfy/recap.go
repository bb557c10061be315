package comfy

import "bytes"

// Bounds of what a Recap keeps of the outputs that nodes have shown.
const (
	maxShown      = 100
	maxShownBytes = 256 << 10
	maxPicture    = 4 << 20 // bytes of a preview
)

// What stands for the type of a binary frame: a preview, which the next one of
// its prompt supersedes, and any other.
const (
	TypePreview = "preview"
	TypeFrame   = "frame"
)

// Said is one message or frame of a prompt as it travels.
type Said struct {
	Type string // of the message, or TypePreview or TypeFrame
	Raw  []byte
}

// Binary reports whether s is a frame.
func (s Said) Binary() bool { return s.Type == TypePreview || s.Type == TypeFrame }

// Recap is what a prompt has said so far, as far as somebody needs it who comes
// in the middle: how it began, what its nodes have shown, and the newest of its
// progress, its node and its preview. The zero value has heard nothing. It keeps
// what it is given and never writes to it.
type Recap struct {
	newest [5]Said // by slot
	shown  []Said
	size   int // bytes in shown
}

// slot is where the newest message of a type is kept, -1 for types that are not.
func slot(typ string) int {
	switch typ {
	case TypeExecutionStart:
		return 0
	case TypeExecutionCached:
		return 1
	case TypeProgressState:
		return 2
	case TypeExecuting:
		return 3
	case TypePreview:
		return 4
	}
	return -1
}

// Add notes what was said and reports whether it is news: a message that is
// repeated for those who may have missed it is none. Another execution_start
// begins anew.
func (r *Recap) Add(s Said) (news bool) {
	if s.Type == TypeExecuted {
		return r.show(s)
	}
	at := slot(s.Type)
	if at < 0 {
		return true
	}
	if bytes.Equal(r.newest[at].Raw, s.Raw) {
		return false
	}
	if s.Type == TypeExecutionStart {
		*r = Recap{}
	}
	if len(s.Raw) <= maxPicture {
		r.newest[at] = s
	}
	return true
}

// show notes the output of a node.
func (r *Recap) show(s Said) (news bool) {
	for _, old := range r.shown {
		if bytes.Equal(old.Raw, s.Raw) {
			return false
		}
	}
	if len(r.shown) < maxShown && r.size+len(s.Raw) <= maxShownBytes {
		r.shown = append(r.shown, s)
		r.size += len(s.Raw)
	}
	return true
}

// Started reports whether the prompt's execution_start was heard.
func (r *Recap) Started() bool { return r.newest[0].Raw != nil }

// All is what somebody who comes now must hear, in this order.
func (r *Recap) All() (out []Said) {
	for at, s := range r.newest {
		if at == 2 {
			out = append(out, r.shown...)
		}
		if s.Raw != nil {
			out = append(out, s)
		}
	}
	return out
}
