package main

import (
	"fmt"
	"os"
	"os/user"
	"path/filepath"

	"github.com/ahelme/comfyume/agent"
)

type unitCommand struct {
	settingFlags `embed:""`
	OSUser       string `name:"os-user" placeholder:"NAME" help:"OS user that runs the agent. Default: root where the agent starts ComfyUI or has a hook, else comfyume."`
	Memory       string `name:"memory-max" placeholder:"SIZE" help:"Most memory that the node may use, ComfyUI included, e.g. 2GiB, or none. Default: half of this machine's, or 15/16 where the agent starts ComfyUI."`
}

// Run prints a unit that starts the agent with the settings given here.
func (c *unitCommand) Run(t *terminal, g *grammar) error {
	values, err := agent.Load(c.given(g), t.env)
	if err != nil {
		return &exit{exitUsage, err.Error()}
	}
	binary, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find our own binary: %w", err)
	}
	if real, err := filepath.EvalSymlinks(binary); err == nil {
		binary = real
	}
	unit, err := values.Unit(agent.Unit{Binary: binary, User: c.OSUser, Memory: c.Memory})
	if err != nil {
		return &exit{exitUsage, err.Error()}
	}
	if g.JSON {
		return emit(t.out, map[string]any{"unit": unit.Text, "user": unit.User, "notes": unit.Notes})
	}
	fmt.Fprint(t.out, unit.Text)
	if _, err := user.Lookup(unit.User); err != nil {
		unit.Notes = append(unit.Notes, fmt.Sprintf("there is no user %s on this machine yet: useradd --system --shell /usr/sbin/nologin %s", unit.User, unit.User))
	}
	for _, note := range unit.Notes {
		fmt.Fprintf(t.err, "note: %s\n", note)
	}
	return nil
}
