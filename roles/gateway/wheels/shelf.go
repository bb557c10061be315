package wheels

import (
	"archive/zip"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"strings"
	"sync"

	"github.com/ahelme/comfyume/cluster"
)

// Docs are the pages about ComfyUI's nodes, for /docs. 9.6 MB.
func Docs() []Wheel {
	return []Wheel{{
		Title: "node docs", Distribution: "comfyui-embedded-docs", Version: "0.4.0",
		SHA256: "97c4f8cdcace1e94a754128c4ef53edce0e3df0308df9e0c998080ebc4a5bfb2",
	}}
}

// Templates are ComfyUI's own templates with their pictures, for /templates, as
// comfyui-workflow-templates 0.8.24 names its parts. 185 MB.
func Templates() []Wheel {
	part := func(name, version, sum string) Wheel {
		return Wheel{Title: "official templates (" + name + ")", Distribution: "comfyui-workflow-templates-media-" + name, Version: version, SHA256: sum}
	}
	return []Wheel{
		part("image", "0.3.73", "7caefc28a0ad2193ce6049561a45873c88b4ecd16cdec645154cee0792d414f0"),
		part("video", "0.3.41", "34650c3db6f6a5ab7085727f6a93032cec64b08d73f08c1cd0eb083ea62fe3f5"),
		part("api", "0.3.47", "0f76994733f8b5b908df2121fd664cdc7e04eb2526303d9df22df1e41ae27112"),
		part("other", "0.3.95", "162d0e6679d4948a3479b9e71cded7ae391e9c460649be4176b66293d132e826"),
	}
}

// Bounds of what is served from one wheel.
const (
	maxFile  = 64 << 20 // bytes of one file, unpacked
	maxFiles = 20_000
)

// served matches a package's folder of files for browsers.
var served = regexp.MustCompile(`^[a-z0-9_]+/(docs|templates)/(.+)$`)

// Shelf serves files of wheels from the wheels themselves: there are thousands,
// and few are ever read. It is empty until Fill has worked, and safe for
// concurrent use. A nil Shelf is empty.
type Shelf struct {
	mu     sync.RWMutex
	byPath map[string]*zip.File
	err    error
}

// Fill finds or fetches the wheels and serves what they hold; of two files of
// one name the first counts. It may take minutes. A failure leaves the shelf as
// it was and is what Err then says.
func (s *Shelf) Fill(ctx context.Context, from Source, list []Wheel) error {
	byPath := map[string]*zip.File{}
	for _, w := range list {
		file, err := from.Find(ctx, w)
		if err == nil {
			err = shelve(byPath, file)
		}
		if err != nil {
			s.mu.Lock()
			s.err = err
			s.mu.Unlock()
			return err
		}
	}
	s.mu.Lock()
	s.byPath, s.err = byPath, nil
	s.mu.Unlock()
	return nil
}

// shelve notes the files of a wheel. Its file stays open: what was checked is
// what is served, whatever comes to lie under its name later.
func shelve(byPath map[string]*zip.File, file string) error {
	z, err := zip.OpenReader(file)
	if err != nil {
		return cluster.Errorf(cluster.Invalid, "%s is not a whole wheel (%v); fetch it again", file, err)
	}
	if len(z.File) > maxFiles {
		return errors.Join(cluster.Errorf(cluster.Invalid, "%s holds more than %d files", file, maxFiles), z.Close())
	}
	for _, f := range z.File {
		m := served.FindStringSubmatch(f.Name)
		if m == nil || strings.HasSuffix(f.Name, "/") || path.Clean(f.Name) != f.Name || f.UncompressedSize64 > maxFile || byPath[m[2]] != nil {
			continue
		}
		byPath[m[2]] = f
	}
	return nil
}

// Err says why the shelf is empty; nil when it is filled, or being filled.
func (s *Shelf) Err() error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.err
}

// Len is the number of files.
func (s *Shelf) Len() int {
	if s == nil {
		return 0
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.byPath)
}

// Read returns a file's bytes; ok is false when there is none of that path.
func (s *Shelf) Read(name string) (raw []byte, ok bool, err error) {
	if s == nil {
		return nil, false, nil
	}
	s.mu.RLock()
	f := s.byPath[name]
	s.mu.RUnlock()
	if f == nil {
		return nil, false, nil
	}
	r, err := f.Open()
	if err != nil {
		return nil, true, fmt.Errorf("read %s: %w", f.Name, err)
	}
	raw, err = io.ReadAll(io.LimitReader(r, maxFile)) // its CRC is checked at the end
	if err = errors.Join(err, r.Close()); err != nil {
		return nil, true, fmt.Errorf("read %s: %w", f.Name, err)
	}
	return raw, true, nil
}

// ContentType goes by a name's ending. It does not ask the system's table: that
// differs from machine to machine.
func ContentType(name string) string {
	switch strings.ToLower(path.Ext(name)) {
	case ".html":
		return "text/html; charset=utf-8"
	case ".js", ".mjs":
		return "text/javascript; charset=utf-8"
	case ".css":
		return "text/css; charset=utf-8"
	case ".json", ".webmanifest":
		return "application/json; charset=utf-8"
	case ".svg":
		return "image/svg+xml"
	case ".png":
		return "image/png"
	case ".jpg", ".jpeg":
		return "image/jpeg"
	case ".webp":
		return "image/webp"
	case ".avif":
		return "image/avif"
	case ".gif":
		return "image/gif"
	case ".ico":
		return "image/x-icon"
	case ".woff2":
		return "font/woff2"
	case ".woff":
		return "font/woff"
	case ".ttf":
		return "font/ttf"
	case ".wasm":
		return "application/wasm"
	case ".mp4":
		return "video/mp4"
	case ".webm":
		return "video/webm"
	case ".txt":
		return "text/plain; charset=utf-8"
	case ".md":
		return "text/markdown; charset=utf-8"
	}
	return "application/octet-stream"
}
