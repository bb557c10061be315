package comfyui

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// once is one run of the process, from its start to its end. It reports whether
// the run was steady, and why it ended: an *asked if somebody wanted it.
func (p *Process) once(parent context.Context) (steady bool, err error) {
	ctx, end := context.WithCancelCause(parent)
	defer end(nil)
	p.mu.Lock()
	p.end, p.spoke = end, time.Now()
	if !p.wanted { // asked for just now
		end(&asked{"stopped"})
	}
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		p.end = nil
		p.mu.Unlock()
	}()
	p.note(func(s *State) { s.Phase, s.Problem, s.Lacks, s.Unlisted = Booting, "", nil, "" })
	paths, err := p.lay()
	if err != nil {
		return false, err
	}
	if err := p.free(); err != nil {
		return false, err
	}
	if err := context.Cause(ctx); err != nil {
		return false, err
	}
	cmd := p.command(paths)
	lines := &splitter{line: p.printed}
	cmd.Stdout, cmd.Stderr = lines, lines
	p.say("starting " + strings.Join(cmd.Args, " "))
	if err := cmd.Start(); err != nil {
		return false, p.notStarted(err)
	}
	pid := cmd.Process.Pid
	p.note(func(s *State) { s.PID, s.Starts = pid, s.Starts+1 })
	p.log.Info("ComfyUI started", "pid", pid, "url", p.URL())

	ended := make(chan struct{}) // closed when the process has ended
	var ready time.Time
	var watch sync.WaitGroup
	watch.Go(func() { p.terminate(ctx, pid, ended) })
	watch.Go(func() { ready = p.watch(ctx, end) })
	werr := cmd.Wait()
	close(ended)
	signal(pid, syscall.SIGKILL) // what it left behind in its group
	lines.flush()
	cause := context.Cause(ctx) // before the watchers are told to go
	end(errEnded)
	watch.Wait()
	steady = !ready.IsZero() && time.Since(ready) >= p.cfg.Pace.Steady
	if cause != nil {
		return steady, cause
	}
	return steady, p.obituary(werr)
}

var errEnded = errors.New("ComfyUI has ended")

// notStarted says why the system did not start the program.
func (p *Process) notStarted(err error) error {
	var bad *exec.Error
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.As(err, &bad):
		return fmt.Errorf("there is no Python at %s: install it (on Debian and Ubuntu: python3-venv), or name another with --comfyui-python", p.cfg.Python)
	case errors.Is(err, fs.ErrPermission):
		who := p.cfg.Account.Name
		if who == "" {
			who = "this agent's user"
		}
		return fmt.Errorf("%s may not run %s: it, and what it links to, must be outside of other people's home folders; or name another user with --comfyui-user", who, p.cfg.Python)
	}
	return fmt.Errorf("start ComfyUI: %w", err)
}

// obituary says why the process ended.
func (p *Process) obituary(err error) error {
	lines := p.out.tail(60)
	if why := cause(lines, p.cfg.Python); why != "" {
		return fmt.Errorf("ComfyUI ended: %s", why)
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if w, ok := exit.Sys().(syscall.WaitStatus); ok && w.Signaled() {
			if w.Signal() == syscall.SIGKILL {
				return errors.New("ComfyUI was killed from outside (signal 9): somebody did it, or the machine ran out of memory; see dmesg")
			}
			return fmt.Errorf("ComfyUI ended by signal %d (%s)", w.Signal(), w.Signal())
		}
		return fmt.Errorf("ComfyUI ended by itself (exit code %d): see its last lines", exit.ExitCode())
	}
	return errors.New("ComfyUI ended by itself: see its last lines")
}

// printed takes a line of the process.
func (p *Process) printed(text string) {
	p.out.add(text)
	p.mu.Lock()
	p.spoke = time.Now()
	phase := p.state.Phase
	p.mu.Unlock()
	if phase != Booting && phase != Importing {
		return
	}
	if saysDevice.MatchString(text) {
		p.note(func(s *State) {
			if s.Phase == Booting {
				s.Phase = Importing
			}
		})
	}
	if f := saysImportFailed.FindStringSubmatch(text); f != nil {
		p.note(func(s *State) { s.Lacks = append(s.Lacks, f[1]) })
	}
}

// terminate ends the process when ctx does: politely, then not.
func (p *Process) terminate(ctx context.Context, pid int, ended <-chan struct{}) {
	select {
	case <-ended:
		return
	case <-ctx.Done():
	}
	p.note(func(s *State) { s.Phase = Stopping })
	signal(pid, syscall.SIGTERM)
	select {
	case <-ended:
		return
	case <-time.After(p.cfg.Pace.Polite):
	}
	p.say("it does not end within " + p.cfg.Pace.Polite.String() + ": killed")
	signal(pid, syscall.SIGKILL)
}

// calm is how often a ready ComfyUI is asked, at most.
const calm = 5 * time.Second

// watch asks ComfyUI again and again whether it is there, and ends a run that
// comes to nothing. It returns when it was ready first, zero if never.
func (p *Process) watch(ctx context.Context, end context.CancelCauseFunc) (ready time.Time) {
	good := time.Now()
	every := p.cfg.Pace.Probe
	for {
		select {
		case <-ctx.Done():
			return ready
		case <-time.After(every):
		}
		err := p.answers(ctx)
		now := time.Now()
		switch {
		case err == nil && ready.IsZero():
			ready, good, every = now, now, max(every, min(calm, p.cfg.Pace.Deaf/4))
			p.note(func(s *State) { s.Phase, s.Problem = Ready, "" })
			p.log.Info("ComfyUI is ready")
			p.check(ctx)
		case err == nil:
			good = now
		case ctx.Err() != nil:
			return ready
		case ready.IsZero():
			if quiet := now.Sub(p.lastSpoke()); quiet > p.cfg.Pace.Patience {
				end(fmt.Errorf("ComfyUI did not become ready: nothing was heard of it for %s", quiet.Round(time.Second)))
				return ready
			}
		case p.cfg.Busy():
			good = now // Python can be deaf while it works: the job's own watch decides
		case now.Sub(good) > p.cfg.Pace.Deaf:
			end(fmt.Errorf("ComfyUI has not answered for %s and had no job", now.Sub(good).Round(time.Second)))
			return ready
		}
	}
}

func (p *Process) lastSpoke() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.spoke
}

// answerWithin bounds one question.
const answerWithin = 5 * time.Second

// answers asks for what a worker asks for first.
func (p *Process) answers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	_, err := p.client.SystemStats(ctx)
	return err
}

// check compares the model files with what ComfyUI lists: a configuration that
// it reads otherwise than it was meant is seen here and not in a failed job.
func (p *Process) check(ctx context.Context) {
	files, err := Models(p.cfg.ModelDirs)
	if err != nil || len(files) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	listed := map[string][]string{}
	raw, err := p.client.GetJSON(ctx, "/models")
	var kinds []string
	if err != nil || json.Unmarshal(raw, &kinds) != nil {
		return // an old ComfyUI without this call
	}
	for _, k := range kinds {
		var names []string
		if raw, err := p.client.GetJSON(ctx, "/models/"+url.PathEscape(k)); err != nil || json.Unmarshal(raw, &names) != nil {
			continue
		}
		listed[k] = names
	}
	lost := Unlisted(files, listed)
	if len(lost) == 0 {
		p.say(fmt.Sprintf("ComfyUI lists the %d model files of its folders", len(files)))
		return
	}
	what := fmt.Sprintf("ComfyUI does not list %d of %d model files, such as %s/%s: may its user read them?", len(lost), len(files), lost[0].Folder, lost[0].Name)
	p.log.Warn("models are not listed", "missing", len(lost), "first", lost[0].Folder+"/"+lost[0].Name)
	p.note(func(s *State) { s.Unlisted = what })
}
