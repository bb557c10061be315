package comfy_test

import (
	"bytes"
	"testing"

	"github.com/ahelme/comfyume/roles/comfy"
)

func TestFrameLayouts(t *testing.T) {
	for _, c := range []struct {
		name string
		f    comfy.Frame
		want string
	}{
		{"preview", comfy.NewPreview(comfy.FormatPNG, []byte("PIC")), "\x00\x00\x00\x01\x00\x00\x00\x02PIC"},
		{"text", comfy.NewText("12:3", "half"), "\x00\x00\x00\x03\x00\x00\x00\x0412:3half"},
		{
			"metadata", comfy.NewPreviewMetadata(comfy.PreviewMeta{NodeID: "3", PromptID: "p", DisplayNodeID: "3", RealNodeID: "3"}, []byte("PIC")),
			"\x00\x00\x00\x04\x00\x00\x00\x7c" + `{"node_id":"3","prompt_id":"p","display_node_id":"3","parent_node_id":null,"real_node_id":"3","image_type":"image/jpeg"}` + "PIC",
		},
	} {
		if c.name == "metadata" {
			c.want = c.want[:7] + string(rune(len(c.f.Meta))) + c.want[8:]
		}
		if got := string(c.f.Raw); got != c.want {
			t.Errorf("%s: got\n%q want\n%q", c.name, got, c.want)
		}
		back, err := comfy.ParseFrame(c.f.Raw)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(back.Encode(), c.f.Raw) || !bytes.Equal(back.Payload, c.f.Payload) {
			t.Errorf("%s: read back as %+v", c.name, back)
		}
	}
}

func TestFrameWithPromptIDCountsAnew(t *testing.T) {
	f := comfy.NewPreviewMetadata(comfy.PreviewMeta{NodeID: "3", PromptID: "short", ImageType: "image/png"}, []byte("PICTURE"))
	long := "8c7d0c0e-5a5f-4a56-8e0c-6f1b6a3f0a11"
	got, err := f.WithPromptID(long)
	if err != nil {
		t.Fatal(err)
	}
	back, err := comfy.ParseFrame(got.Raw)
	if err != nil {
		t.Fatal(err)
	}
	if id, _ := back.PromptID(); id != long {
		t.Errorf("prompt id %q", id)
	}
	if string(back.Payload) != "PICTURE" {
		t.Errorf("picture is %q", back.Payload)
	}
	old, err := comfy.ParseFrame(back.Downgrade().Raw)
	if err != nil {
		t.Fatal(err)
	}
	if old.Event != comfy.EventPreview || old.Format != comfy.FormatPNG || string(old.Payload) != "PICTURE" {
		t.Errorf("downgraded to %+v", old)
	}
	if node, _ := back.NodeID(); node != "3" {
		t.Errorf("node %q", node)
	}
}

func TestUnknownFramesStay(t *testing.T) {
	for _, raw := range []string{"\x00\x00\x00\x64", "\x00\x00\x01\x00abc", "\x00\x00\x00\x02xyz"} {
		f, err := comfy.ParseFrame([]byte(raw))
		if err != nil {
			t.Fatal(err)
		}
		g, err := f.WithPromptID("p")
		if err != nil {
			t.Fatal(err)
		}
		if string(g.Downgrade().Raw) != raw || string(g.Encode()) != raw {
			t.Errorf("%q became %q", raw, g.Raw)
		}
	}
}

func TestBrokenFramesAreRefused(t *testing.T) {
	for _, raw := range []string{"", "abc", "\x00\x00\x00\x01\x00", "\x00\x00\x00\x03\xff\xff\xff\xff", "\x00\x00\x00\x04\x00\x00\x00\x02{", "\x00\x00\x00\x04\x00\x00\x00\x02[[x"} {
		if _, err := comfy.ParseFrame([]byte(raw)); err == nil {
			t.Errorf("%q was accepted", raw)
		}
	}
}

func FuzzParseFrame(f *testing.F) {
	f.Add(comfy.NewPreview(comfy.FormatJPEG, []byte("x")).Raw)
	f.Add(comfy.NewText("1", "x").Raw)
	f.Add(comfy.NewPreviewMetadata(comfy.PreviewMeta{PromptID: "p"}, []byte("x")).Raw)
	f.Add([]byte("\x00\x00\x00\x63zzz"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		frame, err := comfy.ParseFrame(raw)
		if err != nil {
			return
		}
		if !bytes.Equal(frame.Encode(), raw) {
			t.Errorf("%q encodes as %q", raw, frame.Encode())
		}
		other, err := frame.WithPromptID("another")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := comfy.ParseFrame(other.Raw); err != nil {
			t.Errorf("rewritten frame cannot be read: %v", err)
		}
		if _, err := comfy.ParseFrame(other.Downgrade().Raw); err != nil {
			t.Errorf("downgraded frame cannot be read: %v", err)
		}
	})
}
