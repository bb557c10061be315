package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"
)

// asking is part of commands that ask before they act.
type asking struct {
	Yes bool `short:"y" help:"Do not ask. Needed where nobody sits at a terminal."`
}

// confirm asks at a terminal. What would happen has been said before.
func (a asking) confirm(t *terminal, question string) error {
	if a.Yes {
		return nil
	}
	if f, ok := t.in.(*os.File); !ok || !term.IsTerminal(int(f.Fd())) {
		return &exit{exitUsage, "nothing was done: this asks first, and standard input is no terminal. If you want what is said above, repeat it with --yes"}
	}
	fmt.Fprintf(t.err, "%s [y/N] ", question)
	line, err := bufio.NewReader(t.in).ReadString('\n')
	if err != nil && line == "" {
		fmt.Fprintln(t.err)
	}
	switch strings.ToLower(strings.TrimSpace(line)) {
	case "y", "yes":
		return nil
	}
	return &exit{exitFailed, "nothing was done"}
}

// emit writes v, which becomes a JSON object, with its schema_version.
func emit(out io.Writer, v any) error {
	const version = `{"schema_version":1`
	raw, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write the answer: %w", err)
	}
	switch {
	case bytes.HasPrefix(raw, []byte(`{"schema_version":`)):
	case bytes.Equal(raw, []byte("{}")):
		raw = []byte(version + "}")
	default:
		raw = append([]byte(version+","), raw[1:]...)
	}
	_, err = fmt.Fprintf(out, "%s\n", raw)
	return err
}

// told writes an answer: as JSON, or as a sentence.
func told(t *terminal, g *grammar, v any, format string, args ...any) error {
	if g.JSON {
		return emit(t.out, v)
	}
	_, err := fmt.Fprintf(t.out, format+"\n", args...)
	return err
}
