package doortest_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/ahelme/comfyume/agent/doortest"
)

// oldTree is the data folder of the predecessor on disk.
type oldTree struct {
	dir    string
	random *rand.ChaCha8
}

func newOldTree(t *testing.T) *oldTree {
	t.Helper()
	o := &oldTree{dir: t.TempDir(), random: rand.NewChaCha8([32]byte{1})}
	for _, d := range []string{"user_data", "outputs", "inputs"} {
		if err := os.Mkdir(filepath.Join(o.dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return o
}

func (o *oldTree) write(t *testing.T, name string, data []byte) []byte {
	t.Helper()
	path := filepath.Join(o.dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return data
}

func (o *oldTree) noise(n int) []byte {
	b := make([]byte, n)
	_, _ = o.random.Read(b) // never fails
	return b
}

// args are those of an import of everything that there is.
func (o *oldTree) args(more ...string) []string {
	args := []string{"import", "v1", "--user-data=" + filepath.Join(o.dir, "user_data"), "--outputs=" + filepath.Join(o.dir, "outputs"), "--inputs=" + filepath.Join(o.dir, "inputs")}
	return append(args, more...)
}

// person fills what a person of the old workshop had. The answer is what they must
// find in the new one: by the path of a request.
func (o *oldTree) person(t *testing.T, u string) map[string][]byte {
	t.Helper()
	want := map[string][]byte{}
	doc := func(at, path string, data []byte) {
		o.write(t, "user_data/"+u+"/"+at+path, data)
		want["/userdata/"+url.PathEscape(path)] = data
	}
	doc("default/", "workflows/film.json", []byte(`{"nodes":[],"of":"`+u+`"}`))
	doc("default/", "workflows/Szene 3/Nacht über Köln/a b c%2F.json", []byte("{\n  \"nodes\": [],\r\n  \"name\": \"Übergang\"}\n"))
	doc("default/", "workflows/leer.json", nil)
	doc("default/", "workflows/large.json", o.noise(600<<10)) // not in a row of the table
	doc("default/", "workflows/first_picture.json", []byte(`{"nodes":[],"of":"`+u+`, who changed the template"}`))
	doc("default/", "subgraphs/mine.json", []byte(`{}`))
	doc("", "workflows/from the first version.json", []byte(`{"nodes":[1]}`))
	o.write(t, "user_data/"+u+"/default/comfy.settings.json", []byte("{\n    \"Comfy.ColorPalette\": \"dark\",\n    \"Comfy.Keybinding.NewBindings\": [{\"combo\": {\"key\": \"ä\"}}]\n}"))

	file := func(area, sub, name string, data []byte) {
		o.write(t, area+"s/"+u+"/"+filepath.Join(sub, name), data)
		want["/view?"+url.Values{"type": {area}, "subfolder": {sub}, "filename": {name}}.Encode()] = data
	}
	file("output", "", "Flux2-Klein_00001_.png", o.noise(40_000))
	file("output", "", "kept_00001_.png", o.noise(10_000))
	file("output", "video/Straße", "LTX-2_00007_.mp4", o.noise(3_000_000))
	file("output", "", "nothing.txt", nil)
	file("input", "", "Bär (1).png", o.noise(20_000))
	file("input", "clipspace", "mask-1.png", o.noise(1_000))
	return want
}

// junk is what stays behind; the answer is how each is spoken of.
func (o *oldTree) junk(t *testing.T, u string) (said []string) {
	t.Helper()
	for name, line := range map[string]string{
		"user_data/" + u + "/comfyui.db":                                                "ignored user_data/" + u + "/comfyui.db: ComfyUI's own database",
		"user_data/" + u + "/custom_nodes/pack/workflows/x.json":                        "ignored user_data/" + u + "/custom_nodes/ (2 files): custom nodes are not taken",
		"user_data/" + u + "/custom_nodes/pack/__init__.py":                             "custom_nodes/ (2 files)",
		"user_data/" + u + "/default/comfy.templates.json":                              "comfy.templates.json: the old system's own list",
		"user_data/" + u + "/default/workflows/.index.json":                             "workflows/.index.json: the old system's own list",
		"user_data/" + u + "/default/workflows/notes.txt":                               "workflows/notes.txt: it is no workflow",
		"user_data/" + u + "/default/workflows/.trash/film.json":                        "workflows/.trash/ (1 file): hidden",
		"user_data/readme.txt":                                                          "ignored user_data/readme.txt: it lies in no person's folder",
		"outputs/" + u + "/.DS_Store":                                                   "ignored outputs/" + u + "/.DS_Store: hidden",
		"outputs/" + u + "/thumbnails/Flux2-Klein_00001_.png":                           "ignored outputs/" + u + "/thumbnails/ (1 file): small copies",
		"inputs/example.png":                                                            "ignored inputs/example.png: it lies in no person's folder, so nobody knows whose it is: move it into inputs/USER/",
		"outputs/lost+found/x":                                                          "ignored outputs/lost+found/ (1 file): nobody has that name",
		"outputs/user077/a.png":                                                         "missed outputs/user077/a.png: there is no user user077: comfyume-agent user add user077, then import again",
		"outputs/" + u + "/back\\slash.png":                                             `missed outputs/` + u + `/back\slash.png: a file cannot have this name here`,
		"outputs/" + u + "/bell\a.png":                                                  `missed "outputs/` + u + `/bell\a.png": a file cannot have this name here`,
		"user_data/" + u + "/default/workflows/" + strings.Repeat("ü/", 600) + "x.json": "x.json: a file cannot have this name here",
	} {
		o.write(t, name, []byte(name))
		said = append(said, line)
	}
	outside := o.write(t, "secret-of-the-machine", []byte("top secret"))
	top := filepath.Join(o.dir, "outputs", u)
	for link, to := range map[string]string{"leak.png": "../../secret-of-the-machine", "leak2.png": filepath.Join(o.dir, "secret-of-the-machine"), "gone.png": "nowhere.png", "loop": ".", "up": "../.."} {
		if err := os.Symlink(to, filepath.Join(top, link)); err != nil {
			t.Fatal(err, outside)
		}
		said = append(said, "ignored outputs/"+u+"/"+link+": a link ")
	}
	if err := os.Symlink("default", filepath.Join(o.dir, "user_data", u, "user")); err != nil {
		t.Fatal(err)
	}
	said = append(said, "missed user_data/"+u+"/user: a link to a folder, which is not followed")
	if err := syscall.Mkfifo(filepath.Join(top, "pipe.png"), 0o600); err != nil {
		t.Fatal(err)
	}
	return append(said, "ignored outputs/"+u+"/pipe.png: it is no file")
}

// finds compares what a person gets at the door with what they had.
func finds(t *testing.T, c *doortest.Client, want map[string][]byte) {
	t.Helper()
	for path, data := range want {
		code, _, got, err := c.Do("GET", path, nil)
		if err != nil || code != 200 || !bytes.Equal(got, data) {
			t.Errorf("%s: %s answers %d with %d bytes, want %d: %v", c.User, path, code, len(got), len(data), err)
		}
	}
}

// has lists everything that a person has, with its size.
func has(t *testing.T, c *doortest.Client) string {
	t.Helper()
	var docs []struct {
		Path     string
		Size     int64
		Modified int64
	}
	c.JSON(t, "GET", "/userdata?dir=workflows&recurse=true&full_info=true", nil, &docs)
	var settings map[string]any
	c.JSON(t, "GET", "/settings", nil, &settings)
	var files [2][]string
	for i, area := range []string{"output", "input"} {
		c.JSON(t, "GET", "/internal/files/"+area, nil, &files[i])
	}
	return fmt.Sprint(docs, settings, files)
}

// TestBackupsLackedWorkflows: three people of the old workshop find all that they
// had, bit for bit, whether their account was here before or comes with them. A
// second import changes nothing, and one after they went on working replaces
// nothing of theirs.
func TestBackupsLackedWorkflows(t *testing.T) { // predecessor 62
	old := newOldTree(t)
	hash, err := bcrypt.GenerateFromPassword([]byte("secret-three"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	old.write(t, "htpasswd", []byte("user003:"+string(hash)+"\n"))
	a := doortest.Start(t, doortest.Options{})
	people := []*doortest.Client{a.Client("user001"), a.Client("user002"), {Base: a.URL + "/user003", User: "user003", Pass: "secret-three"}}
	want := map[string]map[string][]byte{}
	for _, c := range people {
		want[c.User] = old.person(t, c.User)
	}
	said := old.junk(t, "user001")
	before := has(t, people[0])
	args := old.args("--htpasswd=" + filepath.Join(old.dir, "htpasswd"))

	if out, err := cli(t, a, append(args, "--dry-run")...); err == nil || !strings.Contains(out, "would take user003/output/video/Straße/LTX-2_00007_.mp4") || !strings.Contains(out, "account user003 would be made") {
		t.Errorf("the dry run: %v\n%s", err, out)
	}
	if now := has(t, people[0]); now != before {
		t.Errorf("the dry run changed something: %s", now)
	}
	out, err := cli(t, a, args...)
	if code := exitCode(err); code != 1 || !strings.Contains(out, "import v1: files=42 ") || !strings.Contains(out, " renamed=0 missed=5\n") {
		t.Errorf("exit code %d, %v: %s", code, err, out)
	}
	for _, line := range said {
		if !strings.Contains(out, line) {
			t.Errorf("nothing says %q", line)
		}
	}
	if strings.Contains(out, "top secret") {
		t.Error("a link led out of the folder")
	}
	after := map[string]string{}
	for _, c := range people {
		finds(t, c, want[c.User])
		var settings map[string]any
		c.JSON(t, "GET", "/settings", nil, &settings)
		if settings["Comfy.ColorPalette"] != "dark" || fmt.Sprint(settings["Comfy.Keybinding.NewBindings"]) != "[map[combo:map[key:ä]]]" {
			t.Errorf("%s has the settings %v", c.User, settings)
		}
		after[c.User] = has(t, c)
	}
	if out, err = cli(t, a, args...); exitCode(err) != 1 || !strings.Contains(out, "import v1: files=0 bytes=0 already=42 ") || strings.Contains(out, "took ") {
		t.Errorf("the second time: %v\n%s", err, out)
	}
	for _, c := range people {
		if now := has(t, c); now != after[c.User] {
			t.Errorf("the second import changed what %s has:\n%s\n%s", c.User, after[c.User], now)
		}
	}
	worksOn(t, a, people[0], args, want["user001"])
}

func exitCode(err error) int {
	var e *exec.ExitError
	if errors.As(err, &e) {
		return e.ExitCode()
	}
	return 0
}

// worksOn has a person change what was imported, and imports again.
func worksOn(t *testing.T, a *doortest.Agent, c *doortest.Client, args []string, want map[string][]byte) {
	t.Helper()
	var accepted struct {
		PromptID string `json:"prompt_id"`
	}
	c.JSON(t, "POST", "/prompt", map[string]any{"prompt": doortest.Inverted(0x123456, 32, "kept")}, &accepted)
	doortest.Until(t, time.Minute, "the new picture has a number of its own", func() bool {
		code, _, _, err := c.Do("GET", "/view?filename=kept_00002_.png&type=output", nil)
		return err == nil && code == 200
	})
	const film = "/userdata/workflows%2Ffilm.json"
	edited := []byte(`{"nodes":[],"edited":"here"}`)
	for _, post := range []struct{ path, body string }{{film, string(edited)}, {"/settings/Comfy.ColorPalette", `"light"`}} {
		if code, _, raw, err := c.Do("POST", post.path, post.body); err != nil || code != 200 {
			t.Fatalf("%d %s %v", code, raw, err)
		}
	}
	for range 2 { // the second time the other name is there already
		out, err := cli(t, a, args...)
		if exitCode(err) != 1 || !strings.Contains(out, "user001 has set Comfy.ColorPalette otherwise here, which stays") {
			t.Errorf("%v\n%s", err, out)
		}
		want["/userdata/workflows%2Ffilm%20(v1).json"] = []byte(`{"nodes":[],"of":"user001"}`)
		want[film] = edited
		finds(t, c, want)
		var settings map[string]any
		if c.JSON(t, "GET", "/settings", nil, &settings); settings["Comfy.ColorPalette"] != "light" {
			t.Errorf("the settings are %v", settings)
		}
		var docs []string
		c.JSON(t, "GET", "/userdata?dir=workflows", nil, &docs)
		if films := slices.DeleteFunc(docs, func(d string) bool { return !strings.HasPrefix(d, "film") }); len(films) != 2 {
			t.Errorf("films: %q", films)
		}
	}
}

// TestRestoreDemandedBackupsThatDidNotExist: a new, empty workshop takes whatever
// of the old one is left; what is not there is not asked for, and an empty folder
// is not taken for an old workshop.
func TestRestoreDemandedBackupsThatDidNotExist(t *testing.T) { // predecessor 63
	old := newOldTree(t)
	a := doortest.Start(t, doortest.Options{})
	c := a.Client("user002")
	picture := old.write(t, "outputs/user002/last.png", old.noise(5000))
	out := does(t, a, "import", "v1", "--outputs="+filepath.Join(old.dir, "outputs"))
	if !strings.Contains(out, "took user002/output/last.png") {
		t.Error(out)
	}
	finds(t, c, map[string][]byte{"/view?type=output&filename=last.png": picture})
	if out, err := cli(t, a, "import", "v1", "--user-data="+filepath.Join(old.dir, "user_data")); exitCode(err) != 1 || !strings.Contains(out, "it has no folder of a person, such as user001") {
		t.Errorf("an empty folder: %v\n%s", err, out)
	}
	if out, err := cli(t, a, "import", "v1", "--outputs="+filepath.Join(old.dir, "none")); exitCode(err) != 2 || !strings.Contains(out, "no such file") {
		t.Errorf("no folder: %v\n%s", err, out)
	}
}
