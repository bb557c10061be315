// Package files is the table of what users keep: documents (workflows and
// other userdata, small, in the row itself), settings (one row per key) and
// the index of media files (inputs, outputs, temporary previews), whose bytes
// are blobs. It numbers outputs as if each user had a ComfyUI of their own.
// It refuses paths that could leave a user's own tree.
package files

import (
	"strings"
	"unicode/utf8"

	"github.com/ahelme/comfyume/cluster"
)

// Area is one of ComfyUI's three media folders.
type Area string

// The areas.
const (
	Input  Area = "input"
	Output Area = "output"
	Temp   Area = "temp"
)

// Valid reports whether a is one of the three.
func (a Area) Valid() bool { return a == Input || a == Output || a == Temp }

// MaxInline is the largest document kept in its row, in bytes; a larger one is a blob.
const MaxInline = 256 << 10

// Limits of names, in bytes.
const (
	maxPath = 1024
	maxName = 255
)

// CleanPath checks a slash-separated relative path and returns it without
// doubled slashes. Dot segments, control characters, backslashes and absolute
// paths are refused: no stored path ever means something outside its user.
func CleanPath(p string) (string, error) {
	if len(p) > maxPath || !utf8.ValidString(p) || strings.HasPrefix(p, "/") {
		return "", cluster.Errorf(cluster.Invalid, "not a usable path")
	}
	var parts []string
	for part := range strings.SplitSeq(p, "/") {
		if part == "" {
			continue
		}
		if err := checkName(part); err != nil {
			return "", err
		}
		parts = append(parts, part)
	}
	if len(parts) == 0 {
		return "", cluster.Errorf(cluster.Invalid, "a path is missing")
	}
	return strings.Join(parts, "/"), nil
}

// CleanSubfolder is CleanPath for a folder, where "" is the area's root.
func CleanSubfolder(p string) (string, error) {
	if strings.Trim(p, "/") == "" && len(p) <= 1 {
		return "", nil
	}
	return CleanPath(strings.TrimSuffix(p, "/"))
}

func checkName(n string) error {
	if n == "" || n == "." || n == ".." || len(n) > maxName || !utf8.ValidString(n) {
		return cluster.Errorf(cluster.Invalid, "not a usable file name")
	}
	for _, r := range n {
		if r < 0x20 || r == 0x7f || r == '\\' || r == '/' {
			return cluster.Errorf(cluster.Invalid, "not a usable file name")
		}
	}
	return nil
}
