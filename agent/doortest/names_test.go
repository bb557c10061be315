package doortest_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/ahelme/comfyume/agent/doortest"
)

// TestHundredSavesGetHundredNames: a hundred jobs queued at once by one user get
// the numbers of a ComfyUI of their own, whatever another user does meanwhile.
func TestHundredSavesGetHundredNames(t *testing.T) {
	const n = 100
	a := doortest.Start(t, doortest.Options{Args: []string{"--comfyui-url", "sketch,sketch"}})
	one, two := a.Client("user001"), a.Client("user002")
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			for _, c := range []*doortest.Client{one, two} {
				if code, _, raw, err := c.Do("POST", "/prompt", map[string]any{"prompt": doortest.Inverted(i, 8, "take/shot")}); err != nil || code != 200 {
					t.Errorf("%d, %v: %.200s", code, err, raw)
				}
			}
		})
	}
	wg.Wait()
	for _, c := range []*doortest.Client{one, two} {
		var history map[string]doortest.Entry
		doortest.Until(t, 2*time.Minute, "all have ended", func() bool {
			c.JSON(t, "GET", "/history", nil, &history)
			return len(history) == n
		})
		colours, names := map[string]bool{}, map[string]bool{}
		for _, e := range history {
			img := e.Outputs["9"]["images"][0]
			names[img.Subfolder+"/"+img.Filename] = true
			colours[string(c.Fetch(t, e, "9"))] = true
		}
		for i := 1; i <= n; i++ {
			if want := fmt.Sprintf("take/shot_%05d_.png", i); !names[want] {
				t.Errorf("%s: nothing is called %s", c.User, want)
			}
		}
		if len(names) != n || len(colours) != n {
			t.Errorf("%s: %d names and %d pictures of %d jobs", c.User, len(names), len(colours), n)
		}
	}
}
