package files_test

import (
	"strings"
	"testing"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/files"
)

func output(name string, c string, size int64) *files.PutOutputs {
	return &files.PutOutputs{User: "ann", Prompt: "p-" + name, Outputs: []files.NewOutput{{Item: "9", Area: files.Output, Name: name, Ref: ref(c), Size: size}}}
}

func TestSameBytesCountOnce(t *testing.T) {
	tab := &table{Table: files.New()}
	tab.must(t, output("a.png", "a", 100))
	tab.must(t, output("b.png", "a", 100))
	tab.must(t, &files.PutInput{User: "ann", Place: files.Place{Area: files.Input, Name: "in.png"}, Ref: ref("a"), Size: 100})
	tab.must(t, &files.PutInput{User: "ann", Place: files.Place{Area: files.Input, Name: "in2.png"}, Ref: ref("b"), Size: 30})
	tab.must(t, &files.PutInput{User: "ann", Place: files.Place{Area: files.Temp, Name: "t.png"}, Ref: ref("c"), Size: 7000})
	tab.must(t, &files.PutDoc{User: "ann", Path: "workflows/a.json", Data: []byte("12345")})
	tab.must(t, &files.PutInput{User: "bob", Place: files.Place{Area: files.Input, Name: "in.png"}, Ref: ref("d"), Size: 9})
	if got, want := tab.Used("ann"), (files.Used{Outputs: 100, Inputs: 30, Docs: 5}); got != want || got.Total() != 135 {
		t.Errorf("used %+v, want %+v", got, want)
	}
	if got := tab.Used("zoe"); got.Total() != 0 {
		t.Errorf("nobody uses %+v", got)
	}
}

func TestRoomOfAnUpload(t *testing.T) {
	tab := &table{Table: files.New()}
	in := func(name, c string, size int64, overwrite bool) *files.PutInput {
		return &files.PutInput{User: "ann", Place: files.Place{Area: files.Input, Name: name}, Ref: ref(c), Size: size, Overwrite: overwrite}
	}
	tab.must(t, output("film.mp4", "a", 3_200_000_000))
	tab.must(t, in("a.png", "b", 700_000_000, false))
	for _, c := range []struct {
		what string
		put  *files.PutInput
		ok   bool
	}{
		{"what fits", in("c.png", "c", 100_000_000, false), true},
		{"one byte more", in("c.png", "c", 100_000_001, false), false},
		{"what is there already", in("again.png", "a", 3_200_000_000, false), true},
		{"another in its place", in("a.png", "c", 800_000_000, true), true},
		{"a larger one in its place", in("a.png", "c", 800_000_001, true), false},
		{"beside it", in("a.png", "c", 800_000_000, false), false},
	} {
		if err := tab.CheckRoom(c.put, 4_000_000_000); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.what, err)
		}
	}
	err := tab.CheckRoom(in("c.png", "c", 200_000_000, false), 4_000_000_000)
	want := "You use 3.9 GB of the 4.0 GB that you may have and this file has 200 MB: results 3.2 GB, uploads 700 MB, documents 0 kB. Nothing was changed. Remove what you do not need any more at /ann/workshop/files, or ask the instructor."
	if cluster.CodeOf(err) != cluster.Quota || cluster.MessageOf(err) != want {
		t.Errorf("it says %v", err)
	}
	// Who is over a bound that came later may still make things smaller.
	if err := tab.CheckRoom(in("a.png", "c", 100, true), 1000); err != nil {
		t.Errorf("a smaller one in its place: %v", err)
	}
}

func TestRemovedFilesAreGoneAndOthersStay(t *testing.T) {
	tab := &table{Table: files.New()}
	tab.must(t, output("a.png", "a", 1))
	tab.must(t, output("b.png", "b", 1))
	a, b := files.Place{Area: files.Output, Name: "a.png"}, files.Place{Area: files.Output, Name: "b.png"}
	n := tab.must(t, &files.Remove{User: "ann", Files: []files.Picked{{Place: a, Ref: ref("a")}, {Place: b, Ref: ref("f")}, {Place: b, Ref: ""}, {Place: files.Place{Area: files.Output, Name: "none"}, Ref: ref("a")}}})
	if n != 1 {
		t.Errorf("%v went", n)
	}
	if _, there := tab.File("ann", a); there {
		t.Error("a.png is still there")
	}
	if _, there := tab.File("ann", b); !there {
		t.Error("b.png is another than was chosen, and is gone")
	}
	if len(tab.Refs(nil, true)) != 1 {
		t.Errorf("refs %v", tab.Refs(nil, true))
	}
	for _, c := range []*files.Remove{{User: "ann"}, {User: "../x", Files: []files.Picked{{Place: a}}}, {User: "ann", Files: make([]files.Picked, files.MaxRemoved+1)}} {
		if _, err := tab.do(t, c); cluster.CodeOf(err) != cluster.Invalid {
			t.Errorf("%d files of %q: %v", len(c.Files), c.User, err)
		}
	}
	// The job runs again: the same item has a name anew, and nobody else's.
	if p := tab.must(t, output("a.png", "c", 1)).([]files.Place)[0]; p != a {
		t.Errorf("again it is %v", p)
	}
}

func TestOldFilesByUser(t *testing.T) {
	tab := &table{Table: files.New()}
	tab.must(t, output("a.png", "a", 1)) // at 1 s
	tab.must(t, output("b.png", "b", 1))
	tab.must(t, &files.PutInput{User: "ann", Place: files.Place{Area: files.Input, Name: "in.png"}, Ref: ref("c"), Size: 1})
	old := tab.Old(files.Output, 1500)
	if len(old) != 1 || len(old["ann"]) != 1 || old["ann"][0].Place.Name != "a.png" || !strings.HasPrefix(string(old["ann"][0].Ref), "aaa") {
		t.Errorf("old are %+v", old)
	}
}
