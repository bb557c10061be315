package gateway_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fasthttp/websocket"
	"github.com/google/go-cmp/cmp"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/roles/comfy"
)

// progressed is a progress_state of one node.
func progressed(prompt string) comfy.Message {
	return comfy.ProgressState(prompt, map[string]comfy.NodeProgress{"2": {Value: 1, Max: 2, State: "running", NodeID: "2", PromptID: prompt, DisplayNodeID: "2", RealNodeID: "2"}})
}

// TestComingBack: a page that connects in the middle of its job hears where it
// stands, whatever the job's state, and the rest as it happens.
func TestComingBack(t *testing.T) {
	w := open(t, options{visited: true})
	w.submit(ann, "tab1", "p1")
	s := w.assign(ann, "p1").begin()
	s.say(comfy.Executing("2", "2", "p1"))
	s.say(progressed("p1"))
	s.show(comfy.NewPreviewMetadata(comfy.PreviewMeta{NodeID: "2", PromptID: "p1"}, []byte("half")))
	want := []string{"status 1", "execution_start p1", "execution_cached p1", "progress_state p1", "executing p1 2", "frame preview half"}
	for _, moment := range []struct {
		name string
		move func()
	}{
		{"running", func() {}},
		{"storing", func() { w.do(&jobs.GpuDone{Lease: s.lease}) }},
		{"cancelling", func() { w.post(ann, "/interrupt", `{"prompt_id":"p1"}`).want(t, 200) }},
	} {
		moment.move()
		p := w.page(ann, "tab1")
		p.waitFor("frame preview half")
		if d := cmp.Diff(want, texts(p.all())[:len(want)]); d != "" {
			t.Errorf("%s: %s", moment.name, d)
		}
		if other := w.page(ann, "tab2"); len(about(other.all(), "p1")) > 0 {
			t.Errorf("%s: another page is told of it: %v", moment.name, texts(other.all()))
		}
	}
	p := w.page(ann, "tab1")
	s.end(jobs.Cancelled, "{}", comfy.ExecutionInterrupted(comfy.InterruptedData{PromptID: "p1"}), nil)
	p.waitFor("executing p1 null")
}

// TestEndsWhileAway: how jobs ended is told once to the page that comes back,
// to nobody else, and scripts that never come back do not use up the memory.
func TestEndsWhileAway(t *testing.T) {
	w := open(t, options{visited: true})
	p := w.page(ann, "tab1")
	for _, id := range []string{"p1", "p2"} {
		w.submit(ann, "tab1", id)
	}
	s := w.assign(ann, "p1").begin()
	p.waitFor("execution_start p1")
	p.close()
	w.until("the socket is gone", func() bool { return w.gw.Sockets()[ann] == 0 })
	s.done("x_00001_.png")
	w.assign(ann, "p2").begin().end(jobs.Failed, "{}", comfy.ExecutionError(comfy.ExecutionErrorData{PromptID: "p2", ExceptionType: "E"}), &jobs.Failure{Type: "E", Message: "m"})
	other := w.page(ann, "tab2")
	w.submit(ann, "tab2", "p3") // whoever hears this end knows that those before were told
	w.assign(ann, "p3").end(jobs.Done, "{}", comfy.ExecutionSuccess("p3", 2), nil)
	other.waitFor("executing p3 null")
	if got := w.page(bob, "tab1").all(); len(got) != 1 {
		t.Errorf("bob with ann's client id hears %v", texts(got))
	}
	back := w.page(ann, "tab1")
	back.waitFor("executing p2 null")
	want := []string{"status 0", "execution_start p1", "execution_success p1", "executing p1 null", "execution_start p2", "execution_error p2", "executing p2 null"}
	got := texts(back.all())
	for i := range got {
		got[i] = strings.TrimSuffix(got[i], " ")
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if again := w.page(ann, "tab1").all(); len(again) != 1 {
		t.Errorf("told twice: %v", texts(again))
	}

	for i := range 110 {
		id := fmt.Sprint("s", i)
		w.submit(ann, "script"+id, id)
		w.assign(ann, id).end(jobs.Done, "{}", comfy.ExecutionSuccess(id, 2), nil)
	}
	w.page(ann, "scripts109").waitFor("executing s109 null")
}

// TestTwoSocketsOfOnePage: a reconnect overlaps the connection it replaces.
func TestTwoSocketsOfOnePage(t *testing.T) {
	w := open(t, options{visited: true})
	one, two, third := w.page(ann, "tab1"), w.page(ann, "tab1"), w.page(ann, "tab2")
	w.submit(ann, "tab1", "p1")
	s := w.assign(ann, "p1").begin()
	one.waitFor("execution_start p1")
	two.waitFor("execution_start p1")
	one.close() // the old one goes; the new one must not lose its events
	w.until("the old socket is gone", func() bool { return w.gw.Sockets()[ann] == 2 })
	s.done("x_00001_.png")
	two.waitFor("executing p1 null")
	third.waitFor("status 0")
	if got := about(third.all(), "p1"); len(got) != 0 {
		t.Errorf("another page of the same user hears %v", got)
	}
}

// TestWithoutClientID: progress goes to all of the user's pages, the rest to none.
func TestWithoutClientID(t *testing.T) {
	w := open(t, options{visited: true})
	p, other := w.page(ann, "tab1"), w.page(bob, "tab1")
	w.submit(ann, "", "p1")
	s := w.assign(ann, "p1").begin()
	s.say(comfy.Progress(1, 2, "p1", "2"))
	s.say(progressed("p1"))
	s.show(comfy.NewPreview(comfy.FormatJPEG, []byte("x")))
	s.done("x_00001_.png")
	p.waitFor("status 0")
	got := texts(p.all())
	got = slices.DeleteFunc(got, func(s string) bool { return strings.HasPrefix(s, "status") })
	if d := cmp.Diff([]string{"progress p1 2", "progress_state p1"}, got); d != "" {
		t.Error(d)
	}
	if got := other.all(); len(got) != 1 {
		t.Errorf("bob hears %v", texts(got))
	}
	var h map[string]any
	if w.get(ann, "/history/p1").want(t, 200).json(t, &h); h["p1"] == nil {
		t.Error("no history")
	}
}

// TestLostWorkersAreNotHeard: events of an attempt that was taken away, and
// events after the end, reach nobody.
func TestLostWorkersAreNotHeard(t *testing.T) {
	w := open(t, options{visited: true})
	p := w.page(ann, "tab1")
	w.submit(ann, "tab1", "p1")
	lost := w.assign(ann, "p1").begin()
	w.do(&jobs.Requeue{Lease: lost.lease, Strike: true, Reason: "gone"})
	s := w.assign(ann, "p1").begin()
	lost.say(comfy.Executing("77", "77", "p1"))
	s.done("x_00001_.png")
	p.waitFor("executing p1 null")
	s.say(comfy.Progress(1, 2, "p1", "88"))
	lost.say(comfy.Executing("77", "77", "p1"))
	w.submit(ann, "tab1", "p2")
	p.waitFor("status 1")
	for _, line := range texts(p.all()) {
		if strings.HasSuffix(line, " 77") || strings.HasSuffix(line, " 88") {
			t.Errorf("heard %s", line)
		}
	}
	if got := texts(w.page(ann, "tab1").all()); len(got) != 1 {
		t.Errorf("a page that connects now hears of the ended job: %v", got)
	}
}

// TestPreviewsAsNegotiated: a page that did not ask gets the older frames.
func TestPreviewsAsNegotiated(t *testing.T) {
	w := open(t, options{visited: true})
	plain, newer, late := w.page(ann, "tab1"), w.page(ann, "tab1"), w.page(ann, "tab1")
	newer.say(`{"type":"feature_flags","data":{"supports_preview_metadata":true}}`)
	newer.waitFor("feature_flags")
	late.say(`{"type":"hello"}`) // only the first word counts
	late.say(`{"type":"feature_flags","data":{"supports_preview_metadata":true}}`)
	w.submit(ann, "tab1", "p1")
	s := w.assign(ann, "p1").begin()
	s.show(comfy.NewPreviewMetadata(comfy.PreviewMeta{NodeID: "2", PromptID: "p1"}, []byte("one")))
	s.show(comfy.NewText("2", "two"))
	s.w.events.Publish(jobs.Event{Job: s.lease.Job, ClientID: "tab1", Epoch: s.lease.Epoch, Type: "preview", Binary: []byte{0, 0, 1, 0, 'x'}}) // a custom node's own
	newer.waitFor("frame preview with metadata one")
	newer.waitFor("frame text two")
	for _, p := range []*page{plain, late} {
		p.waitFor("frame preview one")
		p.waitFor("frame text two")
		p.wait("the custom node's frame", func(all []heard) bool {
			return slices.ContainsFunc(all, func(h heard) bool { return string(h.bin) == "\x00\x00\x01\x00x" })
		})
	}
	if index(late.all(), "feature_flags") >= 0 {
		t.Error("flags that were not the first word are answered")
	}
}

// TestSlowPage: a page that does not read loses pictures, hears all the rest,
// and holds up nobody.
func TestSlowPage(t *testing.T) {
	w := open(t, options{visited: true})
	conn, _, err := w.dial(ann, "/ws?clientId=tab1")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	w.until("the slow page is there", func() bool { return w.gw.Sockets()[ann] == 1 })
	quick := w.page(ann, "tab1")
	w.submit(ann, "tab1", "p1")
	s := w.assign(ann, "p1").begin()
	const pictures = 600
	picture := make([]byte, 100<<10)
	for i := range pictures {
		s.show(comfy.NewPreview(comfy.FormatJPEG, picture))
		if i%10 == 0 {
			s.say(comfy.Executing(fmt.Sprint(i), fmt.Sprint(i), "p1"))
			quick.waitFor(fmt.Sprintf("executing p1 %d", i))
		}
	}
	s.done("x_00001_.png")
	quick.waitFor("executing p1 null")

	slow := &page{t: t, w: w, conn: conn, news: make(chan struct{}, 1), done: make(chan struct{})}
	go slow.read()
	defer slow.close()
	all := slow.waitFor("executing p1 null")
	seen := 0
	for _, h := range all {
		if h.bin != nil {
			seen++
		}
	}
	if seen == pictures {
		t.Error("no picture was dropped: nothing was slow here")
	}
	for i := 0; i < pictures; i += 10 {
		if index(all, fmt.Sprintf("executing p1 %d", i)) < 0 {
			t.Errorf("the slow page missed executing %d", i)
		}
	}
	if index(all, "execution_success p1") < 0 || index(all, "executed p1 9") < 0 {
		t.Error("the slow page missed the end")
	}
}

// TestHopelessPage: one that does not even take what may not be dropped is cut
// off before it fills the memory.
func TestHopelessPage(t *testing.T) {
	w := open(t, options{visited: true})
	conn, _, err := w.dial(ann, "/ws?clientId=tab1")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	w.until("the page is there", func() bool { return w.gw.Sockets()[ann] == 1 })
	w.submit(ann, "tab1", "p1")
	s := w.assign(ann, "p1").begin()
	picture := make([]byte, 4<<20)
	for range 40 { // results that a node sends over the socket
		s.w.events.Publish(jobs.Event{Job: s.lease.Job, ClientID: "tab1", Epoch: s.lease.Epoch, Type: "preview", Binary: comfy.NewPreview(comfy.FormatPNG, picture).Encode()})
	}
	w.until("the page is cut off", func() bool { return w.gw.Sockets()[ann] == 0 })
	w.page(ann, "tab1").waitFor("execution_start p1")
}

// TestGoodbye: at the end every socket is closed with a word, and Run waits.
func TestGoodbye(t *testing.T) {
	w := open(t, options{visited: true})
	p := w.page(ann, "tab1")
	begin := time.Now()
	if err := w.stop(); err != nil {
		t.Error(err)
	}
	if took := time.Since(begin); took > 3*time.Second {
		t.Errorf("stopping took %v", took)
	}
	if err := p.ended(); !websocket.IsCloseError(err, websocket.CloseGoingAway) {
		t.Errorf("the page heard %v", err)
	}
	if n := w.gw.Sockets()[ann]; n != 0 {
		t.Errorf("%d sockets are left", n)
	}
}

// TestSocketsOfStrangers: who may open one.
func TestSocketsOfStrangers(t *testing.T) {
	w := open(t, options{visited: true})
	for _, c := range []struct {
		what   string
		user   cluster.User
		target string
		header []string
		status int // 0 = it opens
	}{
		{"nobody", "", "/ws", nil, 401},
		{"own prefix", ann, "/user001/ws?clientId=a", nil, 0},
		{"own api", ann, "/api/ws", nil, 0},
		{"another's prefix", bob, "/user001/ws?clientId=a", nil, 403},
		{"the instructor", boss, "/user001/ws", nil, 403},
		{"another site", ann, "/ws", []string{"Origin: https://evil.example"}, 403},
		{"another site by its own word", ann, "/ws", []string{"Sec-Fetch-Site: cross-site"}, 403},
		{"a null origin", ann, "/ws", []string{"Origin: null"}, 403},
		{"this site", ann, "/ws", []string{"Origin: http://" + w.addr}, 0},
		{"a client id that is too long", ann, "/ws?clientId=" + strings.Repeat("x", 200), nil, 0},
	} {
		conn, resp, err := w.dial(c.user, c.target, c.header...)
		switch {
		case c.status == 0 && err != nil:
			t.Errorf("%s: %v", c.what, err)
		case c.status != 0 && (err == nil || resp == nil || resp.StatusCode != c.status):
			t.Errorf("%s: %v, %v", c.what, resp, err)
		}
		if err == nil {
			_, raw, err := conn.ReadMessage()
			m, perr := comfy.ParseMessage(raw)
			if err != nil || perr != nil || m.Type != comfy.TypeStatus || strings.Contains(string(raw), "xxxx") {
				t.Errorf("%s: first frame %.200s %v", c.what, raw, err)
			}
			_ = conn.Close()
		}
		if resp != nil && resp.Body != nil {
			_ = resp.Body.Close()
		}
	}
	w.get(ann, "/ws").want(t, 400)
}
