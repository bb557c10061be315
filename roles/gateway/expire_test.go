package gateway_test

import (
	"testing"
	"time"
)

// A preview of yesterday is gone, what was uploaded or saved stays, and a look
// that finds nothing commits nothing.
func TestOldPreviewsGo(t *testing.T) {
	ahead := 23 * time.Hour
	w := open(t, options{visited: true, now: func() time.Time { return time.Now().Add(ahead) }})
	for _, area := range []string{"temp", "input", "output"} {
		w.upload(ann, "/upload/image", part{"image", "a.png", area}, part{"type", "", area}).want(t, 200)
	}
	before := w.log.commits()
	w.gw.ExpireTemp(t.Context())
	if n := w.log.commits(); n != before {
		t.Errorf("%d commits for nothing", n-before)
	}
	w.get(ann, "/view?type=temp&filename=a.png").want(t, 200)
	ahead = 25 * time.Hour
	w.gw.ExpireTemp(t.Context())
	for area, status := range map[string]int{"temp": 404, "input": 200, "output": 200} {
		w.get(ann, "/view?filename=a.png&type="+area).want(t, status)
	}
}
