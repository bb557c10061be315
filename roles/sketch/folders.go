package sketch

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime/multipart"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/ahelme/comfyume/roles/comfy"
)

// folders are the three places for files. Names come from clients and from
// prompts, so every path is made by resolve.
type folders struct{ root string }

func folderNames() []string { return []string{"input", "output", "temp"} }

// errOutside is met by a name that would leave its folder.
var errOutside = errors.New("the name leads outside its folder")

func (f folders) path(folder string) string { return filepath.Join(f.root, folder) }

// resolve makes the path of a file, which need not be there.
func (f folders) resolve(folder, subfolder, name string) (string, error) {
	if !slices.Contains(folderNames(), folder) {
		return "", fmt.Errorf("find file: no folder %q", folder)
	}
	rel := filepath.Join(filepath.FromSlash(subfolder), filepath.FromSlash(name))
	if filepath.IsAbs(subfolder) || strings.HasPrefix(subfolder, "/") || !filepath.IsLocal(rel) || strings.ContainsRune(rel, 0) {
		return "", fmt.Errorf("find file: %w", errOutside)
	}
	return filepath.Join(f.path(folder), rel), nil
}

// annotated makes the path of a file as prompts name it: in input unless it ends
// in " [output]" or " [temp]".
func (f folders) annotated(name string) (string, error) {
	base, folder := comfy.SplitAnnotation(name)
	if folder == "" {
		folder = "input"
	}
	if strings.HasPrefix(base, "/") {
		return "", fmt.Errorf("find file: %w", errOutside)
	}
	return f.resolve(folder, "", base)
}

// exists reports whether a prompt's file is there.
func (f folders) exists(name string) bool {
	path, err := f.annotated(name)
	if err != nil {
		return false
	}
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// list names the files at the top of a folder, newest first.
func (f folders) list(folder string) ([]string, error) {
	entries, err := os.ReadDir(f.path(folder))
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", folder, err)
	}
	type file struct {
		name string
		at   int64
	}
	var files []file
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !info.Mode().IsRegular() || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		files = append(files, file{e.Name(), info.ModTime().UnixNano()})
	}
	slices.SortStableFunc(files, func(a, b file) int {
		switch {
		case a.at > b.at:
			return -1
		case a.at < b.at:
			return 1
		}
		return 0
	})
	names := make([]string, len(files))
	for i, file := range files {
		names[i] = file.name
	}
	return names, nil
}

// upload stores what a client sent. A file of the same name and content is
// used again; another content gets another name unless it may replace the old.
func (f folders) upload(header *multipart.FileHeader, to comfy.Upload) (comfy.UploadResponse, error) {
	file, err := header.Open()
	if err != nil {
		return comfy.UploadResponse{}, fmt.Errorf("read upload: %w", err)
	}
	defer file.Close()
	content, err := io.ReadAll(file)
	if err != nil {
		return comfy.UploadResponse{}, fmt.Errorf("read upload: %w", err)
	}
	path, err := f.resolve(to.Type, to.Subfolder, to.Name)
	if err != nil {
		return comfy.UploadResponse{}, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return comfy.UploadResponse{}, fmt.Errorf("store upload: %w", err)
	}
	name := to.Name
	if !to.Overwrite {
		free, same, err := freeName(filepath.Dir(path), name, content)
		if err != nil {
			return comfy.UploadResponse{}, err
		}
		name = free
		if same {
			return comfy.UploadResponse{Name: name, Subfolder: to.Subfolder, Type: to.Type}, nil
		}
	}
	if err := writeFile(filepath.Join(filepath.Dir(path), name), content); err != nil {
		return comfy.UploadResponse{}, fmt.Errorf("store upload: %w", err)
	}
	return comfy.UploadResponse{Name: name, Subfolder: to.Subfolder, Type: to.Type}, nil
}

// freeName finds name, "name (1)" and so on: the first that is free, or that
// holds the same content.
func freeName(dir, name string, content []byte) (free string, same bool, err error) {
	ext := filepath.Ext(name)
	stem := strings.TrimSuffix(name, ext)
	sum := sha256.Sum256(content)
	for i := 1; ; i++ {
		old, err := os.ReadFile(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			return name, false, nil
		}
		if err != nil {
			return "", false, fmt.Errorf("store upload: %w", err)
		}
		if have := sha256.Sum256(old); bytes.Equal(have[:], sum[:]) {
			return name, true, nil
		}
		name = fmt.Sprintf("%s (%d)%s", stem, i, ext)
	}
}

// writeFile shows a file under its name only when all of it is there.
func writeFile(path string, content []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".part-*")
	if err != nil {
		return err
	}
	_, err = tmp.Write(content)
	if err = errors.Join(err, tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return nil
}

// nextNumber is one more than the highest number of a prefix's files.
func nextNumber(dir, prefix string) (int, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("number files: %w", err)
	}
	highest := 0
	for _, e := range entries {
		rest, ok := strings.CutPrefix(e.Name(), prefix+"_")
		if !ok {
			continue
		}
		digits, _, _ := strings.Cut(rest, "_")
		if n, err := strconv.Atoi(digits); err == nil {
			highest = max(highest, n)
		}
	}
	return highest + 1, nil
}

// memory is the machine's memory in bytes, 0 where the system does not say.
func memory() (total, free int64) {
	raw, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, 0
	}
	for line := range strings.Lines(string(raw)) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		kb, err := strconv.ParseInt(fields[1], 10, 64)
		if err != nil {
			continue
		}
		switch fields[0] {
		case "MemTotal:":
			total = kb << 10
		case "MemAvailable:":
			free = kb << 10
		}
	}
	return total, free
}
