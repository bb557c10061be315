package gateway_test

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// A page that is closed, or a net that breaks, in the middle of a save must not
// leave half a workflow in the place of a whole one.
func TestSaveThatBreaksOffChangesNothing(t *testing.T) {
	w := open(t, options{visited: true})
	whole := `{"nodes":["` + strings.Repeat("x", 20<<10) + `"]}`
	w.post(ann, "/api/userdata/workflows%2Fa.json?overwrite=true", whole).want(t, 200)
	before := w.log.commits()
	for _, a := range []ask{
		{method: "POST", target: "/api/userdata/workflows%2Fa.json?overwrite=true", body: whole[:100]},
		{method: "POST", target: "/api/userdata/workflows%2Fa.json?overwrite=true", body: whole[:10<<10]},
		{method: "POST", target: "/api/settings/Comfy.Locale", body: "12"},
		{method: "POST", target: "/api/prompt", body: `{"prompt":` + graph("a") + `}`},
		{method: "POST", target: "/api/history", body: `{"clear":true}`},
		{method: "POST", target: "/api/queue", body: `{"clear":true}`},
	} {
		a.user, a.length = ann, len(whole)
		if got, err := w.tryAsk(a); err == nil && got.status < 400 {
			t.Errorf("%s with a body that broke off: status %d", a.target, got.status)
		}
	}
	body, kind := multipartOf(t, part{"image", "a.png", whole})
	if got, err := w.tryAsk(ask{user: ann, method: "POST", target: "/upload/image", header: []string{"Content-Type: " + kind}, body: body[:len(body)/2], length: len(body)}); err == nil && got.status < 400 {
		t.Errorf("an upload that broke off: status %d", got.status)
	}
	if n := w.log.commits(); n != before {
		t.Errorf("%d requests that broke off were committed", n-before)
	}
	if a := w.get(ann, "/api/userdata/workflows%2Fa.json").want(t, 200); a.body != whole {
		t.Errorf("the workflow is %d bytes now, was %d", len(a.body), len(whole))
	}
}

// A body without a length is read no further than one with a length.
func TestEndlessBody(t *testing.T) {
	w := open(t, options{visited: true, maxBody: 1 << 20, maxUpload: 2 << 20})
	for _, target := range []string{"/prompt", "/api/userdata/a.json", "/settings", "/interrupt", "/upload/image"} {
		conn, err := net.Dial("tcp", w.addr)
		if err != nil {
			t.Fatal(err)
		}
		if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: workshop.test\r\n%s\r\nTransfer-Encoding: chunked\r\nContent-Type: multipart/form-data; boundary=b\r\n\r\n", target, authorization(ann, "")[0])
		first := "--b\r\nContent-Disposition: form-data; name=\"image\"; filename=\"a.png\"\r\n\r\n"
		fmt.Fprintf(conn, "%x\r\n%s\r\n", len(first), first)
		chunk := fmt.Sprintf("%x\r\n%s\r\n", 64<<10, strings.Repeat("x", 64<<10))
		sent := 0
		done := make(chan error, 1)
		go func() {
			for ; sent < 64<<20; sent += 64 << 10 {
				if _, err := io.WriteString(conn, chunk); err != nil {
					break
				}
			}
			done <- nil
		}()
		a, err := readAnswer(conn, "POST")
		_ = conn.Close()
		<-done
		// A sender that does not listen may lose the answer to a reset; what counts is that it was cut off.
		if err == nil && a.status != 413 {
			t.Errorf("%s: status %d %.200s", target, a.status, a.body)
		}
		if sent >= 64<<20 {
			t.Errorf("%s: %d MB were taken", target, sent>>20)
		}
	}
}

// A large document is kept as a blob and comes back as it was.
func TestLargeDocument(t *testing.T) {
	w := open(t, options{visited: true})
	large := `{"x":"` + strings.Repeat("0123456789", 60<<10) + `"}`
	w.post(ann, "/api/userdata/workflows%2Flarge.json", large).want(t, 200)
	if a := w.get(ann, "/api/userdata/workflows%2Flarge.json").want(t, 200); a.body != large {
		t.Errorf("%d bytes came back of %d", len(a.body), len(large))
	}
	w.post(ann, "/api/userdata/workflows%2Flarge.json/move/workflows%2Fl2.json", "").want(t, 200)
	if a := w.get(ann, "/api/userdata/workflows%2Fl2.json").want(t, 200); a.body != large {
		t.Errorf("after the move %d bytes of %d", len(a.body), len(large))
	}
}
