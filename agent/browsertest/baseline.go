package browsertest

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
)

// Baseline is what one frontend complains about on a real ComfyUI. The door must not add to it.
type Baseline struct {
	Frontend       string    `json:"frontend"`
	ComfyUI        string    `json:"comfyui"`
	Recorded       string    `json:"recorded"`
	FailedRequests []Failure `json:"failed_requests"`
	ConsoleErrors  []string  `json:"console_errors"`
}

// ReadBaseline reads a recorded baseline.
func ReadBaseline(path string) (Baseline, error) {
	var b Baseline
	raw, err := os.ReadFile(path)
	if err != nil {
		return b, fmt.Errorf("read baseline: %w", err)
	}
	if err := json.Unmarshal(raw, &b); err != nil {
		return b, fmt.Errorf("read baseline %s: %w", path, err)
	}
	return b, nil
}

// Write keeps a baseline as indented JSON, sorted, each entry once.
func (b Baseline) Write(path string) error {
	slices.SortFunc(b.FailedRequests, compareFailures)
	b.FailedRequests = slices.Compact(b.FailedRequests)
	slices.Sort(b.ConsoleErrors)
	b.ConsoleErrors = slices.Compact(b.ConsoleErrors)
	raw, err := json.MarshalIndent(b, "", "  ")
	if err != nil {
		return fmt.Errorf("write baseline: %w", err)
	}
	if err := os.WriteFile(path, append(raw, '\n'), 0o644); err != nil {
		return fmt.Errorf("write baseline: %w", err)
	}
	return nil
}

// Excess lists what a visit complained about and the baseline does not know, one sentence each. Hosts outside are never
// excess: they are cut off for the test, on the real ComfyUI as here.
func (b Baseline) Excess(failures []Failure, console []string) []string {
	var out []string
	for _, f := range failures {
		if f.Path == External || slices.Contains(b.FailedRequests, f) {
			continue
		}
		out = append(out, fmt.Sprintf("failed request that a real ComfyUI does not have: %s %s -> %d", f.Method, f.Path, f.Status))
	}
	for _, e := range console {
		if !slices.Contains(b.ConsoleErrors, e) {
			out = append(out, "console error that a real ComfyUI does not have: "+e)
		}
	}
	return out
}
