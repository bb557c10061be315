package gateway_test

import (
	"bufio"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/files"
	"github.com/ahelme/comfyume/cluster/people"
	"github.com/ahelme/comfyume/roles/comfy"
)

// belongings is something of everything that the door serves, of one person. All
// of it carries canaries: named is in every name, which a stranger may have seen
// over a shoulder and say; inside is in every content, which no stranger knows.
type belongings struct {
	user                                                           cluster.User
	named, inside                                                  string
	doc, input, output, temp, setting, ended, waiting, running, wf string
}

func canary() string {
	raw := make([]byte, 8)
	_, _ = rand.Read(raw) // it never fails
	return hex.EncodeToString(raw)
}

// settle gives a person everything, job and frames included.
func (w *world) settle(u cluster.User) belongings {
	w.t.Helper()
	n := "n" + canary()
	b := belongings{
		user: u, named: n, inside: "s" + canary(), doc: n + "-doc.json", input: n + "-in.png", output: n + "-out_00001_.png", temp: n + "-temp.png",
		setting: n + ".setting", ended: n + "-ended", waiting: n + "-waiting", running: n + "-running", wf: n + "-wf",
	}
	w.post(u, "/api/userdata/workflows%2F"+b.doc, quoted(b.inside)).want(w.t, 200)
	w.post(u, "/api/userdata/user.css", "/* "+b.inside+" */").want(w.t, 200)
	w.post(u, "/api/settings/"+b.setting, quoted(b.inside)).want(w.t, 200)
	w.upload(u, "/upload/image", part{"image", b.input, b.inside}).want(w.t, 200)
	w.upload(u, "/upload/image", part{"image", b.temp, b.inside}, part{"type", "", "temp"}).want(w.t, 200)
	for _, id := range []string{b.ended, b.running, b.waiting} {
		w.post(u, "/prompt", `{"client_id":"tab","prompt_id":"`+id+`","prompt":`+graph(b.inside)+`,"extra_data":{"api_key_comfy_org":"key `+b.inside+`","extra_pnginfo":{"workflow":{"id":"`+b.wf+`","of":"`+b.inside+`"}}}}`).want(w.t, 200)
	}
	s := w.assign(u, b.ended).begin()
	s.say(comfy.Executing(b.inside, b.inside, b.ended))
	s.show(comfy.NewPreviewMetadata(comfy.PreviewMeta{NodeID: b.inside, PromptID: b.ended}, []byte(b.inside)))
	w.do(&files.PutOutputs{User: u, Prompt: b.ended, Worker: "gpu/0", Epoch: 1, Outputs: []files.NewOutput{{Item: "9/images/0", Area: files.Output, Name: b.output, Ref: w.put([]byte(b.inside)), Size: int64(len(b.inside))}}})
	s.done(b.output)
	playFrames(w.assign(u, b.running).begin(), b)
	return b
}

// playFrames has a job say its owner's canary in every kind of frame.
func playFrames(s *script, b belongings) {
	s.say(comfy.Executing(b.inside, b.inside, b.running))
	s.show(comfy.NewText(b.inside, b.inside))
	s.show(comfy.NewPreviewMetadata(comfy.PreviewMeta{NodeID: b.inside, PromptID: b.running}, []byte(b.inside)))
}

// shut is what a person had at hand before they were shut out: it must be worth
// nothing afterwards.
type shut struct{ session, token, ended, spent string }

// shutOut takes a person's sign-in away in every way there is.
func (w *world) shutOut(u cluster.User) (s shut) {
	w.t.Helper()
	s.session, s.ended = w.session(u), w.session(u)
	var err error
	if s.token, _, err = w.sign.NewToken(w.t.Context(), u, time.Hour); err != nil {
		w.t.Fatal(err)
	}
	if s.spent, _, err = w.sign.NewLink(w.t.Context(), u, time.Hour); err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.sign.Redeem(w.t.Context(), s.spent); err != nil {
		w.t.Fatal(err)
	}
	if err := w.sign.EndSession(w.t.Context(), s.ended, false); err != nil {
		w.t.Fatal(err)
	}
	w.do(&people.Disable{Name: u})
	return s
}

func (w *world) session(u cluster.User) string {
	w.t.Helper()
	b := w.browser()
	b.as(w.t.(*testing.T), u)
	return b.jar["comfyume"]
}

// wire is a request as it goes over the line.
func (a ask) wire(close bool) string {
	if a.method == "" {
		a.method = "GET"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: workshop.test\r\n", a.method, a.target)
	if close {
		b.WriteString("Connection: close\r\n")
	}
	for _, h := range append(a.header, authorization(a.user, a.pass)...) {
		b.WriteString(h + "\r\n")
	}
	if a.body != "" || a.method == "POST" || a.length > 0 {
		fmt.Fprintf(&b, "Content-Length: %d\r\n", max(len(a.body), a.length))
	}
	b.WriteString("\r\n" + a.body)
	return b.String()
}

// line is one connection on which requests of many people follow each other, as
// behind a proxy: what one of them leaves in a buffer must not reach the next.
type line struct {
	w    *world
	conn net.Conn
	r    *bufio.Reader
}

func (l *line) ask(a ask) (answer, error) {
	for tries := 0; ; tries++ {
		out, err := l.once(a)
		if err == nil || tries > 0 {
			return out, err
		}
		l.hangUp() // the door may close a line after any answer
	}
}

func (l *line) once(a ask) (answer, error) {
	if l.conn == nil {
		conn, err := net.Dial("tcp", l.w.addr)
		if err != nil {
			return answer{}, err
		}
		l.conn, l.r = conn, bufio.NewReader(conn)
	}
	if err := l.conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return answer{}, err
	}
	if _, err := io.WriteString(l.conn, a.wire(false)); err != nil {
		return answer{}, err
	}
	out, closed, err := readNext(l.r, a.method)
	if closed {
		l.hangUp()
	}
	return out, err
}

func (l *line) hangUp() {
	if l.conn != nil {
		_ = l.conn.Close() // the next request dials anew
		l.conn = nil
	}
}
