package comfyui

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/ahelme/comfyume/roles/comfy"
)

// Phase is what a process is doing.
type Phase string

// The phases.
const (
	Booting   Phase = "booting"
	Importing Phase = "importing nodes"
	Ready     Phase = "ready"
	Again     Phase = "starting again" // it has ended and is started after a pause
	Looping   Phase = "crash loop"     // it ends again and again; still tried, once a minute
	Stopping  Phase = "stopping"
	Stopped   Phase = "stopped" // by a person
)

// State is a process at a moment, for pages.
type State struct {
	Phase   Phase
	Since   time.Time
	Problem string // why it does not run, in a sentence
	PID     int    // 0 = it does not run
	Starts  int    // since this agent began
	// Lacks are custom nodes that could not be imported; the rest works.
	Lacks []string
	// Unlisted says that model files are not found by ComfyUI.
	Unlisted string
}

// Config of a Process.
type Config struct {
	Name      string // for logs
	Dir       string // ComfyUI's folder, with main.py. Required
	Python    string // "" = the folder's own venv, else python3
	Args      []string
	Port      int      // on 127.0.0.1. Required
	Work      string   // this process's own inputs, outputs and temporary files. Required
	ModelDirs []string // folders with checkpoints/, loras/ and so on
	Env       []string // KEY=value; no secrets of the agent's
	Account   Account
	// Busy reports whether a job is there: then a silent ComfyUI is left alone.
	Busy   func() bool
	Logger *slog.Logger // nil discards
	Pace   Pace
}

// Pace is how long a process is waited for. A zero field has the standard value.
type Pace struct {
	Probe    time.Duration // between two looks whether it answers: 0.3 s, later 5 s
	Patience time.Duration // a start may print nothing for so long: 10 min
	Deaf     time.Duration // a ready ComfyUI without a job may be silent for so long: 2 min
	Polite   time.Duration // between SIGTERM and SIGKILL: 5 s
	Backoff  time.Duration // the first pause before a start: 0.5 s, doubled up to 1 min
	Steady   time.Duration // ready for so long, it counts as well: 1 min
}

func (p *Pace) fill() {
	for _, f := range []struct {
		value    *time.Duration
		standard time.Duration
	}{
		{&p.Probe, 300 * time.Millisecond},
		{&p.Patience, 10 * time.Minute},
		{&p.Deaf, 2 * time.Minute},
		{&p.Polite, 5 * time.Second},
		{&p.Backoff, 500 * time.Millisecond},
		{&p.Steady, time.Minute},
	} {
		if *f.value == 0 {
			*f.value = f.standard
		}
	}
}

// What makes a crash loop: so many ends in so long a time, none after a steady run.
const (
	loopEnds   = 4
	loopWithin = 10 * time.Minute
	maxPause   = time.Minute
)

// Process is one ComfyUI. All methods but Run may be called at any time.
type Process struct {
	cfg    Config
	log    *slog.Logger
	client *comfy.Client
	out    ring

	mu     sync.Mutex
	state  State
	wanted bool
	end    context.CancelCauseFunc // of the run that is on; nil when none is
	spoke  time.Time               // when it last printed something
	ends   []time.Time             // of runs that were not steady
	kick   chan struct{}           // one token: do not wait any longer
}

// New checks the configuration. Nothing is started before Run.
func New(cfg Config) (*Process, error) {
	if cfg.Dir == "" || cfg.Port == 0 || cfg.Work == "" {
		return nil, errors.New("start ComfyUI: a folder, a port and a working folder are needed")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Busy == nil {
		cfg.Busy = func() bool { return false }
	}
	cfg.Pace.fill()
	if cfg.Python == "" {
		cfg.Python = findPython(cfg.Dir)
	}
	p := &Process{cfg: cfg, log: cfg.Logger.With("component", "comfyui", "worker", cfg.Name), wanted: true, kick: make(chan struct{}, 1)}
	var err error
	if p.client, err = comfy.NewClient(comfy.ClientConfig{BaseURL: p.URL()}); err != nil {
		return nil, err
	}
	p.state = State{Phase: Booting, Since: time.Now()}
	return p, nil
}

// findPython looks for the environment that people make beside ComfyUI.
func findPython(dir string) string {
	for _, venv := range []string{".venv", "venv"} {
		if path := filepath.Join(dir, venv, "bin", "python"); exists(path) {
			return path
		}
	}
	return "python3"
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// URL is where ComfyUI answers when it is ready.
func (p *Process) URL() string { return fmt.Sprintf("http://127.0.0.1:%d", p.cfg.Port) }

// State says how the process is.
func (p *Process) State() State {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.state
	s.Lacks = append([]string(nil), s.Lacks...)
	return s
}

// Alive reports whether the process runs, ready or not.
func (p *Process) Alive() bool { return p.State().PID != 0 }

// Generation numbers the run that is on, 0 when it does not run.
func (p *Process) Generation() int {
	s := p.State()
	if s.PID == 0 {
		return 0
	}
	return s.Starts
}

// Tail is what it printed last, of earlier runs too: at most n lines, all for n <= 0.
func (p *Process) Tail(n int) []Line { return p.out.tail(n) }

// Restart ends the process, politely at first, and starts it again. It also
// starts one that was stopped, and ends the pause of a crash loop.
func (p *Process) Restart(why string) { p.want(true, why) }

// Stop ends the process until Start or Restart.
func (p *Process) Stop(why string) { p.want(false, why) }

// Start starts a process that was stopped, now.
func (p *Process) Start() {
	p.mu.Lock()
	running := p.end != nil
	p.mu.Unlock()
	if !running {
		p.want(true, "")
	}
}

func (p *Process) want(on bool, why string) {
	p.mu.Lock()
	p.wanted, p.ends = on, nil
	end := p.end
	p.mu.Unlock()
	if why != "" {
		p.say("-- " + why)
	}
	if end != nil {
		end(&asked{why})
	}
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

// asked is the end of a run that somebody wanted.
type asked struct{ why string }

func (a *asked) Error() string { return a.why }

// say adds a line of our own to what the process prints.
func (p *Process) say(text string) { p.out.add("[comfyume] " + text) }

func (p *Process) note(change func(*State)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	before := p.state.Phase
	change(&p.state)
	if p.state.Phase != before {
		p.state.Since = time.Now()
	}
}

// Run keeps the process running until ctx ends; then it has ended too.
func (p *Process) Run(ctx context.Context) error {
	runtime.LockOSThread() // see attributes
	defer runtime.UnlockOSThread()
	pause := p.cfg.Pace.Backoff
	for ctx.Err() == nil {
		if !p.isWanted() {
			p.note(func(s *State) { s.Phase, s.PID, s.Problem = Stopped, 0, "stopped by a person" })
			p.rest(ctx, 0)
			continue
		}
		steady, err := p.once(ctx)
		if ctx.Err() != nil {
			break
		}
		var by *asked
		if errors.As(err, &by) {
			pause = p.cfg.Pace.Backoff
			p.log.Info("ComfyUI was ended", "why", by.why)
			continue
		}
		if steady {
			pause = p.cfg.Pace.Backoff
		}
		p.failed(steady, err)
		p.rest(ctx, pause)
		pause = min(2*pause, maxPause)
	}
	p.note(func(s *State) { s.Phase, s.PID = Stopped, 0 })
	return nil
}

func (p *Process) isWanted() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.wanted
}

// rest waits for a while, without end if d is 0, or until somebody asks for
// something.
func (p *Process) rest(ctx context.Context, d time.Duration) {
	var due <-chan time.Time
	if d > 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		due = timer.C
	}
	select {
	case <-ctx.Done():
	case <-due:
	case <-p.kick:
	}
}

// failed notes the end of a run that nobody asked for.
func (p *Process) failed(steady bool, err error) {
	p.mu.Lock()
	now := time.Now()
	if steady {
		p.ends = nil
	}
	p.ends = append(p.ends, now)
	recent := 0
	for _, at := range p.ends {
		if now.Sub(at) < loopWithin {
			recent++
		}
	}
	p.mu.Unlock()
	p.say(err.Error())
	p.log.Warn("ComfyUI ended", "err", err)
	p.note(func(s *State) {
		s.Phase, s.PID, s.Problem = Again, 0, err.Error()
		if recent >= loopEnds {
			s.Phase = Looping
		}
	})
}

// command is the line that starts ComfyUI. What must not be otherwise comes
// last: Python's argparse takes the last word.
func (p *Process) command(paths string) *exec.Cmd {
	c := p.cfg
	args := []string{"-u", filepath.Join(c.Dir, "main.py")}
	args = append(args, c.Args...)
	for _, d := range workFolders {
		args = append(args, "--"+d+"-directory", filepath.Join(c.Work, d))
	}
	args = append(args, "--extra-model-paths-config", paths, "--disable-auto-launch", "--listen", "127.0.0.1", "--port", strconv.Itoa(c.Port))
	cmd := exec.Command(c.Python, args...) //nolint:gosec // the admin's own settings
	cmd.Dir = c.Dir
	cmd.Env = append(append([]string{}, c.Env...), "HOME="+c.Work, "USER="+c.Account.Name, "LOGNAME="+c.Account.Name, "PYTHONUNBUFFERED=1", "PYTHONIOENCODING=utf-8")
	if c.Account.Name == "" {
		cmd.Env = append(append([]string{}, c.Env...), "PYTHONUNBUFFERED=1", "PYTHONIOENCODING=utf-8")
	}
	cmd.SysProcAttr = attributes(c.Account.credential())
	cmd.WaitDelay = 2 * time.Second // a child of its own may keep the pipe open
	return cmd
}

// workFolders are those that ComfyUI writes into: each process has its own, so
// that three of one installation do not share a database and names.
var workFolders = []string{"input", "output", "temp", "user"}

// lay makes the working folder, and the list of model folders beside it.
func (p *Process) lay() (paths string, err error) {
	if !exists(filepath.Join(p.cfg.Dir, "main.py")) {
		return "", fmt.Errorf("there is no ComfyUI in %s: main.py is missing; check --comfyui-dir", p.cfg.Dir)
	}
	if err := p.cfg.Account.open(filepath.Dir(p.cfg.Work)); err != nil {
		return "", err
	}
	for _, d := range append([]string{""}, workFolders...) {
		path := filepath.Join(p.cfg.Work, d)
		if err := os.MkdirAll(path, 0o750); err != nil {
			return "", fmt.Errorf("make ComfyUI's working folder: %w", err)
		}
		if err := p.cfg.Account.own(path); err != nil {
			return "", err
		}
	}
	text, err := modelPaths(p.cfg.ModelDirs)
	if err != nil {
		return "", fmt.Errorf("%w; check --models-dir", err)
	}
	if len(text) == 0 {
		text = []byte("{}\n") // ComfyUI walks over what it reads
	}
	// Beside the working folder: in it ComfyUI's user could put a link to somewhere else.
	paths = p.cfg.Work + "-model-paths.yaml"
	if err := errors.Join(os.WriteFile(paths, text, 0o600), os.Chmod(paths, 0o644)); err != nil { //nolint:gosec // another user reads it
		return "", fmt.Errorf("write the list of model folders: %w", err)
	}
	return paths, nil
}

// free reports whether the port can be taken.
func (p *Process) free() error {
	ln, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(p.cfg.Port)))
	if err != nil {
		return fmt.Errorf("port %d is taken by another program: end it (an older ComfyUI?) or choose another --comfyui-port", p.cfg.Port)
	}
	return ln.Close()
}

// signal tells the whole group.
func signal(pid int, s syscall.Signal) { _ = syscall.Kill(-pid, s) } // it may have ended already
