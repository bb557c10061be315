package gateway_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/cluster/peer"
	"github.com/ahelme/comfyume/cluster/people"
	"github.com/ahelme/comfyume/cluster/state"
	"github.com/ahelme/comfyume/roles/comfy"
	"github.com/ahelme/comfyume/roles/gateway"
)

// stockFlags is what the stock page says first.
const stockFlags = `{"type":"feature_flags","data":{"supports_preview_metadata":true,"supports_manager_v4_ui":true}}`

// stock opens the socket of a stock page, which says its feature flags.
func (w *world) stock(u cluster.User, client string) *page {
	w.t.Helper()
	p := w.page(u, client)
	p.say(stockFlags)
	p.waitFor("feature_flags")
	return p
}

// without leaves out what other tests look at.
func without(all []heard, types ...string) []string {
	return slices.DeleteFunc(texts(all), func(s string) bool {
		return slices.ContainsFunc(types, func(t string) bool { return strings.HasPrefix(s, t) })
	})
}

// TestSecondDevice: who goes on at another device sees the job there: how it
// stands, the rest as it happens, its pictures and its end. A second tab that was
// open before, and a program, hear nothing of it, as at a ComfyUI.
func TestSecondDevice(t *testing.T) {
	w := open(t, options{visited: true})
	first, tab, program := w.stock(ann, "first"), w.stock(ann, "tab"), w.page(ann, "program")
	w.submit(ann, "first", "p1")
	w.submit(ann, "first", "p2")
	s := w.assign(ann, "p1").begin()
	s.say(comfy.Executed("5", "5", json.RawMessage(`{"images":[]}`), "p1"))
	s.say(comfy.Executing("2", "2", "p1"))
	s.say(progressed("p1"))
	s.show(comfy.NewPreviewMetadata(comfy.PreviewMeta{NodeID: "2", PromptID: "p1"}, []byte("half")))
	first.waitFor("frame preview with metadata half")
	first.close()

	second, late := w.stock(ann, "second"), w.page(ann, "latecomer")
	second.waitFor("frame preview with metadata half")
	want := []string{
		"status 2", "feature_flags", "execution_start p1", "execution_cached p1", "executed p1 5", "progress_state p1", "executing p1 2", "frame preview with metadata half",
	}
	if d := cmp.Diff(want, texts(second.all())); d != "" {
		t.Error(d)
	}
	s.say(comfy.Executing("9", "9", "p1"))
	s.done("x_00001_.png")
	second.waitFor("executing p1 null")
	w.assign(ann, "p2").begin().done("y_00001_.png") // it waited when the device came
	second.waitFor("executing p2 null")
	got := without(second.all()[len(want):], "status")
	want = []string{
		"executing p1 9", "executed p1 9", "execution_success p1", "executing p1 null",
		"execution_start p2", "execution_cached p2", "executed p2 9", "execution_success p2", "executing p2 null",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}

	again := w.stock(ann, "first") // the first device comes back: it is told how it went, once
	w.submit(ann, "first", "p3")
	w.assign(ann, "p3").begin().done("z_00001_.png")
	again.waitFor("executing p3 null")
	for _, id := range []string{"p1", "p2"} {
		if d := cmp.Diff([]string{"execution_start " + id, "execution_success " + id, "executing " + id + " null"}, about(again.all(), id)); d != "" {
			t.Error(d)
		}
	}
	for _, p := range []*page{tab, program, late, second} {
		p.waitFor("status 0")
		for _, id := range []string{"p1", "p2", "p3"} {
			if heard := about(p.all(), id); len(heard) > 0 && (p != second || id == "p3") {
				t.Errorf("%s, which did not queue it, hears %v", p.sid, heard)
			}
		}
	}
}

// TestProgramsAreNotFollowed: a page does not follow what was queued without the
// drawing of a workflow: a program did that.
func TestProgramsAreNotFollowed(t *testing.T) {
	w := open(t, options{visited: true})
	w.post(ann, "/prompt", `{"client_id":"program","prompt_id":"p1","prompt":{"1":{"class_type":"EmptyImage","inputs":{"width":64,"color":0}},"9":{"class_type":"SaveImage","inputs":{"images":["1",0],"filename_prefix":"x"}}}}`).want(t, 200)
	s := w.assign(ann, "p1").begin()
	p := w.stock(ann, "page")
	s.done("x_00001_.png")
	p.waitFor("status 0")
	if got := about(p.all(), "p1"); len(got) > 0 {
		t.Errorf("heard %v", got)
	}
}

// TestSecondDeviceAtAGatewayThatIsBehind: a gateway that hears of a job after the
// second device has come shows it there all the same.
func TestSecondDeviceAtAGatewayThatIsBehind(t *testing.T) {
	w := open(t, options{visited: true})
	m := state.New(slog.New(slog.DiscardHandler))
	w.log.replay(m)
	o := *w
	o.reopen(t, func(c *gateway.Config) {
		c.Tables, c.Watch = m, func() gateway.Watcher { return m.Watch() }
		c.Now = func() time.Time { return time.Now().Add(time.Second) }
	})
	w.submit(ann, "first", "p1")
	s := w.assign(ann, "p1").begin()
	second := o.stock(ann, "second")
	w.log.replay(m)
	second.waitFor("status 1")
	s.say(comfy.Executing("9", "9", "p1"))
	s.done("x_00001_.png")
	w.log.replay(m)
	second.waitFor("executing p1 null")
	want := []string{"status 0", "feature_flags", "status 1", "executing p1 9", "executed p1 9", "execution_success p1", "status 0", "executing p1 null"}
	// The number of waiting jobs may be told again while the table catches up.
	if d := cmp.Diff(want, slices.Compact(texts(second.all()))); d != "" {
		t.Error(d)
	}
}

// another opens a second gateway over the same tables. What one tells the other,
// and what workers say, reaches both.
func (w *world) another(t *testing.T) *world {
	t.Helper()
	o := *w
	o.events = peer.NewEvents()
	o.reopen(t, func(c *gateway.Config) {
		c.Subscribe = o.events.Subscribe
		c.Tell = w.events.Publish
	})
	return &o
}

// TestHeardAtAnotherGateway: the end of a job is told to its page once, however
// many gateways it has been at.
func TestHeardAtAnotherGateway(t *testing.T) {
	w := open(t, options{visited: true})
	o := w.another(t)
	there := o.page(ann, "tab1")
	w.submit(ann, "tab1", "p1")
	w.assign(ann, "p1").begin().done("x_00001_.png")
	there.waitFor("executing p1 null")
	// Away from both, then told at one.
	w.submit(ann, "away", "p2")
	w.assign(ann, "p2").begin().done("y_00001_.png")
	w.submit(ann, "tab1", "p3") // whoever hears this end knows that those before were told or kept
	w.assign(ann, "p3").begin().done("z_00001_.png")
	there.waitFor("executing p3 null")
	back := o.page(ann, "away")
	back.waitFor("executing p2 null")
	if d := cmp.Diff([]string{"execution_start p2", "execution_success p2", "executing p2 null"}, about(back.all(), "p2")); d != "" {
		t.Error(d)
	}
	w.until("the first gateway has told its own end of the line", func() bool {
		return strings.Contains(w.get(ann, "/history/p3").body, "p3")
	})
	for _, client := range []string{"tab1", "away"} {
		p := w.page(ann, client)
		w.submit(ann, client, "last-"+client)
		w.assign(ann, "last-"+client).begin().done("l_" + client + ".png")
		p.waitFor("executing last-" + client + " null")
		for _, id := range []string{"p1", "p2", "p3"} {
			if got := about(p.all(), id); len(got) > 0 {
				t.Errorf("%s is told again: %v", client, got)
			}
		}
	}
}

// TestEndedBeforeThisGateway: a page whose job ended while no gateway was there
// does not show it as running for ever.
func TestEndedBeforeThisGateway(t *testing.T) {
	w := open(t, options{visited: true})
	w.submit(ann, "tab1", "p1")
	w.assign(ann, "p1").begin().done("x_00001_.png")
	o := w.another(t)
	p := o.page(ann, "tab1")
	p.waitFor("executing p1 null")
	if d := cmp.Diff([]string{"executing p1 null"}, about(p.all(), "p1")); d != "" {
		t.Error(d)
	}
	if got := about(o.page(bob, "tab1").all(), "p1"); len(got) > 0 {
		t.Errorf("bob hears %v", got)
	}
}

// TestRepeatedEventsAreNoNews: a worker whose link came up again says what it
// said before; pages that heard it do not hear it twice, those that missed the
// beginning do.
func TestRepeatedEventsAreNoNews(t *testing.T) {
	w := open(t, options{visited: true})
	o := w.another(t)
	p := w.page(ann, "tab1")
	w.submit(ann, "tab1", "p1")
	s := w.assign(ann, "p1").begin()
	s.say(comfy.Executed("5", "5", json.RawMessage(`{"images":[]}`), "p1"))
	s.say(progressed("p1"))
	p.waitFor("progress_state p1")
	missed := o.page(ann, "tab1")
	missed.waitFor("execution_start p1")
	for _, events := range []*peer.Events{w.events, o.events} {
		s.w.events = events
		s.say(comfy.ExecutionStart("p1", 1))
		s.say(comfy.ExecutionCached(nil, "p1", 1))
		s.say(comfy.Executed("5", "5", json.RawMessage(`{"images":[]}`), "p1"))
		s.say(progressed("p1"))
		s.say(comfy.Executing("9", "9", "p1"))
	}
	for _, page := range []*page{p, missed} {
		page.waitFor("executing p1 9")
		got := slices.Compact(about(page.all(), "p1")) // one gateway had only the row to go by
		want := []string{"execution_start p1", "execution_cached p1", "executed p1 5", "progress_state p1", "executing p1 9"}
		if d := cmp.Diff(want, got); d != "" {
			t.Error(d)
		}
	}
}

// TestPagesOfTheShutOut: the pages of somebody who is shut out, or whose password was
// changed, are closed at once; nobody else's are.
func TestPagesOfTheShutOut(t *testing.T) {
	for what, do := range map[string]cluster.Command{
		"disabled":         &people.Disable{Name: ann},
		"another password": &people.Put{Name: ann, Hash: hashOf("something else")},
	} {
		w := open(t, options{visited: true})
		one, two, other := w.page(ann, "tab1"), w.page(ann, "tab2"), w.page(bob, "tab1")
		w.do(do)
		for _, p := range []*page{one, two} {
			if err := p.ended(); !strings.Contains(err.Error(), "1008") {
				t.Errorf("%s: a page heard %v", what, err)
			}
		}
		w.until("they are gone", func() bool { return w.gw.Sockets()[ann] == 0 })
		w.submit(bob, "tab1", "p1")
		other.waitFor("status 1")
	}
}

// TestPagesOfTheSignedOut: a page that a session opened is closed when that
// session ends, and a program's socket with its token. What was opened by other
// means stays.
func TestPagesOfTheSignedOut(t *testing.T) {
	w := open(t, options{visited: true})
	token, _, err := w.sign.NewToken(t.Context(), ann, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	var browsers [2]*browser
	var pages [2]*page
	for i := range browsers {
		browsers[i] = w.browser()
		browsers[i].as(t, ann)
		pages[i] = w.page("", fmt.Sprint("tab", i), "Cookie: comfyume="+browsers[i].jar["comfyume"])
	}
	program, password, other := w.page("", "program", "Authorization: Bearer "+token), w.page(ann, "typed"), w.page(bob, "tab0")
	closed := func(p *page) {
		t.Helper()
		if err := p.ended(); !strings.Contains(err.Error(), "1008") {
			t.Errorf("%s heard %v", p.sid, err)
		}
	}
	browsers[0].send("POST", "/logout", "").want(t, 200)
	closed(pages[0])
	w.until("one page is gone", func() bool { return w.gw.Sockets()[ann] == 3 })
	browsers[1].send("POST", "/logout", "everywhere=1").want(t, 200)
	closed(pages[1])
	closed(program)
	w.until("only the page of the password is left", func() bool { return w.gw.Sockets()[ann] == 1 })
	w.submit(ann, "typed", "p1")
	password.waitFor("status 1")
	w.submit(bob, "tab0", "p1")
	other.waitFor("status 1")
}

// TestStatusIsSentWhenTheQueueMoves: at submit, at the beginning and at the end,
// as a ComfyUI does, and not with every step that a page cannot see.
func TestStatusIsSentWhenTheQueueMoves(t *testing.T) {
	w := open(t, options{visited: true})
	p, tab := w.page(ann, "tab1"), w.page(ann, "tab2")
	w.submit(ann, "tab1", "p1")
	p.waitFor("status 1")
	s := w.assign(ann, "p1")
	s.begin()
	p.waitFor("execution_cached p1")
	w.do(&jobs.GpuDone{Lease: s.lease})
	s.done("x_00001_.png")
	want := []string{
		"status 0", "status 1", "status 1", "execution_start p1", "execution_cached p1", "executed p1 9", "execution_success p1", "status 0", "executing p1 null",
	}
	p.waitFor("executing p1 null")
	if d := cmp.Diff(want, texts(p.all())); d != "" {
		t.Error(d)
	}
	tab.wait("all counts", func(all []heard) bool { return len(all) == 4 })
	if d := cmp.Diff([]string{"status 0", "status 1", "status 1", "status 0"}, texts(tab.all())); d != "" {
		t.Error(d)
	}
}
