package gateway_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/fasthttp/websocket"
	"github.com/google/go-cmp/cmp"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/files"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/cluster/models"
	"github.com/ahelme/comfyume/cluster/people"
	"github.com/ahelme/comfyume/roles/comfy"
)

// as is the same world for another test: a fuzz target may not use its parent's.
func (w *world) as(t testing.TB) *world {
	c := *w
	c.t = t
	return &c
}

// rows are the bytes of all tables.
func (w *world) rows() []byte {
	w.t.Helper()
	var all struct {
		Jobs   jobs.Snapshot
		Files  files.Snapshot
		People people.Snapshot
		Models models.Snapshot
	}
	w.machine.Jobs(func(t *jobs.Table) { all.Jobs = t.Snapshot() })
	w.machine.Files(func(t *files.Table) { all.Files = t.Snapshot() })
	w.machine.People(func(t *people.Table) { all.People = t.Snapshot() })
	w.machine.Models(func(t *models.Table) { all.Models = t.Snapshot() })
	raw, err := cluster.Marshal(all)
	if err != nil {
		w.t.Fatal(err)
	}
	return raw
}

// serverError reports a status that a request alone must never cause. Assets
// are off on purpose.
func serverError(a answer) bool {
	return a.status >= 500 && !strings.Contains(a.body, "SERVICE_DISABLED")
}

// FuzzPath: whatever stands in a request line, reading changes nothing, shows
// nothing of another user and is never a defect of ours.
func FuzzPath(f *testing.F) {
	base := open(f, options{visited: true})
	base.do(&files.PutDoc{User: bob, Path: "workflows/b.json", Data: []byte("canary of bob")})
	ref := base.put([]byte("canary of bob"))
	base.do(&files.PutInput{User: bob, Place: files.Place{Area: files.Input, Name: "canary of bob.png"}, Ref: ref, Size: 13})
	for _, s := range []string{
		"/", "", "*", "/..", "/../..", "//", "/user001", "/user001/", "/user002/", "/user001/../user002/", "/user001/%2e%2e/user002/api/history",
		"/%75ser002/", "/user001//user002/userdata?dir=workflows", "/userdata/..%2f..%2fb.json", "/userdata/%2e%2e%2Fx", "/userdata/%252e%252e%252fb.json",
		"/userdata/workflows%5Cb.json", "/userdata/a%00b", "/userdata/%", "/userdata/%zz", "/userdata?dir=..%2fuser002", "/userdata?dir=workflows&recurse=true&split=true",
		"/v2/userdata?path=../x", "/view?filename=..%2f..%2fx&type=output", "/view?filename=canary%20of%20bob.png&type=input&subfolder=..", "/view?filename=/etc/passwd",
		"/view?filename=x&type=nowhere", "/view?filename=a%20[input]", "/history?max_items=x", "/history?max_items=-5&offset=99999999999999999999", "/history/..", "/api/jobs?limit=-1&status=zzz",
		"/api/jobs/%2e%2e", "/object_info/%2e%2e", "/models/%2e%2e", "/internal/files/..", "/api/api/jobs", "/api", "/api/", "/assets/../index.html", "/assets/%2e%2e/index.html",
		"http://elsewhere/user002/", "http://elsewhere", "/settings/%2e%2e", "/api/workflow_templates/workshop/..%2fx", "/admin/", "/%61dmin/", "/\xff\xfe", "/user001;x/", "/?" + strings.Repeat("a=b&", 3000), strings.Repeat("/a", 5000),
	} {
		f.Add("GET", s)
	}
	f.Add("HEAD", "/object_info")
	f.Add("PUT", "/userdata/x")
	f.Add("OPTIONS", "/prompt")
	f.Add("PATCH", "/internal/logs/subscribe")
	before := base.rows()
	f.Fuzz(func(t *testing.T, method, target string) {
		w := base.as(t)
		switch method {
		case "GET", "HEAD", "PUT", "OPTIONS", "PATCH":
		default:
			return
		}
		if strings.ContainsAny(target, " \r\n\t") {
			return // the end of the request line
		}
		for _, u := range []cluster.User{"", ann} {
			a, err := w.tryAsk(ask{user: u, method: method, target: target})
			if err != nil {
				t.Fatalf("%s %q as %q: %v", method, target, u, err)
			}
			if serverError(a) {
				t.Errorf("%s %q as %q: %d %.200s", method, target, u, a.status, a.body)
			}
			if strings.Contains(a.body, "canary") {
				t.Errorf("%s %q as %q shows bob's: %.200s", method, target, u, a.body)
			}
		}
		if !bytes.Equal(before, w.rows()) {
			t.Errorf("%s %q changed the tables", method, target)
		}
	})
}

// FuzzPrompt: any body is refused in ComfyUI's shape or queued, and what was
// queued can be listed.
func FuzzPrompt(f *testing.F) {
	base := open(f, options{visited: true})
	for _, s := range []string{
		"", "{", "[]", "null", `{"prompt":{}}`, `{"prompt":null}`, `{"prompt":` + graph("x") + `}`, `{"prompt":` + graph("x") + `,"extra_data":null,"prompt_id":null,"client_id":null,"number":"x","front":[]}`,
		`{"prompt":` + graph("x") + `,"prompt_id":"A.b-c_1","number":-1e308,"front":true,"partial_execution_targets":["9"]}`,
		`{"prompt":` + graph("x") + `,"extra_data":{"create_time":"x","client_id":7,"extra_pnginfo":{"workflow":{"id":5}},"auth_token_comfy_org":"t"}}`,
		`{"prompt":` + graph("x") + `,"extra_data":{"a":NaN,"b":Infinity}}`, `{"prompt":` + graph("x") + `,"extra_data":[]}`, `{"prompt":` + graph("x") + `,"client_id":{"a":1}}`,
		`{"prompt":{"1":{"class_type":"OldName","inputs":{}}}}`, `{"prompt":{"1":{"class_type":"SaveImage","inputs":{"images":["1",0],"filename_prefix":"x"}}}}`,
		`{"prompt":{"1":{"class_type":"LoadImage","inputs":{"image":"../x [output]"}},"2":{"class_type":"SaveImage","inputs":{"images":["1",0],"filename_prefix":5}}}}`,
		"{\"prompt\":{\"\\ud800\":{\"class_type\":\"SaveImage\",\"inputs\":{\"images\":[\"1\",0],\"filename_prefix\":\"\xff\"}},\"1\":{\"class_type\":\"EmptyImage\",\"inputs\":{\"width\":1e400,\"color\":\"\\u0000\"}}}}",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		w := base.as(t)
		r, err := w.gw.Submit(t.Context(), ann, body)
		if err != nil {
			var refused *comfy.PromptError
			if !errors.As(err, &refused) && cluster.CodeOf(err) != cluster.TooLarge {
				t.Errorf("%q: %v", body, err)
			}
			if refused != nil && (refused.HTTPStatus() >= 500 || !json.Valid(refused.Encode())) {
				t.Errorf("%q: %d %s", body, refused.HTTPStatus(), refused.Encode())
			}
			return
		}
		for _, target := range []string{"/queue", "/api/jobs", "/api/jobs/" + r.PromptID} {
			if a := w.get(ann, target); a.status != 200 || !json.Valid([]byte(a.body)) {
				t.Errorf("%q: then %s answers %d %.300s", body, target, a.status, a.body)
			}
		}
		s := w.assign(ann, r.PromptID)
		for range jobs.MaxStrikes { // it ends in history without a worker's report
			w.do(&jobs.Requeue{Lease: s.lease, Strike: true, Reason: "gone"})
			if w.job(ann, r.PromptID).State == jobs.Pending {
				s = w.assign(ann, r.PromptID)
			}
		}
		if a := w.get(ann, "/history/"+r.PromptID); a.status != 200 || !json.Valid([]byte(a.body)) || !strings.Contains(a.body, r.PromptID) {
			t.Errorf("%q: then history answers %d %.300s", body, a.status, a.body)
		}
	})
}

// FuzzSettings: whatever is accepted, the page still loads its settings.
func FuzzSettings(f *testing.F) {
	base := open(f, options{visited: true})
	f.Add("/settings", []byte(`{"a":1,"b":{"c":[null]}}`))
	f.Add("/settings", []byte(`{"a":NaN}`))
	f.Add("/settings", []byte(`{"a":{"b":Infinity}}`))
	f.Add("/settings", []byte("{\"a\\u0000\":\"\xff\"}"))
	f.Add("/settings", []byte(`{"a":1,"a":2}`))
	f.Add("/settings", []byte(`{"":1}`))
	f.Add("/settings", []byte("{\"\xff\":1}"))
	f.Add("/settings", []byte(`{"\ud800":1}`))
	f.Add("/settings/a", []byte(`"x"`))
	f.Add("/settings/a", []byte(`NaN`))
	f.Add("/settings/a", []byte(` 1 `))
	f.Add("/settings/%ff", []byte(`1`))
	f.Fuzz(func(t *testing.T, target string, body []byte) {
		w := base.as(t)
		if !strings.HasPrefix(target, "/settings") || strings.ContainsAny(target, " \r\n\t") {
			return
		}
		if a := w.post(ann, target, string(body)); serverError(a) {
			t.Errorf("%q %q: %d %.200s", target, body, a.status, a.body)
		}
		if a := w.get(ann, "/settings"); a.status != 200 || !json.Valid([]byte(a.body)) {
			t.Errorf("after %q %q the settings answer %d %.200s", target, body, a.status, a.body)
		}
	})
}

// FuzzName: whatever a file of a user's is called, it is kept under that name or
// refused, and nothing of another user's is touched.
func FuzzName(f *testing.F) {
	base := open(f, options{visited: true})
	base.do(&files.PutDoc{User: bob, Path: "workflows/b.json", Data: []byte("canary of bob")})
	for _, s := range []string{"workflows/a.json", "../user002/workflows/b.json", "..", "a/../../user002/b", "a\\b", "a\x00b", "\xff", "%2e%2e/x", "50%.json", "a//b", "/a", "a/", "", "é ü (1).json", "\u202egnp.json", "con", strings.Repeat("a", 300), strings.Repeat("a/", 200), ".hidden", "comfy.settings.json"} {
		f.Add(s, "workflows/moved.json")
		f.Add("workflows/a.json", s)
	}
	bobs := func(w *world) (out []files.Doc) {
		w.machine.Files(func(t *files.Table) { out = t.Docs(bob, "") })
		return out
	}
	before := bobs(base)
	f.Fuzz(func(t *testing.T, name, dest string) {
		w := base.as(t)
		at := "/userdata/" + url.PathEscape(name)
		for _, q := range []ask{
			{method: "POST", target: at, body: "1"},
			{method: "GET", target: at},
			{method: "POST", target: at + "/move/" + url.PathEscape(dest)},
			{method: "GET", target: "/userdata/" + url.PathEscape(dest)},
			{method: "DELETE", target: at},
			{method: "DELETE", target: "/userdata/" + url.PathEscape(dest)},
			{method: "GET", target: "/v2/userdata?path=" + url.QueryEscape(name)},
			{method: "GET", target: "/userdata?recurse=true&dir=" + url.QueryEscape(name)},
			{method: "GET", target: "/view?type=input&filename=" + url.QueryEscape(name) + "&subfolder=" + url.QueryEscape(dest)},
		} {
			q.user = ann
			a := w.ask(q)
			if serverError(a) || strings.Contains(a.body, "canary") {
				t.Errorf("%s %s: %d %.200s", q.method, q.target, a.status, a.body)
			}
		}
		if d := cmp.Diff(before, bobs(w)); d != "" {
			t.Errorf("%q, %q: bob's files changed: %s", name, dest, d)
		}
	})
}

// FuzzUpload: a broken form is refused, never a defect of ours.
func FuzzUpload(f *testing.F) {
	base := open(f, options{visited: true})
	form := func(head, body string) []byte {
		return []byte("--b\r\nContent-Disposition: form-data; name=\"image\"; " + head + "\r\n\r\n" + body + "\r\n--b--\r\n")
	}
	f.Add("/upload/image", form(`filename="a.png"`, "x"))
	f.Add("/upload/image", form(`filename="../../a.png"`, "x"))
	f.Add("/upload/image", form(`filename="..\..\a.png"`, "x"))
	f.Add("/upload/image", form(`filename=".."`, "x"))
	f.Add("/upload/image", form("filename=\"a\x00.png\"", "x"))
	f.Add("/upload/image", form(`filename*=UTF-8''%2e%2e%2fa`, "x"))
	f.Add("/upload/image", []byte("--b\r\n\r\n"))
	f.Add("/upload/image", []byte{})
	f.Add("/upload/image", form("filename=\"\xff.png\"", "x"))
	f.Add("/upload/mask", form(`filename="a.png"`, "x"))
	f.Fuzz(func(t *testing.T, target string, body []byte) {
		w := base.as(t)
		if target != "/upload/image" && target != "/upload/mask" {
			return
		}
		a := w.ask(ask{user: ann, method: "POST", target: target, header: []string{"Content-Type: multipart/form-data; boundary=b"}, body: string(body)})
		if serverError(a) {
			t.Errorf("%s %q: %d %.200s", target, body, a.status, a.body)
		}
		if a.status != 200 {
			return
		}
		var p struct{ Name, Subfolder, Type string }
		a.json(t, &p)
		if strings.ContainsAny(p.Name, "/\\\x00") || strings.Contains(p.Subfolder, "..") || p.Name == ".." {
			t.Errorf("%q became %+v", body, p)
		}
	})
}

// FuzzRange: a partial answer is as long as it says and within the file.
func FuzzRange(f *testing.F) {
	base := open(f, options{visited: true})
	const size = 1000
	base.do(&files.PutInput{User: ann, Place: files.Place{Area: files.Input, Name: "v.mp4"}, Ref: base.put(bytes.Repeat([]byte("v"), size)), Size: size})
	for _, s := range []string{"bytes=0-", "bytes=0-0", "bytes=-1", "bytes=-0", "bytes=999-", "bytes=1000-", "bytes=5-2", "bytes=0-9999999999999999999", "bytes=a-b", "bytes=--1", "bytes=1-2,4-5", "items=0-1", "bytes= 1 - 2 ", "bytes=", "bytes=-9223372036854775808", "\x01"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, header string) {
		w := base.as(t)
		if strings.ContainsAny(header, "\r\n\x00") {
			return
		}
		a := w.ask(ask{user: ann, target: "/view?filename=v.mp4&type=input", header: []string{"Range: " + header}})
		var start, end, total int
		switch a.status {
		case 200:
			if len(a.body) != size {
				t.Errorf("%q: %d bytes", header, len(a.body))
			}
		case 206:
			n, err := fmt.Sscanf(a.header.Get("Content-Range"), "bytes %d-%d/%d", &start, &end, &total)
			if n != 3 || err != nil || start < 0 || end < start || end >= size || total != size || len(a.body) != end-start+1 {
				t.Errorf("%q: %q with %d bytes", header, a.header.Get("Content-Range"), len(a.body))
			}
		case 416, 400:
		default:
			t.Errorf("%q: %d", header, a.status)
		}
	})
}

// FuzzSocket: whatever a page says, it is answered or cut off, and the door
// lives.
func FuzzSocket(f *testing.F) {
	base := open(f, options{visited: true})
	f.Add(true, []byte(`{"type":"feature_flags","data":{"supports_preview_metadata":true}}`))
	f.Add(true, []byte(`{"type":"feature_flags","data":[1]}`))
	f.Add(true, []byte(`{"type":"feature_flags"}`))
	f.Add(true, []byte(`{"type":7}`))
	f.Add(true, []byte("\xff"))
	f.Add(false, []byte{0, 0, 0, 4})
	f.Add(true, bytes.Repeat([]byte("["), 100_000))
	f.Add(true, bytes.Repeat([]byte("x"), 2<<20))
	f.Fuzz(func(t *testing.T, text bool, said []byte) {
		w := base.as(t)
		conn, _, err := w.dial(ann, "/ws?clientId=tab")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		kind := websocket.BinaryMessage
		if text {
			kind = websocket.TextMessage
		}
		pong := false
		conn.SetPongHandler(func(string) error { pong = true; return errors.New("enough") })
		if conn.WriteMessage(kind, said) == nil {
			_ = conn.WriteControl(websocket.PingMessage, nil, time.Now().Add(time.Second))
		}
		for err == nil {
			_, _, err = conn.ReadMessage()
		}
		var timeout interface{ Timeout() bool }
		if !pong && errors.As(err, &timeout) && timeout.Timeout() {
			t.Errorf("%.100q: neither answered nor cut off: %v", said, err)
		}
	})
}
