package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// late is when a step of stopping is named in the log while it still runs.
const late = 3 * time.Second

// step is one thing to undo.
type step struct {
	name string
	stop func(context.Context) error
}

// stack remembers what was started and ends it in reverse order: what was
// built upon goes last. The steps share one span of time; a step that hangs is
// named and left behind, so that stopping always ends.
type stack struct {
	log    *slog.Logger
	failed chan error // the first part that ended by itself; buffered, never closed

	mu    sync.Mutex
	steps []step
}

func newStack(log *slog.Logger) *stack {
	return &stack{log: log, failed: make(chan error, 1)}
}

// push adds a step.
func (s *stack) push(name string, stop func(context.Context) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.steps = append(s.steps, step{name, stop})
}

// run starts a part in its own goroutine. The part's ctx does not end with the
// agent's: it ends when its turn comes. A part that ends before that has
// failed, and with it the agent.
func (s *stack) run(name string, part func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1) // one send
	go func() {
		err := part(ctx)
		if ctx.Err() == nil {
			if err == nil {
				err = errors.New("it ended by itself")
			}
			select {
			case s.failed <- fmt.Errorf("%s: %w", name, err):
			default: // another was first
			}
		}
		done <- err
	}()
	s.push(name, func(wait context.Context) error {
		cancel()
		select {
		case err := <-done:
			if errors.Is(err, context.Canceled) {
				return nil
			}
			return err
		case <-wait.Done():
			return errors.New("did not end in time")
		}
	})
}

// stop undoes everything within grace. Calling it again does nothing.
func (s *stack) stop(grace time.Duration) error {
	s.mu.Lock()
	steps := s.steps
	s.steps = nil
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	var all error
	for i := len(steps) - 1; i >= 0; i-- {
		begin := time.Now()
		slow := time.AfterFunc(late, func() { s.log.Warn("stopping takes long", "step", steps[i].name, "waited", late) })
		err := steps[i].stop(ctx)
		slow.Stop()
		if err != nil {
			s.log.Error("stopping went wrong", "step", steps[i].name, "took", time.Since(begin), "err", err)
			all = errors.Join(all, fmt.Errorf("stop %s: %w", steps[i].name, err))
			continue
		}
		s.log.Debug("stopped", "step", steps[i].name, "took", time.Since(begin))
	}
	return all
}
