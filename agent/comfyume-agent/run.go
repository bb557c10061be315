package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/ahelme/comfyume/agent"
)

type runCommand struct {
	settingFlags `embed:""`
}

// Run runs the agent until SIGTERM or SIGINT. A second signal ends it at once.
func (c *runCommand) Run(ctx context.Context, t *terminal, g *grammar) error {
	values, err := agent.Load(c.given(g), t.env)
	if err != nil {
		return &exit{exitUsage, err.Error()}
	}
	cfg, err := values.Config()
	if err != nil {
		return &exit{exitUsage, err.Error()}
	}
	cfg.Version = version
	cfg.Logger = agent.NewLogger(&cfg, t.err)
	for _, note := range values.Notes {
		cfg.Logger.Info(note)
	}
	if cfg.Notify, cfg.Watchdog, err = agent.ServiceManager(); err != nil {
		cfg.Logger.Warn("the service manager cannot be told how this node is", "err", err)
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, os.Interrupt)
	defer stop()
	context.AfterFunc(ctx, stop)
	a, err := agent.New(ctx, cfg)
	if err != nil {
		return err
	}
	welcome(t, a.Welcome(ctx))
	return a.Run(ctx)
}

// welcome says where to go. A password is printed only in --dev, where it was
// made for this machine alone.
func welcome(t *terminal, w agent.Welcome) {
	fmt.Fprintf(t.out, "ComfyUME %s on %s (%s)\n", version, w.Node, w.Roles)
	if w.Participants != "" {
		fmt.Fprintf(t.out, "  participants  %s\n", w.Participants)
	}
	for _, s := range w.SignIns {
		fmt.Fprintf(t.out, "                sign in as %s, password %s\n", s.Name, s.Password)
	}
	if w.Instructor != "" {
		fmt.Fprintf(t.out, "  instructor    %s\n", w.Instructor)
	}
	for _, s := range w.InstructorSignIn {
		fmt.Fprintf(t.out, "                sign in as %s, password %s\n", s.Name, s.Password)
	}
	fmt.Fprintf(t.out, "  this node     %s (token: %s)\n", w.Site, w.TokenFile)
	if w.Credentials != "" {
		fmt.Fprintf(t.out, "  passwords     made once, in %s\n", w.Credentials)
	}
	fmt.Fprintf(t.out, "  ComfyUI       %s\n", w.ComfyUI)
}

type versionCommand struct{}

// Run prints the version.
func (*versionCommand) Run(t *terminal, g *grammar) error {
	if !g.JSON {
		fmt.Fprintf(t.out, "comfyume-agent %s %s/%s %s\n", version, runtime.GOOS, runtime.GOARCH, runtime.Version())
		return nil
	}
	return emit(t.out, map[string]any{"version": version, "os": runtime.GOOS, "arch": runtime.GOARCH, "go": runtime.Version()})
}
