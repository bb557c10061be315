package gateway_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"testing"
)

// BenchmarkDoor asks for a file of the page and for an answer of the API, with the
// session of somebody who is signed in.
func BenchmarkDoor(b *testing.B) {
	w := open(b, options{visited: true})
	in := w.browser()
	in.signIn(string(ann), right+" of "+string(ann), "")
	for name, path := range map[string]string{"file": "/user001/assets/app-AbCd1234.js", "api": "/user001/api/system_stats"} {
		b.Run(name, func(b *testing.B) {
			conn, err := net.Dial("tcp", w.addr)
			if err != nil {
				b.Fatal(err)
			}
			defer conn.Close()
			r, ask := bufio.NewReader(conn), "GET "+path+" HTTP/1.1\r\nHost: workshop.test\r\nAccept-Encoding: gzip\r\nCookie: comfyume="+in.jar["comfyume"]+"\r\n\r\n"
			for b.Loop() {
				if _, err := io.WriteString(conn, ask); err != nil {
					b.Fatal(err)
				}
				resp, err := http.ReadResponse(r, nil)
				if err != nil || resp.StatusCode != 200 {
					b.Fatal(resp, err)
				}
				if _, err := io.Copy(io.Discard, resp.Body); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
