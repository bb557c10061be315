package doortest_test

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ahelme/comfyume/agent/doortest"
)

// cli runs the program on an agent's machine.
func cli(t *testing.T, a *doortest.Agent, args ...string) (out string, err error) {
	t.Helper()
	cmd := exec.Command(doortest.Binary(t), append(args, "--state-dir="+a.StateDir)...)
	raw, err := cmd.CombinedOutput()
	return string(raw), err
}

func does(t *testing.T, a *doortest.Agent, args ...string) string {
	t.Helper()
	out, err := cli(t, a, args...)
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// TestMachineAndDiskAreGoneAndTheWorkshopComesBack (predecessor 44's kin): all
// that is left is the folder of the backups. A new machine takes it, and people
// find their pictures, workflows, history and passwords.
func TestMachineAndDiskAreGoneAndTheWorkshopComesBack(t *testing.T) {
	keep := t.TempDir()
	a := doortest.Start(t, doortest.Options{Args: []string{"--keep=dir:" + keep, "--keep-every=1h"}})
	c := a.Client("user001")
	if out, err := cli(t, a, "backup", "run"); err == nil || !strings.Contains(out, "backup init") {
		t.Errorf("a folder that was not prepared: %v\n%s", err, out)
	}
	does(t, a, "backup", "init")
	ws := c.Socket(t, "page")
	var accepted struct {
		PromptID string `json:"prompt_id"`
	}
	c.JSON(t, "POST", "/prompt", map[string]any{"prompt": doortest.Inverted(0x123456, 32, "kept"), "client_id": "page"}, &accepted)
	ws.UntilEnd(t, accepted.PromptID, time.Minute)
	const workflow = `{"nodes":[],"note":"my film"}`
	if code, _, raw, err := c.Do("POST", "/userdata/workflows%2Ffilm.json", workflow); err != nil || code != 200 {
		t.Fatalf("%d %s %v", code, raw, err)
	}
	view := "/view?filename=kept_00001_.png&type=output"
	_, _, picture, err := c.Do("GET", view, nil)
	if err != nil || !bytes.HasPrefix(picture, []byte("\x89PNG")) {
		t.Fatalf("%.20q, %v", picture, err)
	}
	made := does(t, a, "backup", "run")
	if out := does(t, a, "backup", "verify"); !strings.Contains(out, "is whole") {
		t.Error(out)
	}
	readable(t, keep, "user001/output/kept_00001_.png", picture)
	readable(t, keep, "user001/documents/workflows/film.json", []byte(workflow))
	if code, _, _, err := c.Do("POST", "/userdata/workflows%2Flater.json", `{}`); err != nil || code != 200 {
		t.Fatal(code, err)
	}
	a.Kill()
	if err := os.RemoveAll(a.StateDir); err != nil {
		t.Fatal(err)
	}

	b := doortest.Start(t, doortest.Options{Args: []string{"--keep=dir:" + keep, "--keep-every=1h"}})
	c = b.Client("user001")
	if out, err := cli(t, b, "backup", "run"); err == nil || !strings.Contains(out, "another workshop") {
		t.Errorf("a new workshop may not mix its backups with those of the old one: %v\n%s", err, out)
	}
	if out := does(t, b, "backup", "ls"); !strings.Contains(out, strings.Fields(made)[1]) {
		t.Errorf("%s is not in\n%s", made, out)
	}
	begin := time.Now()
	if out := does(t, b, "backup", "restore", "--yes"); !strings.Contains(out, "Restored.") {
		t.Error(out)
	}
	code, _, again, err := c.Do("GET", view, nil)
	if err != nil || code != 200 || !bytes.Equal(again, picture) {
		t.Errorf("the picture came back as %d, %d bytes of %d, %v", code, len(again), len(picture), err)
	}
	t.Logf("restored and the picture shown after %s", time.Since(begin).Round(time.Millisecond))
	if _, _, raw, err := c.Do("GET", "/userdata/workflows%2Ffilm.json", nil); err != nil || string(raw) != workflow {
		t.Errorf("the workflow came back as %.100q, %v", raw, err)
	}
	if code, _, _, err := c.Do("GET", "/userdata/workflows%2Flater.json", nil); err != nil || code != 404 {
		t.Errorf("what was saved after the backup: %d, %v", code, err)
	}
	var history map[string]doortest.Entry
	c.JSON(t, "GET", "/history", nil, &history)
	if _, ok := history[accepted.PromptID]; !ok {
		t.Errorf("the history lacks the job: %v", history)
	}
	// The machine has its own copies by and by, and the next backup goes on there.
	doortest.Until(t, time.Minute, "the new machine has all files itself", func() bool {
		blobs, _ := filepath.Glob(filepath.Join(b.StateDir, "blobs", "blobs", "*", "*"))
		return len(blobs) >= 2
	})
	does(t, b, "backup", "run")
	c.JSON(t, "POST", "/prompt", map[string]any{"prompt": doortest.Inverted(0x654321, 32, "kept")}, &accepted)
	doortest.Until(t, time.Minute, "the next picture has the next number", func() bool {
		code, _, _, err := c.Do("GET", "/view?filename=kept_00002_.png&type=output", nil)
		return err == nil && code == 200
	})
}

// readable finds a person's file in the newest backup by its manifest alone, as
// the guide tells to.
func readable(t *testing.T, keep, name string, want []byte) {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(keep, "manifests", "*.json"))
	if err != nil || len(all) == 0 {
		t.Fatal(all, err)
	}
	raw, err := os.ReadFile(all[len(all)-1])
	if err != nil {
		t.Fatal(err)
	}
	var m struct {
		Files []struct {
			Path string `json:"path"`
			Ref  string `json:"sha256"`
		} `json:"files"`
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		t.Fatal(err)
	}
	for _, f := range m.Files {
		if f.Path != name {
			continue
		}
		if got, err := os.ReadFile(filepath.Join(keep, "blobs", f.Ref[:2], f.Ref)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is %.60q, %v", name, got, err)
		}
		return
	}
	t.Errorf("%s is not in the manifest", name)
}
