package blob_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/blob"
	"github.com/ahelme/comfyume/cluster/blob/blobtest"
)

func TestListOfChunks(t *testing.T) {
	root := t.TempDir()
	d := openDir(t, root, roomy)
	raw, ref, want := blobtest.Large(1, 80*mib+5)
	put(t, d, raw)
	for i := range 3 { // it is known from the Put, read after a new start, and known
		if i == 1 {
			d = openDir(t, root, roomy)
		}
		var told []byte
		got, err := d.Chunks(t.Context(), ref, func(sums []byte) error { told = append(told, sums...); return nil })
		if err != nil || got.Size != want.Size || !bytes.Equal(got.Sums, want.Sums) || !bytes.Equal(told, want.Sums) {
			t.Errorf("%d bytes in %d of sums, %d told: %v", got.Size, len(got.Sums), len(told), err)
		}
	}
	if _, err := d.Chunks(t.Context(), put(t, d, []byte("small")), nil); cluster.CodeOf(err) != cluster.Invalid {
		t.Errorf("of a small one: %v", err)
	}
	spoil(t, at(root, ref))
	told := 0
	if _, err := d.Chunks(t.Context(), ref, func(sums []byte) error { told += len(sums); return nil }); cluster.CodeOf(err) != cluster.Internal || told != len(want.Sums)-32 {
		t.Errorf("a damaged file has a whole list: %d of %d bytes, %v", told, len(want.Sums), err)
	}
	blobtest.Missing(t, d, ref)
}

func TestListsThatAreNone(t *testing.T) {
	d := openDir(t, t.TempDir(), roomy)
	_, ref, list := blobtest.Large(21, 65*mib)
	p := partial(t, d, ref)
	defer closed(t, p)
	if err := p.Take(t.Context(), strings.NewReader("bytes")); cluster.CodeOf(err) != cluster.Invalid {
		t.Errorf("without a list: %v", err)
	}
	for _, l := range []blob.Chunks{{}, {Size: 10}, {Size: -1}, {Size: 1 << 62}, {Size: list.Size, Sums: list.Sums[1:]}, {Size: list.Size + blob.Chunk, Sums: list.Sums}} {
		if err := p.Adopt(t.Context(), l); cluster.CodeOf(err) != cluster.Invalid {
			t.Errorf("%d bytes in %d of sums: %v", l.Size, len(l.Sums), err)
		}
	}
	if _, err := d.Partial(t.Context(), "../../etc/passwd"); cluster.CodeOf(err) != cluster.NotFound {
		t.Errorf("a name that is none: %v", err)
	}
}

// FuzzList puts anything in the place of the list that a partial file had before
// a restart: it is taken for what it is, or asked for again.
func FuzzList(f *testing.F) {
	_, ref, list := blobtest.Large(22, 65*mib)
	good, err := cluster.Marshal(list)
	if err != nil {
		f.Fatal(err)
	}
	root := f.TempDir()
	f.Add(good)
	f.Add(good[:len(good)-1])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, raw []byte) {
		d := openDir(t, root, roomy)
		for name, body := range map[string][]byte{string(ref): []byte("some bytes"), string(ref) + ".list": raw} {
			if err := os.WriteFile(filepath.Join(root, "partial", name), body, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		p := partial(t, d, ref)
		defer closed(t, p)
		if l := p.Chunks(); l.Size != 0 && (l.Size <= blob.Large || int64(len(l.Sums)) != blob.SumBytes(l.Size)) {
			t.Errorf("a list of %d bytes for a file of %d", len(l.Sums), l.Size)
		}
		adopt(t, p, list)
		if p.Size() != int64(len("some bytes")) {
			t.Errorf("%d bytes are here", p.Size())
		}
	})
}
