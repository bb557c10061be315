package gateway_test

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"runtime/pprof"
	"strings"
	"testing"
	"time"

	"github.com/ahelme/comfyume/roles/comfy"
)

// TestFirstWordWithTheHandshake: what a client sends before it has read the
// answer to its handshake counts.
func TestFirstWordWithTheHandshake(t *testing.T) {
	w := open(t, options{visited: true})
	conn, err := net.Dial("tcp", w.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	said := append([]byte{0x81, 0x80 | 126, 0, byte(len(stockFlags)), 0, 0, 0, 0}, stockFlags...) // masked with zeros
	request := "GET /ws?clientId=early HTTP/1.1\r\nHost: " + w.addr + "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" +
		"Sec-WebSocket-Key: " + base64.StdEncoding.EncodeToString(make([]byte, 16)) + "\r\n" + strings.Join(authorization(ann, ""), "\r\n") + "\r\n\r\n"
	if _, err := conn.Write(append([]byte(request), said...)); err != nil {
		t.Fatal(err)
	}
	var seen bytes.Buffer
	for !strings.Contains(seen.String(), comfy.TypeFeatureFlags) {
		if _, err := io.CopyN(&seen, conn, 1); err != nil {
			t.Fatalf("%v after %q", err, seen.String())
		}
	}
	if s := seen.String(); !strings.HasPrefix(s, "HTTP/1.1 101 ") || !strings.Contains(s, `"sid":"early"`) {
		t.Errorf("heard %q", s)
	}
}

// TestIdlePagesHaveNoGoroutines: a page that is silent costs a few hundred bytes.
func TestIdlePagesHaveNoGoroutines(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("silent sockets wait in one place on Linux only")
	}
	w := open(t, options{visited: true})
	for i := range 50 {
		w.stock(ann, fmt.Sprint("tab", i))
	}
	w.until("no goroutine serves a socket", func() bool {
		var all bytes.Buffer
		if err := pprof.Lookup("goroutine").WriteTo(&all, 2); err != nil {
			t.Fatal(err)
		}
		return !strings.Contains(all.String(), "gateway.(*sock)") && !strings.Contains(all.String(), "gateway.(*pond).serve")
	})
	if n := w.gw.Sockets()[ann]; n != 50 {
		t.Errorf("%d pages are there", n)
	}
}

// TestTooManySockets: one user cannot fill the memory with sockets.
func TestTooManySockets(t *testing.T) {
	w := open(t, options{visited: true})
	for range 1000 {
		conn, _, err := w.dial(ann, "/ws")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	w.until("all are there", func() bool { return w.gw.Sockets()[ann] == 1000 })
	_, resp, err := w.dial(ann, "/ws")
	if err == nil || resp == nil || resp.StatusCode != http.StatusTooManyRequests {
		t.Errorf("one more: %v %v", resp, err)
	}
	w.page(bob, "tab1")
}
