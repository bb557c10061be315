package stitch_test

import (
	"bytes"
	"compress/gzip"
	"io"
	"strings"
	"testing"

	"github.com/ahelme/comfyume/roles/gateway/stitch"
)

func unpack(t testing.TB, raw []byte) string {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(z) // checks the sum and the size
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func TestStreamIsWhatItsPartsSay(t *testing.T) {
	var w stitch.Writer
	var want strings.Builder
	for _, text := range []string{"", "[", strings.Repeat("many of the same ", 9000), "\x00\xff", strings.Repeat("z", 70_000), "]"} {
		p, err := stitch.Pack([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			w.Piece(p)
			w.Text(text)
			want.WriteString(text + text)
		}
	}
	raw := w.Bytes()
	if got := unpack(t, raw); got != want.String() {
		t.Errorf("%d bytes came back of %d", len(got), want.Len())
	}
	var empty stitch.Writer
	if got := unpack(t, empty.Bytes()); got != "" {
		t.Errorf("nothing became %q", got)
	}
}

func FuzzStitch(f *testing.F) {
	f.Add([]byte("a"), []byte("bc"), uint8(3))
	f.Add([]byte{}, []byte{0, 0, 255}, uint8(0))
	f.Fuzz(func(t *testing.T, a, b []byte, n uint8) {
		pa, err := stitch.Pack(a)
		if err != nil {
			t.Fatal(err)
		}
		pb, err := stitch.Pack(b)
		if err != nil {
			t.Fatal(err)
		}
		var w stitch.Writer
		want := ""
		for range n % 8 {
			w.Piece(pa)
			w.Text(string(b))
			w.Piece(pb)
			want += string(a) + string(b) + string(b)
		}
		if got := unpack(t, w.Bytes()); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}
