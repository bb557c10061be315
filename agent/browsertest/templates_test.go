package browsertest_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/ahelme/comfyume/agent/browsertest"
	"github.com/ahelme/comfyume/agent/doortest"
)

// uiNode and uiGraph are as much of a saved workflow as says what it needs.
type uiNode struct {
	Type       string `json:"type"`
	Mode       int    `json:"mode"`
	Properties struct {
		Models []struct{ Name, URL, Directory string } `json:"models"`
	} `json:"properties"`
	Values json.RawMessage `json:"widgets_values"`
}

type uiGraph struct {
	Nodes       []uiNode `json:"nodes"`
	Definitions struct {
		Subgraphs []struct {
			ID    string   `json:"id"`
			Nodes []uiNode `json:"nodes"`
		} `json:"subgraphs"`
	} `json:"definitions"`
}

// browserOnly are node types that exist in the frontend alone.
var browserOnly = []string{"MarkdownNote", "Note", "Reroute", "PrimitiveNode"}

var uuid = regexp.MustCompile(`^[0-9a-f]{8}-`)

// lacking lists the node classes of a template that the server does not have.
func lacking(t *testing.T, raw []byte, has map[string]json.RawMessage) []string {
	t.Helper()
	var g uiGraph
	if err := json.Unmarshal(raw, &g); err != nil {
		t.Fatal(err)
	}
	nodes := slices.Clone(g.Nodes)
	for _, s := range g.Definitions.Subgraphs {
		nodes = append(nodes, s.Nodes...)
	}
	var out []string
	for _, n := range nodes {
		if has[n.Type] == nil && !uuid.MatchString(n.Type) && !slices.Contains(browserOnly, n.Type) && !slices.Contains(out, n.Type) {
			out = append(out, n.Type)
		}
	}
	slices.Sort(out)
	return out
}

// Each of the workshop's templates stands in the user's workflows, opens from there, and the frontend names the node classes
// that this server lacks. The templates are the workshop's and not in this repository: COMFYUME_TEMPLATES names their folder.
func TestWorkshopTemplatesOpenAndNameWhatIsMissing(t *testing.T) {
	dir := os.Getenv("COMFYUME_TEMPLATES")
	if dir == "" {
		t.Skip("COMFYUME_TEMPLATES names no folder with the workshop's templates: they were not tested")
	}
	browsertest.Require(t)
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no templates in %s: %v", dir, err)
	}
	for _, version := range frontends {
		t.Run(version, func(t *testing.T) {
			a := doortest.Start(t, doortest.Options{Args: []string{"--frontend-version", version, "--templates", dir}})
			has := map[string]json.RawMessage{}
			a.Client("user001").JSON(t, "GET", "/api/object_info", nil, &has)
			p := visit(t, a, "user001", "prefix", version, "")
			for _, file := range files {
				t.Run(strings.TrimSuffix(filepath.Base(file), ".json"), func(t *testing.T) { openTemplate(t, p, file, version, has) })
			}
			judgeTemplates(t, p, version)
		})
	}
}

func openTemplate(t *testing.T, p *browsertest.Page, file, version string, has map[string]json.RawMessage) {
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	p.CloseDialogs()
	p.OpenWorkflow(filepath.Base(file))
	missing := lacking(t, raw, has)
	if len(missing) > 0 {
		p.WaitDialog()
		p.ShowErrors()
		for _, class := range missing {
			p.WaitText(class)
		}
	}
	name := strings.TrimSuffix(filepath.Base(file), ".json")
	keep(p, version+"-template-"+name)
	fmt.Printf("browser frontend=%s template=%s nodes=%d missing_classes=%d\n", version, name, len(p.Nodes()), len(missing))
}

// judgeTemplates leaves out what only tells that a model's size could not be asked for outside.
func judgeTemplates(t *testing.T, p *browsertest.Page, version string) {
	t.Helper()
	b, err := browsertest.ReadBaseline(filepath.Join("..", "testdata", "baseline", version+".json"))
	if err != nil {
		t.Fatal(err)
	}
	console := slices.DeleteFunc(p.ConsoleErrors(), func(e string) bool { return strings.HasPrefix(e, "Error fetching file size") })
	for _, e := range b.Excess(p.Failures(), console) {
		t.Error(e)
	}
}
