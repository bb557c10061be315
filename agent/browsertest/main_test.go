package browsertest_test

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/ahelme/comfyume/agent/browsertest"
	"github.com/ahelme/comfyume/agent/doortest"
)

// usual is the version where a test is not about versions: what agents serve unless told otherwise.
const usual = "1.37.11"

// frontends are the builds that the door must serve: an older one, the default, one of the first that ask for /jobs, and a
// recent one.
var frontends = []string{"1.27.10", usual, "1.45.21", "1.58.1"}

// unpacked is one folder in which the agents of these tests unpack frontends: each takes seconds of a CPU.
var unpacked struct {
	sync.Mutex
	dir string
}

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "frontends-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	unpacked.dir = dir
	code := m.Run()
	browsertest.Finish()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// start runs an agent that serves a version of the frontend.
func start(t *testing.T, version string, args ...string) *doortest.Agent {
	t.Helper()
	browsertest.Require(t)
	unpacked.Lock() // two must not unpack the same frontend at once
	defer unpacked.Unlock()
	state := t.TempDir()
	if err := os.Symlink(unpacked.dir, filepath.Join(state, "frontend")); err != nil {
		t.Fatal(err)
	}
	return doortest.Start(t, doortest.Options{StateDir: state, Args: append([]string{"--frontend-version", version}, args...)})
}

// visit opens the door as one user, at their prefix or at the root, and signs in there.
func visit(t *testing.T, a *doortest.Agent, user, mode, version string, b *browsertest.Browser) *browsertest.Page {
	t.Helper()
	address := a.URL + "/login?next=%2F"
	if mode == "prefix" {
		address = a.URL + "/" + user + "/"
	}
	p := browsertest.Open(t, browsertest.Options{
		URL: address, User: user, Password: a.Client(user).Pass, FrontendLabel: version + " " + mode, Browser: b,
	})
	p.WaitAppReady()
	return p
}

// judge compares what the visit complained about with the same frontend's visit to a real ComfyUI.
func judge(t *testing.T, p *browsertest.Page, version string) int {
	t.Helper()
	p.WaitSettled()
	b, err := browsertest.ReadBaseline(filepath.Join("..", "testdata", "baseline", version+".json"))
	if err != nil {
		t.Fatal(err)
	}
	excess := b.Excess(p.Failures(), p.ConsoleErrors())
	for _, e := range excess {
		t.Error(e)
	}
	if len(excess) > 0 {
		p.Explain()
	}
	return len(excess)
}

// keep takes a screenshot when somebody wants to look at one.
func keep(p *browsertest.Page, name string) {
	if dir := os.Getenv("COMFYUME_SCREENSHOTS"); dir != "" {
		p.Screenshot(filepath.Join(dir, name+".png"))
	}
}
