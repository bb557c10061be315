package world

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Options of a Node.
type Options struct {
	Name  string
	Roles string // as in --roles
	Args  []string
	// Disk, in bytes, gives the state folder a small disk of its own; 0 = none.
	Disk int64
}

// Node is one agent, running or not.
type Node struct {
	w    *World
	o    Options
	Name string
	Dir  string // state folder
	door string // HOST:PORT
	site string
	args []string
	env  []string
	wrap []string // a command to run the agent under
	addr netip.Addr

	mu      sync.Mutex
	cmd     *exec.Cmd
	exited  chan struct{} // closed when the process has ended
	killed  bool          // by us
	stopped bool          // SIGSTOP
	open    bool          // its site has answered since it was launched
	ended   string        // how it ended by itself
	mounted bool
	full    bool // its disk, see Full
	gone    bool // for good
}

// Has reports whether the node plays a role.
func (n *Node) Has(role string) bool { return slices.Contains(strings.Split(n.o.Roles, ","), role) }

// Core reports whether it holds the table.
func (n *Node) Core() bool { return n.Has("queue") || n.Has("gateway") }

// Votes reports whether it may vote.
func (n *Node) Votes() bool { return n.Has("queue") && !slices.Contains(n.o.Args, "--voter=never") }

// Door is the base URL at which participants come in.
func (n *Node) Door() string { return "http://" + n.door }

// LogPath is where the process prints to, over all its lives.
func (n *Node) LogPath() string { return filepath.Join(n.w.cfg.Root, n.Name+".log") }

// command is the agent's own, with its arguments.
func (n *Node) command() []string {
	args := append(slices.Clone(n.wrap), n.w.cfg.Binary, "--roles="+n.o.Roles, "--state-dir="+n.Dir, "--hostname="+n.Name, "--site-listen="+n.site, "--log-format=json", "--log-level=debug", "--grace=10s")
	if n.Has("gateway") {
		args = append(args, "--gateway-listen="+n.door)
	}
	if n.Has("gpu") {
		args = append(args, "--comfyui-url=sketch")
	}
	if n.w.cfg.Profile != "" {
		args = append(args, "--raft-profile="+n.w.cfg.Profile)
	}
	return append(append(args, n.args...), n.o.Args...)
}

// environment is ours without what steers this program, with the people.
func (n *Node) environment() (out []string) {
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "COMFYUME_") && !strings.HasPrefix(kv, "USER_CREDENTIALS_") || strings.HasPrefix(kv, "COMFYUME_WHEEL_DIR=") {
			out = append(out, kv)
		}
	}
	if dir, err := filepath.Abs("bin/wheels"); err == nil && os.Getenv("COMFYUME_WHEEL_DIR") == "" {
		out = append(out, "COMFYUME_WHEEL_DIR="+dir)
	}
	for name, pass := range n.w.cfg.Users {
		out = append(out, "USER_CREDENTIALS_"+strings.ToUpper(name)+"="+name+":"+pass)
	}
	out = append(out, "ADMIN_USERNAME="+Instructor, "ADMIN_PASSWORD="+InstructorPass)
	return append(out, n.env...)
}

// Launch starts the process; it does not wait until it is ready.
func (n *Node) Launch() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd != nil || n.gone {
		return nil
	}
	if n.o.Disk > 0 && !n.mounted {
		if err := smallDisk(n.Dir, n.o.Disk); err != nil {
			return err
		}
		n.mounted = true
	}
	log, err := os.OpenFile(n.LogPath(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("open the log of %s: %w", n.Name, err)
	}
	defer log.Close()
	args := n.command()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env, cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = n.environment(), log, log, attributes()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", n.Name, err)
	}
	exited := make(chan struct{})
	n.cmd, n.exited, n.killed, n.stopped, n.open = cmd, exited, false, false, false
	go func() {
		err := cmd.Wait()
		n.mu.Lock()
		if !n.killed {
			n.ended = fmt.Sprintf("ended by itself (%v)", err)
		}
		n.cmd, n.open = nil, false
		n.mu.Unlock()
		close(exited)
		n.w.changed()
	}()
	go n.awaitOpen(exited)
	return nil
}

// Kill ends the process as a power cut would, and waits for it.
func (n *Node) Kill() {
	n.mu.Lock()
	cmd, exited := n.cmd, n.exited
	n.killed = true
	n.mu.Unlock()
	if cmd == nil {
		return
	}
	_ = cmd.Process.Kill() // it may have ended just now
	<-exited
}

// Stop asks the process to end and waits for it.
func (n *Node) Stop(within time.Duration) error {
	n.mu.Lock()
	cmd, exited := n.cmd, n.exited
	n.killed = true
	n.mu.Unlock()
	if cmd == nil {
		return nil
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop %s: %w", n.Name, err)
	}
	select {
	case <-exited:
		return nil
	case <-time.After(within):
		return fmt.Errorf("%s did not stop within %s", n.Name, within)
	}
}

// dump ends the process with its goroutines in the log.
func (n *Node) dump() {
	n.mu.Lock()
	cmd, exited := n.cmd, n.exited
	n.killed = true
	n.mu.Unlock()
	if cmd == nil || cmd.Process.Signal(syscall.SIGQUIT) != nil {
		return
	}
	select {
	case <-exited:
	case <-time.After(3 * time.Second):
	}
}

// Freeze stops the process in its tracks until Thaw.
func (n *Node) Freeze() error { return n.freeze(true) }

// Thaw lets it go on.
func (n *Node) Thaw() error { return n.freeze(false) }

func (n *Node) freeze(on bool) error {
	n.mu.Lock()
	cmd := n.cmd
	if cmd == nil || n.stopped == on {
		n.mu.Unlock()
		return nil
	}
	sig := syscall.SIGCONT
	if on {
		sig = syscall.SIGSTOP
	}
	err := cmd.Process.Signal(sig)
	n.stopped = on && err == nil
	n.mu.Unlock()
	n.w.changed()
	return err
}

// Running reports whether the process runs, is not frozen, and has opened.
func (n *Node) Running() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.cmd != nil && !n.stopped && n.open
}

// Launched reports whether there is a process.
func (n *Node) Launched() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.cmd != nil
}

// PID of the process, 0 without one.
func (n *Node) PID() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd == nil {
		return 0
	}
	return n.cmd.Process.Pid
}

func (n *Node) endedWhy() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.ended
}

// Vanish ends a node for good, with its disk.
func (n *Node) Vanish() error {
	n.Kill()
	n.mu.Lock()
	n.gone = true
	n.mu.Unlock()
	return os.RemoveAll(n.Dir)
}

// Wipe empties the state folder of a node that does not run, except for who it
// is on the network: as after a reinstall with the tailnet identity restored.
func (n *Node) Wipe() error {
	entries, err := os.ReadDir(n.Dir)
	if err != nil {
		return fmt.Errorf("wipe %s: %w", n.Name, err)
	}
	for _, e := range entries {
		if e.Name() == "node-id" || e.Name() == "tailnet" {
			continue
		}
		err = errors.Join(err, os.RemoveAll(filepath.Join(n.Dir, e.Name())))
	}
	return err
}

// fillFile takes the space of a small disk.
const fillFile = "filled-by-chaos"

// Fill leaves a small disk with so many bytes, 0 = none at all.
func (n *Node) Fill(leave int64) error {
	free, err := freeOf(n.Dir)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(n.Dir, fillFile), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	chunk := make([]byte, 1<<20)
	for rest := free - leave; rest > 0 && err == nil; rest -= int64(len(chunk)) {
		_, err = f.Write(chunk[:min(rest, int64(len(chunk)))])
	}
	if errors.Is(err, syscall.ENOSPC) {
		err = nil
	}
	return errors.Join(err, f.Close())
}

// Unfill gives the space back.
func (n *Node) Unfill() error {
	err := os.Remove(filepath.Join(n.Dir, fillFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// registered reads a node's address in the hall.
func (n *Node) registered(hall string) (netip.Addr, error) {
	if n.addr.IsValid() {
		return n.addr, nil
	}
	id, err := os.ReadFile(filepath.Join(n.Dir, "node-id"))
	if err != nil {
		return netip.Addr{}, err
	}
	raw, err := os.ReadFile(filepath.Join(hall, strings.TrimSpace(string(id))+".node"))
	if err != nil {
		return netip.Addr{}, err
	}
	var r struct {
		Addr netip.Addr `json:"addr"`
	}
	if err := json.Unmarshal(raw, &r); err != nil {
		return netip.Addr{}, err
	}
	n.addr = r.Addr
	return r.Addr, nil
}
