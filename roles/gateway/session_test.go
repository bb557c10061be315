package gateway_test

import (
	"context"
	"errors"
	"testing"
)

// behind is the table of a gateway that has been cut off since its first entry.
type behind struct{}

func (behind) At() (string, uint64)                { return "history", 1 }
func (behind) Await(context.Context, uint64) error { return errors.New("nobody tells it anything") }

// TestGatewayThatIsBehindDoesNotRefuse: a picture that was uploaded at the other
// gateway a moment ago is not there yet, and the job that needs it is not wrong.
func TestGatewayThatIsBehindDoesNotRefuse(t *testing.T) {
	w := open(t, options{visited: true, replica: behind{}})
	load := `{"prompt":{"1":{"class_type":"LoadImage","inputs":{"image":"just_uploaded.png"}},"9":{"class_type":"SaveImage","inputs":{"images":["1",0],"filename_prefix":"x"}}}}`
	for _, c := range []struct {
		seen   string
		status int
	}{{"history.1", 400}, {"history.7", 503}, {"another.7", 400}} {
		a := w.ask(ask{user: ann, method: "POST", target: "/prompt", body: load, header: []string{"Cookie: comfyume_at=" + c.seen}})
		if a.status != c.status {
			t.Errorf("a browser that has seen %s is answered %d: %s", c.seen, a.status, a.body)
		}
	}
	a := w.ask(ask{user: ann, target: "/userdata/nothing.json", header: []string{"Cookie: comfyume_at=history.7"}})
	if a.status != 404 || a.header.Get("Comfyume-Stale") == "" {
		t.Errorf("reading is answered %d, stale %q", a.status, a.header.Get("Comfyume-Stale"))
	}
}
