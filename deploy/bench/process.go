//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// lab owns every child process and folder of a run.
type lab struct {
	dir     string
	self    string
	starts  chan startRequest // never closed: the goroutine that reads it ends with the process
	janitor io.Closer

	mu   sync.Mutex
	kids map[*child]bool
	next int
}

type startRequest struct {
	cmd  *exec.Cmd
	done chan error
}

// newLab makes a folder under parent and a janitor process that removes it
// even when this process is killed.
func newLab(parent string) (*lab, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find the own binary: %w", err)
	}
	dir, err := os.MkdirTemp(parent, "comfyume-bench-")
	if err != nil {
		return nil, fmt.Errorf("make the folder of the run: %w", err)
	}
	l := &lab{dir: dir, self: self, starts: make(chan startRequest), kids: map[*child]bool{}}
	go l.spawn()
	cmd := exec.Command(self, "janitor", dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a ^C at the terminal is not for it
	if l.janitor, err = cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("make the janitor's pipe: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the janitor: %w", err)
	}
	return l, nil
}

// spawn starts the children on one thread that lives as long as the process:
// Pdeathsig is sent when the thread that forked ends, not only the process.
func (l *lab) spawn() {
	runtime.LockOSThread()
	for r := range l.starts {
		r.done <- r.cmd.Start()
	}
}

// janitor waits until its parent is gone, then removes the folder.
func janitor(dir string) error {
	_, _ = io.Copy(io.Discard, os.Stdin)
	for range 50 { // servers that are dying may still be writing
		if os.RemoveAll(dir) == nil {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return os.RemoveAll(dir)
}

func (l *lab) close() error {
	l.mu.Lock()
	kids := l.kids
	l.kids = map[*child]bool{}
	l.mu.Unlock()
	for c := range kids {
		c.kill()
	}
	return errors.Join(os.RemoveAll(l.dir), l.janitor.Close())
}

// child is one server process with its folder.
type child struct {
	name string
	dir  string
	argv []string
	lab  *lab
	cmd  *exec.Cmd
	gone chan struct{} // closed when the process was waited for
}

// folder makes an empty folder for a server.
func (l *lab) folder(name string) (string, error) {
	l.mu.Lock()
	l.next++
	dir := filepath.Join(l.dir, fmt.Sprintf("%04d-%s", l.next, name))
	l.mu.Unlock()
	return dir, os.Mkdir(dir, 0o700)
}

// start runs argv as a server that dies with this process.
func (l *lab) start(name, dir string, argv ...string) (*child, error) {
	c := &child{name: name, dir: dir, argv: argv, lab: l}
	return c, c.run()
}

// startSelf runs this binary in another role with args as JSON.
func (l *lab) startSelf(role, dir string, args any) (*child, error) {
	b, err := json.Marshal(args)
	if err != nil {
		return nil, err
	}
	return l.start(role, dir, l.self, role, string(b))
}

func (c *child) run() error {
	out, err := os.OpenFile(c.logPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open the log of %s: %w", c.name, err)
	}
	defer func() { _ = out.Close() }()
	c.cmd = exec.Command(c.argv[0], c.argv[1:]...)
	c.cmd.Dir, c.cmd.Stdout, c.cmd.Stderr = c.dir, out, out
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	r := startRequest{c.cmd, make(chan error)}
	c.lab.starts <- r
	if err := <-r.done; err != nil {
		return fmt.Errorf("start %s: %w", c.name, err)
	}
	c.gone = make(chan struct{})
	go func(cmd *exec.Cmd, gone chan struct{}) {
		_ = cmd.Wait() // killed is how they all end
		close(gone)
	}(c.cmd, c.gone)
	c.lab.mu.Lock()
	c.lab.kids[c] = true
	c.lab.mu.Unlock()
	return nil
}

func (c *child) logPath() string { return c.dir + ".log" }

func (c *child) pid() int { return c.cmd.Process.Pid }

func (c *child) alive() bool {
	select {
	case <-c.gone:
		return false
	default:
		return true
	}
}

// kill sends SIGKILL and waits for the end.
func (c *child) kill() {
	_ = c.cmd.Process.Kill() // already ended is as good
	<-c.gone
}

// stop kills and removes what it left.
func stop(kids []*child) {
	for _, c := range kids {
		_ = c.cmd.Process.Kill() // all at once: none should see the others go
	}
	for _, c := range kids {
		c.kill()
		c.lab.mu.Lock()
		delete(c.lab.kids, c)
		c.lab.mu.Unlock()
		_ = os.RemoveAll(c.dir)
		_ = os.Remove(c.logPath())
	}
}

// explain adds the end of the servers' logs to an error of starting them.
func explain(err error, kids []*child) error {
	if err == nil {
		return nil
	}
	for _, c := range kids {
		b, _ := os.ReadFile(c.logPath())
		b = b[max(0, len(b)-600):]
		err = fmt.Errorf("%w\n  %s (alive=%v): %s", err, c.name, c.alive(), bytes.TrimSpace(b))
	}
	return err
}

// ports picks n free ports of 127.0.0.1. Another process could take one before
// our server does; the cell then fails and says so.
func ports(n int) ([]int, error) {
	var out []int
	var open []net.Listener
	for range n {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("find a free port: %w", err)
		}
		open = append(open, ln)
		out = append(out, ln.Addr().(*net.TCPAddr).Port)
	}
	for _, ln := range open {
		_ = ln.Close()
	}
	return out, nil
}

func loopback(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

// until calls f every few milliseconds until it returns nil or ctx ends.
func until(ctx context.Context, what string, f func(context.Context) error) error {
	for {
		try, cancel := context.WithTimeout(ctx, 2*time.Second)
		err := f(try)
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w (last: %w)", what, context.Cause(ctx), err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
