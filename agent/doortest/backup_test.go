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
	"github.com/ahelme/comfyume/roles/backup/s3test"
)

// cli runs the program on an agent's machine.
func cli(t *testing.T, a *doortest.Agent, args ...string) (out string, err error) {
	t.Helper()
	raw, err := command(t, append(args, "--state-dir="+a.StateDir)...).CombinedOutput()
	return string(raw), err
}

// command runs the program with no settings of the environment's.
func command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(doortest.Binary(t), args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}
	return cmd
}

func does(t *testing.T, a *doortest.Agent, args ...string) string {
	t.Helper()
	out, err := cli(t, a, args...)
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// keeping is where a test keeps backups.
type keeping struct {
	spec   string
	path   string // folder in which the objects lie
	env    []string
	server *s3test.Server
}

// everywhere runs a test with a folder and with a bucket of a real S3 server over TLS.
func everywhere(t *testing.T, f func(t *testing.T, k keeping)) {
	t.Run("folder", func(t *testing.T) {
		path := t.TempDir()
		f(t, keeping{spec: "dir:" + path, path: path})
	})
	t.Run("bucket", func(t *testing.T) {
		s := s3test.Start(t)
		f(t, keeping{spec: s.Spec, path: s.Bucket, env: s.Env(), server: s})
	})
}

// start starts an agent that keeps backups there when it is told to.
func (k keeping) start(t *testing.T, args ...string) *doortest.Agent {
	t.Helper()
	return doortest.Start(t, doortest.Options{Env: k.env, Args: append([]string{"--keep=" + k.spec, "--keep-every=1h"}, args...)})
}

// kit prepares the place and returns the file with the recovery kit.
func (k keeping) kit(t *testing.T, a *doortest.Agent) string {
	t.Helper()
	kit := filepath.Join(t.TempDir(), "kit.env")
	does(t, a, "backup", "init", "--kit="+kit)
	raw, err := os.ReadFile(kit)
	if err != nil || !strings.Contains(string(raw), "AGE-SECRET-KEY-1") || !strings.Contains(string(raw), k.spec) {
		t.Fatalf("the kit is %d bytes, %v", len(raw), err)
	}
	return kit
}

const film = `{"nodes":[],"note":"my film"}`

// work makes a picture and a workflow, and returns the picture and its job.
func work(t *testing.T, c *doortest.Client) (picture []byte, job string) {
	t.Helper()
	ws := c.Socket(t, "page")
	var accepted struct {
		PromptID string `json:"prompt_id"`
	}
	c.JSON(t, "POST", "/prompt", map[string]any{"prompt": doortest.Inverted(0x123456, 32, "kept"), "client_id": "page"}, &accepted)
	ws.UntilEnd(t, accepted.PromptID, time.Minute)
	if code, _, raw, err := c.Do("POST", "/userdata/workflows%2Ffilm.json", film); err != nil || code != 200 {
		t.Fatalf("%d %s %v", code, raw, err)
	}
	_, _, picture, err := c.Do("GET", keptView, nil)
	if err != nil || !bytes.HasPrefix(picture, []byte("\x89PNG")) {
		t.Fatalf("%.20q, %v", picture, err)
	}
	return picture, accepted.PromptID
}

const keptView = "/view?filename=kept_00001_.png&type=output"

// found fails unless the picture, the workflow and the history of work are there.
func found(t *testing.T, c *doortest.Client, picture []byte, job string) {
	t.Helper()
	code, _, again, err := c.Do("GET", keptView, nil)
	if err != nil || code != 200 || !bytes.Equal(again, picture) {
		t.Errorf("the picture came back as %d, %d bytes of %d, %v", code, len(again), len(picture), err)
	}
	if _, _, raw, err := c.Do("GET", "/userdata/workflows%2Ffilm.json", nil); err != nil || string(raw) != film {
		t.Errorf("the workflow came back as %.100q, %v", raw, err)
	}
	var history map[string]doortest.Entry
	c.JSON(t, "GET", "/history", nil, &history)
	if _, ok := history[job]; !ok {
		t.Errorf("the history lacks the job: %v", history)
	}
}

// TestHostWasTerminatedWithItsConfiguration (predecessor 64): all that is left is the
// backups and the kit. An empty machine becomes the lost one with one command before
// its first start: people find their pictures, workflows, history and passwords.
func TestHostWasTerminatedWithItsConfiguration(t *testing.T) {
	everywhere(t, func(t *testing.T, k keeping) {
		a := k.start(t)
		c := a.Client("user001")
		if out, err := cli(t, a, "backup", "run"); err == nil || !strings.Contains(out, "backup init") {
			t.Errorf("a place that was not prepared: %v\n%s", err, out)
		}
		kit := k.kit(t, a)
		picture, job := work(t, c)
		made := does(t, a, "backup", "run")
		if out := does(t, a, "backup", "verify"); !strings.Contains(out, "is whole") {
			t.Error(out)
		}
		if out := does(t, a, "backup", "drill", "--env-file="+kit); !strings.Contains(out, "mismatched=0 identity=same jobs=1 ") {
			t.Error(out)
		}
		if out := does(t, a, "backup", "status"); !strings.Contains(out, "last proven restore 20") {
			t.Error(out)
		}
		readable(t, k.path, "user001/output/kept_00001_.png", picture)
		readable(t, k.path, "user001/documents/workflows/film.json", []byte(film))
		if code, _, _, err := c.Do("POST", "/userdata/workflows%2Flater.json", `{}`); err != nil || code != 200 {
			t.Fatal(code, err)
		}
		id, err := os.ReadFile(filepath.Join(a.StateDir, "node-id"))
		if err != nil {
			t.Fatal(err)
		}
		a.Kill()
		if err := os.RemoveAll(a.StateDir); err != nil {
			t.Fatal(err)
		}

		begin := time.Now()
		dir := filepath.Join(t.TempDir(), "state")
		if out, err := command(t, "backup", "restore", "--state-dir="+dir).CombinedOutput(); err == nil || !strings.Contains(string(out), "--env-file=KIT") {
			t.Errorf("without the kit: %v\n%s", err, out)
		}
		out, err := command(t, "backup", "restore", "--env-file="+kit, "--state-dir="+dir).CombinedOutput()
		if err != nil || !strings.Contains(string(out), strings.Fields(made)[1]) {
			t.Fatalf("%v\n%s", err, out)
		}
		if again, err := os.ReadFile(filepath.Join(dir, "node-id")); err != nil || !bytes.Equal(again, id) {
			t.Errorf("the machine is %s and was %s, %v", again, id, err)
		}
		b := doortest.Start(t, doortest.Options{StateDir: dir, Env: k.env, Args: []string{"--keep=" + k.spec, "--keep-every=1s"}})
		c = b.Client("user001")
		found(t, c, picture, job)
		t.Logf("restored and the picture shown after %s", time.Since(begin).Round(time.Millisecond))
		if code, _, _, err := c.Do("GET", "/userdata/workflows%2Flater.json", nil); err != nil || code != 404 {
			t.Errorf("what was saved after the backup: %d, %v", code, err)
		}
		// The machine has its own copies by and by, and the next backup goes on there.
		doortest.Until(t, time.Minute, "the new machine has all files itself", func() bool {
			blobs, _ := filepath.Glob(filepath.Join(b.StateDir, "blobs", "blobs", "*", "*"))
			return len(blobs) >= 2
		})
		doortest.Until(t, time.Minute, "the backups go on in the same place", func() bool {
			out, err := cli(t, b, "backup", "ls")
			return err == nil && strings.Count(out, "\n") >= 3
		})
		c.JSON(t, "POST", "/prompt", map[string]any{"prompt": doortest.Inverted(0x654321, 32, "kept")}, &struct{}{})
		doortest.Until(t, time.Minute, "the next picture has the next number", func() bool {
			code, _, _, err := c.Do("GET", "/view?filename=kept_00002_.png&type=output", nil)
			return err == nil && code == 200
		})
	})
}

// TestBucketKeysWereLostAfterTheRestore (predecessor 46): the restored machine has its
// settings with the keys of the bucket, readable by its owner only, and goes on with
// the backups from them alone.
func TestBucketKeysWereLostAfterTheRestore(t *testing.T) {
	s := s3test.Start(t)
	k := keeping{spec: s.Spec, path: s.Bucket, env: s.Env(), server: s}
	a := k.start(t)
	kit := k.kit(t, a)
	picture, job := work(t, a.Client("user001"))
	does(t, a, "backup", "run")
	a.Kill()
	dir := filepath.Join(t.TempDir(), "state")
	if out, err := command(t, "backup", "restore", "--env-file="+kit, "--state-dir="+dir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	settings := filepath.Join(dir, "restored", "settings.env")
	if info, err := os.Stat(settings); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatal(info, err)
	}
	b := doortest.Start(t, doortest.Options{StateDir: dir, Args: []string{"--env-file=" + settings, "--keep-every=1s"}})
	found(t, b.Client("user001"), picture, job)
	doortest.Until(t, time.Minute, "the backups go on in the bucket", func() bool {
		all, _ := filepath.Glob(filepath.Join(s.Bucket, "manifests", "*.json"))
		return len(all) >= 2
	})
	if strings.Contains(b.Output(), s.Secret) {
		t.Error("the secret stands in the log")
	}
}

// TestDeadMountTookTheBackupsWithIt (predecessor 50): of two places one is away; the
// other gets its backups, health names the one, and a restore takes the other.
func TestDeadMountTookTheBackupsWithIt(t *testing.T) {
	good, dead := t.TempDir(), filepath.Join(t.TempDir(), "sfs")
	k := keeping{spec: "dir:" + dead + ",dir:" + good, path: good}
	a := doortest.Start(t, doortest.Options{Args: []string{"--keep=" + k.spec, "--keep-every=1s"}})
	kit := k.kit(t, a)
	picture, job := work(t, a.Client("user001"))
	doortest.Until(t, time.Minute, "the picture is in the place that is there", func() bool {
		all, _ := filepath.Glob(filepath.Join(good, "blobs", "*", "*"))
		return len(all) >= 3
	})
	doortest.Until(t, time.Minute, "health names the one that is away", func() bool {
		out, _ := cli(t, a, "status")
		return strings.Contains(out, dead+" is not there")
	})
	doortest.Until(t, time.Minute, "the table with the job is in a backup", func() bool {
		return strings.Contains(newest(t, good), `"jobs": 1,`)
	})
	a.Kill()
	dir := filepath.Join(t.TempDir(), "state")
	if out, err := command(t, "backup", "restore", "--env-file="+kit, "--state-dir="+dir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	b := doortest.Start(t, doortest.Options{StateDir: dir, Args: []string{"--keep=" + k.spec}})
	found(t, b.Client("user001"), picture, job)
}

// Of two places one has an older backup: the newest of both is restored, whichever
// is named first.
func TestNewestBackupOfSeveralPlaces(t *testing.T) {
	old, young := t.TempDir(), t.TempDir()
	both := "dir:" + old + ",dir:" + young
	a := doortest.Start(t, doortest.Options{Args: []string{"--keep=" + both, "--keep-every=1h"}})
	kit := keeping{spec: both, path: old}.kit(t, a)
	does(t, a, "backup", "run")
	if err := os.Rename(old, old+".away"); err != nil {
		t.Fatal(err)
	}
	picture, job := work(t, a.Client("user001"))
	if out, err := cli(t, a, "backup", "run"); err == nil || !strings.Contains(out, "is not there") {
		t.Errorf("%v\n%s", err, out)
	}
	a.Kill()
	if err := os.Rename(old+".away", old); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "state")
	if out, err := command(t, "backup", "restore", "--env-file="+kit, "--state-dir="+dir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	b := doortest.Start(t, doortest.Options{StateDir: dir, Args: []string{"--keep=" + both}})
	found(t, b.Client("user001"), picture, job)
}

// newest is the text of the newest manifest.
func newest(t *testing.T, path string) string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(path, "manifests", "*.json"))
	if err != nil || len(all) == 0 {
		return ""
	}
	raw, err := os.ReadFile(all[len(all)-1])
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// TestMachineAndDiskAreGoneAndTheWorkshopComesBack: a new machine that was started
// already takes the backups over, with the kit.
func TestMachineAndDiskAreGoneAndTheWorkshopComesBack(t *testing.T) {
	path := t.TempDir()
	k := keeping{spec: "dir:" + path, path: path}
	a := k.start(t)
	kit := k.kit(t, a)
	picture, job := work(t, a.Client("user001"))
	does(t, a, "backup", "run")
	a.Kill()
	if err := os.RemoveAll(a.StateDir); err != nil {
		t.Fatal(err)
	}
	b := k.start(t)
	if out, err := cli(t, b, "backup", "run"); err == nil || !strings.Contains(out, "another workshop") {
		t.Errorf("a new workshop may not mix its backups with those of the old one: %v\n%s", err, out)
	}
	if out, err := cli(t, b, "backup", "restore", "--yes"); err == nil || !strings.Contains(out, "recovery key") {
		t.Errorf("without the kit: %v\n%s", err, out)
	}
	if out := does(t, b, "backup", "restore", "--yes", "--env-file="+kit); !strings.Contains(out, "Restored.") {
		t.Error(out)
	}
	found(t, b.Client("user001"), picture, job)
	does(t, b, "backup", "run")
}

// A person's files come back as ordinary ones, without a running agent and without
// the key, as they were at a time.
func TestPersonsFilesAtAPointInTime(t *testing.T) {
	everywhere(t, func(t *testing.T, k keeping) {
		a := k.start(t)
		c := a.Client("user001")
		kit := k.kit(t, a)
		picture, _ := work(t, c)
		first := strings.Fields(does(t, a, "backup", "run"))[1]
		if code, _, _, err := c.Do("POST", "/userdata/workflows%2Ffilm.json?overwrite=true", `{"note":"spoilt"}`); err != nil || code != 200 {
			t.Fatal(code, err)
		}
		does(t, a, "backup", "run")
		a.Kill()
		for name, want := range map[string]string{first: film, "": `{"note":"spoilt"}`} {
			to := filepath.Join(t.TempDir(), "plain")
			args := []string{"backup", "restore", "--plain=" + to, "--user=user001", "--env-file=" + kit}
			if name != "" {
				args = append(args, name)
			}
			out, err := command(t, args...).CombinedOutput()
			if err != nil || !strings.Contains(string(out), "every one compared") {
				t.Fatalf("%v\n%s", err, out)
			}
			if got, err := os.ReadFile(filepath.Join(to, "user001/documents/workflows/film.json")); err != nil || string(got) != want {
				t.Errorf("backup %q: the workflow is %.60q, %v", name, got, err)
			}
			if got, err := os.ReadFile(filepath.Join(to, "user001/output/kept_00001_.png")); err != nil || !bytes.Equal(got, picture) {
				t.Errorf("backup %q: the picture is %d bytes, %v", name, len(got), err)
			}
		}
		if out, err := command(t, "backup", "restore", "--plain="+t.TempDir(), "--user=user099", "--env-file="+kit).CombinedOutput(); err == nil || !strings.Contains(string(out), "user099") {
			t.Errorf("a person who is not there: %v\n%s", err, out)
		}
	})
}

// One person's file comes back into the running workshop, beside what they have now.
func TestOnePersonsFileComesBack(t *testing.T) {
	path := t.TempDir()
	k := keeping{spec: "dir:" + path, path: path}
	a := k.start(t)
	c := a.Client("user001")
	k.kit(t, a)
	picture, _ := work(t, c)
	does(t, a, "backup", "run")
	const spoilt = `{"note":"spoilt"}`
	if code, _, _, err := c.Do("POST", "/userdata/workflows%2Ffilm.json?overwrite=true", spoilt); err != nil || code != 200 {
		t.Fatal(code, err)
	}
	out := does(t, a, "backup", "restore", "--user=user001", "--file=documents/workflows")
	if !strings.Contains(out, "1 file of user001 came back, 0 were there already") || !strings.Contains(out, "film.json -> documents/workflows/film (restored).json") {
		t.Error(out)
	}
	for name, want := range map[string]string{"film.json": spoilt, "film%20(restored).json": film} {
		if _, _, raw, err := c.Do("GET", "/userdata/workflows%2F"+name, nil); err != nil || string(raw) != want {
			t.Errorf("%s is %.60q, %v", name, raw, err)
		}
	}
	if out := does(t, a, "backup", "restore", "--user=user001"); !strings.Contains(out, "0 files of user001 came back, 2 were there already") {
		t.Error(out)
	}
	if _, _, again, err := c.Do("GET", keptView, nil); err != nil || !bytes.Equal(again, picture) {
		t.Errorf("%d bytes, %v", len(again), err)
	}
}

// TestHourlyBackupWasNeverMade (predecessor 47): the schedule is the agent's own; a
// place that goes away is red with the reason, on every page that shows health, and
// the backups go on by themselves when it is back.
func TestHourlyBackupWasNeverMade(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mnt")
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	k := keeping{spec: "dir:" + path, path: path}
	a := doortest.Start(t, doortest.Options{Args: []string{"--keep=" + k.spec, "--keep-every=1s"}})
	kit := k.kit(t, a)
	made := func() int {
		all, _ := filepath.Glob(filepath.Join(path, "manifests", "*.json"))
		return len(all)
	}
	doortest.Until(t, time.Minute, "a backup was made by itself", func() bool { return made() > 0 })
	if err := os.Rename(path, path+".away"); err != nil {
		t.Fatal(err)
	}
	c := a.Client("user001")
	if code, _, _, err := c.Do("POST", "/userdata/workflows%2Ffilm.json", film); err != nil || code != 200 {
		t.Fatal(code, err)
	}
	doortest.Until(t, time.Minute, "status says that the place is away", func() bool {
		out, _ := cli(t, a, "status")
		return strings.Contains(out, "is not there") && strings.Contains(out, "BACKUP")
	})
	if err := os.Rename(path+".away", path); err != nil {
		t.Fatal(err)
	}
	before := made()
	doortest.Until(t, time.Minute, "the backups go on", func() bool { return made() > before })
	doortest.Until(t, time.Minute, "and nothing is red", func() bool {
		_, err := cli(t, a, "backup", "status")
		return err == nil
	})
	// A flipped byte turns it red within a turn, and is mended with the next.
	blobs, err := filepath.Glob(filepath.Join(path, "blobs", "*", "*"))
	if err != nil || len(blobs) == 0 {
		t.Fatal(blobs, err)
	}
	raw, err := os.ReadFile(blobs[0])
	if err != nil {
		t.Fatal(err)
	}
	raw[0] ^= 1
	if err := os.WriteFile(blobs[0], raw, 0o600); err != nil {
		t.Fatal(err)
	}
	doortest.Until(t, time.Minute, "the damaged file was set aside", func() bool {
		aside, _ := filepath.Glob(filepath.Join(path, "quarantine", "*"))
		return len(aside) == 1
	})
	doortest.Until(t, 20*time.Second, "it is whole again", func() bool {
		out, err := cli(t, a, "backup", "drill", "--env-file="+kit)
		t.Log(out)
		return err == nil && strings.Contains(out, "mismatched=0")
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

// TestBackupIsRestoredWithoutThisProgram runs what the guide says: a standard S3 tool
// copies the bucket, the script gives the files their names back.
func TestBackupIsRestoredWithoutThisProgram(t *testing.T) {
	s := s3test.Start(t)
	k := keeping{spec: s.Spec, path: s.Bucket, env: s.Env(), server: s}
	a := k.start(t)
	k.kit(t, a)
	picture, _ := work(t, a.Client("user001"))
	does(t, a, "backup", "run")
	a.Kill()
	here := t.TempDir()
	sync := exec.Command("rclone", "copy", "--ca-cert="+s.CA, "r2:films", here)
	sync.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}, "RCLONE_CONFIG=/dev/null", "RCLONE_CONFIG_R2_TYPE=s3", "RCLONE_CONFIG_R2_PROVIDER=Other", "RCLONE_CONFIG_R2_REGION=us-east-1",
		"RCLONE_CONFIG_R2_ENDPOINT="+strings.TrimSuffix(strings.TrimPrefix(s.Spec, "s3:"), "/films"), "RCLONE_CONFIG_R2_ACCESS_KEY_ID="+s.ID, "RCLONE_CONFIG_R2_SECRET_ACCESS_KEY="+s.Secret)
	if out, err := sync.CombinedOutput(); err != nil {
		t.Fatalf("rclone (Debian package rclone): %v\n%s", err, out)
	}
	guide, err := os.ReadFile("../../deploy/guide/backup.md")
	if err != nil {
		t.Fatal(err)
	}
	_, script, _ := strings.Cut(string(guide), "## Without this program")
	_, script, found := strings.Cut(script, "    cd /mnt/backup\n")
	script, _, ends := strings.Cut(script, "      done\n")
	if !found || !ends {
		t.Fatal("the guide has no script any more")
	}
	restored := t.TempDir()
	sh := exec.Command("sh", "-ec", strings.ReplaceAll(script, "/tmp/restored", restored)+"done\n")
	sh.Dir = here
	if out, err := sh.CombinedOutput(); err != nil {
		t.Fatalf("the guide's script (needs jq): %v\n%s", err, out)
	}
	for name, want := range map[string][]byte{"user001/output/kept_00001_.png": picture, "user001/documents/workflows/film.json": []byte(film)} {
		if got, err := os.ReadFile(filepath.Join(restored, name)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is %.40q, %v", name, got, err)
		}
	}
}

// A machine for backups alone gets all files from the gateway and keeps them outside.
func TestBackupsOnAMachineOfTheirOwn(t *testing.T) {
	hall, path := doortest.Hall(t), t.TempDir()
	lead := doortest.Start(t, doortest.Options{Roles: "queue,gateway,gpu", Hall: hall, Name: "mello", Args: []string{"--comfyui-url", "sketch"}})
	keep := doortest.Start(t, doortest.Options{Roles: "backup", Hall: hall, Name: "mac", Args: []string{"--keep=dir:" + path, "--keep-every=1h"}})
	picture, _ := work(t, lead.Client("user001"))
	doortest.Until(t, time.Minute, "the place is prepared", func() bool {
		_, err := cli(t, keep, "backup", "init", "--kit="+filepath.Join(t.TempDir(), "kit"))
		return err == nil
	})
	doortest.Until(t, time.Minute, "the backup is whole", func() bool {
		_, err := cli(t, keep, "backup", "run")
		return err == nil
	})
	readable(t, path, "user001/output/kept_00001_.png", picture)
	doortest.Until(t, time.Minute, "the gateway's status shows it", func() bool {
		out, _ := cli(t, lead, "status")
		return strings.Contains(out, "BACKUP     "+path)
	})
}
