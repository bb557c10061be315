package agent_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/ahelme/comfyume/agent"
)

// documents are all .md files of the repository, by path.
func documents(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == ".git" || d.Name() == ".cache" || d.Name() == "bin" || d.Name() == "dist") {
			return filepath.SkipDir
		}
		if strings.HasSuffix(path, ".md") {
			raw, err := os.ReadFile(path)
			out[path] = string(raw)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(out) < 2 {
		t.Fatalf("found only %d documents", len(out))
	}
	return out
}

func TestDocumentsBeginWithTheirHeader(t *testing.T) {
	head := regexp.MustCompile(`\A\*\*Project Name:\*\* ComfyuME
\*\*Project Desc:\*\* ComfyUI Multi-User Workshop Platform
\*\*Project Started:\*\* 2026-01-02
\*\*Repository:\*\* github\.com/ahelme/comfyume
\*\*Domain:\*\* comfy\.ahelme\.net
\*\*Doc Created:\*\* \d{4}-\d\d-\d\d
\*\*Doc Updated:\*\* \d{4}-\d\d-\d\d
`)
	boast := regexp.MustCompile(`(?i)production[- ]ready|blazing|seamless|state[- ]of[- ]the[- ]art|\bsuccessfully\b`)
	for path, text := range documents(t) {
		if !head.MatchString(text) {
			t.Errorf("%s does not begin with the seven header lines", path)
		}
		if m := boast.FindString(text); m != "" {
			t.Errorf("%s boasts: %q", path, m)
		}
	}
}

// TestDocumentsNameRealFlags finds every --flag of a document in the settings
// or in the command line's own help.
func TestDocumentsNameRealFlags(t *testing.T) {
	known := map[string]bool{}
	for _, s := range agent.Settings() {
		known[s.Name] = true
	}
	// Flags of single commands, which agent/comfyume-agent has, and ComfyUI's own.
	for _, name := range []string{"json", "wait", "user", "origin", "undo", "help", "addr", "timeout", "watch", "count", "limit", "state", "yes", "force", "deadline", "gpu", "ttl", "why", "worker", "first", "all", "ls", "end", "hand-back", "cpu", "gpu-minutes", "queued", "running", "for", "user-data", "outputs", "inputs", "env", "write-env", "dry-run", "memory-max", "os-user", "kit", "new-kit", "plain", "file", "place", "block", "disk"} {
		known[name] = true
	}
	flag := regexp.MustCompile(`--([a-z][a-z0-9-]*)`)
	bench := benchFlags(t)
	for path, text := range documents(t) {
		for _, m := range flag.FindAllStringSubmatch(text, -1) {
			if ofBench := strings.Contains(path, "deploy/bench/") && bench[m[1]]; !known[m[1]] && !ofBench {
				t.Errorf("%s names %s, which no command knows", path, m[0])
			}
		}
	}
}

// benchFlags are the flags of the benchmark, which is a module of its own.
func benchFlags(t *testing.T) map[string]bool {
	t.Helper()
	raw, err := os.ReadFile("../deploy/bench/main.go")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]bool{}
	for _, m := range regexp.MustCompile(`fs\.[A-Za-z0-9]+\((?:&[^,]+, )?"([a-z-]+)"`).FindAllStringSubmatch(string(raw), -1) {
		out[m[1]] = true
	}
	if len(out) < 5 {
		t.Fatalf("found only %d flags of the benchmark", len(out))
	}
	return out
}

func TestDocumentsNameRealMakeTargets(t *testing.T) {
	raw, err := os.ReadFile("../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	target := regexp.MustCompile("(?m)(?:^    |`)make ([a-z-]+)")
	for path, text := range documents(t) {
		for _, m := range target.FindAllStringSubmatch(text, -1) {
			if !regexp.MustCompile(`(?m)^` + m[1] + `:`).Match(raw) {
				t.Errorf("%s names make %s, which the Makefile does not have", path, m[1])
			}
		}
	}
}
