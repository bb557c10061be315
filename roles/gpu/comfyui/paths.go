package comfyui

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A model folder's key in extra_model_paths.yaml is the folder's own name; these
// two old names mean the newer ones, as in ComfyUI's folder_paths.
var renamed = map[string]string{"unet": "diffusion_models", "clip": "text_encoders"}

// modelEndings are those of files that ComfyUI lists as models.
var modelEndings = []string{".ckpt", ".pt", ".pt2", ".bin", ".pth", ".safetensors", ".pkl", ".sft"}

// ModelFolders lists what lies in dir: ComfyUI's folder name -> the folders.
func ModelFolders(dir string) (map[string][]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("read the models folder: %w", err)
	}
	out := map[string][]string{}
	for _, e := range entries {
		info, err := os.Stat(filepath.Join(dir, e.Name())) // links count as what they lead to
		if err != nil || !info.IsDir() || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		key := e.Name()
		if now, ok := renamed[key]; ok {
			key = now
		}
		out[key] = append(out[key], e.Name())
	}
	return out, nil
}

// modelPaths writes extra_model_paths.yaml for the folders. Texts are written
// as JSON writes them, which YAML reads alike; a line feed in a value separates
// two folders of one kind.
func modelPaths(dirs []string) ([]byte, error) {
	var b strings.Builder
	for i, dir := range dirs {
		folders, err := ModelFolders(dir)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&b, "comfyume_%d:\n  base_path: %s\n", i, quote(dir))
		for _, key := range sorted(folders) {
			fmt.Fprintf(&b, "  %s: %s\n", quote(key), quote(strings.Join(folders[key], "\n")))
		}
	}
	return []byte(b.String()), nil
}

func quote(s string) string {
	raw, err := json.Marshal(s)
	if err != nil {
		return `""`
	}
	return string(raw)
}

func sorted[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// maxModels bounds the files that are compared after a start.
const maxModels = 5000

// Model is a model file below a models folder.
type Model struct {
	Folder string // as ComfyUI calls it
	Name   string // below the folder, with slashes
	Size   int64
}

// Models lists the model files of dirs.
func Models(dirs []string) ([]Model, error) {
	var out []Model
	for _, dir := range dirs {
		folders, err := ModelFolders(dir)
		if err != nil {
			return nil, err
		}
		for _, key := range sorted(folders) {
			for _, sub := range folders[key] {
				if out, err = models(out, key, filepath.Join(dir, sub)); err != nil {
					return nil, err
				}
			}
		}
	}
	return out, nil
}

func models(out []Model, key, root string) ([]Model, error) {
	if real, err := filepath.EvalSymlinks(root); err == nil {
		root = real // WalkDir does not enter a link
	}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || len(out) >= maxModels {
			return err
		}
		if d.IsDir() || !slices.Contains(modelEndings, strings.ToLower(filepath.Ext(path))) {
			return nil
		}
		info, err := os.Stat(path)
		if err != nil {
			return nil // a link that leads nowhere
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		out = append(out, Model{key, filepath.ToSlash(rel), info.Size()})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the models folder: %w", err)
	}
	return out, nil
}

// Unlisted are the files that lie in the models folders and that ComfyUI does
// not list: its configuration was not read as it was meant.
func Unlisted(files []Model, listed map[string][]string) []Model {
	var out []Model
	for _, f := range files {
		names, ok := listed[f.Folder]
		if !ok {
			continue // a folder of a kind that this ComfyUI has no use for
		}
		if !slices.ContainsFunc(names, func(n string) bool { return strings.ReplaceAll(n, `\`, "/") == f.Name }) {
			out = append(out, f)
		}
	}
	return out
}
