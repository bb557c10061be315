package gpu

import (
	"bytes"
	"encoding/json"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/ahelme/comfyume/roles/comfy"
)

// undo turns this machine's names back into the user's: uploads into what the
// graph called them, and the folder of the job's outputs into nothing.
type undo struct {
	folder string            // of outputs, "gw/<token>"
	inputs map[string]string // value at ComfyUI -> the user's value
	json   *strings.Replacer
	text   *strings.Replacer
}

func newUndo(token string) *undo {
	u := &undo{folder: "gw/" + token, inputs: map[string]string{}}
	u.build()
	return u
}

// input notes that the user's value is called now there.
func (u *undo) input(now, value string) {
	u.inputs[now] = value
	u.build()
}

func (u *undo) build() {
	back := strings.ReplaceAll(u.folder, "/", `\`)
	plain := []string{u.folder + "/", "", back + `\`, ""}
	quoted := []string{u.folder + "/", "", strings.ReplaceAll(back+`\`, `\`, `\\`), ""}
	names := make([]string, 0, len(u.inputs))
	for now := range u.inputs {
		names = append(names, now)
	}
	slices.SortFunc(names, func(a, b string) int { return len(b) - len(a) }) // a name may begin another
	for _, now := range names {
		plain = append(plain, now, u.inputs[now])
		quoted = append(quoted, inner(now), inner(u.inputs[now]))
	}
	u.text, u.json = strings.NewReplacer(plain...), strings.NewReplacer(quoted...)
}

// inner is s as it stands inside a JSON string.
func inner(s string) string {
	q := encode(s)
	return string(q[1 : len(q)-1])
}

// raw restores names in a JSON document.
func (u *undo) raw(doc json.RawMessage) json.RawMessage {
	if !bytes.Contains(doc, []byte("gw")) && len(u.inputs) == 0 {
		return doc
	}
	return json.RawMessage(u.json.Replace(string(doc)))
}

// sub restores the folder of an output.
func (u *undo) sub(folder string) string {
	folder = strings.ReplaceAll(folder, `\`, "/")
	if folder == "" {
		return ""
	}
	folder = path.Clean(folder)
	if folder == u.folder || folder == "." {
		return ""
	}
	return strings.TrimPrefix(folder, u.folder+"/")
}

// item restores the name of a file that the job only read. ok is false for
// files that are not known here.
func (u *undo) item(i comfy.FileItem) (comfy.FileItem, bool) {
	value, ok := u.inputs[path.Join(strings.ReplaceAll(i.Subfolder, `\`, "/"), i.Filename)]
	if !ok {
		return i, false
	}
	name, folder := comfy.SplitAnnotation(value)
	if folder == "" {
		folder = "input"
	}
	dir, base := path.Split(name)
	return comfy.FileItem{Filename: base, Subfolder: strings.TrimSuffix(dir, "/"), Type: folder}, true
}

// hostPath matches the folders of an absolute path of any system, and what
// stands before it.
var hostPath = regexp.MustCompile(`(^|[\s"'(=\[,])((?:[A-Za-z]:)?[/\\](?:[^\s"'<>|:*?/\\]+[/\\])+)`)

// trimPaths cuts what a machine's paths tell of it: of each only the last name
// stays.
func trimPaths(s string) string { return hostPath.ReplaceAllString(s, "$1") }

// scrub restores names in a message and takes paths of the machine out of the
// report of an error.
func (u *undo) scrub(m comfy.Message) comfy.Message {
	m.Data = u.raw(m.Data)
	if m.Type != comfy.TypeExecutionError {
		return m
	}
	fields, err := comfy.ParseObject(m.Data)
	if err != nil {
		return m
	}
	var lines []string
	if raw, ok := fields.Lookup("traceback"); ok && json.Unmarshal(raw, &lines) == nil {
		for i := range lines {
			lines[i] = trimPaths(lines[i])
		}
		fields.Set("traceback", encode(notNil(lines)))
	}
	var message string
	if raw, ok := fields.Lookup("exception_message"); ok && json.Unmarshal(raw, &message) == nil {
		fields.Set("exception_message", encode(trimPaths(message)))
	}
	m.Data = object(fields)
	return m
}

// encode writes a value that cannot fail to encode, without HTML escapes.
func encode(v any) json.RawMessage {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return json.RawMessage("null")
	}
	return bytes.TrimRight(b.Bytes(), "\n")
}

func notNil(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}
