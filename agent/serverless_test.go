package agent

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// A container behind a platform: the probe is answered at once, and the request
// that keeps it up is open exactly as long as there is work.
func TestAutoscalerKillsARender(t *testing.T) { // predecessor, section 3: serverless
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var working atomic.Bool
	working.Store(true)
	r := &replica{ln: ln, joins: time.Second, rests: 300 * time.Millisecond, working: working.Load}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.run(ctx) }()
	defer func() { stop(); <-ended }()
	resp, err := http.Get("http://" + ln.Addr().String() + "/")
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatal(resp, err)
	}
	resp.Body.Close()

	var wanted atomic.Int64
	wanted.Store(3)
	w := &waker{target: "http://" + ln.Addr().String() + "/work", most: 2, wanted: func() int { return int(wanted.Load()) }, log: slog.New(slog.NewTextHandler(io.Discard, nil)), client: &http.Client{}}
	open := func() int { w.mu.Lock(); defer w.mu.Unlock(); return w.open }
	done := make(chan struct{})
	go func() { defer close(done); _ = w.run(ctx) }()
	defer func() { stop(); <-done }()
	until := func(what string, ok func() bool) {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s: not within 20 s; %d open", what, open())
			}
		}
	}
	until("two requests for three jobs, as two replicas are the most", func() bool { return open() == 2 })
	for began := time.Now(); time.Since(began) < 2*time.Second; time.Sleep(50 * time.Millisecond) {
		if open() != 2 {
			t.Fatal("a request ended while its replica worked")
		}
	}
	wanted.Store(0)
	working.Store(false)
	until("no request without work", func() bool { return open() == 0 })
}

func TestWakeCommandIsToldHowMany(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	n := 0
	w := &waker{target: "echo $COMFYUME_REPLICAS >> " + out, most: 4, wanted: func() int { return n }, log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	for _, n = range []int{0, 1, 1, 9, 0, 1} {
		w.look(t.Context(), nil)
	}
	raw, err := os.ReadFile(out)
	if got := strings.Fields(string(raw)); err != nil || strings.Join(got, " ") != "1 4 1" {
		t.Errorf("told %q, %v", got, err)
	}
}

// TestWakeCommandThatFailedIsRunAgain: nobody else would wake the GPU.
func TestWakeCommandThatFailedIsRunAgain(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	w := &waker{target: "echo $COMFYUME_REPLICAS >> " + out + "; exit 1", most: 4, wanted: func() int { return 1 }, log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	w.look(t.Context(), nil)
	w.look(t.Context(), nil) // too soon
	if left := time.Until(w.again); left <= 0 || left > wakeAfterFail {
		t.Errorf("told again in %s", left)
	}
	w.again = time.Now()
	w.look(t.Context(), nil)
	raw, err := os.ReadFile(out)
	if got := strings.Fields(string(raw)); err != nil || strings.Join(got, " ") != "1 1" {
		t.Errorf("told %q, %v", got, err)
	}
}
