package ui

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"
)

// Rates of the feed.
const (
	tick = 250 * time.Millisecond // at most four updates a second
	beat = 2 * time.Second        // a page calls its data old after 5 s without one
	slow = 20 * time.Second       // a reader that takes nothing for so long is let go
)

// feed turns Views into server-sent events. The View is worked out once per
// tick however many pages look on, and not at all when none does.
type feed struct {
	src Source

	mu       sync.Mutex
	made     time.Time
	now      int64
	version  uint64
	sections map[string]section
}

// section is one member of the View with the version at which it last changed.
type section struct {
	json    json.RawMessage
	version uint64
}

func newFeed(src Source) *feed { return &feed{src: src, sections: map[string]section{}} }

// since returns the sections that changed after version v, and the version reached.
func (f *feed) since(v uint64) (changed map[string]json.RawMessage, now int64, version uint64, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if time.Since(f.made) >= tick/2 {
		if err := f.refresh(); err != nil {
			return nil, 0, v, err
		}
	}
	for name, s := range f.sections {
		if s.version > v {
			if changed == nil {
				changed = map[string]json.RawMessage{}
			}
			changed[name] = s.json
		}
	}
	return changed, f.now, f.version, nil
}

func (f *feed) refresh() error {
	view := f.src.View().filled()
	raw, err := json.Marshal(view)
	if err != nil {
		return fmt.Errorf("write the view: %w", err)
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(raw, &members); err != nil {
		return fmt.Errorf("read the view: %w", err)
	}
	delete(members, "now") // moves by itself; it travels with every event
	f.made, f.now = time.Now(), view.Now
	next := f.version + 1
	for name, m := range members {
		if old, ok := f.sections[name]; !ok || !bytes.Equal(old.json, m) {
			f.sections[name] = section{m, next}
			f.version = next
		}
	}
	return nil
}

// serve sends "snapshot" once, "update" when something changed and "beat" when
// nothing did. It returns when the reader goes away or the server stops.
func (f *feed) serve(w http.ResponseWriter, r *http.Request) {
	head := w.Header()
	head.Set("Content-Type", "text/event-stream")
	head.Set("Cache-Control", "no-store")
	head.Set("X-Accel-Buffering", "no")
	out := http.NewResponseController(w)
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	var seen uint64
	var spoke time.Time
	for name := "snapshot"; ; name = "update" {
		changed, now, version, err := f.since(seen)
		if err != nil {
			return
		}
		switch {
		case len(changed) > 0:
		case time.Since(spoke) >= beat:
			name = "beat"
		default:
			name = ""
		}
		if name != "" {
			if !send(w, out, name, version, now, changed) {
				return
			}
			seen, spoke = version, time.Now()
		}
		select {
		case <-r.Context().Done():
			return
		case <-ticker.C:
		}
	}
}

func send(w http.ResponseWriter, out *http.ResponseController, name string, version uint64, now int64, changed map[string]json.RawMessage) bool {
	data, err := json.Marshal(struct {
		Now  int64                      `json:"now"`
		View map[string]json.RawMessage `json:"view,omitempty"`
	}{now, changed})
	if err != nil {
		return false
	}
	_ = out.SetWriteDeadline(time.Now().Add(slow)) // not every writer has deadlines; Flush tells the rest
	if _, err := fmt.Fprintf(w, "id: %d\nevent: %s\ndata: %s\n\n", version, name, data); err != nil {
		return false
	}
	return out.Flush() == nil
}
