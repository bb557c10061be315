package doortest_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/ahelme/comfyume/agent/doortest"
)

// run queues a graph the way ComfyUI's own script examples do: POST /prompt
// with a client id, read the socket until "executing" names no node, and at
// once read history and the pictures.
func run(t testing.TB, c *doortest.Client, g doortest.Graph, clientID string) (doortest.Entry, []doortest.Message) {
	t.Helper()
	ws := c.Socket(t, clientID)
	var accepted struct {
		PromptID string `json:"prompt_id"`
	}
	c.JSON(t, "POST", "/prompt", map[string]any{"prompt": g, "client_id": clientID}, &accepted)
	seen := ws.UntilEnd(t, accepted.PromptID, 60*time.Second)
	var history map[string]doortest.Entry
	c.JSON(t, "GET", "/history/"+accepted.PromptID, nil, &history)
	e, ok := history[accepted.PromptID]
	if !ok {
		t.Fatalf("history has no %s at the end of its events: %v", accepted.PromptID, history)
	}
	return e, seen
}

func TestScriptExampleFlow(t *testing.T) {
	a := doortest.Start(t, doortest.Options{})
	for _, base := range []string{a.URL + "/user001", a.URL} {
		c := a.Client("user001")
		c.Base = base
		e, seen := run(t, c, doortest.Inverted(0x102030, 48, "script"), "client-"+base[len(base)-3:])
		if e.Status.Str != "success" || !e.Status.Completed {
			t.Fatalf("status %+v", e.Status)
		}
		if err := doortest.Uniform(c.Fetch(t, e, "9"), doortest.Invert(0x102030), 48); err != nil {
			t.Error(err)
		}
		if order := doortest.Types(seen); !ordered(order, "status", "execution_start", "execution_cached", "executed", "execution_success", "status", "executing") {
			t.Errorf("events came as %s", order)
		}
	}
}

// ordered reports whether words stand in text in this order.
func ordered(text string, words ...string) bool {
	for _, w := range words {
		i := indexWord(text, w)
		if i < 0 {
			return false
		}
		text = text[i+len(w):]
	}
	return true
}

func indexWord(text, w string) int {
	for i := 0; i+len(w) <= len(text); i++ {
		if text[i:i+len(w)] == w && (i == 0 || text[i-1] == ' ') && (i+len(w) == len(text) || text[i+len(w)] == ' ') {
			return i
		}
	}
	return -1
}

func TestTwoUsersNeverMeet(t *testing.T) {
	a := doortest.Start(t, doortest.Options{})
	one, two := a.Client("user001"), a.Client("user002")
	ear := two.Socket(t, "shared-client-id")
	e, _ := run(t, one, doortest.Inverted(0xabcdef, 16, "canary-of-one"), "shared-client-id")
	id := e.Prompt[1].(string)

	for _, path := range []string{"/queue", "/history", "/history/" + id, "/api/jobs", "/api/jobs/" + id, "/internal/files/output", "/userdata?dir=workflows", "/object_info/LoadImage", e.Outputs["9"]["images"][0].Path()} {
		_, _, raw, err := two.Do("GET", path, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, canary := range []string{"canary-of-one", id} {
			if contains(raw, canary) {
				t.Errorf("user002 at %s reads %q", path, canary)
			}
		}
		thief := *two
		thief.Base = one.Base
		if code, _, _, err := thief.Do("GET", path, nil); err != nil || code != http.StatusForbidden {
			t.Errorf("user002 at /user001%s: %d, %v", path, code, err)
		}
		if code, _, _, err := one.Do("GET", path, nil); err != nil || code != http.StatusOK {
			t.Errorf("the owner at %s: %d, %v", path, code, err)
		}
	}
	for {
		m, err := ear.Next(500 * time.Millisecond)
		if err != nil {
			break
		}
		if m.Type != "status" {
			t.Errorf("user002's socket heard %s %s", m.Type, m.Data)
		}
	}
}

func contains(raw []byte, s string) bool {
	for i := 0; i+len(s) <= len(raw); i++ {
		if string(raw[i:i+len(s)]) == s {
			return true
		}
	}
	return false
}
