package gpu_test

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/ahelme/comfyume/roles/gpu"
)

// textChunks reads the text of a PNG and checks every chunk's sum.
func textChunks(t *testing.T, raw []byte) map[string]string {
	t.Helper()
	if !bytes.HasPrefix(raw, []byte("\x89PNG\r\n\x1a\n")) {
		t.Fatal("not a PNG")
	}
	out := map[string]string{}
	for rest := raw[8:]; len(rest) > 0; {
		size := binary.BigEndian.Uint32(rest)
		body := rest[4 : 8+size]
		if got, want := binary.BigEndian.Uint32(rest[8+size:]), crc32.ChecksumIEEE(body); got != want {
			t.Fatalf("the sum of %s is %08x, want %08x", body[:4], got, want)
		}
		if string(body[:4]) == "tEXt" {
			key, text, _ := bytes.Cut(body[4:], []byte{0})
			out[string(key)] = string(text)
		}
		rest = rest[12+size:]
	}
	return out
}

func chunk(kind, body string) string {
	b := append([]byte(kind), body...)
	out := binary.BigEndian.AppendUint32(nil, uint32(len(body)))
	return string(binary.BigEndian.AppendUint32(append(out, b...), crc32.ChecksumIEEE(b)))
}

const signature = "\x89PNG\r\n\x1a\n"

func edited(t *testing.T, raw string, edit func(string) ([]byte, bool)) string {
	t.Helper()
	whole, err := io.ReadAll(gpu.EditPNG(strings.NewReader(raw), edit))
	if err != nil {
		t.Fatal(err)
	}
	drops, err := io.ReadAll(gpu.EditPNG(iotest.OneByteReader(strings.NewReader(raw)), edit))
	if err != nil || string(drops) != string(whole) {
		t.Fatalf("read in single bytes it is another picture (%v)", err)
	}
	return string(whole)
}

func TestOnlyThePromptOfAPictureChanges(t *testing.T) {
	edit := func(keyword string) ([]byte, bool) {
		if keyword == "prompt" {
			return []byte("own"), true
		}
		return nil, keyword != "other"
	}
	odd := chunk("tEXt", "workflow\x00theirs")
	odd = odd[:len(odd)-1] + "!" // a wrong sum is not ours to mend
	before := signature + chunk("IHDR", strings.Repeat("h", 13)) + odd
	after := chunk("iTXt", "Comment\x00\x00\x00\x00\x00x") + chunk("IDAT", strings.Repeat("d", 70000)) + chunk("IEND", "") + "trailer"
	got := edited(t, before+chunk("tEXt", "prompt\x00gw/1/x")+chunk("tEXt", "other\x00x")+after, edit)
	if want := before + chunk("tEXt", "prompt\x00own") + after; got != want {
		t.Errorf("got %d bytes, want %d", len(got), len(want))
	}
}

func FuzzPicturesWithoutEditsStayAsTheyAre(f *testing.F) {
	f.Add(signature + chunk("IHDR", "x") + chunk("tEXt", "prompt\x00{}") + chunk("IDAT", "data") + chunk("IEND", ""))
	f.Add(signature + chunk("tEXt", "prompt\x00{}")[:9])
	f.Add(signature + "\xff\xff\xff\xfftEXtprompt")
	f.Add("GIF89a")
	f.Add("")
	f.Fuzz(func(t *testing.T, raw string) {
		if got := edited(t, raw, func(string) ([]byte, bool) { return nil, true }); got != raw {
			t.Errorf("got %q, want %q", got, raw)
		}
	})
}

func TestHostPathsAreTrimmed(t *testing.T) {
	for in, want := range map[string]string{
		`  File "/root/ComfyUI/custom_nodes/x/nodes.py", line 3, in go`: `  File "nodes.py", line 3, in go`,
		`File "C:\Users\me\ComfyUI\nodes.py", line 3`:                   `File "nodes.py", line 3`,
		`no such file: '/home/me/input/a.png'`:                          `no such file: 'a.png'`,
		`see https://host/a/b.html or and/or`:                           `see https://host/a/b.html or and/or`,
	} {
		if got := gpu.TrimPaths(in); got != want {
			t.Errorf("%s\ngot  %s\nwant %s", in, got, want)
		}
	}
}
