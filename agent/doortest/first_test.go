package doortest_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/ahelme/comfyume/agent/doortest"
)

// TestFirstStartNeedsNoBackup (predecessor 63): an empty folder becomes a working
// workshop although the place for backups is not there yet. Only health says so.
func TestFirstStartNeedsNoBackup(t *testing.T) {
	keep := filepath.Join(t.TempDir(), "not", "mounted")
	a := doortest.Start(t, doortest.Options{Args: []string{"--keep=dir:" + keep, "--keep-every=1s"}})
	c := a.Client("user001")
	ws := c.Socket(t, "page")
	var accepted struct {
		PromptID string `json:"prompt_id"`
	}
	c.JSON(t, "POST", "/prompt", map[string]any{"prompt": doortest.Inverted(0x123456, 32, "first"), "client_id": "page"}, &accepted)
	ws.UntilEnd(t, accepted.PromptID, time.Minute)
	code, _, picture, err := c.Do("GET", "/view?filename=first_00001_.png&type=output", nil)
	if err != nil || code != 200 || !bytes.HasPrefix(picture, []byte("\x89PNG")) {
		t.Fatalf("the first picture: %d, %.20q, %v", code, picture, err)
	}
	doortest.Until(t, 30*time.Second, "health says that there is no backup, and nothing else is wrong", func() bool {
		resp, err := http.Get(a.URL + "/healthz")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		var h struct {
			Ready    bool
			Degraded []string
		}
		return json.NewDecoder(resp.Body).Decode(&h) == nil && h.Ready && slices.Equal(h.Degraded, []string{"backup"})
	})
}
