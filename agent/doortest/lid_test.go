package doortest_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ahelme/comfyume/agent/doortest"
)

// stockFlags is what the stock page says first.
const stockFlags = `{"type":"feature_flags","data":{"supports_preview_metadata":true}}`

// opens another device and returns how long it took until the page shows how the
// running job stands: that it began, what its nodes have done, its last preview.
func opens(t *testing.T, c *doortest.Client, id, prompt string) (*doortest.Socket, time.Duration) {
	t.Helper()
	begin := time.Now()
	ws := c.Socket(t, id)
	if err := ws.WriteMessage(1, []byte(stockFlags)); err != nil {
		t.Fatal(err)
	}
	want, seen := []string{"execution_start", "progress_state", "binary"}, []doortest.Message{}
	for len(want) > 0 {
		m, err := ws.Next(20 * time.Second)
		if err != nil {
			t.Fatalf("%s: %v after %s, no %v", id, err, doortest.Types(seen), want)
		}
		if seen = append(seen, m); m.Type == "binary" || m.Field("prompt_id") == prompt {
			want = slices.DeleteFunc(want, func(s string) bool { return s == m.Type })
		}
	}
	if seen[0].Type != "status" || !strings.Contains(string(seen[0].Data), `"queue_remaining":1`) {
		t.Errorf("%s hears %s %s first", id, seen[0].Type, seen[0].Data)
	}
	return ws, time.Since(begin)
}

// TestCloseTheLidOpenElsewhere: in the middle of a job the browser goes and so
// does the gateway that took it. At another gateway another device, and the same
// browser, see at once how it stands, the rest as it happens, and the picture.
func TestCloseTheLidOpenElsewhere(t *testing.T) {
	hall := doortest.Hall(t)
	doortest.Start(t, doortest.Options{Roles: "queue", Hall: hall, Name: "mello"})
	doortest.Start(t, doortest.Options{Roles: "gpu", Hall: hall, Name: "verda", Args: []string{"--comfyui-url", "sketch"}})
	took := doortest.Start(t, doortest.Options{Roles: "gateway", Hall: hall, Name: "annex"})
	other := doortest.Start(t, doortest.Options{Roles: "gateway", Hall: hall, Name: "cellar"})
	first := took.Client("user001")
	doortest.Until(t, time.Minute, "the worker's nodes are known", func() bool {
		_, _, raw, err := first.Do("GET", "/object_info/SketchSlow", nil)
		return err == nil && len(raw) > 10
	})
	page := first.Socket(t, "laptop")
	if err := page.WriteMessage(1, []byte(stockFlags)); err != nil {
		t.Fatal(err)
	}
	var accepted struct {
		PromptID string `json:"prompt_id"`
	}
	first.JSON(t, "POST", "/prompt", map[string]any{
		"prompt": doortest.Slow(0x102030, 16, 8, 40), "client_id": "laptop",
		"extra_data": map[string]any{"extra_pnginfo": map[string]any{"workflow": map[string]any{"id": "film"}}},
	}, &accepted)
	for {
		m, err := page.Next(time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		if m.Type == "binary" {
			break
		}
	}
	_ = page.Close()
	second := other.Client("user001")
	doortest.Until(t, 10*time.Second, "the other gateway has heard of the job", func() bool {
		_, _, raw, err := second.Do("GET", "/queue", nil)
		return err == nil && strings.Contains(string(raw), accepted.PromptID)
	})
	took.Kill()

	var waits []float64
	phone, wait := opens(t, second, "phone", accepted.PromptID)
	waits = append(waits, ms(wait))
	again, wait := opens(t, second, "laptop", accepted.PromptID)
	waits = append(waits, ms(wait))
	for range 8 {
		_, wait := opens(t, second, "laptop", accepted.PromptID)
		waits = append(waits, ms(wait))
	}
	for _, ws := range []*doortest.Socket{phone, again} {
		seen := doortest.Types(ws.UntilEnd(t, accepted.PromptID, time.Minute))
		if !strings.Contains(seen, "binary") || !strings.Contains(seen, " executed ") || !strings.HasSuffix(seen, " execution_success status executing") {
			t.Errorf("then %s", seen)
		}
	}
	var history map[string]doortest.Entry
	second.JSON(t, "GET", "/history/"+accepted.PromptID, nil, &history)
	if err := doortest.Uniform(second.Fetch(t, history[accepted.PromptID], "9"), 0x102030, 16); err != nil {
		t.Error(err)
	}
	fmt.Printf("replay gateway=another n=%d p50_ms=%.0f max_ms=%.0f goal_ms=1000\n", len(waits), at(waits, 50), slices.Max(waits))
	if slices.Max(waits) > 5000 { // the goal is 1000; this machine may be busy
		t.Errorf("a page saw how its job stands after %.0f ms", slices.Max(waits))
	}
}
