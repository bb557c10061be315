package frontend_test

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/roles/gateway/frontend"
)

const name = "comfyui_frontend_package-9.9.9-py3-none-any.whl"

// wheel makes a small wheel and returns its bytes and digest.
func wheel(t *testing.T, files map[string]string) ([]byte, string) {
	t.Helper()
	var buf bytes.Buffer
	z := zip.NewWriter(&buf)
	for path, text := range files {
		w, err := z.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(buf.Bytes())
	return buf.Bytes(), hex.EncodeToString(sum[:])
}

var page = map[string]string{
	"comfyui_frontend_package/static/index.html":                 "<html></html>",
	"comfyui_frontend_package/static/assets/app-AbCd1234.js":     strings.Repeat("let x = 1;\n", 1000),
	"comfyui_frontend_package/static/assets/app-AbCd1234.js.map": "{}",
	"comfyui_frontend_package/static/extensions/core/b.js":       "b",
	"comfyui_frontend_package/static/extensions/core/a.js":       "a",
	"comfyui_frontend_package/__init__.py":                       "",
}

func load(t *testing.T, cfg frontend.Config) (*frontend.Files, error) {
	t.Helper()
	if cfg.Version == "" {
		cfg.Version = "9.9.9"
	}
	cfg.Logger = slog.New(slog.DiscardHandler)
	// No python: what is missing must be missing.
	t.Setenv("PATH", t.TempDir())
	return frontend.Load(t.Context(), cfg)
}

func write(t *testing.T, path string, raw []byte) string {
	t.Helper()
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLoad(t *testing.T) {
	raw, pin := wheel(t, page)
	search, dir := t.TempDir(), t.TempDir()
	path := write(t, filepath.Join(search, name), raw)
	f, err := load(t, frontend.Config{SHA256: pin, Dir: dir, Search: []string{search}})
	if err != nil {
		t.Fatal(err)
	}
	a, ok := f.Lookup("assets/app-AbCd1234.js")
	if !ok || !a.Immutable || a.Gzip == "" || a.Brotli == "" || a.BrotliSize == 0 || a.ContentType != "text/javascript; charset=utf-8" {
		t.Errorf("asset %+v", a)
	}
	if a, ok := f.Lookup(""); !ok || a.Immutable || a.Gzip != "" {
		t.Errorf("index %+v", a)
	}
	for _, no := range []string{"__init__.py", "../manifest.json", "assets/app-AbCd1234.js.map", "assets", "manifest.json"} {
		if _, ok := f.Lookup(no); ok {
			t.Errorf("%s is served", no)
		}
	}
	if got := strings.Join(f.Extensions(), " "); got != "/extensions/core/a.js /extensions/core/b.js" {
		t.Errorf("extensions %s", got)
	}
	// The next start needs neither the wheel nor a network.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := load(t, frontend.Config{SHA256: pin, Dir: dir}); err != nil {
		t.Errorf("second start: %v", err)
	}
}

func TestWhatIsNotServed(t *testing.T) {
	raw, pin := wheel(t, page)
	slip, slipPin := wheel(t, map[string]string{"comfyui_frontend_package/static/index.html": "x", "comfyui_frontend_package/static/../../../evil": "x"})
	empty, emptyPin := wheel(t, map[string]string{"other/file": "x"})
	cut := raw[:len(raw)/2]
	cutSum := sha256.Sum256(cut)
	for what, c := range map[string]struct {
		raw  []byte
		pin  string
		want cluster.Code
	}{
		"another digest":            {raw, strings.Repeat("0", 64), cluster.Invalid},
		"a file that leaves":        {slip, slipPin, cluster.Invalid},
		"no frontend in it":         {empty, emptyPin, cluster.Invalid},
		"cut off":                   {cut, hex.EncodeToString(cutSum[:]), cluster.Invalid},
		"a pin that is no digest":   {raw, "abc", cluster.Invalid},
		"a version without its pin": {raw, "", cluster.Invalid},
	} {
		dir := t.TempDir()
		_, err := load(t, frontend.Config{SHA256: c.pin, Dir: filepath.Join(dir, "f"), Wheel: write(t, filepath.Join(dir, name), c.raw)})
		if cluster.CodeOf(err) != c.want {
			t.Errorf("%s: %v", what, err)
		}
		if _, err := os.Stat(filepath.Join(dir, "evil")); err == nil {
			t.Errorf("%s: a file was written outside", what)
		}
	}
	_, err := load(t, frontend.Config{SHA256: pin, Dir: t.TempDir()})
	if cluster.CodeOf(err) != cluster.Unavailable || !strings.Contains(err.Error(), "pip download --no-deps comfyui-frontend-package==9.9.9") {
		t.Errorf("a missing wheel: %v", err)
	}
}

func TestTamperedTreeIsFound(t *testing.T) {
	raw, pin := wheel(t, page)
	search, dir := t.TempDir(), t.TempDir()
	path := write(t, filepath.Join(search, name), raw)
	cfg := frontend.Config{SHA256: pin, Dir: dir, Search: []string{search}}
	f, err := load(t, cfg)
	if err != nil {
		t.Fatal(err)
	}
	a, _ := f.Lookup("extensions/core/a.js")
	write(t, a.Path, []byte("z")) // same size
	if _, err := f.Verify(0); err == nil {
		t.Error("a changed file is called verified")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := load(t, frontend.Config{SHA256: pin, Dir: dir}); err == nil {
		t.Error("a changed tree is served without its wheel")
	}
	write(t, path, raw)
	if f, err = load(t, cfg); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Verify(time.Hour); err != nil {
		t.Error(err)
	}
}

// TestSmallFilesComeFromMemory: once read they stay as they were; what is not
// what was unpacked is never kept.
func TestSmallFilesComeFromMemory(t *testing.T) {
	raw, pin := wheel(t, page)
	dir, search := t.TempDir(), t.TempDir()
	write(t, filepath.Join(search, name), raw)
	f, err := load(t, frontend.Config{SHA256: pin, Dir: dir, Search: []string{search}})
	if err != nil {
		t.Fatal(err)
	}
	a, _ := f.Lookup("assets/app-AbCd1234.js")
	before := f.Small(a, a.Gzip)
	if want, err := os.ReadFile(a.Gzip); err != nil || len(want) == 0 || string(before) != string(want) {
		t.Fatalf("%d bytes, want %d (%v)", len(before), len(want), err)
	}
	for _, file := range []string{a.Gzip, a.Brotli} {
		write(t, file, []byte("something else"))
	}
	if string(f.Small(a, a.Gzip)) != string(before) {
		t.Error("what stands in memory has changed with the disk")
	}
	if got := f.Small(a, a.Brotli); got != nil {
		t.Errorf("a tampered file is served: %q", got)
	}
	if got := f.Small(a, filepath.Join(dir, "another")); got != nil {
		t.Errorf("a file of nobody: %q", got)
	}
}

func TestIndex(t *testing.T) {
	raw, pin := wheel(t, page)
	index := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/simple/comfyui-frontend-package/":
			_, _ = w.Write([]byte(`<a href="../../files/other.whl">o</a> <a href='../../files/` + name + `#sha256=x'>w</a>`))
		case "/files/" + name:
			_, _ = w.Write(raw)
		default:
			http.NotFound(w, r)
		}
	}))
	defer index.Close()
	if _, err := load(t, frontend.Config{SHA256: pin, Dir: t.TempDir(), Index: index.URL + "/simple"}); err != nil {
		t.Error(err)
	}
	if _, err := load(t, frontend.Config{SHA256: strings.Repeat("1", 64), Dir: t.TempDir(), Index: index.URL + "/simple"}); err == nil {
		t.Error("an index decides what is served")
	}
}

// TestRealWheels unpacks the released wheels that a folder holds.
func TestRealWheels(t *testing.T) {
	folder := os.Getenv("COMFYUME_WHEEL_DIR")
	if folder == "" {
		t.Skip("COMFYUME_WHEEL_DIR names no folder of wheels")
	}
	for _, v := range []string{frontend.DefaultVersion} {
		if _, err := os.Stat(filepath.Join(folder, strings.Replace(name, "9.9.9", v, 1))); err != nil {
			t.Logf("no wheel of %s in %s", v, folder)
			continue
		}
		begin := time.Now()
		f, err := frontend.Load(context.Background(), frontend.Config{Version: v, Dir: t.TempDir(), Search: []string{folder}, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Error(err)
			continue
		}
		t.Logf("%s: %d extensions, %s", v, len(f.Extensions()), time.Since(begin))
	}
}
