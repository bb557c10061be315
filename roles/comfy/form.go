package comfy

import (
	"crypto/sha256"
	"encoding/hex"
	"path"
	"slices"
	"strings"
)

// modelEndings are those of the files that loaders load.
var modelEndings = []string{".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin", ".gguf", ".onnx"}

// maxModels bounds what Models returns: real workflows load fewer than ten.
const maxModels = 64

// Models are the model files that the graph names, sorted, each once, with
// slashes whatever the page's machine writes.
func (g *Graph) Models() []string {
	var out []string
	for _, n := range g.Nodes {
		for _, in := range n.Inputs {
			if v, ok := text(in.Raw); ok && in.Link == nil && isModel(v) {
				out = append(out, strings.ReplaceAll(v, `\`, "/"))
			}
		}
	}
	slices.Sort(out)
	out = slices.Compact(out)
	return out[:min(len(out), maxModels)]
}

// Models are the model files that the nodes offer in their lists, with slashes.
func (o *ObjectInfo) Models() map[string]bool {
	out := map[string]bool{}
	for _, name := range o.Names() {
		class, _ := o.Class(name)
		for _, in := range class.Inputs {
			for _, option := range in.OptionNames() {
				if isModel(option) {
					out[SlashedName(option)] = true
				}
			}
		}
	}
	return out
}

func isModel(v string) bool {
	return len(v) <= 300 && slices.Contains(modelEndings, strings.ToLower(path.Ext(v)))
}

// Form stands for the graph without its words, seeds and wires: prompts of one
// form have the same nodes, models, sizes and steps, so on one kind of GPU they
// take about equally long.
func (g *Graph) Form() string {
	lines := make([]string, 0, len(g.Nodes))
	for _, n := range g.Nodes {
		var b strings.Builder
		b.WriteString(n.ClassType)
		for _, in := range n.Inputs {
			v, isText := text(in.Raw)
			if in.Link != nil || strings.HasSuffix(in.Name, "seed") || isText && !isModel(v) {
				continue
			}
			b.WriteByte(0)
			b.WriteString(in.Name)
			b.WriteByte('=')
			b.Write(in.Raw)
		}
		lines = append(lines, b.String())
	}
	slices.Sort(lines)
	sum := sha256.Sum256([]byte(strings.Join(lines, "\x01")))
	return hex.EncodeToString(sum[:8])
}
