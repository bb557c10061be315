package comfy

import (
	"encoding/json"
	"fmt"
)

// FileItem names a file of a server: in its folder Type ("output", "input" or
// "temp"), below Subfolder.
type FileItem struct {
	Filename  string `json:"filename"`
	Subfolder string `json:"subfolder"`
	Type      string `json:"type"`
}

// ReadsFolder reports whether an input names a folder of input/ whose files the
// node reads, kohya's folders in it included (nodes_train.py of 0.3.64,
// nodes_dataset.py of 0.12).
func ReadsFolder(class, input string) bool {
	switch class {
	case "LoadImageSetFromFolderNode", "LoadImageTextSetFromFolderNode", "LoadImageDataSetFromFolder", "LoadImageTextDataSetFromFolder":
		return input == "folder"
	}
	return false
}

// NamesDataset reports whether an input names a folder of output/ in which one
// job leaves what another reads (nodes_dataset.py of 0.12).
func NamesDataset(class, input string) bool {
	switch class {
	case "SaveImageDataSetToFolder", "SaveImageTextDataSetToFolder", "SaveTrainingDataset", "LoadTrainingDataset":
		return input == "folder_name"
	}
	return false
}

// OutputFile is one file of a node's output: the list it stands in ("images",
// "audio", "gifs"), its place there, and the item with all that it carries.
type OutputFile struct {
	Key   string
	Index int
	Item  FileItem
	Raw   json.RawMessage
}

// OutputFiles lists the files of an executed message's output, in order. Lists
// of anything else (text, animated) have none.
func OutputFiles(raw json.RawMessage) ([]OutputFile, error) {
	var out []OutputFile
	err := eachFile(raw, func(f OutputFile, _ []span) error {
		out = append(out, f)
		return nil
	})
	return out, err
}

// RewriteOutputFiles replaces the files of an output by what fn returns. The
// three names are changed and the members that tell a path on the server's
// machine are left out; what else an item carries (format, frame rate) and all
// other keys keep their bytes.
func RewriteOutputFiles(raw json.RawMessage, fn func(key string, i int, item FileItem) (FileItem, error)) (json.RawMessage, error) {
	var edits []edit
	err := eachFile(raw, func(f OutputFile, fields []span) error {
		now, err := fn(f.Key, f.Index, f.Item)
		if err != nil {
			return err
		}
		names := map[string][2]string{"filename": {f.Item.Filename, now.Filename}, "subfolder": {f.Item.Subfolder, now.Subfolder}, "type": {f.Item.Type, now.Type}}
		for i, s := range fields {
			if name, ok := names[s.key]; ok && name[0] != name[1] {
				edits = append(edits, edit{s.start, s.end, quote(name[1])})
			}
			if hostPath(s.key) {
				edits = append(edits, cut(fields, i))
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("rewrite output files: %w", err)
	}
	return splice(raw, edits), nil
}

// hostPath knows the members in which a fork of ComfyUI and a video pack tell
// where on their disk a file is. That is nobody's business.
func hostPath(key string) bool { return key == "abs_path" || key == "fullpath" }

// cut takes member i out of an object that has others before or after it: an
// item always has its three names. A cut reaches from the end of the member
// before to its own end, or, when all before it are cut as well, up to the
// beginning of the next.
func cut(fields []span, i int) edit {
	first := true
	for _, s := range fields[:i] {
		first = first && hostPath(s.key)
	}
	if !first {
		return edit{start: fields[i-1].end, end: fields[i].end}
	}
	return edit{start: fields[i].keyStart, end: fields[i+1].keyStart}
}

// eachFile calls fn with each file and the spans of its item's members.
func eachFile(raw json.RawMessage, fn func(f OutputFile, fields []span) error) error {
	if isNull(raw) {
		return nil
	}
	if err := checkJSON(raw); err != nil {
		return fmt.Errorf("read output: %w", err)
	}
	lists, _ := objectSpans(raw, 0)
	for _, list := range lists {
		items, _ := arraySpans(raw, list.start)
		for i, it := range items {
			fields, ok := objectSpans(raw, it.start)
			if !ok {
				continue
			}
			item, ok := fileItem(raw, fields)
			if !ok {
				continue
			}
			if err := fn(OutputFile{Key: list.key, Index: i, Item: item, Raw: json.RawMessage(raw[it.start:it.end:it.end])}, fields); err != nil {
				return err
			}
		}
	}
	return nil
}

// fileItem needs all three names: an object with a filename only is a node's
// own business.
func fileItem(raw []byte, fields []span) (FileItem, bool) {
	var names [3]string
	for i, key := range []string{"filename", "subfolder", "type"} {
		s, ok := find(fields, key)
		if !ok {
			return FileItem{}, false
		}
		if names[i], ok = text(json.RawMessage(raw[s.start:s.end])); !ok {
			return FileItem{}, false
		}
	}
	return FileItem{names[0], names[1], names[2]}, names[0] != ""
}
