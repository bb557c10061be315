package sketch_test

import (
	"bytes"
	"errors"
	"fmt"
	"image"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ahelme/comfyume/roles/comfy"
	"github.com/ahelme/comfyume/roles/sketch"
	"github.com/google/go-cmp/cmp"
)

func TestUploadNames(t *testing.T) {
	b := start(t, sketch.Config{})
	put := func(name, content string, to comfy.Upload) (comfy.FileItem, error) {
		to.Name = name
		return b.client.Upload(b.ctx(), to, strings.NewReader(content))
	}
	for _, c := range []struct {
		content string
		to      comfy.Upload
		want    comfy.FileItem
	}{
		{"one", comfy.Upload{}, comfy.FileItem{Filename: "a b é.bin", Type: "input"}},
		{"one", comfy.Upload{}, comfy.FileItem{Filename: "a b é.bin", Type: "input"}},
		{"two", comfy.Upload{}, comfy.FileItem{Filename: "a b é (1).bin", Type: "input"}},
		{"two", comfy.Upload{}, comfy.FileItem{Filename: "a b é (1).bin", Type: "input"}},
		{"three", comfy.Upload{}, comfy.FileItem{Filename: "a b é (2).bin", Type: "input"}},
		{"four", comfy.Upload{Overwrite: true}, comfy.FileItem{Filename: "a b é.bin", Type: "input"}},
		{"five", comfy.Upload{Type: "temp", Subfolder: "x/y"}, comfy.FileItem{Filename: "a b é.bin", Subfolder: "x/y", Type: "temp"}},
	} {
		got, err := put("a b é.bin", c.content, c.to)
		if err != nil || got != c.want {
			t.Errorf("%s: %+v, %v, want %+v", c.content, got, err, c.want)
			continue
		}
		if raw := b.fetch(got); string(raw) != c.content {
			t.Errorf("%s: read back %q", c.content, raw)
		}
	}
	var status *comfy.StatusError
	for _, sub := range []string{"..", "../..", "/etc", "a/../../.."} {
		if _, err := put("x.bin", "x", comfy.Upload{Subfolder: sub}); !errors.As(err, &status) || status.Status != 400 {
			t.Errorf("subfolder %q: %v", sub, err)
		}
	}
	if _, err := put("x.bin", "x", comfy.Upload{Type: "models"}); !errors.As(err, &status) || status.Status != 500 {
		t.Errorf("another folder: %v", err)
	}
	small := start(t, sketch.Config{MaxUpload: 1000})
	if _, err := small.client.Upload(small.ctx(), comfy.Upload{Name: "x"}, bytes.NewReader(make([]byte, 2000))); !errors.As(err, &status) || status.Status != 413 {
		t.Errorf("too large: %v", err)
	}
}

func TestViewRangeAndDerivedPictures(t *testing.T) {
	b := start(t, sketch.Config{})
	b.uploadPicture("a.png", pattern(4, 4, 10, 20, 30, 0))
	req, err := http.NewRequestWithContext(b.ctx(), http.MethodGet, b.server.URL()+"/api/view?filename=a.png+%5Binput%5D", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Range", "bytes=1-3")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusPartialContent || resp.ContentLength != 3 || resp.Header.Get("Content-Type") != "image/png" {
		t.Errorf("range: %s %d %v", resp.Status, resp.ContentLength, resp.Header)
	}
	for query, kind := range map[string]string{"preview=webp;90": "jpeg", "channel=rgb": "png", "channel=a": "png", "preview=jpeg": "jpeg"} {
		_, body := b.get("/view?filename=a.png&type=input&" + query)
		if _, got, err := image.DecodeConfig(strings.NewReader(body)); err != nil || got != kind {
			t.Errorf("%s: %s, %v", query, got, err)
		}
	}
	b.upload("x.html", []byte("<script>"))
	resp2, err := http.Get(b.server.URL() + "/view?filename=x.html&type=input")
	if err != nil {
		t.Fatal(err)
	}
	defer resp2.Body.Close()
	if got := resp2.Header.Get("Content-Type"); got != "application/octet-stream" {
		t.Errorf("a page is served as %s", got)
	}
}

func TestSaveNumbersAndFolders(t *testing.T) {
	dir := t.TempDir()
	b := start(t, sketch.Config{Dir: dir})
	run := func(id, prefix string, batch int) []comfy.FileItem {
		t.Helper()
		b.prompt("", id, fmt.Sprintf(`{"1":{"class_type":"EmptyImage","inputs":{"width":2,"height":3,"batch_size":%d,"color":%d}},"9":{"class_type":"SaveImage","inputs":{"images":["1",0],"filename_prefix":%q}}}`, batch, len(id), prefix))
		return outputs(t, b.wait(id))
	}
	if err := os.MkdirAll(filepath.Join(dir, "output", "deep"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"x_00041_.png", "x_00007_.png", "xy_00099_.png", "x_junk.png"} {
		if err := os.WriteFile(filepath.Join(dir, "output", "deep", name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		prefix string
		batch  int
		want   []comfy.FileItem
	}{
		{"deep/x", 2, []comfy.FileItem{{Filename: "x_00042_.png", Subfolder: "deep", Type: "output"}, {Filename: "x_00043_.png", Subfolder: "deep", Type: "output"}}},
		{"a/b/%width%x%height%_%batch_num%", 2, []comfy.FileItem{{Filename: "2x3_0_00001_.png", Subfolder: "a/b", Type: "output"}, {Filename: "2x3_1_00002_.png", Subfolder: "a/b", Type: "output"}}},
		{"ü m", 1, []comfy.FileItem{{Filename: "ü m_00001_.png", Type: "output"}}},
	} {
		if diff := cmp.Diff(c.want, run("p"+strings.Repeat("x", len(c.prefix)), c.prefix, c.batch)); diff != "" {
			t.Errorf("%s: %s", c.prefix, diff)
		}
	}
	for i, prefix := range []string{"../x", "/etc/x", "a/../../x"} {
		id := fmt.Sprintf("escape-%d", i)
		if files := run(id, prefix, 1); len(files) != 0 || b.wait(id).Status.StatusStr != comfy.HistoryError {
			t.Errorf("%s was written: %v", prefix, files)
		}
	}
	b.prompt("", "preview", graph(empty("1", 2, 2, 5), `"9":{"class_type":"PreviewImage","inputs":{"images":["1",0]}}`))
	files := outputs(t, b.wait("preview"))
	if len(files) != 1 || files[0].Type != "temp" || !strings.HasPrefix(files[0].Filename, "ComfyUI_temp_") || !strings.HasSuffix(files[0].Filename, "_00001_.png") {
		t.Errorf("preview %v", files)
	}
	b.fetch(files[0])
}
