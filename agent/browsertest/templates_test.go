package browsertest_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/ahelme/comfyume/agent/browsertest"
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

// needs are what a template asks of a server.
type needs struct {
	classes []string // that the server lacks
	models  []string // chosen in a node that says where they come from
}

// lacking reads what a template needs and the server, which has no models at all, does not have.
func lacking(t *testing.T, raw []byte, has map[string]json.RawMessage) needs {
	t.Helper()
	var g uiGraph
	if err := json.Unmarshal(raw, &g); err != nil {
		t.Fatal(err)
	}
	nodes := slices.Clone(g.Nodes)
	for _, s := range g.Definitions.Subgraphs {
		nodes = append(nodes, s.Nodes...)
	}
	var out needs
	for _, n := range nodes {
		if has[n.Type] == nil && !uuid.MatchString(n.Type) && !slices.Contains(browserOnly, n.Type) {
			out.classes = append(out.classes, n.Type)
		}
		for _, m := range n.Properties.Models {
			if m.URL != "" && strings.Contains(string(n.Values), `"`+m.Name+`"`) {
				out.models = append(out.models, m.Name)
			}
		}
	}
	slices.Sort(out.classes)
	slices.Sort(out.models)
	return needs{slices.Compact(out.classes), slices.Compact(out.models)}
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
			a := start(t, version, "--templates", dir)
			has := map[string]json.RawMessage{}
			a.Client("user001").JSON(t, "GET", "/api/object_info", nil, &has)
			p := visit(t, a, "user001", "prefix", version, nil)
			// The one that opened on the first visit has already said what it lacks: it says so once only.
			first := p.ActiveWorkflow().Path
			slices.SortStableFunc(files, func(a, b string) int {
				return -cmp.Compare(strings.Count(first, filepath.Base(a)), strings.Count(first, filepath.Base(b)))
			})
			for _, file := range files {
				t.Run(strings.TrimSuffix(filepath.Base(file), ".json"), func(t *testing.T) { openTemplate(t, p, file, version, has) })
			}
			judgeTemplates(t, p, version)
		})
	}
}

func openTemplate(t *testing.T, p *browsertest.Page, file, version string, has map[string]json.RawMessage) {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if p.ActiveWorkflow().Path != "workflows/"+filepath.Base(file) {
		p.CloseDialogs()
		p.OpenWorkflow(filepath.Base(file))
	}
	missing := lacking(t, raw, has)
	if len(missing.classes) > 0 {
		p.WaitDialog()
		p.ShowErrors()
		for _, class := range missing.classes {
			p.WaitText(class)
		}
	}
	// The newer frontends look for models only in nodes that the server has; this one reads the template alone.
	if version == usual {
		for _, model := range missing.models {
			p.WaitText(model)
		}
	}
	name := strings.TrimSuffix(filepath.Base(file), ".json")
	keep(p, version+"-template-"+name)
	fmt.Printf("browser frontend=%s template=%s nodes=%d missing_classes=%d missing_models=%d\n",
		version, name, len(p.Nodes()), len(missing.classes), len(missing.models))
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
