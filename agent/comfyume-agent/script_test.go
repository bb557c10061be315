package main

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain lets the scripts run this very program as comfyume-agent.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"comfyume-agent": main})
}

// TestScripts runs the command line as people and scripts do: testdata/*.txt.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:      "testdata",
		Setup:    setup,
		Deadline: time.Now().Add(8 * time.Minute),
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"taken": taken,
			"up":    up,
			"code":  code,
			"until": until,
			"newer": newer,
		},
	})
}

// setup gives each script a home and a frontend of one page, so that no script
// needs a download.
func setup(e *testscript.Env) error {
	var buf bytes.Buffer
	z := zip.NewWriter(&buf)
	w, err := z.Create("comfyui_frontend_package/static/index.html")
	if err != nil {
		return err
	}
	if _, err := w.Write([]byte("<!doctype html><title>ComfyUI</title>")); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	wheel := filepath.Join(e.WorkDir, "comfyui_frontend_package-9.9.9-py3-none-any.whl")
	sum := sha256.Sum256(buf.Bytes())
	e.Setenv("HOME", e.WorkDir)
	e.Setenv("COMFYUME_FRONTEND_VERSION", "9.9.9")
	e.Setenv("COMFYUME_FRONTEND_WHEEL", wheel)
	e.Setenv("COMFYUME_FRONTEND_SHA256", hex.EncodeToString(sum[:]))
	return os.WriteFile(wheel, buf.Bytes(), 0o600)
}

// newer builds the agent of the next level, with one command more, and puts its
// path into $NEWER.
func newer(ts *testscript.TestScript, _ bool, _ []string) {
	bin := filepath.Join(ts.Getenv("WORK"), "comfyume-newer")
	cmd := exec.Command("go", "build", "-tags", "comfyume_nextlevel", "-ldflags", "-X main.version=9.9-next", "-o", bin, ".") //nolint:gosec // our own package
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	if err != nil {
		ts.Fatalf("build the next level: %v\n%s", err, out)
	}
	ts.Setenv("NEWER", bin)
}

// taken listens on a free port until the script ends and puts HOST:PORT into
// the named variable.
func taken(ts *testscript.TestScript, _ bool, args []string) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Defer(func() { _ = ln.Close() })
	ts.Setenv(args[0], ln.Addr().String())
}

// up waits until the agent of a state folder answers /healthz at all, with
// "up DIR ready" until it is ready and nothing is degraded.
func up(ts *testscript.TestScript, _ bool, args []string) {
	dir := ts.MkAbs(args[0])
	deadline := time.Now().Add(time.Minute)
	for time.Now().Before(deadline) {
		addr, err := os.ReadFile(filepath.Join(dir, "site"))
		if err == nil {
			r, err := http.Get("http://" + strings.TrimSpace(string(addr)) + "/healthz")
			if err == nil {
				body, err := io.ReadAll(r.Body)
				ts.Check(errors.Join(err, r.Body.Close()))
				if len(args) == 1 || bytes.Contains(body, []byte(`"ready":true,"degraded":[]`)) {
					return
				}
			}
		}
		<-time.After(20 * time.Millisecond)
	}
	ts.Fatalf("the agent of %s is not up after a minute", dir)
}

// until runs the program until its output matches: until '^state +running' job
// show ID.
func until(ts *testscript.TestScript, _ bool, args []string) {
	want, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	deadline := time.Now().Add(time.Minute)
	for {
		if ts.Exec("comfyume-agent", args[1:]...) == nil && want.MatchString(ts.ReadFile("stdout")) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%q is not said after a minute", args[0])
		}
		<-time.After(50 * time.Millisecond)
	}
}

// code runs the program and compares its exit code: code 4 status.
func code(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec("comfyume-agent", args[1:]...)
	got := "0"
	if err != nil {
		got = strings.TrimPrefix(err.Error(), "exit status ")
	}
	if got != args[0] {
		ts.Fatalf("exit code %s, want %s", got, args[0])
	}
}
