package agent

import (
	"context"
	"time"

	"github.com/ahelme/comfyume/cluster"
)

// What the tests of this package look into.

// Stack is the stop stack.
type Stack = stack

var NewStack = newStack

func (s *Stack) Push(name string, f func(context.Context) error)  { s.push(name, f) }
func (s *Stack) Start(name string, f func(context.Context) error) { s.run(name, f) }
func (s *Stack) Stop(grace time.Duration) error                   { return s.stop(grace) }
func (s *Stack) Failed() <-chan error                             { return s.failed }

// Health is the set of checks.
type Health = health

func NewHealth(now func() time.Time, checks ...check) *Health {
	return newHealth("test", now, checks...)
}

func (h *Health) Run(ctx context.Context) error { return h.run(ctx) }
func (h *Health) Report() Report                { return h.report() }
func (h *Health) Answer() (int, []byte)         { return h.answer() }

var (
	CheckCommit   = checkCommit
	CheckFrontend = checkFrontend
	CheckAccounts = checkAccounts
	CheckDisk     = checkDisk
	CheckComfyUI  = checkComfyUI
)

// Enter prepares and enters the accounts once, and returns the made passwords.
func Enter(ctx context.Context, cfg *Config, p cluster.Proposer, tables accountTables) (made map[cluster.User]Secret, err error) {
	a, err := newAccounts(cfg, p, tables, cfg.Logger)
	if err != nil {
		return nil, err
	}
	err = a.enter(ctx)
	return a.passwords(), err
}

// Routes are the door's.
func (a *Agent) Routes() []string { return a.roles.gateway.Load().Routes() }
