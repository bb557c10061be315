package gateway_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/roles/comfy"
)

// TestFramesStayWithTheirUser plays jobs of two users at the same time. Both use
// the same client id (it survives in a browser's tab) and the same prompt ids;
// no frame of one may reach the other, also not after a reconnect.
func TestFramesStayWithTheirUser(t *testing.T) {
	w := open(t, options{visited: true})
	const rounds = 10
	canary := map[cluster.User]string{ann: "canary-of-ann", bob: "canary-of-bob"}
	pages := map[cluster.User]*page{ann: w.page(ann, "tab1"), bob: w.page(bob, "tab1")}
	pages[ann].say(`{"type":"feature_flags","data":{"supports_preview_metadata":true}}`)
	pages[ann].waitFor("feature_flags")
	for i := range rounds {
		for u := range pages {
			w.submit(u, "tab1", fmt.Sprint("p", i))
		}
	}
	var wg sync.WaitGroup
	for u := range pages {
		wg.Go(func() {
			for i := range rounds {
				playMarked(w, u, fmt.Sprint("p", i), canary[u], i%3)
			}
		})
	}
	wg.Wait()
	heard := map[cluster.User]string{}
	for u, p := range pages {
		last := fmt.Sprintf("executing p%d null", rounds-1)
		back := func() *page { p.waitFor(last); p.close(); return w.page(u, "tab1") }()
		for _, h := range append(p.all(), back.all()...) {
			heard[u] += string(h.m.Data) + string(h.bin) + "\n"
		}
		for i := range rounds {
			// Six, of which a page that is slow for a moment may miss the progress.
			if n := len(about(p.all(), fmt.Sprint("p", i))); n < 5 {
				t.Errorf("%s hears %d messages of p%d", u, n, i)
			}
		}
	}
	for u := range pages {
		for other, c := range canary {
			if has := strings.Contains(heard[u], c); has != (u == other) {
				t.Errorf("%s hears %s: %v", u, c, has)
			}
		}
	}
}

// playMarked plays a job all of whose words carry a mark.
func playMarked(w *world, u cluster.User, id, mark string, ending int) {
	s := w.assign(u, id).begin()
	s.say(comfy.Executing(mark, mark, id))
	s.say(comfy.Progress(1, 2, id, mark))
	s.show(comfy.NewPreviewMetadata(comfy.PreviewMeta{NodeID: mark, PromptID: id}, []byte(mark)))
	s.show(comfy.NewText(mark, mark))
	switch ending {
	case 0:
		s.done(mark + "_00001_.png")
	case 1:
		s.end(jobs.Failed, "{}", comfy.ExecutionError(comfy.ExecutionErrorData{PromptID: id, NodeID: mark, ExceptionType: mark, ExceptionMessage: mark, Traceback: []string{mark}}), &jobs.Failure{Type: mark, Message: mark, NodeID: mark})
	default:
		w.do(&jobs.Cancel{IDs: []jobs.ID{s.lease.Job}, Reason: mark})
		s.end(jobs.Cancelled, "{}", comfy.ExecutionInterrupted(comfy.InterruptedData{PromptID: id, NodeID: mark}), nil)
	}
}
