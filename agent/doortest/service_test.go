package doortest_test

import (
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ahelme/comfyume/agent/doortest"
)

// systemd is the socket of a service manager: what it was told, in order.
type systemd struct {
	path string
	mu   sync.Mutex
	told []string
	at   func(line string) // called for each line, in order
}

func listenAsSystemd(t *testing.T) *systemd {
	t.Helper()
	dir, err := os.MkdirTemp("", "sd") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	s := &systemd{path: filepath.Join(dir, "notify")}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: s.path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { _ = conn.Close(); <-done; _ = os.RemoveAll(dir) })
	go func() {
		defer close(done)
		buf := make([]byte, 4096)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			for line := range strings.SplitSeq(string(buf[:n]), "\n") {
				if s.at != nil {
					s.at(line)
				}
				s.mu.Lock()
				s.told = append(s.told, line)
				s.mu.Unlock()
			}
		}
	}()
	return s
}

func (s *systemd) heard() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.told)
}

func (s *systemd) count(line string) int {
	n := 0
	for _, l := range s.heard() {
		if l == line {
			n++
		}
	}
	return n
}

// TestSystemdIsTold: the agent says that it is ready when it is, that it is alive
// again and again and not while it stands still, and that it stops.
func TestSystemdIsTold(t *testing.T) {
	s := listenAsSystemd(t)
	door := make(chan string, 1)
	checked := make(chan bool, 1)
	s.at = func(line string) {
		if line != "READY=1" {
			return
		}
		// At this very moment people may be sent here.
		resp, err := http.Get(<-door + "/healthz")
		if err != nil {
			checked <- false
			return
		}
		defer resp.Body.Close()
		var h struct{ Ready bool }
		checked <- json.NewDecoder(resp.Body).Decode(&h) == nil && h.Ready
	}
	a := doortest.Start(t, doortest.Options{Env: []string{"NOTIFY_SOCKET=" + s.path, "WATCHDOG_USEC=2000000"}})
	door <- a.URL
	doortest.Until(t, 20*time.Second, "systemd is told READY=1", func() bool { return s.count("READY=1") == 1 })
	if !<-checked {
		t.Error("it said READY=1 and was not ready")
	}
	doortest.Until(t, 20*time.Second, "systemd is told WATCHDOG=1 five times", func() bool { return s.count("WATCHDOG=1") >= 5 })
	told := s.heard()
	if first := slices.Index(told, "WATCHDOG=1"); first < slices.Index(told, "READY=1") {
		t.Errorf("it was watched before it was ready: %q", told)
	}

	pid := a.PID()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	// What was on its way arrives; then there is silence for as long as systemd waits.
	quiet, since := s.count("WATCHDOG=1"), time.Now()
	doortest.Until(t, 20*time.Second, "it is silent for 2 s", func() bool {
		if n := s.count("WATCHDOG=1"); n != quiet {
			quiet, since = n, time.Now()
		}
		return time.Since(since) > 2*time.Second
	})
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	doortest.Until(t, 20*time.Second, "it is alive again", func() bool { return s.count("WATCHDOG=1") > quiet })

	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	doortest.Until(t, 20*time.Second, "it says that it stops", func() bool { return s.count("STOPPING=1") == 1 })
	a.Wait(t)
	told = s.heard()
	if rest := told[slices.Index(told, "STOPPING=1")+1:]; !slices.Equal(rest, []string{"STATUS=stopping"}) {
		t.Errorf("after STOPPING=1 it said %q", rest)
	}
	if s.count("READY=1") != 1 {
		t.Errorf("it said READY=1 %d times", s.count("READY=1"))
	}
}
