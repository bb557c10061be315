package main

import (
	"fmt"
	"text/tabwriter"

	"github.com/ahelme/comfyume/agent"
)

type configCommands struct {
	Show configShow `cmd:"" help:"Print every effective setting; secrets are named, never shown."`
}

type configShow struct {
	settingFlags `embed:""`
	Origin       bool `help:"Say where each value comes from: flag, env, env-file or default."`
}

// Run prints the settings as run would see them.
func (c *configShow) Run(t *terminal, g *grammar) error {
	values, err := agent.Load(c.given(g), t.env)
	if err != nil {
		return &exit{exitUsage, err.Error()}
	}
	if g.JSON {
		type row struct {
			Name   string       `json:"name"`
			Value  string       `json:"value"`
			Origin agent.Origin `json:"origin"`
			Key    string       `json:"key,omitempty"`
		}
		var out struct {
			Settings []row `json:"settings"`
		}
		for _, v := range values.All() {
			out.Settings = append(out.Settings, row{v.Name, v.Shown(), v.Origin, v.Key})
		}
		return emit(t.out, out)
	}
	w := tabwriter.NewWriter(t.out, 0, 4, 2, ' ', 0)
	for _, v := range values.All() {
		fmt.Fprintf(w, "%s\t%s", v.Name, v.Shown())
		if c.Origin {
			fmt.Fprintf(w, "\t%s", v.Origin)
			if v.Key != "" {
				fmt.Fprintf(w, " %s", v.Key)
			}
		}
		fmt.Fprintln(w)
	}
	return w.Flush()
}
