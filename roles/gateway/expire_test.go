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

// Results go after the time that was said, and only then; uploads stay.
func TestOldResultsGoIfThatWasSaid(t *testing.T) {
	for _, c := range []struct {
		keep, ahead time.Duration
		status      int
	}{{0, 1000 * 24 * time.Hour, 200}, {30 * 24 * time.Hour, 29 * 24 * time.Hour, 200}, {30 * 24 * time.Hour, 31 * 24 * time.Hour, 404}} {
		w := open(t, options{visited: true, keepOutputs: c.keep, now: func() time.Time { return time.Now().Add(c.ahead) }})
		for _, area := range []string{"input", "output"} {
			w.upload(ann, "/upload/image", part{"image", "a.png", area}, part{"type", "", area}).want(t, 200)
		}
		w.gw.ExpireOutputs(t.Context())
		w.get(ann, "/view?filename=a.png&type=output").want(t, c.status)
		w.get(ann, "/view?filename=a.png&type=input").want(t, 200)
	}
}
