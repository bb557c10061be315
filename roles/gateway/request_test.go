package gateway_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/ahelme/comfyume/cluster"
)

// answer is what came back, whole.
type answer struct {
	status int
	header http.Header
	body   string
}

// ask is one request, written byte for byte: no client library gets to clean
// the path first.
type ask struct {
	user   cluster.User // "" = nobody
	pass   string       // "" = the right one
	method string
	target string // as it stands in the request line
	header []string
	body   string
	length int  // of the body as announced, when that is a lie; 0 = the truth
	waits  bool // for the answer instead of going away in the middle of the body
}

func (w *world) ask(a ask) answer {
	w.t.Helper()
	out, err := w.tryAsk(a)
	if err != nil {
		w.t.Fatalf("%s %s: %v", a.method, a.target, err)
	}
	return out
}

func (w *world) tryAsk(a ask) (answer, error) {
	conn, err := net.Dial("tcp", w.addr)
	if err != nil {
		return answer{}, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return answer{}, err
	}
	if _, err := io.WriteString(conn, a.wire(true)); err != nil {
		return answer{}, err
	}
	if a.length > len(a.body) && !a.waits { // the page went away in the middle
		if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
			return answer{}, err
		}
	}
	return readAnswer(conn, a.method)
}

func readAnswer(conn io.Reader, method string) (answer, error) {
	a, _, err := readNext(bufio.NewReader(conn), method)
	return a, err
}

// readNext reads one answer of a line; last says that there will be no other.
func readNext(r *bufio.Reader, method string) (a answer, last bool, err error) {
	resp, err := http.ReadResponse(r, &http.Request{Method: method})
	if err != nil {
		return answer{}, true, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, string(raw)}, resp.Close, err
}

// authorization is the header of a user; their password is their own.
func authorization(u cluster.User, pass string) []string {
	if u == "" {
		return nil
	}
	if pass == "" {
		pass = right + " of " + string(u)
	}
	return []string{"Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(string(u)+":"+pass))}
}

func (w *world) get(u cluster.User, target string) answer {
	w.t.Helper()
	return w.ask(ask{user: u, target: target})
}

func (w *world) post(u cluster.User, target, body string) answer {
	w.t.Helper()
	return w.ask(ask{user: u, method: "POST", target: target, body: body})
}

// want fails unless the status is the expected one, and returns the answer.
func (a answer) want(t testing.TB, status int) answer {
	t.Helper()
	if a.status != status {
		t.Errorf("status %d, want %d: %.300s", a.status, status, a.body)
	}
	return a
}

// json reads the body into v.
func (a answer) json(t testing.TB, v any) {
	t.Helper()
	raw := []byte(a.body)
	if a.header.Get("Content-Encoding") == "gzip" {
		z, err := gzip.NewReader(strings.NewReader(a.body))
		if err != nil {
			t.Fatal(err)
		}
		if raw, err = io.ReadAll(z); err != nil {
			t.Fatal(err)
		}
	}
	if err := json.Unmarshal(raw, v); err != nil {
		t.Fatalf("%v in %.300q", err, raw)
	}
}

// problem is ComfyUI's error shape, strictly: a page breaks on anything else.
type problem struct {
	Error struct {
		Type, Message, Details string
		ExtraInfo              json.RawMessage `json:"extra_info"`
	}
	NodeErrors map[string]json.RawMessage `json:"node_errors"`
}

func (a answer) problem(t testing.TB) problem {
	t.Helper()
	var p problem
	a.json(t, &p)
	if p.Error.Type == "" || p.Error.Message == "" || p.NodeErrors == nil {
		t.Errorf("not ComfyUI's error shape: %.300s", a.body)
	}
	return p
}

// graph is a prompt of core nodes; value makes two of them differ.
func graph(value string) string {
	return `{"1":{"class_type":"EmptyImage","inputs":{"width":64,"color":7}},"2":{"class_type":"Seeded","inputs":{"image":["1",0],"seed":18446744073709551615}},"9":{"class_type":"SaveImage","inputs":{"images":["2",0],"filename_prefix":` + quoted(value) + `}}}`
}

func quoted(s string) string {
	raw, err := json.Marshal(s)
	if err != nil {
		panic(err) // strings always encode
	}
	return string(raw)
}

// submit queues a graph and returns its prompt id.
func (w *world) submit(u cluster.User, client, id string) string {
	w.t.Helper()
	a := w.post(u, "/prompt", `{"client_id":`+quoted(client)+`,"prompt_id":`+quoted(id)+`,"prompt":`+graph(id)+`,"extra_data":{"extra_pnginfo":{"workflow":{"id":"wf-`+id+`"}}}}`)
	var r struct {
		PromptID string `json:"prompt_id"`
	}
	a.want(w.t, 200).json(w.t, &r)
	return r.PromptID
}

// part of an upload; name "" makes it a field.
type part struct{ field, name, data string }

func (w *world) upload(u cluster.User, target string, parts ...part) answer {
	w.t.Helper()
	body, kind := multipartOf(w.t, parts...)
	return w.ask(ask{user: u, method: "POST", target: target, header: []string{"Content-Type: " + kind}, body: body})
}

func multipartOf(t testing.TB, parts ...part) (body, contentType string) {
	t.Helper()
	var buf bytes.Buffer
	m := multipart.NewWriter(&buf)
	for _, p := range parts {
		f, err := m.CreateFormField(p.field)
		if p.name != "" {
			f, err = m.CreateFormFile(p.field, p.name)
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(f, p.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.String(), m.FormDataContentType()
}
