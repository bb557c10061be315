// Package doortest drives the built agent from outside, as its users do: a
// process, a port, HTTP and a WebSocket. It promises that nothing in it shares
// code with the agent, so a mistake cannot cancel itself out. It is for tests.
package doortest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// Options of an agent under test.
type Options struct {
	StateDir string   // "" = a fresh folder
	Args     []string // after --dev --state-dir --gateway-listen --site-listen
	Env      []string // beside the two users below
	Wrap     []string // a command to run the binary under (an emulator)
	Binary   string   // "" = Binary(t)
	TLS      bool     // Args give the door a certificate, which http.DefaultClient trusts
	// Roles makes it one node of several instead of a whole workshop: "queue,gateway".
	// The nodes of one test share a Hall, a folder, and have a Name each.
	Roles, Hall, Name string
}

// Users who may sign in at every agent that Start starts.
var credentials = map[string]string{"user001": "secret-one", "user002": "secret-two"}

// Agent is a running comfyume-agent process.
type Agent struct {
	URL      string
	StateDir string
	opts     Options
	cmd      *exec.Cmd
	exited   chan struct{}
	mu       sync.Mutex
	output   bytes.Buffer
}

var build struct {
	sync.Once
	path string
	err  error
}

// Binary is the agent to test: $COMFYUME_AGENT_BIN, or one built now.
func Binary(t testing.TB) string {
	t.Helper()
	if bin := os.Getenv("COMFYUME_AGENT_BIN"); bin != "" {
		abs, err := filepath.Abs(bin)
		if err != nil {
			t.Fatal(err)
		}
		return abs
	}
	build.Do(func() {
		dir, err := os.MkdirTemp("", "comfyume-agent-test-")
		if err != nil {
			build.err = err
			return
		}
		build.path = filepath.Join(dir, "comfyume-agent")
		cmd := exec.Command("go", "build", "-o", build.path, "github.com/ahelme/comfyume/agent/comfyume-agent")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			build.err = fmt.Errorf("build the agent: %w\n%s", err, out)
		}
	})
	if build.err != nil {
		t.Fatal(build.err)
	}
	return build.path
}

// Start runs an agent and waits until its door, if it has one, says that it is
// ready.
func Start(t testing.TB, o Options) *Agent {
	t.Helper()
	if o.StateDir == "" {
		o.StateDir = t.TempDir()
	}
	if o.Binary == "" {
		o.Binary = Binary(t)
	}
	a := &Agent{opts: o, StateDir: o.StateDir, URL: "http://" + FreeAddr(t)}
	if o.TLS {
		a.URL = strings.Replace(a.URL, "http://", "https://", 1)
	}
	t.Cleanup(func() {
		a.Kill()
		if t.Failed() {
			t.Logf("the agent said:\n%s", a.Output())
		}
	})
	a.Launch(t)
	if a.hasDoor() {
		a.Ready(t, 3*time.Minute) // a frontend is unpacked first, and the machine may be busy
	}
	return a
}

// Hall is a folder in which the nodes of one test find each other.
func Hall(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "hall")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

func (a *Agent) hasDoor() bool {
	return a.opts.Roles == "" || strings.Contains(a.opts.Roles, "gateway")
}

// role is what the process is told to be.
func (a *Agent) role() (args, env []string) {
	if a.opts.Roles == "" {
		return []string{"--dev"}, nil
	}
	return []string{"--roles=" + a.opts.Roles, "--hostname=" + a.opts.Name}, []string{"COMFYUME_NETWORK=loopback", "COMFYUME_LOOPBACK_DIR=" + a.opts.Hall}
}

// Launch starts the process without waiting for it to be ready.
func (a *Agent) Launch(t testing.TB) {
	t.Helper()
	role, env := a.role()
	args := append(append([]string{}, a.opts.Wrap...), a.opts.Binary, "--state-dir", a.StateDir, "--site-listen", FreeAddr(t))
	args = append(args, role...)
	if a.hasDoor() {
		args = append(args, "--gateway-listen", a.URL[strings.Index(a.URL, "//")+2:])
	}
	args = append(args, a.opts.Args...)
	a.cmd = exec.Command(args[0], args[1:]...)
	a.cmd.Env = append(environment(), "USER_CREDENTIALS_USER001=user001:"+credentials["user001"], "USER_CREDENTIALS_USER002=user002:"+credentials["user002"])
	a.cmd.Env = append(a.cmd.Env, "ADMIN_USERNAME=admin", "ADMIN_PASSWORD=secret-admin")
	a.cmd.Env = append(append(a.cmd.Env, env...), a.opts.Env...)
	a.cmd.Stdout, a.cmd.Stderr = writer{a}, writer{a}
	if err := a.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	a.exited = exited
	cmd := a.cmd
	go func() { _ = cmd.Wait(); close(exited) }()
}

// environment is ours without the keys that steer tests: the agent refuses a
// COMFYUME_ key that it does not know.
func environment() (out []string) {
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "COMFYUME_") || strings.HasPrefix(kv, "COMFYUME_WHEEL_DIR=") {
			out = append(out, kv)
		}
	}
	return out
}

// Ready waits until /healthz at the door says so.
func (a *Agent) Ready(t testing.TB, within time.Duration) {
	t.Helper()
	Until(t, within, "the door is ready", func() bool {
		select {
		case <-a.exited:
			t.Fatalf("the agent ended:\n%s", a.Output())
		default:
		}
		resp, err := http.Get(a.URL + "/healthz")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		var h struct{ Ready bool }
		return json.NewDecoder(resp.Body).Decode(&h) == nil && h.Ready
	})
}

// Kill ends the process as a power cut would, and waits for it.
func (a *Agent) Kill() {
	if a.cmd == nil || a.cmd.Process == nil {
		return
	}
	_ = a.cmd.Process.Kill()
	<-a.exited
}

// Stop asks the process to end and returns how long it took.
func (a *Agent) Stop(t testing.TB) time.Duration {
	t.Helper()
	begin := time.Now()
	if err := a.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	a.Wait(t)
	return time.Since(begin)
}

// Wait waits until the process has ended.
func (a *Agent) Wait(t testing.TB) {
	t.Helper()
	select {
	case <-a.exited:
	case <-time.After(60 * time.Second):
		t.Fatal("the agent did not stop within 60 s")
	}
}

// PID of the process (of the wrapper, if there is one).
func (a *Agent) PID() int { return a.cmd.Process.Pid }

// Output is what the process has printed.
func (a *Agent) Output() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.output.String()
}

type writer struct{ a *Agent }

func (w writer) Write(p []byte) (int, error) {
	w.a.mu.Lock()
	defer w.a.mu.Unlock()
	return w.a.output.Write(p)
}

// FreeAddr is a loopback address that nobody listens on now.
func FreeAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// Until waits for a condition and fails the test when it does not come.
func Until(t testing.TB, within time.Duration, what string, cond func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("after %s it is still not so that %s", within, what)
		}
	}
}

// Client is one signed-in user with the base URL of their ComfyUI.
type Client struct {
	Base string // without a slash at the end
	User string // "" = nobody
	Pass string
}

// Client of a user at their own prefix.
func (a *Agent) Client(user string) *Client {
	return &Client{Base: a.URL + "/" + user, User: user, Pass: credentials[user]}
}

// Do sends a request and returns the answer with its body read.
func (c *Client) Do(method, path string, body any, header ...string) (int, http.Header, []byte, error) {
	var r io.Reader
	switch b := body.(type) {
	case nil:
	case []byte:
		r = bytes.NewReader(b)
	case string:
		r = strings.NewReader(b)
	default:
		raw, err := json.Marshal(b)
		if err != nil {
			return 0, nil, nil, err
		}
		r = bytes.NewReader(raw)
	}
	req, err := http.NewRequest(method, c.Base+path, r)
	if err != nil {
		return 0, nil, nil, err
	}
	if c.User != "" {
		req.SetBasicAuth(c.User, c.Pass)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, nil, err
	}
	var raw bytes.Buffer
	raw.Grow(int(max(0, resp.ContentLength)) + bytes.MinRead) // growing with what comes would be measured as the door's
	_, err = raw.ReadFrom(resp.Body)
	return resp.StatusCode, resp.Header, raw.Bytes(), errors.Join(err, resp.Body.Close())
}

// JSON sends a request that must be answered 200 and reads the answer into v.
func (c *Client) JSON(t testing.TB, method, path string, body, v any) {
	t.Helper()
	code, _, raw, err := c.Do(method, path, body)
	if err != nil || code != http.StatusOK {
		t.Fatalf("%s %s answered %d, %v: %.300s", method, path, code, err, raw)
	}
	if v == nil {
		return
	}
	if err := json.Unmarshal(raw, v); err != nil {
		t.Fatalf("%s %s: %v: %.300s", method, path, err, raw)
	}
}
