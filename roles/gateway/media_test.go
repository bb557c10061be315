package gateway_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"image"
	"image/color"
	_ "image/jpeg"
	"image/png"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ahelme/comfyume/cluster/blob/blobtest"
	"github.com/ahelme/comfyume/cluster/files"
)

type stored struct{ Name, Subfolder, Type string }

// Uploads follow ComfyUI's naming: the same bytes keep their name, others get
// the next free one, and overwrite takes it.
func TestUploadNames(t *testing.T) {
	w := open(t, options{visited: true})
	steps := []struct {
		parts []part
		want  stored
	}{
		{[]part{{"image", "cat.png", "A"}}, stored{"cat.png", "", "input"}},
		{[]part{{"image", "cat.png", "A"}}, stored{"cat.png", "", "input"}},
		{[]part{{"image", "cat.png", "B"}}, stored{"cat (1).png", "", "input"}},
		{[]part{{"image", "cat.png", "C"}, {"overwrite", "", "true"}}, stored{"cat.png", "", "input"}},
		{[]part{{"overwrite", "", "1"}, {"image", "cat.png", "D"}}, stored{"cat.png", "", "input"}},
		{[]part{{"subfolder", "", "pasted"}, {"image", "image.png", "A"}}, stored{"image.png", "pasted", "input"}},
		{[]part{{"type", "", "temp"}, {"subfolder", "", "threed"}, {"image", "scene.png", "A"}}, stored{"scene.png", "threed", "temp"}},
		{[]part{{"image", "clip.mp4", "video"}}, stored{"clip.mp4", "", "input"}},
		{[]part{{"image", "model.glb", "3d"}, {"subfolder", "", "3d"}}, stored{"model.glb", "3d", "input"}},
		{[]part{{"image", `C:\Users\me\é ü.png`, "A"}}, stored{"é ü.png", "", "input"}},
		{[]part{{"image", "../../up.png", "A"}}, stored{"up.png", "", "input"}},
		{[]part{{"image", "again.png", "A"}, {"type", "", "output"}}, stored{"again.png", "", "output"}}, // a node whose image_folder is output
	}
	for _, s := range steps {
		var got stored
		w.upload(ann, "/user001/api/upload/image", s.parts...).want(t, 200).json(t, &got)
		if got != s.want {
			t.Errorf("%q became %+v, want %+v", s.parts, got, s.want)
		}
	}
	if a := w.get(ann, "/api/view?filename=cat.png&type=input").want(t, 200); a.body != "D" {
		t.Errorf("cat.png is %q", a.body)
	}
	before := w.log.commits()
	for _, bad := range [][]part{
		{},
		{{"other", "a.png", "x"}},
		{{"image", "", "x"}},
		{{"image", "a.png", "x"}, {"type", "", "models"}},
		{{"image", "..", "x"}},
		{{"image", "a.png", "x"}, {"image", "b.png", "y"}},
		{{"image", "a.png", "x"}, {"subfolder", "", strings.Repeat("x", 70<<10)}},
		{{"image", "a\x00.png", "x"}},
	} {
		if a := w.upload(ann, "/upload/image", bad...); a.status != 400 {
			t.Errorf("%.100q: status %d %.100s", fmt.Sprint(bad), a.status, a.body)
		}
	}
	for _, kind := range []string{"", "application/json", "multipart/form-data", "multipart/form-data; boundary="} {
		w.ask(ask{user: ann, method: "POST", target: "/upload/image", header: []string{"Content-Type: " + kind}, body: "{}"}).want(t, 400)
	}
	if n := w.log.commits(); n != before {
		t.Errorf("%d bad uploads were committed", n-before)
	}
}

// An upload larger than the limit is refused, and one that is only large streams.
func TestUploadSizes(t *testing.T) {
	w := open(t, options{visited: true, maxBody: 64 << 10, maxUpload: 8 << 20})
	large := strings.Repeat("0123456789abcdef", 400<<10) // over maxBody, under maxUpload
	w.upload(ann, "/upload/image", part{"image", "large.bin", large}).want(t, 200)
	if a := w.get(ann, "/view?filename=large.bin&type=input").want(t, 200); a.body != large {
		t.Errorf("%d bytes came back of %d", len(a.body), len(large))
	}
	body, kind := multipartOf(t, part{"image", "x.bin", large})
	w.ask(ask{user: ann, method: "POST", target: "/upload/image", header: []string{"Content-Type: " + kind}, body: body[:64<<10], length: 9 << 20, waits: true}).want(t, 413).problem(t)
}

// Video plays in pieces: ranges, whole, from the end, outside.
func TestViewRanges(t *testing.T) {
	w := open(t, options{visited: true})
	w.upload(ann, "/upload/image", part{"image", "v.mp4", "0123456789"}).want(t, 200)
	w.upload(ann, "/upload/image", part{"image", "empty.png", ""}).want(t, 200)
	const target = "/user001/api/view?filename=v.mp4&type=input&rand=0.5"
	for header, want := range map[string]struct {
		status       int
		body, window string
	}{
		"":                            {200, "0123456789", ""},
		"bytes=0-3":                   {206, "0123", "bytes 0-3/10"},
		"bytes=4-":                    {206, "456789", "bytes 4-9/10"},
		"bytes=-3":                    {206, "789", "bytes 7-9/10"},
		"bytes=-30":                   {206, "0123456789", "bytes 0-9/10"},
		"bytes=9-100":                 {206, "9", "bytes 9-9/10"},
		"bytes=10-":                   {416, "", "bytes */10"},
		"bytes=5-2":                   {416, "", "bytes */10"},
		"bytes=-0":                    {416, "", "bytes */10"},
		"pages=1-2":                   {200, "0123456789", ""},
		"bytes=0-1,4-5":               {200, "0123456789", ""},
		"bytes=0-999999999":           {206, "0123456789", "bytes 0-9/10"},
		"bytes=99999999999999999999-": {416, "", "bytes */10"},
	} {
		a := ask{user: ann, target: target}
		if header != "" {
			a.header = []string{"Range: " + header}
		}
		got := w.ask(a)
		if got.status != want.status || got.body != want.body || got.header.Get("Content-Range") != want.window || got.status < 400 && got.header.Get("Accept-Ranges") != "bytes" {
			t.Errorf("%q: %d %q %q", header, got.status, got.body, got.header.Get("Content-Range"))
		}
		a.method = "HEAD"
		if head := w.ask(a); head.status != want.status || head.body != "" || want.status < 400 && head.header.Get("Content-Length") != fmt.Sprint(len(want.body)) {
			t.Errorf("HEAD %q: %d %v", header, head.status, head.header)
		}
	}
	if a := w.get(ann, "/view?filename=empty.png&type=input").want(t, 200); a.body != "" {
		t.Errorf("the empty file: %q", a.body)
	}
	etag := w.get(ann, target).header.Get("ETag")
	if a := w.ask(ask{user: ann, target: target, header: []string{"If-None-Match: " + etag}}); a.status != 304 || a.body != "" {
		t.Errorf("again with its ETag: %d", a.status)
	}
}

// Which file a page means: annotations, subfolders, areas; and how it may show it.
func TestViewFinds(t *testing.T) {
	w := open(t, options{visited: true})
	w.upload(ann, "/upload/image", part{"image", "a.png", "input"}).want(t, 200)
	w.upload(ann, "/upload/image", part{"image", "b.png", "sub"}, part{"subfolder", "", "in/ner"}).want(t, 200)
	w.upload(ann, "/upload/image", part{"image", "c.png", "temp"}, part{"type", "", "temp"}).want(t, 200)
	w.submit(ann, "c", "p1")
	s := w.assign(ann, "p1").begin()
	w.do(&files.PutOutputs{User: ann, Prompt: "p1", Worker: "gpu/0", Epoch: 1, Outputs: []files.NewOutput{{Item: "9/images/0", Area: files.Output, Name: "o_00001_.png", Ref: w.put([]byte("output")), Size: 6}}})
	s.done("o_00001_.png")
	for query, want := range map[string]string{
		"filename=a.png&type=input": "input", "filename=a.png%20%5Binput%5D": "input", "filename=a.png+[input]&type=output": "input", "filename=o_00001_.png": "output",
		"filename=o_00001_.png&type=output&subfolder=": "output", "filename=b.png&type=input&subfolder=in/ner": "sub", "filename=b.png&type=input&subfolder=in%2Fner%2F": "sub",
		"filename=c.png&type=temp": "temp", "filename=any/where/a.png&type=input": "input",
	} {
		if a := w.get(ann, "/view?"+query).want(t, 200); a.body != want {
			t.Errorf("%s: %q", query, a.body)
		}
	}
	for query, status := range map[string]int{
		"": 404, "filename=": 404, "filename=none.png": 404, "filename=a.png": 404, "filename=a.png&type=models": 400, "filename=/a.png&type=input": 400,
		"filename=../a.png&type=input": 400, "filename=a.png&type=input&subfolder=..": 403, "filename=b.png&type=input": 404, "filename=blake3:00": 404,
	} {
		if a := w.get(ann, "/view?"+query); a.status != status {
			t.Errorf("%q: status %d, want %d", query, a.status, status)
		}
	}
	for name, want := range map[string]string{"x.html": "attachment", "x.svg": "attachment", "x.js": "attachment", "x.css": "attachment", "x.xml": "attachment", "x.xhtml": "attachment", "x.pdf": "attachment", "x": "attachment", "x.png": "inline", "x.mp4": "inline", "x.webp": "inline"} {
		w.upload(ann, "/upload/image", part{"image", name, "<script>alert(1)</script>"}).want(t, 200)
		h := w.get(ann, "/view?filename="+name+"&type=input").want(t, 200).header
		if !strings.HasPrefix(h.Get("Content-Disposition"), want+";") || want == "attachment" && h.Get("Content-Type") != "application/octet-stream" {
			t.Errorf("%s: %q %q", name, h.Get("Content-Disposition"), h.Get("Content-Type"))
		}
	}
	w.upload(ann, "/upload/image", part{"image", "a \"q\".png", "x"}).want(t, 200)
	if d := w.get(ann, "/view?type=input&filename="+url.QueryEscape(`a "q".png`)).header.Get("Content-Disposition"); strings.Count(d, `"`) != 2 {
		t.Errorf("disposition %q", d)
	}
}

// picture is one whose colours differ from its alpha everywhere, gone ones included.
func picture(w, h int) *image.NRGBA {
	img := image.NewNRGBA(image.Rect(0, 0, w, h))
	for y := range h {
		for x := range w {
			img.SetNRGBA(x, y, color.NRGBA{uint8(10 + x*7), uint8(200 - y*5), 77, uint8(x * 255 / (w - 1))})
		}
	}
	return img
}

func encodePNG(t testing.TB, img image.Image) string {
	t.Helper()
	var buf bytes.Buffer
	if err := png.Encode(&buf, img); err != nil {
		t.Fatal(err)
	}
	return buf.String()
}

func decodePNG(t testing.TB, raw string) *image.NRGBA {
	t.Helper()
	img, err := png.Decode(strings.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	out := image.NewNRGBA(img.Bounds())
	for y := range img.Bounds().Dy() {
		for x := range img.Bounds().Dx() {
			out.SetNRGBA(x, y, color.NRGBAModel.Convert(img.At(x, y)).(color.NRGBA))
		}
	}
	return out
}

// The mask editor takes a picture apart and puts it together again: what lies
// under a mask must still be there when the mask is taken away.
func TestMaskKeepsWhatItCovers(t *testing.T) {
	w := open(t, options{visited: true})
	src := picture(16, 8)
	w.upload(ann, "/upload/image", part{"image", "p.png", encodePNG(t, src)}).want(t, 200)
	rgb := decodePNG(t, w.get(ann, "/view?filename=p.png&type=input&channel=rgb").want(t, 200).body)
	alpha := decodePNG(t, w.get(ann, "/view?filename=p.png&type=input&channel=a").want(t, 200).body)
	mask := image.NewNRGBA(src.Bounds())
	for i := range src.Pix {
		if i%4 == 3 {
			if rgb.Pix[i] != 255 || alpha.Pix[i] != src.Pix[i] {
				t.Fatalf("alpha at %d: %d and %d, want 255 and %d", i, rgb.Pix[i], alpha.Pix[i], src.Pix[i])
			}
			mask.Pix[i] = 255 - src.Pix[i]
			continue
		}
		if rgb.Pix[i] != src.Pix[i] {
			t.Fatalf("colour at %d is %d, was %d", i, rgb.Pix[i], src.Pix[i])
		}
	}
	var got stored
	w.upload(ann, "/upload/mask", part{"image", "m.png", encodePNG(t, mask)}, part{"original_ref", "", `{"filename":"p.png","subfolder":"","type":"input"}`}, part{"subfolder", "", "clipspace"}).want(t, 200).json(t, &got)
	if want := (stored{"m.png", "clipspace", "input"}); got != want {
		t.Errorf("masked is %+v", got)
	}
	out := decodePNG(t, w.get(ann, "/view?filename=m.png&subfolder=clipspace&type=input").want(t, 200).body)
	for i := range src.Pix {
		want := src.Pix[i]
		if i%4 == 3 {
			want = mask.Pix[i]
		}
		if out.Pix[i] != want {
			t.Fatalf("masked at %d: %d, want %d", i, out.Pix[i], want)
		}
	}
	before := w.log.commits()
	for _, bad := range [][]part{
		{{"image", "m.png", encodePNG(t, mask)}},
		{{"image", "m.png", encodePNG(t, mask)}, {"original_ref", "", `{"filename":"none.png"}`}},
		{{"image", "m.png", encodePNG(t, mask)}, {"original_ref", "", `{"filename":"../p.png","type":"input"}`}},
		{{"image", "m.png", "no picture"}, {"original_ref", "", `{"filename":"p.png","type":"input"}`}},
		{{"image", "m.png", encodePNG(t, picture(4, 4))}, {"original_ref", "", `{"filename":"p.png","type":"input"}`}},
	} {
		if a := w.upload(ann, "/upload/mask", bad...); a.status != 400 {
			t.Errorf("status %d %.200s", a.status, a.body)
		}
	}
	if n := w.log.commits(); n != before {
		t.Errorf("%d bad masks were committed", n-before)
	}
}

// A preview is a lighter picture, or the picture itself.
func TestPreviews(t *testing.T) {
	w := open(t, options{visited: true})
	img := image.NewNRGBA(image.Rect(0, 0, 600, 400))
	copy(img.Pix, blobtest.Noise(1, len(img.Pix))) // which PNG cannot make small
	raw := encodePNG(t, img)
	w.upload(ann, "/upload/image", part{"image", "n.png", raw}).want(t, 200)
	w.upload(ann, "/upload/image", part{"image", "bad.png", strings.Repeat("no picture", 40<<10)}).want(t, 200)
	for _, spec := range []string{"webp", "jpeg", "webp;50", "jpeg;", "x;y;z", "webp;999999"} {
		a := w.get(ann, "/view?filename=n.png&type=input&preview="+url.QueryEscape(spec)).want(t, 200)
		conf, _, err := image.DecodeConfig(strings.NewReader(a.body))
		if err != nil || conf.Width != 600 || len(a.body) >= len(raw) {
			t.Errorf("%s: %d bytes of %d, %v", spec, len(a.body), len(raw), err)
		}
	}
	if a := w.get(ann, "/view?filename=bad.png&type=input&preview=webp").want(t, 200); len(a.body) != 400<<10 {
		t.Errorf("what is no picture came as %d bytes", len(a.body))
	}
}

// Bytes that are gone are an error of ours, not a file that never was.
func TestLostBytes(t *testing.T) {
	w := open(t, options{visited: true})
	w.upload(ann, "/upload/image", part{"image", "a.png", "picture"}).want(t, 200)
	large := strings.Repeat("x", 300<<10)
	w.post(ann, "/api/userdata/large.txt", large).want(t, 200)
	for _, raw := range []string{"picture", large} {
		ref := w.put([]byte(raw))
		if err := os.Remove(filepath.Join(w.blobDir, "blobs", string(ref[:2]), string(ref))); err != nil {
			t.Fatal(err)
		}
	}
	for _, target := range []string{"/view?filename=a.png&type=input", "/api/userdata/large.txt"} {
		if a := w.get(ann, target); a.status < 500 {
			t.Errorf("%s: status %d %.200s", target, a.status, a.body)
		} else {
			a.problem(t)
		}
	}
}

// TestMaskKeepsTheWorkflow: dropped onto a page, a masked picture opens the
// workflow that made what is under the mask.
func TestMaskKeepsTheWorkflow(t *testing.T) {
	w := open(t, options{visited: true})
	raw := encodePNG(t, picture(8, 8))
	const header = 33 // signature and IHDR
	chunk := []byte("tEXtworkflow\x00{}")
	text := binary.BigEndian.AppendUint32(nil, uint32(len(chunk)-4))
	text = binary.BigEndian.AppendUint32(append(text, chunk...), crc32.ChecksumIEEE(chunk))
	w.upload(ann, "/upload/image", part{"image", "p.png", raw}).want(t, 200)
	w.upload(ann, "/upload/image", part{"image", "t.png", raw[:header] + string(text) + raw[header:]}).want(t, 200)
	for name, want := range map[string]bool{"p.png": false, "t.png [input]": true} {
		w.upload(ann, "/upload/mask", part{"image", "m.png", raw}, part{"original_ref", "", `{"filename":"` + name + `","type":"input"}`}, part{"overwrite", "", "true"}).want(t, 200)
		got := w.get(ann, "/view?type=input&filename=m.png").want(t, 200).body
		if strings.Contains(got, string(text)) != want {
			t.Errorf("%s: the text is there: %v", name, !want)
		}
		decodePNG(t, got)
	}
}
