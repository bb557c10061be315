package gateway

import (
	"cmp"
	"embed"
	"encoding/json"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/models"
	"github.com/ahelme/comfyume/roles/comfy"
)

//go:embed workflows/*.json
var ownWorkflows embed.FS

// pack is the name under which a page finds the workshop's templates.
const pack = "workshop"

// templates are the workshop's workflows. They appear in every user's
// workflows folder as if they were files there, and are never written to: a
// user's own file of the same name hides one, deleting one hides it for them.
type templates struct {
	byName map[string]*template // "name.json"
	names  []string
	first  string            // opens on the first visit, without .json
	drawn  *comfy.ObjectInfo // the classes that they use, as far as they show them
}

type template struct {
	data    []byte
	modTime time.Time
	needs   needs
}

// needs are what a workflow wants of a worker.
type needs struct {
	classes []string
	models  []Model
}

// Model is a file that a workflow loads.
type Model struct {
	Folder string `json:"folder"`
	Name   string `json:"name"`
}

// templateName is what pages accept in their address: no space, no slash.
var templateName = regexp.MustCompile(`^[a-zA-Z0-9_.-]+$`)

// maxTemplate bounds one file, in bytes.
const maxTemplate = 16 << 20

func loadTemplates(dir, first string) (*templates, error) {
	source := os.DirFS(dir)
	glob := "*.json"
	if dir == "" {
		source, glob = ownWorkflows, "workflows/*.json"
	} else if _, err := os.ReadDir(dir); err != nil {
		return nil, cluster.Errorf(cluster.Invalid, "the templates folder %s cannot be read (%v); check --templates", dir, err)
	}
	paths, err := fs.Glob(source, glob)
	if err != nil {
		return nil, err
	}
	t := &templates{byName: map[string]*template{}}
	for _, p := range paths {
		raw, err := fs.ReadFile(source, p)
		if err != nil {
			return nil, cluster.Errorf(cluster.Invalid, "the template %s cannot be read (%v); check --templates", p, err)
		}
		n, err := needsOf(raw)
		if err != nil || len(raw) > maxTemplate {
			return nil, cluster.Errorf(cluster.Invalid, "the template %s is not a workflow that ComfyUI saved (%v); mend it or take it out of the folder", p, err)
		}
		one := &template{data: raw, needs: n, modTime: time.Unix(0, 0)}
		if info, err := fs.Stat(source, p); err == nil && !info.ModTime().IsZero() {
			one.modTime = info.ModTime()
		}
		t.byName[path.Base(p)] = one
		t.names = append(t.names, path.Base(p))
	}
	slices.Sort(t.names)
	all := make([][]byte, len(t.names))
	for i, name := range t.names {
		all[i] = t.byName[name].data
	}
	t.drawn = drawClasses(all)
	return t, t.choose(first)
}

// choose sets what opens on the first visit: what was asked for, else the
// workshop's usual one, else the first that is not empty.
func (t *templates) choose(first string) error {
	if first != "" {
		first = strings.TrimSuffix(first, ".json")
		if t.byName[first+".json"] == nil {
			return cluster.Errorf(cluster.Invalid, "there is no template %q to open first; there are: %s", first, strings.Join(t.names, ", "))
		}
		if !templateName.MatchString(first) {
			return cluster.Errorf(cluster.Invalid, "the first template's name %q may hold letters, digits, '_', '-' and '.' only; rename the file", first)
		}
		t.first = first
		return nil
	}
	for _, name := range append([]string{"flux2_klein_9b_text_to_image.json", "first_picture.json"}, t.names...) {
		stem := strings.TrimSuffix(name, ".json")
		if one := t.byName[name]; one != nil && len(one.needs.classes) > 0 && templateName.MatchString(stem) {
			t.first = stem
			return nil
		}
	}
	return nil
}

// graph is the part of a saved workflow that says what it needs.
type savedNode struct {
	Type       string          `json:"type"`
	Mode       int             `json:"mode"`
	Values     json.RawMessage `json:"widgets_values"`
	Inputs     []savedInput    `json:"inputs"`
	Outputs    []savedInput    `json:"outputs"`
	Properties struct {
		Models []struct {
			Name      string `json:"name"`
			Directory string `json:"directory"`
		} `json:"models"`
	} `json:"properties"`
}

type savedWorkflow struct {
	Nodes       []savedNode `json:"nodes"`
	Definitions struct {
		Subgraphs []struct {
			ID    string      `json:"id"`
			Nodes []savedNode `json:"nodes"`
		} `json:"subgraphs"`
	} `json:"definitions"`
}

// Modes of a node that is not executed.
const (
	modeNever  = 2
	modeBypass = 4
)

// pageOnly are node types that live in the page and are never sent.
func pageOnly() []string { return []string{"Note", "MarkdownNote", "Reroute", "PrimitiveNode"} }

// loaders name the folder of the model in a loader's first widget, for
// templates that do not say it.
func loaders() map[string]string {
	return map[string]string{"UNETLoader": "diffusion_models", "CheckpointLoaderSimple": "checkpoints", "VAELoader": "vae", "CLIPLoader": "text_encoders", "LoraLoaderModelOnly": "loras", "LatentUpscaleModelLoader": "latent_upscale_models"}
}

// needsOf walks the nodes that would run, into subgraphs that are used.
func needsOf(raw []byte) (needs, error) {
	var w savedWorkflow
	if err := json.Unmarshal(raw, &w); err != nil {
		return needs{}, err
	}
	sub := map[string][]savedNode{}
	for _, s := range w.Definitions.Subgraphs {
		sub[s.ID] = s.Nodes
	}
	var n needs
	entered := map[string]bool{}
	var walk func([]savedNode)
	walk = func(nodes []savedNode) {
		for _, node := range nodes {
			if node.Mode == modeBypass || node.Mode == modeNever || slices.Contains(pageOnly(), node.Type) {
				continue
			}
			if inner, ok := sub[node.Type]; ok {
				if !entered[node.Type] {
					entered[node.Type] = true
					walk(inner)
				}
				continue
			}
			n.classes = append(n.classes, node.Type)
			n.addModels(node)
		}
	}
	walk(w.Nodes)
	slices.Sort(n.classes)
	n.classes = slices.Compact(n.classes)
	slices.SortFunc(n.models, func(a, b Model) int { return cmp.Or(cmp.Compare(a.Folder, b.Folder), cmp.Compare(a.Name, b.Name)) })
	n.models = slices.Compact(n.models)
	return n, nil
}

func (n *needs) addModels(node savedNode) {
	var values []any
	_ = json.Unmarshal(node.Values, &values) // an object, or none: it names no file
	named := func(name string) bool { return slices.Contains(values, any(name)) }
	found := false
	for _, m := range node.Properties.Models {
		if m.Name != "" && m.Directory != "" && (named(m.Name) || len(values) == 0) {
			n.models = append(n.models, Model{m.Directory, m.Name})
			found = true
		}
	}
	if folder, ok := loaders()[node.Type]; ok && !found && len(values) > 0 {
		if name, ok := values[0].(string); ok && name != "" {
			n.models = append(n.models, Model{folder, name})
		}
	}
}

// TemplateStatus is what the present workers lack for one template.
type TemplateStatus struct {
	Name    string   `json:"name"`
	Empty   bool     `json:"empty"` // has no nodes at all
	Default bool     `json:"default"`
	Models  []Model  `json:"missing_models"`
	Classes []string `json:"missing_classes"`
	Ready   bool     `json:"ready"`
}

// lacking is what a worker with these classes and models lacks.
func (n needs) lacking(has func(class string) bool, there map[string][]string) (lacked []Model, classes []string) {
	lacked, classes = []Model{}, []string{}
	for _, class := range n.classes {
		if !has(class) {
			classes = append(classes, class)
		}
	}
	for _, m := range n.models {
		if !slices.ContainsFunc(there[m.Folder], func(have string) bool { return path.Base(strings.ReplaceAll(have, `\`, "/")) == m.Name }) {
			lacked = append(lacked, m)
		}
	}
	return lacked, classes
}

// stem is a template's name without its ending.
func stem(file string) string { return strings.TrimSuffix(file, ".json") }

// Templates compares each template with what the workers said they have.
func (g *Gateway) Templates() []TemplateStatus {
	out := make([]TemplateStatus, 0, len(g.templates.names))
	info, have := g.caps.objectInfo(), g.caps.doc().Models
	has := func(class string) bool {
		if info == nil {
			return false
		}
		_, ok := info.Class(class)
		return ok || g.caps.replaced(class)
	}
	for _, name := range g.templates.names {
		n := g.templates.byName[name].needs
		s := TemplateStatus{Name: stem(name), Empty: len(n.classes) == 0}
		s.Default = s.Name == g.templates.first
		s.Models, s.Classes = n.lacking(has, have)
		s.Ready = !s.Empty && len(s.Models)+len(s.Classes) == 0
		out = append(out, s)
	}
	return out
}

// WorkerLacks is what one worker lacks for one template.
type WorkerLacks struct {
	Worker   cluster.WorkerID
	Template string
	Models   []Model
	Classes  []string
}

// LackingAt compares each template with each worker: what one lacks another may
// have. Known is how many workers could be compared.
func (g *Gateway) LackingAt() (lacks []WorkerLacks, known int) {
	var workers []models.Worker
	g.cfg.Tables.Models(func(t *models.Table) { workers = t.Workers() })
	for _, w := range workers {
		list, ok := g.caps.lacks(w.Caps)
		if !ok {
			continue
		}
		known++
		for _, l := range list {
			l.Worker = w.ID
			lacks = append(lacks, l)
		}
	}
	return lacks, known
}

// compare lists what a worker that describes itself so lacks.
func (t *templates) compare(info *comfy.ObjectInfo, c *comfy.Capabilities) (out []WorkerLacks) {
	renamed := renames(c.NodeReplacements)
	has := func(class string) bool {
		_, ok := info.Class(class)
		return ok || renamed[class]
	}
	for _, name := range t.names {
		if m, classes := t.byName[name].needs.lacking(has, c.Models); len(m)+len(classes) > 0 {
			out = append(out, WorkerLacks{Template: stem(name), Models: m, Classes: classes})
		}
	}
	return out
}
