// Command comfyume-agent runs one node of a ComfyUI workshop, and talks to the
// one that runs. Without a command it runs.
//
//	main.go     start, exit codes     grammar.go  commands and flags
//	run.go      the agent             client.go   its site, asked
//	ask.go      y/N, JSON             words.go    ages, counts, notes
//	status.go submit.go users.go jobs.go queue.go nodes.go drain.go workers.go raft.go disk.go
//	salvage.go settings.go unit.go    what people type
//	v1.go v1tree.go v1report.go       the predecessor's files, brought over
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/ahelme/comfyume/agent"
)

// version is set by the build: -ldflags "-X main.version=1.2.3".
var version = "0.1.0-dev"

func main() {
	os.Exit(command(&terminal{args: os.Args[1:], env: os.Environ(), in: os.Stdin, out: os.Stdout, err: os.Stderr}))
}

// terminal is everything a command may touch of the world outside.
type terminal struct {
	args []string
	env  []string
	in   io.Reader
	out  io.Writer // data
	err  io.Writer // talk
}

// The exit codes; scripts rely on them.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitDegraded    = 3
	exitUnreachable = 4
	exitNoLeader    = 5
	exitNotFound    = 10
)

// exit is an error with a code of its own; text "" says nothing more.
type exit struct {
	code int
	text string
}

func (e *exit) Error() string { return e.text }

// command parses and runs, and turns the error into a sentence and a code.
func command(t *terminal) int {
	err := dispatch(t)
	if err == nil {
		return exitOK
	}
	var e *exit
	if errors.As(err, &e) {
		if e.text != "" {
			fmt.Fprintf(t.err, "comfyume-agent: %s\n", strings.TrimSpace(e.text))
		}
		return e.code
	}
	fmt.Fprintf(t.err, "comfyume-agent: %v\n", err)
	switch agent.CodeOf(err) {
	case agent.NotFound:
		return exitNotFound
	case agent.NoLeader:
		return exitNoLeader
	}
	return exitFailed
}
