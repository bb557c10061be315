package agent

import (
	"bytes"
	"context"
	"log/slog"
	"testing"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/blob"
	"github.com/ahelme/comfyume/cluster/files"
	"github.com/ahelme/comfyume/cluster/peer"
	"github.com/ahelme/comfyume/cluster/people"
	"github.com/ahelme/comfyume/cluster/state"
)

// busyLog commits into a machine, and before each proposal what somebody else
// was faster with.
type busyLog struct {
	machine *state.Machine
	index   uint64
	faster  []cluster.Command
}

func (l *busyLog) apply(raw ...[]byte) [][]byte {
	l.index++
	return l.machine.Apply(l.index, int64(l.index), raw)
}

func (l *busyLog) Propose(_ context.Context, cmds ...[]byte) ([][]byte, uint64, error) {
	if len(l.faster) > 0 {
		raw, err := state.Encode(l.faster[0], "", "")
		if err != nil {
			return nil, 0, err
		}
		l.faster = l.faster[1:]
		l.apply(raw)
	}
	return l.apply(cmds...), l.index, nil
}

// TestImportNeverReplacesWhatIsSavedMeanwhile: a person saves, and uploads, under
// the name of an old file in the very moment in which it comes in.
func TestImportNeverReplacesWhatIsSavedMeanwhile(t *testing.T) {
	log := &busyLog{machine: state.New(slog.New(slog.DiscardHandler)), faster: []cluster.Command{&people.Put{Name: "ann", Hash: "x"}}}
	blobs, err := blob.OpenDir(blob.DirConfig{Path: t.TempDir(), Space: func(string) (int64, int64, error) { return 1 << 40, 1 << 40, nil }})
	if err != nil {
		t.Fatal(err)
	}
	im := &v1Import{core: &core{machine: log.machine}, blobs: blobs, propose: peer.Proposals{Log: log}, template: func(string) []byte { return nil }, mark: "v1"}
	if _, err := im.commit(t.Context(), &state.Noop{}); err != nil {
		t.Fatal(err)
	}
	old, hers := []byte("old"), []byte("hers")
	upload := files.Place{Area: files.Input, Name: "a.png"}
	for _, c := range []struct {
		area, path, other string
		faster            []cluster.Command
	}{
		{V1Document, "workflows/a.json", "workflows/a (v1 2).json", []cluster.Command{
			&files.PutDoc{User: "ann", Path: "workflows/a.json", Data: hers}, &files.PutDoc{User: "ann", Path: "workflows/a (v1).json", Data: hers},
		}},
		{V1Input, "a.png", "a (v1).png", []cluster.Command{&files.PutInput{User: "ann", Place: upload, Ref: digestOf(hers), Size: 4}}},
		{V1Document, "workflows/same.json", "workflows/same.json", []cluster.Command{&files.PutDoc{User: "ann", Path: "workflows/same.json", Data: old}}},
	} {
		log.faster = c.faster
		f := V1File{User: "ann", Area: c.area, Path: c.path, Ref: digestOf(old), Size: int64(len(old)), Made: 1}
		got, err := im.take(t.Context(), f, bytes.NewReader(old))
		if err != nil || got.Path != c.other {
			t.Errorf("%s went to %+v, want %s: %v", c.path, got, c.other, err)
		}
		if ref := im.at(f, c.path); c.path != c.other && ref != digestOf(hers) {
			t.Errorf("%s is not what she saved", c.path)
		}
		if ref := im.at(f, c.other); ref != f.Ref {
			t.Errorf("%s is not the old file", c.other)
		}
		if again, err := im.look(f); err != nil || !again.Already || again.Path != c.other {
			t.Errorf("%s is looked for at %+v, %v", c.path, again, err)
		}
	}
	damaged := V1File{User: "ann", Area: V1Output, Path: "b.png", Ref: digestOf(old), Size: 4, Made: 1}
	if _, err := im.take(t.Context(), damaged, bytes.NewReader([]byte("new!"))); cluster.CodeOf(err) != cluster.Invalid || im.at(damaged, "b.png") != "" {
		t.Errorf("a file that changed while it was read: %v", err)
	}
}

// TestOtherNames: a second name keeps the folder and the kind of a file.
func TestOtherNames(t *testing.T) {
	for _, c := range []struct {
		path string
		n    int
		want string
	}{
		{"a/b.c/film.json", 0, "a/b.c/film.json"},
		{"a/b.c/film.json", 1, "a/b.c/film (v1).json"},
		{"a/b.c/film", 2, "a/b.c/film (v1 2)"},
		{".json", 1, ".json (v1)"},
		{"x.tar.gz", 1, "x.tar (v1).gz"},
	} {
		if got := otherName(c.path, "v1", c.n); got != c.want {
			t.Errorf("%s: %q, want %q", c.path, got, c.want)
		}
	}
}
