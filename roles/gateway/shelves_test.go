package gateway_test

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ahelme/comfyume/roles/gateway/wheels"
)

// shelf serves one file of a package.
func shelf(t *testing.T, name, text string) *wheels.Shelf {
	t.Helper()
	var buf bytes.Buffer
	z := zip.NewWriter(&buf)
	f, err := z.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(buf.Bytes())
	w := wheels.Wheel{Title: "pages", Distribution: "pages", Version: "1", SHA256: hex.EncodeToString(sum[:])}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, w.Name()), buf.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	s := &wheels.Shelf{}
	if err := s.Fill(t.Context(), wheels.Source{Dir: t.TempDir(), Search: []string{dir}, Logger: slog.New(slog.DiscardHandler)}, []wheels.Wheel{w}); err != nil {
		t.Fatal(err)
	}
	return s
}

// TestOfficialTemplatesAndNodeDocs: files of ComfyUI's packages, where they are
// asked for; the workshop's own workflows stay what they are.
func TestOfficialTemplatesAndNodeDocs(t *testing.T) {
	w := open(t, options{visited: true, docs: shelf(t, "pages/docs/KSampler/en.md", "# KSampler"), official: shelf(t, "pages/templates/index.json", `[{"moduleName":"default"}]`)})
	before := w.get(ann, "/api/workflow_templates").want(t, 200).body
	for _, prefix := range []string{"", "/user001"} {
		if a := w.get(ann, prefix+"/docs/KSampler/en.md").want(t, 200); a.body != "# KSampler" || !strings.HasPrefix(a.header.Get("Content-Type"), "text/markdown") {
			t.Errorf("docs: %q as %s", a.body, a.header.Get("Content-Type"))
		}
		if a := w.get(ann, prefix+"/templates/index.json").want(t, 200); a.body != `[{"moduleName":"default"}]` {
			t.Errorf("the catalogue: %q", a.body)
		}
		w.get(ann, prefix+"/docs/KSampler/xx.md").want(t, 404)
		w.get(ann, prefix+"/docs/%2e%2e/KSampler/en.md").want(t, 400)
		w.get(ann, prefix+"/templates/flux.webp").want(t, 404)
		w.get(ann, prefix+"/templates/index_logo.json").want(t, 200) // our own empty one
	}
	if got := w.get(ann, "/api/workflow_templates").want(t, 200).body; got != before || !strings.Contains(got, "workshop") {
		t.Errorf("the workshop's own: %s", got)
	}
	w.ask(ask{target: "/docs/KSampler/en.md"}).want(t, 401)
}

func TestWithoutTheirPackages(t *testing.T) {
	w := open(t, options{visited: true})
	if a := w.get(ann, "/docs/KSampler/en.md").want(t, 404); a.body != "404: Not Found" {
		t.Errorf("%q", a.body)
	}
	w.get(ann, "/templates/flux.webp").want(t, 404)
}
