package frontend

import (
	"archive/zip"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/andybalholm/brotli"
	"golang.org/x/sync/errgroup"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/roles/gateway/wheels"
)

// static is the folder of the wheel that a server serves.
const static = "comfyui_frontend_package/static/"

// manifest is what an unpacked tree should hold. It is written last: a tree
// without one was never finished.
type manifest struct {
	Wheel string `json:"wheel"` // sha256
	Files []item `json:"files"`
}

type item struct {
	Path   string `json:"path"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
	Gzip   twin   `json:"gzip,omitzero"`
	Brotli twin   `json:"brotli,omitzero"`
}

// twin is a compressed copy of a file; the zero one is none.
type twin struct {
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// Bounds of what a wheel may unpack to.
const (
	maxFile  = 256 << 20
	maxFiles = 20_000
)

// unpack writes the wheel's static files into tree, complete or not at all.
func unpack(wheel, tree, pin string) error {
	z, err := zip.OpenReader(wheel)
	if err != nil {
		return cluster.Errorf(cluster.Invalid, "%s is not a whole wheel (%v); fetch it again", wheel, err)
	}
	defer z.Close()
	if err := os.MkdirAll(filepath.Dir(tree), 0o700); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(tree), "unpack-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	m := manifest{Wheel: pin}
	var group errgroup.Group
	group.SetLimit(max(2, runtime.GOMAXPROCS(0)))
	items := make(chan item, len(z.File))
	for _, f := range z.File {
		name, ok := strings.CutPrefix(f.Name, static)
		// Source maps are for the frontend's own developers, and most of the bytes.
		if !ok || name == "" || strings.HasSuffix(name, "/") || strings.HasSuffix(name, ".map") {
			continue
		}
		if !filepath.IsLocal(filepath.FromSlash(name)) || strings.Contains(name, `\`) || path.Clean(name) != name || f.UncompressedSize64 > maxFile || len(z.File) > maxFiles {
			return cluster.Errorf(cluster.Invalid, "the wheel holds a file that leaves its folder or is too large: %.100q", f.Name)
		}
		group.Go(func() error {
			it, err := unpackFile(f, filepath.Join(tmp, "static", filepath.FromSlash(name)))
			it.Path = name
			items <- it
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	close(items)
	for it := range items {
		m.Files = append(m.Files, it)
	}
	if !slices.ContainsFunc(m.Files, func(i item) bool { return i.Path == "index.html" }) {
		return cluster.Errorf(cluster.Invalid, "%s holds no ComfyUI frontend", wheel)
	}
	slices.SortFunc(m.Files, func(a, b item) int { return strings.Compare(a.Path, b.Path) })
	raw, err := json.MarshalIndent(m, "", " ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(tmp, "manifest.json"), raw, 0o600); err != nil {
		return err
	}
	if err := os.RemoveAll(tree); err != nil {
		return err
	}
	return os.Rename(tmp, tree)
}

func unpackFile(f *zip.File, dest string) (item, error) {
	r, err := f.Open()
	if err != nil {
		return item{}, fmt.Errorf("%s: %w", f.Name, err)
	}
	raw, err := io.ReadAll(io.LimitReader(r, maxFile))
	if err = errors.Join(err, r.Close()); err != nil {
		return item{}, fmt.Errorf("%s: %w", f.Name, err)
	}
	if err := os.MkdirAll(filepath.Dir(dest), 0o700); err != nil {
		return item{}, err
	}
	sum := sha256.Sum256(raw)
	it := item{Size: int64(len(raw)), SHA256: hex.EncodeToString(sum[:])}
	if err := os.WriteFile(dest, raw, 0o600); err != nil {
		return item{}, err
	}
	if !compressible(dest) || len(raw) < 1024 {
		return it, nil
	}
	it.Gzip, err = writeTwin(dest+".gz", raw, func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriterLevel(w, 6) })
	if err != nil {
		return item{}, err
	}
	it.Brotli, err = writeTwin(dest+".br", raw, func(w io.Writer) (io.WriteCloser, error) { return brotli.NewWriterLevel(w, 4), nil })
	return it, err
}

// writeTwin writes a compressed copy if it is worth it.
func writeTwin(dest string, raw []byte, open func(io.Writer) (io.WriteCloser, error)) (twin, error) {
	var buf bytes.Buffer
	w, err := open(&buf)
	if err != nil {
		return twin{}, err
	}
	_, err = w.Write(raw)
	if err = errors.Join(err, w.Close()); err != nil {
		return twin{}, err
	}
	if buf.Len() > len(raw)*9/10 {
		return twin{}, nil
	}
	sum := sha256.Sum256(buf.Bytes())
	return twin{int64(buf.Len()), hex.EncodeToString(sum[:])}, os.WriteFile(dest, buf.Bytes(), 0o600)
}

// hashed matches the names that the frontend's build gives: a changed file has
// another name, so browsers may keep it for good.
var hashed = regexp.MustCompile(`^assets/[^/]*-[A-Za-z0-9_-]{8}\.[a-z0-9]+$`)

// open reads an unpacked tree and checks that every file has its size.
func open(tree, version, pin string) (*Files, error) {
	raw, err := os.ReadFile(filepath.Join(tree, "manifest.json"))
	if err != nil {
		return nil, err
	}
	var m manifest
	if err := json.Unmarshal(raw, &m); err != nil || m.Wheel != pin {
		return nil, fmt.Errorf("the tree's manifest is damaged")
	}
	f := &Files{version: version, root: tree, byPath: make(map[string]*Asset, len(m.Files))}
	for _, it := range m.Files {
		a := &Asset{
			Path: filepath.Join(tree, "static", filepath.FromSlash(it.Path)), Size: it.Size, ContentType: wheels.ContentType(it.Path),
			ETag: `"` + it.SHA256[:20] + `"`, Immutable: hashed.MatchString(it.Path), sums: [3]string{it.SHA256, it.Gzip.SHA256, it.Brotli.SHA256},
		}
		for _, t := range []struct {
			ext  string
			size int64
			path *string
			to   *int64
		}{{"", it.Size, nil, nil}, {".gz", it.Gzip.Size, &a.Gzip, &a.GzipSize}, {".br", it.Brotli.Size, &a.Brotli, &a.BrotliSize}} {
			if t.path != nil && t.size == 0 {
				continue
			}
			info, err := os.Stat(a.Path + t.ext)
			if err != nil || info.Size() != t.size {
				return nil, fmt.Errorf("%s is missing or was changed", it.Path+t.ext)
			}
			if t.path == nil {
				a.ModTime = info.ModTime().Truncate(time.Second)
				continue
			}
			*t.path, *t.to = a.Path+t.ext, t.size
		}
		f.byPath[it.Path] = a
		if strings.HasPrefix(it.Path, "extensions/") && strings.HasSuffix(it.Path, ".js") {
			f.js = append(f.js, "/"+it.Path)
		}
	}
	slices.Sort(f.js)
	// The digests of the files are checked once now, in the same pass that warms
	// the page cache, and again whenever health asks.
	if _, err := f.Verify(time.Minute); err != nil {
		return nil, err
	}
	return f, nil
}

func compressible(name string) bool {
	switch strings.ToLower(path.Ext(name)) {
	case ".html", ".js", ".mjs", ".css", ".json", ".webmanifest", ".svg", ".txt", ".md", ".wasm", ".ttf", ".ico":
		return true
	}
	return false
}
