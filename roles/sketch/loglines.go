package sketch

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"
)

// logLines is the server's recent log as pages ask for it.
type logLines struct {
	mu    sync.Mutex
	lines []logLine
}

type logLine struct {
	Time string `json:"t"`
	Text string `json:"m"`
}

const maxLogLines = 300

func newLogLines() *logLines { return &logLines{} }

func (l *logLines) add(at time.Time, line string, args ...any) {
	var b strings.Builder
	b.WriteString(line)
	for i := 0; i+1 < len(args); i += 2 {
		fmt.Fprintf(&b, " %v=%v", args[i], args[i+1])
	}
	b.WriteByte('\n')
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, logLine{at.UTC().Format("2006-01-02T15:04:05.000000"), b.String()})
	if len(l.lines) > maxLogLines {
		l.lines = l.lines[len(l.lines)-maxLogLines:]
	}
}

func (l *logLines) copy() []logLine {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]logLine{}, l.lines...)
}

// text is the answer of /internal/logs: one string.
func (l *logLines) text() string {
	var b strings.Builder
	for _, line := range l.copy() {
		b.WriteString(line.Time + " - " + line.Text)
	}
	return b.String()
}

// settings keeps what pages store about themselves.
type settings struct {
	mu     sync.Mutex
	values map[string]json.RawMessage
}

func newSettings() *settings { return &settings{values: map[string]json.RawMessage{}} }

func (s *settings) all() map[string]json.RawMessage {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[string]json.RawMessage, len(s.values))
	for k, v := range s.values {
		out[k] = v
	}
	return out
}

func (s *settings) merge(values map[string]json.RawMessage) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, v := range values {
		s.values[k] = v
	}
}
