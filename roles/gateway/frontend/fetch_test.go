package frontend_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/andybalholm/brotli"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/roles/gateway/frontend"
)

// pip puts a python3 on the PATH whose pip hands over one file, and returns
// where it notes its arguments.
func pip(t *testing.T, wheel string) (arguments string) {
	t.Helper()
	bin := t.TempDir()
	arguments = filepath.Join(bin, "arguments")
	script := "#!/bin/sh\nPATH=/usr/bin:/bin\necho \"$@\" >'" + arguments + "'\nwhile [ \"$1\" != --dest ]; do shift; done\ncp '" + wheel + "' \"$2/" + name + "\"\n"
	if err := os.WriteFile(filepath.Join(bin, "python3"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin)
	return arguments
}

func quiet(cfg frontend.Config) frontend.Config {
	cfg.Version, cfg.Logger = "9.9.9", slog.New(slog.DiscardHandler)
	return cfg
}

func TestPipFetchesWhatNobodyHas(t *testing.T) {
	raw, pin := wheel(t, page)
	arguments := pip(t, write(t, filepath.Join(t.TempDir(), "w"), raw))
	dir := t.TempDir()
	if _, err := frontend.Load(t.Context(), quiet(frontend.Config{SHA256: pin, Dir: dir})); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(arguments)
	for _, want := range []string{"-m pip download", "--no-deps", "--only-binary=:all:", "comfyui-frontend-package==9.9.9"} {
		if err != nil || !strings.Contains(string(got), want) {
			t.Errorf("pip was asked %q without %q, %v", got, want, err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "wheels", name)); err != nil {
		t.Errorf("the wheel is not kept for the next time: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "wheels", "pip-*")); len(left) != 0 {
		t.Errorf("left %v", left)
	}
}

func TestPipDoesNotDecideWhatIsServed(t *testing.T) {
	_, pin := wheel(t, page)
	other, _ := wheel(t, map[string]string{"comfyui_frontend_package/static/index.html": "another"})
	pip(t, write(t, filepath.Join(t.TempDir(), "w"), other))
	dir := t.TempDir()
	_, err := frontend.Load(t.Context(), quiet(frontend.Config{SHA256: pin, Dir: dir}))
	if cluster.CodeOf(err) != cluster.Unavailable || !strings.Contains(err.Error(), "sha256") || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v", err)
	}
	if trees, _ := filepath.Glob(filepath.Join(dir, "9.9.9-*")); len(trees) != 0 {
		t.Errorf("unpacked %v", trees)
	}
}

func TestAWrongWheelInOneFolderDoesNotHideTheRightOne(t *testing.T) {
	raw, pin := wheel(t, page)
	bad, good := t.TempDir(), t.TempDir()
	write(t, filepath.Join(bad, name), []byte("cut off"))
	write(t, filepath.Join(good, name), raw)
	if _, err := load(t, frontend.Config{SHA256: strings.ToUpper(pin), Dir: t.TempDir(), Search: []string{bad, good}}); err != nil {
		t.Error(err)
	}
}

func TestNamedWheel(t *testing.T) {
	raw, pin := wheel(t, page)
	at := t.TempDir()
	// A wheel that was renamed by a browser's download is still the wheel.
	if _, err := load(t, frontend.Config{SHA256: pin, Dir: t.TempDir(), Wheel: write(t, filepath.Join(at, "frontend (1).whl"), raw)}); err != nil {
		t.Error(err)
	}
	_, err := load(t, frontend.Config{SHA256: pin, Dir: t.TempDir(), Wheel: filepath.Join(at, "nowhere.whl")})
	if cluster.CodeOf(err) != cluster.Unavailable || !strings.Contains(err.Error(), "nowhere.whl") {
		t.Errorf("a wheel that is not there: %v", err)
	}
}

func TestVersionIsNoPath(t *testing.T) {
	for _, v := range []string{"../../etc", "1.0/../..", "-r", "1.0 --index", "9.9.9\n"} {
		_, err := frontend.Load(t.Context(), frontend.Config{Version: v, SHA256: strings.Repeat("0", 64), Dir: t.TempDir()})
		if cluster.CodeOf(err) != cluster.Invalid {
			t.Errorf("%q: %v", v, err)
		}
	}
}

func TestUnpackedOnce(t *testing.T) {
	raw, pin := wheel(t, page)
	cfg := frontend.Config{SHA256: pin, Dir: t.TempDir(), Wheel: write(t, filepath.Join(t.TempDir(), name), raw)}
	inode := func() fs.FileInfo {
		f, err := load(t, cfg)
		if err != nil {
			t.Fatal(err)
		}
		a, _ := f.Lookup("")
		info, err := os.Stat(a.Path)
		if err != nil {
			t.Fatal(err)
		}
		return info
	}
	first := inode()
	if !os.SameFile(first, inode()) {
		t.Error("a second start unpacked again")
	}
}

func TestTwinsHoldTheSameBytesAndAreVerifiedToo(t *testing.T) {
	raw, pin := wheel(t, page)
	cfg := frontend.Config{SHA256: pin, Dir: t.TempDir(), Wheel: write(t, filepath.Join(t.TempDir(), name), raw)}
	for _, kind := range []string{"gzip", "brotli"} {
		f, err := load(t, cfg)
		if err != nil {
			t.Fatal(err)
		}
		a, _ := f.Lookup("assets/app-AbCd1234.js")
		twin := a.Gzip
		if kind == "brotli" {
			twin = a.Brotli
		}
		packed, err := os.ReadFile(twin)
		if err != nil {
			t.Fatal(err)
		}
		var r io.Reader = brotli.NewReader(bytes.NewReader(packed))
		if kind == "gzip" {
			if r, err = gzip.NewReader(bytes.NewReader(packed)); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := io.ReadAll(r); err != nil || string(got) != page["comfyui_frontend_package/static/assets/app-AbCd1234.js"] {
			t.Errorf("%s: %d bytes, %v", kind, len(got), err)
		}
		packed[len(packed)/2] ^= 1
		write(t, twin, packed)
		if _, err := f.Verify(0); err == nil {
			t.Errorf("a changed %s twin is called verified", kind)
		}
	}
}

func TestLeftoversOfAKilledStartGo(t *testing.T) {
	raw, pin := wheel(t, page)
	dir := t.TempDir()
	day := time.Now().Add(-24 * time.Hour)
	var left []string
	for _, d := range []string{"unpack-1", "wheels/pip-1", "wheels/wheel-1"} {
		path := filepath.Join(dir, filepath.FromSlash(d))
		if err := os.MkdirAll(path, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, day, day); err != nil {
			t.Fatal(err)
		}
		left = append(left, path)
	}
	if _, err := load(t, frontend.Config{SHA256: pin, Dir: dir, Wheel: write(t, filepath.Join(t.TempDir(), name), raw)}); err != nil {
		t.Fatal(err)
	}
	for _, path := range left {
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s stays: %v", path, err)
		}
	}
}

func TestIndexThatDoesNotHelp(t *testing.T) {
	_, pin := wheel(t, page)
	for what, answer := range map[string]http.HandlerFunc{
		"nothing there": http.NotFound,
		"another wheel": func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`<a href="x-1.whl">x</a>`)) },
		"a broken link": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte(`<a href="%zz/` + name + `">x</a>`))
		},
		"a page for all": func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`<a href="` + name + `">x</a>`)) },
	} {
		index := httptest.NewServer(answer)
		_, err := load(t, frontend.Config{SHA256: pin, Dir: t.TempDir(), Index: index.URL})
		index.Close()
		if cluster.CodeOf(err) != cluster.Unavailable || !strings.Contains(err.Error(), "Cure:") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestStopWhileTheIndexIsSilent(t *testing.T) {
	_, pin := wheel(t, page)
	asked := make(chan struct{})
	index := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { close(asked); <-r.Context().Done() }))
	defer index.Close()
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-asked; cancel() }()
	t.Setenv("PATH", t.TempDir())
	if _, err := frontend.Load(ctx, quiet(frontend.Config{SHA256: pin, Dir: t.TempDir(), Index: index.URL})); err == nil {
		t.Error("loaded from nothing")
	}
}

func TestContentTypes(t *testing.T) {
	want := map[string]string{
		"index.html": "text/html; charset=utf-8", "a.js": "text/javascript; charset=utf-8", "a.mjs": "text/javascript; charset=utf-8",
		"a.css": "text/css; charset=utf-8", "a.json": "application/json; charset=utf-8", "a.svg": "image/svg+xml", "a.png": "image/png",
		"a.woff2": "font/woff2", "a.woff": "font/woff", "a.ttf": "font/ttf", "a.wasm": "application/wasm", "a.ico": "image/x-icon",
		"a.webm": "video/webm", "a.mp4": "video/mp4", "a.webp": "image/webp", "a.txt": "text/plain; charset=utf-8", "A.JS": "text/javascript; charset=utf-8",
	}
	files := map[string]string{}
	for path := range want {
		files["comfyui_frontend_package/static/"+path] = path
	}
	raw, pin := wheel(t, files)
	f, err := load(t, frontend.Config{SHA256: pin, Dir: t.TempDir(), Wheel: write(t, filepath.Join(t.TempDir(), name), raw)})
	if err != nil {
		t.Fatal(err)
	}
	for path, kind := range want {
		if a, ok := f.Lookup(path); !ok || a.ContentType != kind || a.ETag == "" || a.Size != int64(len(path)) {
			t.Errorf("%s: %+v", path, a)
		}
	}
}
