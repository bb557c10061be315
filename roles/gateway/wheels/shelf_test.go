package wheels_test

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/roles/gateway/wheels"
)

// shelve makes a wheel of the files and a source that finds it there alone.
func shelve(t *testing.T, files map[string]string) (wheels.Source, wheels.Wheel) {
	t.Helper()
	var buf bytes.Buffer
	z := zip.NewWriter(&buf)
	for name, text := range files {
		w, err := z.Create(name)
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
	w := wheels.Wheel{Title: "test pages", Distribution: "test-pages", Version: "1.2", SHA256: hex.EncodeToString(sum[:])}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, w.Name()), buf.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", t.TempDir()) // no python: what is missing must be missing
	return wheels.Source{Dir: t.TempDir(), Search: []string{dir}, Logger: slog.New(slog.DiscardHandler)}, w
}

func TestShelfServesWhatThePackagesServe(t *testing.T) {
	from, w := shelve(t, map[string]string{
		"test_pages/docs/KSampler/en.md": "# KSampler", "test_pages/docs/a/b.webp": "RIFF", "test_pages/__init__.py": "import os",
		"test_pages/secret.md": "no", "test_pages/docs/../../etc/passwd": "no", "test_pages/docs/": "",
	})
	var s wheels.Shelf
	if _, ok, err := s.Read("KSampler/en.md"); ok || err != nil {
		t.Errorf("an empty shelf has it: %v", err)
	}
	if err := s.Fill(t.Context(), from, []wheels.Wheel{w}); err != nil || s.Err() != nil {
		t.Fatal(err)
	}
	if raw, ok, err := s.Read("KSampler/en.md"); !ok || err != nil || string(raw) != "# KSampler" {
		t.Errorf("%q, %v, %v", raw, ok, err)
	}
	for _, no := range []string{"", "__init__.py", "secret.md", "../secret.md", "../../etc/passwd", "docs/KSampler/en.md", "KSampler", "/KSampler/en.md"} {
		if _, ok, _ := s.Read(no); ok {
			t.Errorf("%q is served", no)
		}
	}
	if s.Len() != 2 {
		t.Errorf("%d files", s.Len())
	}
}

func TestShelfWithoutItsWheelSaysWhy(t *testing.T) {
	from, w := shelve(t, map[string]string{"test_pages/docs/a.md": "a"})
	right := w
	w.SHA256 = strings.Repeat("0", 64)
	var s wheels.Shelf
	err := s.Fill(t.Context(), from, []wheels.Wheel{w})
	if cluster.CodeOf(err) != cluster.Unavailable || !strings.Contains(err.Error(), "the test pages 1.2 is missing") || !strings.Contains(err.Error(), "pip download --no-deps test-pages==1.2") {
		t.Errorf("got %v", err)
	}
	if s.Err() == nil || s.Len() != 0 {
		t.Errorf("kept %v and %d files", s.Err(), s.Len())
	}
	if err := s.Fill(t.Context(), from, []wheels.Wheel{right}); err != nil || s.Err() != nil || s.Len() != 1 {
		t.Errorf("the next time: %v, %v", err, s.Err())
	}
	var none *wheels.Shelf
	if _, ok, err := none.Read("a.md"); ok || err != nil || none.Len() != 0 {
		t.Error("no shelf has a file")
	}
}

// TestRealDocs reads the pages about nodes that a folder holds.
func TestRealDocs(t *testing.T) {
	folder := os.Getenv("COMFYUME_WHEEL_DIR")
	if folder == "" {
		t.Skip("COMFYUME_WHEEL_DIR names no folder of wheels")
	}
	if _, err := os.Stat(filepath.Join(folder, wheels.Docs()[0].Name())); err != nil {
		t.Skipf("no wheel of the node docs in %s", folder)
	}
	var s wheels.Shelf
	from := wheels.Source{Dir: t.TempDir(), Search: []string{folder}, Logger: slog.New(slog.DiscardHandler)}
	if err := s.Fill(context.Background(), from, wheels.Docs()); err != nil {
		t.Fatal(err)
	}
	if raw, ok, err := s.Read("KSampler/en.md"); !ok || err != nil || len(raw) < 500 {
		t.Errorf("%d bytes, %v, %v", len(raw), ok, err)
	}
	t.Logf("%d files", s.Len())
}
