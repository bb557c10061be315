package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/ahelme/comfyume/agent"
)

type submitCommand struct {
	File string `arg:"" help:"Workflow in API format, '-' reads it from standard input."`
	User string `required:"" placeholder:"NAME" help:"Whose job it is."`
	Wait bool   `help:"Wait until the job has ended; exit 1 when it did not go well."`
}

// Run queues the workflow through the gateway's own POST /prompt.
func (s *submitCommand) Run(ctx context.Context, t *terminal, g *grammar) error {
	body, err := s.body(t)
	if err != nil {
		return err
	}
	c, err := connect(t, g)
	if err != nil {
		return err
	}
	status, raw, err := c.raw(ctx, http.MethodPost, "/api/submit", url.Values{"user": {s.User}}, bytes.NewReader(body))
	if err != nil {
		return err
	}
	if status != http.StatusOK {
		return promptRefusal(status, raw)
	}
	var accepted struct {
		PromptID string `json:"prompt_id"`
	}
	if err := json.Unmarshal(raw, &accepted); err != nil {
		return fmt.Errorf("read the agent's answer: %w", err)
	}
	if !s.Wait {
		if g.JSON {
			return emit(t.out, json.RawMessage(raw))
		}
		fmt.Fprintln(t.out, accepted.PromptID)
		return nil
	}
	fmt.Fprintf(t.err, "queued as %s; Ctrl-C stops waiting, not the job\n", accepted.PromptID)
	return s.wait(ctx, c, t, g, accepted.PromptID)
}

// body wraps a bare graph into a request. What the page saves by itself is of
// another form, and that is said rather than sent.
func (s *submitCommand) body(t *terminal) ([]byte, error) {
	in := t.in
	if s.File != "-" {
		f, err := os.Open(s.File)
		if err != nil {
			return nil, &exit{exitFailed, fmt.Sprintf("the workflow cannot be read: %v", err)}
		}
		defer f.Close()
		in = f
	}
	raw, err := io.ReadAll(in)
	if err != nil {
		return nil, fmt.Errorf("read the workflow: %w", err)
	}
	var top map[string]json.RawMessage
	if err := json.Unmarshal(raw, &top); err != nil {
		return nil, &exit{exitFailed, fmt.Sprintf("%s is not a workflow: it is not a JSON object", s.File)}
	}
	_, nodes := top["nodes"]
	_, links := top["links"]
	if nodes && links {
		return nil, &exit{exitFailed, fmt.Sprintf("%s is a workflow as ComfyUI's page saves it, which a queue cannot run: open it in ComfyUI, choose Workflow > Export (API), and submit that file", s.File)}
	}
	if _, ok := top["prompt"]; ok {
		return raw, nil
	}
	return json.Marshal(map[string]json.RawMessage{"prompt": raw})
}

// promptRefusal reads either form of refusal: ComfyUI's, or the agent's own.
func promptRefusal(status int, raw []byte) error {
	var comfy struct {
		Error struct {
			Message string `json:"message"`
			Details string `json:"details"`
		} `json:"error"`
		NodeErrors map[string]struct {
			Class  string `json:"class_type"`
			Errors []struct {
				Message string `json:"message"`
				Details string `json:"details"`
			} `json:"errors"`
		} `json:"node_errors"`
	}
	if json.Unmarshal(raw, &comfy) != nil || comfy.Error.Message == "" {
		return refusal(status, raw)
	}
	lines := []string{join(comfy.Error.Message, comfy.Error.Details)}
	for id, n := range comfy.NodeErrors {
		for _, e := range n.Errors {
			lines = append(lines, fmt.Sprintf("  node %s (%s): %s", id, n.Class, join(e.Message, e.Details)))
		}
	}
	return &exit{exitFailed, strings.Join(lines, "\n")}
}

func join(message, details string) string {
	if details == "" || strings.Contains(message, details) {
		return message
	}
	return message + ": " + details
}

// pollEvery is how often a waiting submit asks.
const pollEvery = 250 * time.Millisecond

func (s *submitCommand) wait(ctx context.Context, c *client, t *terminal, g *grammar, prompt string) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt)
	defer stop()
	var said agent.State
	for {
		var r agent.JobReport
		err := c.get(ctx, "/api/job", url.Values{"id": {s.User + "/" + prompt}}, &r)
		var lost *exit
		switch {
		case ctx.Err() != nil:
			fmt.Fprintf(t.err, "still %s; ask again with: comfyume-agent job show %s\n", r.Job.State, prompt)
			return nil
		case errors.As(err, &lost) || agent.CodeOf(err) == agent.Unavailable:
			// The agent restarts; an accepted job survives that.
		case err != nil:
			return err
		case r.Job.State.Ended():
			return report(t, g, r)
		case r.Job.State != said:
			said = r.Job.State
			fmt.Fprintf(t.err, "%s\n", said)
		}
		select {
		case <-ctx.Done():
		case <-time.After(pollEvery):
		}
	}
}

func report(t *terminal, g *grammar, r agent.JobReport) error {
	if g.JSON {
		if err := emit(t.out, r); err != nil {
			return err
		}
	} else {
		took := time.Duration(r.Job.Ended-r.Job.Created) * time.Millisecond
		fmt.Fprintf(t.out, "%s %s after %s, %d outputs\n", r.Job.Prompt, r.Job.State, took.Round(10*time.Millisecond), r.Job.Outputs)
	}
	if r.Job.State == agent.Done {
		return nil
	}
	return &exit{exitFailed, fmt.Sprintf("the job is %s: %s", r.Job.State, r.Job.Reason)}
}
