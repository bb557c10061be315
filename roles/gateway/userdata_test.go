package gateway_test

import (
	"encoding/json"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

type fileInfo struct {
	Path              string
	Size              int64
	Modified, Created int64
}

// encodeComponent is what a page does to a path before it puts it into an address.
func encodeComponent(s string) string {
	return strings.ReplaceAll(url.QueryEscape(s), "+", "%20")
}

// Whatever a participant calls a workflow, it is saved, listed, read, renamed
// and deleted under exactly that name.
func TestWorkflowNames(t *testing.T) {
	w := open(t, options{visited: true})
	names := []string{
		"plain.json", "a b c%.json", "sub dir/tést #1%.json", "100%.json", "50%41.json", "a%2Fb.json", "a%252Fb.json", "é ü 漢字 🙂.json", "x+y&z=1?.json",
		"a;b,c'd\"e.json", "..dots..json", ".index.json", "deep/er/still/x.json", "UPPER.JSON", " leading space.json", "no_extension",
	}
	for i, name := range names {
		path := "workflows/" + name
		text := `{"n":` + quoted(name) + `}`
		target := "/user001/api/userdata/" + encodeComponent(path)
		var info fileInfo
		w.post(ann, target+"?overwrite=false&full_info=true", text).want(t, 200).json(t, &info)
		if info.Path != path || info.Size != int64(len(text)) || info.Modified < 1e12 || info.Created > info.Modified {
			t.Errorf("%q saved as %+v", name, info)
		}
		if a := w.post(ann, target+"?overwrite=false", "{}").want(t, 409); a.body != "File already exists" {
			t.Errorf("%q again: %q", name, a.body)
		}
		var plain string
		w.post(ann, target+"?overwrite=true", text).want(t, 200).json(t, &plain)
		if plain != path {
			t.Errorf("%q saved as %q", name, plain)
		}
		if a := w.get(ann, target).want(t, 200); a.body != text {
			t.Errorf("%q holds %q", name, a.body)
		}
		if i%2 == 0 {
			to := "workflows/moved/" + name
			w.post(ann, target+"/move/"+encodeComponent(to)+"?overwrite=false&full_info=true", "").want(t, 200).json(t, &info)
			if info.Path != to {
				t.Errorf("%q moved to %q", name, info.Path)
			}
			w.get(ann, target).want(t, 404)
			w.post(ann, "/api/userdata/"+encodeComponent(to)+"/move/"+encodeComponent(path), "").want(t, 200)
		}
	}
	var list []fileInfo
	w.get(ann, "/user001/api/userdata?dir=workflows&recurse=true&split=false&full_info=true").want(t, 200).json(t, &list)
	got := map[string]bool{}
	for _, f := range list {
		got[f.Path] = true
	}
	for _, name := range names {
		hidden := strings.HasPrefix(name, ".") || strings.Contains(name, "/.")
		if got[name] == hidden {
			t.Errorf("%q listed: %v", name, got[name])
		}
		a := w.ask(ask{user: ann, method: "DELETE", target: "/api/userdata/" + encodeComponent("workflows/"+name)})
		if a.want(t, 204).body != "" {
			t.Errorf("%q deleted: %q", name, a.body)
		}
		w.get(ann, "/api/userdata/"+encodeComponent("workflows/"+name)).want(t, 404)
		w.ask(ask{user: ann, method: "DELETE", target: "/api/userdata/" + encodeComponent("workflows/"+name)}).want(t, 404)
	}
	// A slash that is not encoded is another route, as in ComfyUI.
	w.get(ann, "/api/userdata/workflows/plain.json").want(t, 404)
}

// The listings in the forms that pages of both generations ask for.
func TestUserdataListings(t *testing.T) {
	w := open(t, options{visited: true, templates: folder(t, map[string]string{"t.json": `{"nodes":[]}`})})
	for _, p := range []string{"workflows/a.json", "workflows/sub/b.json", "notes/n.txt"} {
		w.post(ann, "/api/userdata/"+encodeComponent(p), "{}").want(t, 200)
	}
	for target, want := range map[string]string{
		"dir=workflows":                          `["a.json","t.json"]`,
		"dir=workflows&recurse=true":             `["a.json","sub/b.json","t.json"]`,
		"dir=workflows&recurse=true&split=true":  `[["a.json","a.json"],["sub/b.json","sub","b.json"],["t.json","t.json"]]`,
		"dir=workflows&recurse=false&split=true": `[["a.json","a.json"],["t.json","t.json"]]`,
		"dir=workflows%2Fsub":                    `["b.json"]`,
		"dir=workflows/":                         `["a.json","t.json"]`,
		"dir=subgraphs&recurse=true":             `[]`,
		"dir=notes":                              `["n.txt"]`,
	} {
		var got, exp any
		w.get(ann, "/api/userdata?"+target).want(t, 200).json(t, &got)
		if err := json.Unmarshal([]byte(want), &exp); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(exp, got); d != "" {
			t.Errorf("%s: %s", target, d)
		}
	}
	if a := w.get(ann, "/api/userdata").want(t, 400); a.body != "Directory not provided" {
		t.Errorf("no dir: %q", a.body)
	}
	if a := w.get(ann, "/api/userdata?dir=nowhere").want(t, 404); a.body != "Directory not found" {
		t.Errorf("no such dir: %q", a.body)
	}
	var v2 []struct{ Name, Path, Type string }
	w.get(ann, "/api/v2/userdata?path=workflows").want(t, 200).json(t, &v2)
	var got []string
	for _, e := range v2 {
		got = append(got, e.Type+" "+e.Path+" "+e.Name)
	}
	if d := cmp.Diff([]string{"directory workflows/sub sub", "file workflows/a.json a.json", "file workflows/sub/b.json b.json", "file workflows/t.json t.json"}, got); d != "" {
		t.Error(d)
	}
	w.get(ann, "/api/v2/userdata").want(t, 200).json(t, &v2)
	if !slices.ContainsFunc(v2, func(e struct{ Name, Path, Type string }) bool { return e.Type == "directory" && e.Path == "workflows" }) {
		t.Errorf("the root lists %v", v2)
	}
	w.get(ann, "/api/v2/userdata?path=nowhere").want(t, 404)
}

func folder(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// The workshop's workflows lie in everybody's folder, and are everybody's own to
// change: nobody else sees it, and a deleted one stays away.
func TestTemplatesAreOnesOwnToChange(t *testing.T) {
	big := `{"nodes":[],"x":"` + strings.Repeat("x", 300<<10) + `"}`
	w := open(t, options{visited: true, templates: folder(t, map[string]string{"t.json": `{"nodes":[],"of":"the workshop"}`, "u.json": `{"nodes":[]}`, "big.json": big})})
	names := func() (out []string) {
		w.get(ann, "/api/userdata?dir=workflows").want(t, 200).json(t, &out)
		return out
	}
	at := func(name string) string { return "/api/userdata/workflows%2F" + name }
	if a := w.get(ann, at("t.json")).want(t, 200); !strings.Contains(a.body, "the workshop") {
		t.Errorf("the template is %q", a.body)
	}
	w.post(ann, at("t.json")+"?overwrite=false", `"mine"`).want(t, 409)
	w.post(ann, at("t.json")+"?overwrite=true", `"mine"`).want(t, 200)
	if a := w.get(ann, at("t.json")); a.body != `"mine"` {
		t.Errorf("own one: %q", a.body)
	}
	w.ask(ask{user: ann, method: "DELETE", target: at("t.json")}).want(t, 204)
	w.get(ann, at("t.json")).want(t, 404)
	w.ask(ask{user: ann, method: "DELETE", target: at("t.json")}).want(t, 404)
	w.post(ann, at("u.json")+"/move/workflows%2Frenamed.json", "").want(t, 200)
	w.post(ann, at("big.json")+"/move/workflows%2Fmoved_big.json", "").want(t, 200)
	if d := cmp.Diff([]string{"moved_big.json", "renamed.json"}, names()); d != "" {
		t.Error(d)
	}
	if a := w.get(ann, at("moved_big.json")).want(t, 200); a.body != big {
		t.Errorf("the large template is %d bytes of %d after its move", len(a.body), len(big))
	}
	w.post(ann, at("renamed.json")+"/move/workflows%2Ft.json?overwrite=false", "").want(t, 200)
	var bobs []string
	w.get(bob, "/api/userdata?dir=workflows").want(t, 200).json(t, &bobs)
	if d := cmp.Diff([]string{"big.json", "t.json", "u.json"}, bobs); d != "" {
		t.Error(d)
	}
	if a := w.get(bob, at("t.json")); !strings.Contains(a.body, "the workshop") {
		t.Errorf("bob's is %q", a.body)
	}
}

// Settings: one row a key, whatever their type; a page's strange content type is taken.
func TestSettings(t *testing.T) {
	w := open(t, options{visited: true})
	var all map[string]any
	w.get(ann, "/api/settings").want(t, 200).json(t, &all)
	if all["Comfy.Notification.ShowVersionUpdates"] != false || all["Comfy.Assets.UseAssetAPI"] != false {
		t.Errorf("a new user's settings: %v", all)
	}
	for _, value := range []string{`true`, `"x"`, `12.50`, `null`, `{"a":[1,{"b":null}]}`, `18446744073709551615`} {
		w.ask(ask{user: ann, method: "POST", target: "/user001/api/settings/Comfy.My%20Key", header: []string{"Content-Type: text/plain"}, body: value}).want(t, 200)
		if a := w.get(ann, "/api/settings/Comfy.My%20Key").want(t, 200); a.body != value {
			t.Errorf("stored %s, got %s", value, a.body)
		}
	}
	w.post(ann, "/api/settings", `{"a":1,"Comfy.Assets.UseAssetAPI":true}`).want(t, 200)
	w.post(ann, "/api/settings", `{"b":{"c":2}}`).want(t, 200)
	w.get(ann, "/api/settings").json(t, &all)
	if all["a"] != 1.0 || all["b"] == nil || all["Comfy.Assets.UseAssetAPI"] != true {
		t.Errorf("merged: %v", all)
	}
	if a := w.get(ann, "/api/settings/unknown").want(t, 200); a.body != "null" {
		t.Errorf("unknown key: %q", a.body)
	}
	var bobs map[string]any
	w.get(bob, "/api/settings").json(t, &bobs)
	if len(bobs) != 2 {
		t.Errorf("bob has %v", bobs)
	}
	before := w.log.commits()
	for _, bad := range []ask{{target: "/api/settings", body: `[1]`}, {target: "/api/settings", body: `{`}, {target: "/api/settings/x", body: `{`}, {target: "/api/settings/x", body: ``}, {target: "/api/settings/x", body: `1 2`}} {
		bad.user, bad.method = ann, "POST"
		w.ask(bad).want(t, 400).problem(t)
	}
	w.post(ann, "/api/settings/x", `"`+strings.Repeat("x", 400<<10)+`"`).want(t, 413).problem(t)
	if n := w.log.commits(); n != before {
		t.Errorf("%d bad settings were committed", n-before)
	}
	w.get(ann, "/api/users").want(t, 200)
	w.post(ann, "/api/users", `{"username":"x"}`).want(t, 403)
}
