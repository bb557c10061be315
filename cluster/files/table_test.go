package files_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/files"
)

func ref(c string) cluster.Ref { return cluster.Ref(strings.Repeat(c, 64)) }

// do plans and applies a command at a second that rises.
type table struct {
	*files.Table
	now int64
}

func (t *table) do(tb testing.TB, c cluster.Command) (any, error) {
	tb.Helper()
	t.now += 1000
	mutate, _, err := t.Plan(c, t.now)
	if err != nil {
		return nil, err
	}
	return mutate(), nil
}

func (t *table) must(tb testing.TB, c cluster.Command) any {
	tb.Helper()
	v, err := t.do(tb, c)
	if err != nil {
		tb.Fatal(err)
	}
	return v
}

func TestHundredSavesGetHundredNames(t *testing.T) {
	tab := &table{Table: files.New()}
	seen := map[files.Place]bool{}
	for i := range 100 {
		out := tab.must(t, &files.PutOutputs{User: "ann", Prompt: fmt.Sprint("p", i), Outputs: []files.NewOutput{
			{Item: "9/images/0", Area: files.Output, Sub: "video", Name: "LTX_00001_.mp4", Ref: ref("a")},
		}}).([]files.Place)
		if seen[out[0]] {
			t.Fatalf("%v was given twice", out[0])
		}
		seen[out[0]] = true
	}
	if !seen[files.Place{Area: files.Output, Subfolder: "video", Name: "LTX_00100_.mp4"}] {
		t.Error("the hundredth is not number 100")
	}
	bob := tab.must(t, &files.PutOutputs{User: "bob", Prompt: "p", Outputs: []files.NewOutput{{Item: "1", Area: files.Output, Sub: "video", Name: "LTX_00077_.mp4", Ref: ref("b")}}}).([]files.Place)
	if bob[0].Name != "LTX_00001_.mp4" {
		t.Errorf("bob's first is %s", bob[0].Name)
	}
}

func TestSecondAttemptKeepsItsNames(t *testing.T) {
	tab := &table{Table: files.New()}
	put := func(prompt, name, digest string) files.Place {
		return tab.must(t, &files.PutOutputs{User: "ann", Prompt: prompt, Outputs: []files.NewOutput{{Item: "9/images/0", Area: files.Output, Name: name, Ref: ref(digest)}}}).([]files.Place)[0]
	}
	first, other, again := put("p", "A_00005_.png", "a"), put("q", "A_00006_.png", "b"), put("p", "A_00009_.png", "c")
	if first != again || first == other {
		t.Errorf("attempts got %v and %v, another job %v", first, again, other)
	}
	f, _ := tab.File("ann", again)
	if f.Ref != ref("c") {
		t.Error("the name does not lead to the newest attempt")
	}
}

func TestUploadNames(t *testing.T) {
	tab := &table{Table: files.New()}
	put := func(digest string, overwrite bool) string {
		p := tab.must(t, &files.PutInput{User: "ann", Place: files.Place{Area: files.Input, Name: "cat.tar.png"}, Ref: ref(digest), Overwrite: overwrite}).(files.Place)
		return p.Name
	}
	got := []string{put("a", false), put("a", false), put("b", false), put("c", false), put("d", true)}
	want := []string{"cat.tar.png", "cat.tar.png", "cat.tar (1).png", "cat.tar (2).png", "cat.tar.png"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestDocuments(t *testing.T) {
	tab := &table{Table: files.New()}
	code := func(c cluster.Command) cluster.Code { _, err := tab.do(t, c); return cluster.CodeOf(err) }
	steps := []struct {
		what string
		cmd  cluster.Command
		want cluster.Code
	}{
		{"first save", &files.PutDoc{User: "ann", Path: "workflows/a b c%.json", Data: []byte("1"), IfAbsent: true}, ""},
		{"again without overwrite", &files.PutDoc{User: "ann", Path: "workflows/a b c%.json", Data: []byte("2"), IfAbsent: true}, cluster.Conflict},
		{"with overwrite", &files.PutDoc{User: "ann", Path: "workflows/a b c%.json", Data: []byte("2")}, ""},
		{"rename", &files.MoveDoc{User: "ann", From: "workflows/a b c%.json", To: "workflows/b.json"}, ""},
		{"rename what is gone", &files.MoveDoc{User: "ann", From: "workflows/a b c%.json", To: "workflows/c.json"}, cluster.NotFound},
		{"delete", &files.DeleteDoc{User: "ann", Path: "workflows/b.json"}, ""},
		{"delete again", &files.DeleteDoc{User: "ann", Path: "workflows/b.json"}, cluster.NotFound},
		{"delete a template", &files.DeleteDoc{User: "ann", Path: "workflows/t.json", Template: true}, ""},
		{"delete it again", &files.DeleteDoc{User: "ann", Path: "workflows/t.json", Template: true}, cluster.NotFound},
		{"rename a deleted template", &files.MoveDoc{User: "ann", From: "workflows/t.json", To: "workflows/u.json", Template: true, Data: []byte("t")}, cluster.NotFound},
		{"save under its name", &files.PutDoc{User: "ann", Path: "workflows/t.json", Data: []byte("mine"), IfAbsent: true}, ""},
		{"rename a template", &files.MoveDoc{User: "bob", From: "workflows/t.json", To: "workflows/u.json", Template: true, Data: []byte("t")}, ""},
		{"out of the tree", &files.PutDoc{User: "ann", Path: "../bob/x.json", Data: []byte("1")}, cluster.Invalid},
		{"doubled slash", &files.PutDoc{User: "ann", Path: "a//b", Data: []byte("1")}, cluster.Invalid},
		{"too large for a row", &files.PutDoc{User: "ann", Path: "a", Data: make([]byte, files.MaxInline+1)}, cluster.TooLarge},
	}
	for _, s := range steps {
		if got := code(s.cmd); got != s.want {
			t.Errorf("%s: got %q, want %q", s.what, got, s.want)
		}
	}
	if d, ok := tab.Doc("bob", "workflows/t.json"); !ok || !d.Gone {
		t.Error("a template that was renamed away would reappear")
	}
	if d, _ := tab.Doc("ann", "workflows/t.json"); d.Gone || string(d.Data) != "mine" {
		t.Error("the user's own file of a template's name is not theirs")
	}
	again := files.Restore(tab.Snapshot())
	if d := cmp.Diff(tab.Snapshot(), again.Snapshot()); d != "" {
		t.Error(d)
	}
}

func FuzzCleanPath(f *testing.F) {
	for _, s := range []string{"workflows/a.json", "../x", "a/../b", "/etc", "a\\..\\b", "a/./b", "..", "a//b", "\x00", "é/ü.json"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := files.CleanPath(s)
		if err != nil {
			return
		}
		for part := range strings.SplitSeq(p, "/") {
			if part == "" || part == "." || part == ".." || strings.ContainsAny(part, "\\\x00") {
				t.Errorf("%q became %q", s, p)
			}
		}
		if again, err := files.CleanPath(p); err != nil || again != p {
			t.Errorf("%q is not clean after cleaning: %q, %v", p, again, err)
		}
	})
}

// Temporary files go when they are old, and nothing else does.
func TestTemporaryFilesExpire(t *testing.T) {
	tab := &table{Table: files.New()}
	put := func(u cluster.User, prompt string, area files.Area) files.Place {
		return tab.must(t, &files.PutOutputs{User: u, Prompt: prompt, Outputs: []files.NewOutput{{Item: "9/images/0", Area: area, Name: "ComfyUI_temp_abcde_00001_.png", Ref: ref("a")}}}).([]files.Place)[0]
	}
	old, saved := put("ann", "p1", files.Temp), put("ann", "p1b", files.Output)
	bobs := put("bob", "p1", files.Temp)
	at := tab.now + 500
	young := put("ann", "p2", files.Temp)
	if got := fmt.Sprint(tab.Expired(at)); got != "[ann bob]" {
		t.Errorf("expired: %s", got)
	}
	tab.must(t, &files.Expire{User: "ann", Before: at})
	for p, want := range map[files.Place]bool{old: false, saved: true, young: true} {
		if _, ok := tab.File("ann", p); ok != want {
			t.Errorf("%v is there: %v", p, ok)
		}
	}
	if _, ok := tab.File("bob", bobs); !ok {
		t.Error("another user's went")
	}
	if got := fmt.Sprint(tab.Expired(at)); got != "[bob]" {
		t.Errorf("expired: %s", got)
	}
	if d := cmp.Diff(tab.Snapshot(), files.Restore(tab.Snapshot()).Snapshot()); d != "" {
		t.Error(d)
	}
	if _, err := tab.do(t, &files.Expire{Before: 1}); cluster.CodeOf(err) != cluster.Invalid {
		t.Errorf("nobody's files: %v", err)
	}
}
