package gateway

import (
	"io"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ahelme/comfyume/roles/comfy"
)

// alone is a socket without a gateway, and its page's end of the line. A pipe
// takes a byte only when the other side reads it: a line cannot be slower.
func alone(t *testing.T) (s *sock, far net.Conn) {
	t.Helper()
	h := newHub(nil)
	var err error
	if h.pond, err = newPond(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.pond.close)
	near, far := net.Pipe()
	s = &sock{h: h, user: "ann", client: "tab", conn: near}
	s.heard.Store(time.Now().Unix())
	h.serving.Add(1)
	h.audience("ann").socks[s] = true
	t.Cleanup(func() { s.drop(); _ = far.Close(); h.serving.Wait() })
	return s, far
}

func (s *sock) isGone() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gone
}

// TestSilentPage: it is asked every 25 s, and gone after 70 s without an answer;
// one that answers stays.
func TestSilentPage(t *testing.T) {
	for _, answers := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			s, far := alone(t)
			go s.listen()
			pings := 0
			go func() {
				var b [2]byte
				for {
					if _, err := io.ReadFull(far, b[:]); err != nil || b != [2]byte{0x89, 0} {
						return
					}
					pings++
					if answers {
						_, _ = far.Write(fromClient(0x8a, ""))
					}
				}
			}()
			for range 18 {
				time.Sleep(lookEvery)
				s.look(time.Now())
			}
			synctest.Wait()
			if s.isGone() == answers || pings < 2 || pings > 3 {
				t.Errorf("answers %v: gone %v after 90 s and %d pings", answers, s.isGone(), pings)
			}
		})
	}
}

// TestSlowLine: a line that takes something every few seconds gets a large result
// whole, however long that takes. One that takes nothing is cut off.
func TestSlowLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, far := alone(t)
		picture := make([]byte, 1<<20)
		s.enqueue(frame{op: opBinary, data: picture})
		begin, n := time.Now(), 0
		buf := make([]byte, pieceSize)
		for n < len(picture) {
			time.Sleep(10 * time.Second)
			m, err := far.Read(buf)
			if err != nil {
				t.Fatalf("cut off after %d bytes and %s: %v", n, time.Since(begin), err)
			}
			n += m
		}
		if time.Since(begin) < 10*writeWithin {
			t.Errorf("it took only %s: nothing was slow here", time.Since(begin))
		}
	})
	synctest.Test(t, func(t *testing.T) {
		s, _ := alone(t)
		s.send(comfy.Status(0, "tab"))
		time.Sleep(writeWithin - time.Second)
		if s.isGone() {
			t.Error("cut off too early")
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if !s.isGone() {
			t.Error("it holds on to a line that takes nothing")
		}
	})
}

// TestFarewellWaitsForTheLine: a page that is closed while something is being
// written to it hears why, and nothing that waited; one that takes nothing is
// closed all the same.
func TestFarewellWaitsForTheLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, far := alone(t)
		s.enqueue(frame{op: opText, data: []byte("one")})
		synctest.Wait() // it is being written
		s.enqueue(frame{op: opText, data: []byte("two")})
		s.bye(closePolicy, "sign in again")
		got, err := io.ReadAll(far)
		want := "\x81\x03one" + "\x88\x0f\x03\xf0sign in again"
		if string(got) != want {
			t.Errorf("the page hears %q (%v), want %q", got, err, want)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		s, far := alone(t)
		s.enqueue(frame{op: opText, data: []byte("one")})
		synctest.Wait()
		s.bye(closePolicy, "sign in again")
		time.Sleep(byeWithin)
		synctest.Wait()
		if _, err := far.Read(make([]byte, 1)); err == nil {
			t.Error("it is still open")
		}
	})
}

// TestCrowdedLine: of what a slow page may miss it gets the newest, in order with
// all the rest.
func TestCrowdedLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, far := alone(t)
		text := func(name string) { s.enqueue(frame{op: opText, data: []byte(name)}) }
		text("in the way")
		synctest.Wait() // it is being written
		for i := range softQueue {
			text(string(rune('a' + i)))
		}
		for _, f := range []frame{
			{op: opBinary, lane: previewLane, prompt: "p", data: []byte("preview 1")},
			{op: opText, data: []byte("executing")},
			{op: opBinary, lane: previewLane, prompt: "q", data: []byte("other job")},
			{op: opText, lane: stateLane, prompt: "p", data: []byte("state 1")},
			{op: opBinary, lane: previewLane, prompt: "p", data: []byte("preview 2")},
			{op: opBinary, data: []byte("a result")},
			{op: opText, lane: stateLane, prompt: "p", data: []byte("state 2")},
		} {
			s.enqueue(f)
		}
		text("end")
		var read []string
		for len(read) == 0 || read[len(read)-1] != "end" {
			var h [2]byte
			if _, err := io.ReadFull(far, h[:]); err != nil {
				t.Fatal(err)
			}
			b := make([]byte, h[1])
			if _, err := io.ReadFull(far, b); err != nil {
				t.Fatal(err)
			}
			read = append(read, string(b))
		}
		want := []string{"executing", "other job", "preview 2", "a result", "state 2", "end"}
		if tail := read[len(read)-len(want):]; !slices.Equal(tail, want) {
			t.Errorf("read %q", tail)
		}
		synctest.Wait()
		if n := s.backlog(); n != 0 {
			t.Errorf("%d bytes are said to wait", n)
		}
	})
}
