package main

import (
	"context"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"github.com/ahelme/comfyume/agent"
)

// grammar is the command line. The flags of run, config show and unit are made from
// the one settings table.
type grammar struct {
	StateDir *string       `name:"state-dir" placeholder:"DIR" help:"State folder of the agent to run or to talk to. [$$COMFYUME_STATE_DIR]"`
	Addr     string        `placeholder:"HOST:PORT" help:"Address of the running agent's site. Default: what stands in its state folder."`
	Timeout  time.Duration `default:"30s" help:"How long to wait for a running agent's answer."`
	JSON     bool          `name:"json" help:"Answer as JSON (schema_version tells its form)."`

	Run     runCommand     `cmd:"" default:"withargs" help:"Run the agent. This is what happens without a command."`
	Status  statusCommand  `cmd:"" help:"Cluster, leader, nodes, workers and queue in one screen."`
	Submit  submitCommand  `cmd:"" help:"Queue a workflow for a user, as their own page would."`
	Queue   queueCommands  `cmd:"" help:"The queue."`
	Job     jobCommands    `cmd:"" help:"One job."`
	Errors  errorsCommand  `cmd:"" help:"What went wrong for a user, or behind the error id of a dialog, and what to do."`
	Node    nodeCommands   `cmd:"" help:"The machines."`
	Worker  workerCommands `cmd:"" help:"The ComfyUIs on the machines."`
	Disk    diskCommand    `cmd:"" help:"The machines' disks: how full, until when, and what is kept there."`
	Backup  backupCommands `cmd:"" help:"Copies of the whole workshop, on the node that was started with --keep."`
	Import  importCommands `cmd:"" help:"What another installation left."`
	Raft    raftCommands   `cmd:"" help:"The replicated log that holds the workshop's table."`
	User    userCommands   `cmd:"" help:"Who may sign in."`
	Config  configCommands `cmd:"" help:"The settings."`
	Unit    unitCommand    `cmd:"" help:"Print the systemd unit of a node with these settings."`
	Version versionCommand `cmd:"" help:"Print the version of this build."`
}

// settingFlags are the flags of the settings table: a pointer to a struct that
// is made from the table, one field per flag.
type settingFlags struct{ kong.Plugins }

func newSettingFlags() settingFlags {
	var fields []reflect.StructField
	for _, s := range agent.Settings() {
		if s.Secret || s.Name == "state-dir" { // state-dir stands at the top: every command has it
			continue
		}
		f := reflect.StructField{Name: fmt.Sprintf("Flag%d", len(fields)), Type: reflect.TypeFor[*string]()}
		switch s.Shape {
		case agent.Switch:
			f.Type = reflect.TypeFor[*bool]()
		case agent.List:
			f.Type = reflect.TypeFor[[]string]()
		}
		help := s.Help + " [$$" + s.Env
		if s.Default != "" && s.Shape != agent.Switch {
			help += ", default " + s.Default
		}
		tag := fmt.Sprintf(`name:%s help:%s group:%s placeholder:%s`, strconv.Quote(s.Name), strconv.Quote(help+"]"), strconv.Quote(s.Group), strconv.Quote(strings.ToUpper(string(s.Shape))))
		f.Tag = reflect.StructTag(tag)
		fields = append(fields, f)
	}
	return settingFlags{kong.Plugins{reflect.New(reflect.StructOf(fields)).Interface()}}
}

// given are the flags that stand on the command line, as text.
func (s settingFlags) given(g *grammar) map[string]string {
	out := map[string]string{}
	if g.StateDir != nil {
		out["state-dir"] = *g.StateDir
	}
	v := reflect.ValueOf(s.Plugins[0]).Elem()
	for i := range v.NumField() {
		name := v.Type().Field(i).Tag.Get("name")
		switch f := v.Field(i).Interface().(type) {
		case *string:
			if f != nil {
				out[name] = *f
			}
		case *bool:
			if f != nil {
				out[name] = strconv.FormatBool(*f)
			}
		case []string:
			if f != nil {
				out[name] = strings.Join(f, ",")
			}
		}
	}
	return out
}

// left is how kong's wish to exit (after --help) travels up to dispatch.
type left int

// dispatch parses the arguments and runs what they ask for.
func dispatch(t *terminal) (err error) {
	g := &grammar{
		Run: runCommand{settingFlags: newSettingFlags()}, Config: configCommands{Show: configShow{settingFlags: newSettingFlags()}},
		Unit: unitCommand{settingFlags: newSettingFlags()},
	}
	defer func() {
		switch p := recover().(type) {
		case nil:
		case left:
			if p != 0 {
				err = &exit{code: exitUsage}
			}
		default:
			panic(p)
		}
	}()
	parser, err := kong.New(g,
		kong.Name("comfyume-agent"),
		kong.Description("One program turns a few machines into a ComfyUI workshop. Try it here: comfyume-agent --dev\n\n"+
			"Every setting is a flag or an environment key; secrets (ADMIN_PASSWORD, USER_CREDENTIALS_USER001=NAME:PASSWORD) come by environment or file only. "+
			"Exit codes: 0 well, 1 failed, 2 wrong usage, 3 degraded, 4 no agent answers, 5 no leader, 10 not found."),
		kong.Writers(t.out, t.err),
		kong.Exit(func(code int) { panic(left(code)) }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.UsageOnError(),
		kong.Bind(t, g),
		kong.BindTo(context.Background(), (*context.Context)(nil)),
	)
	if err != nil {
		return fmt.Errorf("build the command line: %w", err)
	}
	k, err := parser.Parse(t.args)
	if err != nil {
		return &exit{exitUsage, err.Error() + "\nSee comfyume-agent --help"}
	}
	return k.Run()
}
