package comfyui

import (
	"bytes"
	"strings"
	"sync"
	"time"
	"unicode"
)

// Bounds of what is kept of a process's words.
const (
	maxLines = 2000
	maxLine  = 2000 // bytes of one line
)

// Line is one that a process printed.
type Line struct {
	At   time.Time `json:"at"`
	Text string    `json:"text"`
}

// ring keeps the newest lines. A progress bar that rewrites its line (\r) counts
// as one line: its last state.
type ring struct {
	mu    sync.Mutex
	lines []Line
	next  int // where the oldest stands once the ring is full
}

func (r *ring) add(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := Line{At: time.Now(), Text: text}
	if len(r.lines) < maxLines {
		r.lines = append(r.lines, l)
		return
	}
	r.lines[r.next] = l
	r.next = (r.next + 1) % maxLines
}

// tail returns the newest n lines, oldest first; n <= 0 means all.
func (r *ring) tail(n int) []Line {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := append(append(make([]Line, 0, len(r.lines)), r.lines[r.next:]...), r.lines[:r.next]...)
	if n > 0 && n < len(all) {
		all = all[len(all)-n:]
	}
	return all
}

// splitter cuts what a process prints into lines. It is an io.Writer and takes
// everything: a process must never wait for its log.
type splitter struct {
	mu   sync.Mutex // stdout and stderr write to one
	rest []byte
	line func(string)
}

// Write takes bytes and hands on whole lines.
func (s *splitter) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rest = append(s.rest, p...)
	for {
		i := bytes.IndexByte(s.rest, '\n')
		if i < 0 {
			break
		}
		s.line(clean(s.rest[:i]))
		s.rest = s.rest[i+1:]
	}
	if len(s.rest) > 4*maxLine { // no line at all, or a bar that goes on for long
		s.rest = append([]byte(nil), s.rest[len(s.rest)-maxLine:]...)
	}
	return len(p), nil
}

// flush hands on a last line that no line feed ended.
func (s *splitter) flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if text := clean(s.rest); text != "" {
		s.line(text)
	}
	s.rest = nil
}

// clean is a line as it would stand on a screen, without colours and other
// control signs: it is shown on pages and terminals.
func clean(raw []byte) string {
	raw = bytes.TrimRight(raw, "\r")
	if i := bytes.LastIndexByte(raw, '\r'); i >= 0 {
		raw = raw[i+1:]
	}
	if len(raw) > maxLine {
		raw = raw[:maxLine]
	}
	var b strings.Builder
	escape := false
	for _, c := range strings.ToValidUTF8(string(raw), "?") {
		switch {
		case c == 0x1b:
			escape = true
		case escape:
			escape = c == '[' || c == ';' || c == '?' || c >= '0' && c <= '9'
		case c == '\t':
			b.WriteString("    ")
		case !unicode.IsControl(c) && !unicode.Is(unicode.Cf, c):
			b.WriteRune(c)
		}
	}
	return strings.TrimRight(b.String(), " ")
}
