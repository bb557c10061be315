package agent_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/ahelme/comfyume/"

// The groups of packages, by path below the module.
var (
	vocabulary = []string{"cluster"}
	tables     = []string{"cluster/jobs", "cluster/files", "cluster/people", "cluster/models"}
)

// arrows says who may import which of our packages in the product itself. A
// trailing "/..." allows a folder. Anything else is a failing test: it is how
// the parts stay parts.
func arrows() map[string][]string {
	all := func(groups ...[]string) (out []string) {
		for _, g := range groups {
			out = append(out, g...)
		}
		return out
	}
	role := all(vocabulary, tables, []string{"cluster/blob"})
	m := map[string][]string{
		"agent/comfyume-agent":  {"agent"},
		"agent":                 {"ui", "roles/...", "cluster/...", "cluster"},
		"cluster":               {},
		"cluster/state":         all(vocabulary, tables),
		"cluster/policy":        {"cluster", "cluster/jobs", "cluster/people", "cluster/models"},
		"cluster/policy/sim":    {"cluster", "cluster/jobs", "cluster/policy"},
		"cluster/blob":          vocabulary,
		"cluster/blob/blobtest": {"cluster", "cluster/blob"},
		"cluster/peer":          all(role, []string{"cluster/state"}),
		"cluster/consensus":     {"cluster", "cluster/wal"},
		"cluster/wal":           {},
		"cluster/gossip":        vocabulary,
		"cluster/tailnet":       vocabulary,
		// In-memory and test networks, for tests and tools only: no package of the
		// product may import them, and none does.
		"cluster/tailnet/tailnettest": {"cluster", "cluster/tailnet"},
		"cluster/tailnet/networktest": {"cluster", "cluster/tailnet"},
		"cluster/tailnet/controltest": vocabulary,
		"roles/comfy":                 {},
		"roles/sketch":                {"roles/comfy"},
		"roles/gateway":               all(role, []string{"roles/comfy", "roles/gateway/..."}),
		"roles/gateway/signin":        {"cluster", "cluster/people"},
		"roles/gateway/frontend":      all(vocabulary, []string{"roles/gateway/wheels"}),
		"roles/gateway/wheels":        vocabulary,
		"roles/gateway/certificate":   vocabulary,
		"roles/gateway/stitch":        {},
		"roles/backup":                {"cluster", "cluster/blob"},
		"roles/backup/s3test":         {},
		"roles/queue":                 all(role, []string{"cluster/policy"}),
		"roles/gpu":                   all(role, []string{"roles/comfy"}),
		"roles/gpu/comfyui":           {"roles/comfy"},
		"roles/gpu/sensors":           {},
		"ui":                          role,
		// Programs that drive or measure the product from outside.
		"cluster/policy/sim/policysim":   {"cluster/policy", "cluster/policy/sim"},
		"cluster/policy/sim/policycheck": {},
		"agent/browsertest":              {"agent/doortest"},
		"agent/doortest":                 {},
		"agent/benchnode":                {"roles/queue", "cluster/...", "cluster"},
		"agent/chaos":                    {"agent/chaos/...", "agent/doortest", "cluster/tailnet/controltest"},
		"agent/chaos/oracle":             {"agent/doortest"},
		"agent/chaos/world":              {"agent/chaos/oracle", "agent/doortest", "cluster/tailnet/controltest"},
	}
	for _, t := range tables {
		m[t] = vocabulary
	}
	return m
}

// keepers says which one folder may import a large dependency.
var keepers = map[string][]string{
	"github.com/hashicorp/raft":       {"cluster/consensus"},
	"github.com/hashicorp/memberlist": {"cluster/gossip"},
	"tailscale.com":                   {"cluster/tailnet", "cluster/tailnet/controltest"},
	"github.com/valyala/fasthttp":     {"roles/gateway"},
	"github.com/fasthttp/websocket":   {"roles/gateway", "roles/comfy", "roles/sketch", "agent/doortest", "agent/chaos/oracle"},
	"github.com/minio":                {"roles/backup"},
	"filippo.io/age":                  {"roles/backup"},
	"github.com/chromedp":             {"agent/browsertest"},
	"github.com/anishathalye":         {"agent/chaos/oracle"},
	"github.com/alecthomas/kong":      {"agent", "agent/comfyume-agent"},
}

type pkg struct {
	ImportPath string
	Imports    []string
}

func TestArrows(t *testing.T) {
	allowed := arrows()
	for _, p := range packages(t) {
		from := strings.TrimPrefix(p.ImportPath, module)
		rules, known := allowed[from]
		if !known {
			t.Errorf("%s is a new package: say here what it may import", from)
			continue
		}
		for _, imp := range p.Imports {
			to, ours := strings.CutPrefix(imp, module)
			if ours && !matches(to, rules) {
				t.Errorf("%s may not import %s", from, to)
			}
			for dep, homes := range keepers {
				if (imp == dep || strings.HasPrefix(imp, dep+"/") || strings.HasPrefix(imp, dep+"-")) && !matches(from, homes) {
					t.Errorf("%s may not import %s: only %s may", from, imp, strings.Join(homes, ", "))
				}
			}
		}
	}
}

func matches(path string, rules []string) bool {
	for _, r := range rules {
		if path == r {
			return true
		}
		if dir, ok := strings.CutSuffix(r, "/..."); ok && strings.HasPrefix(path, dir+"/") {
			return true
		}
	}
	return false
}

// packages lists ours as the go tool sees them, without test files.
func packages(t *testing.T) (out []pkg) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports", "./...")
	cmd.Dir = ".."
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	raw, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	for dec := json.NewDecoder(bytes.NewReader(raw)); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		out = append(out, p)
	}
	if len(out) < 10 {
		t.Fatalf("go list names only %d packages", len(out))
	}
	return out
}

// TestArrowsCanFail breaks the rule on paper and sees it noticed.
func TestArrowsCanFail(t *testing.T) {
	if matches("roles/gpu", arrows()["roles/gateway"]) || !matches("cluster/jobs", arrows()["roles/gateway"]) || matches("roles/gatewayx", keepers["github.com/valyala/fasthttp"]) {
		t.Error("the rules allow what they forbid")
	}
}
