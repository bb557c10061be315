package doortest_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ahelme/comfyume/agent/doortest"
)

// drillFiles is how many files make drill brings back.
const drillFiles = 2000

// TestDrill (make drill) makes a workshop with thousands of files, backs it up, wipes
// the machine, restores it on an empty folder with the kit alone, and compares every
// byte at the door.
func TestDrill(t *testing.T) {
	benchOnly(t)
	gib := 1.0
	if text := os.Getenv("DRILL_GIB"); text != "" {
		var err error
		if gib, err = strconv.ParseFloat(text, 64); err != nil {
			t.Fatalf("DRILL_GIB=%s: a number", text)
		}
	}
	everywhere(t, func(t *testing.T, k keeping) { drillAt(t, k, int(gib*(1<<30))/drillFiles+1) })
}

func drillAt(t *testing.T, k keeping, size int) {
	a := k.start(t)
	c := a.Client("user001")
	kit := k.kit(t, a)
	picture, job := work(t, c)
	digest := map[string][32]byte{}
	noise := rand.NewChaCha8([32]byte{1})
	raw := make([]byte, size)
	for i := range drillFiles {
		_, _ = noise.Read(raw)
		name := upload(t, c, fmt.Sprintf("take %04d.bin", i), raw)
		digest[name] = sha256.Sum256(raw)
	}
	id, err := os.ReadFile(filepath.Join(a.StateDir, "node-id"))
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	does(t, a, "--timeout=20m", "backup", "run")
	backedUp := time.Since(begin)
	begin = time.Now()
	proof := does(t, a, "--timeout=20m", "backup", "drill", "--env-file="+kit)
	fmt.Printf("drill_in_place place=%s %s", kind(k), strings.TrimPrefix(strings.TrimSpace(proof), "drill ")+"\n")
	a.Kill()
	if err := os.RemoveAll(a.StateDir); err != nil {
		t.Fatal(err)
	}

	begin = time.Now()
	dir := filepath.Join(t.TempDir(), "state")
	if out, err := command(t, "backup", "restore", "--env-file="+kit, "--state-dir="+dir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	b := doortest.Start(t, doortest.Options{StateDir: dir, Env: k.env, Args: []string{"--keep=" + k.spec, "--keep-every=1h"}})
	c = b.Client("user001")
	if code, _, _, err := c.Do("GET", "/", nil); err != nil || code != 200 {
		t.Fatalf("the page: %d, %v", code, err)
	}
	page := time.Since(begin)
	found(t, c, picture, job)
	doortest.Until(t, 30*time.Minute, "all files are here", func() bool {
		n := 0
		for _, folder := range globbed(t, dir, "blobs", "blobs", "*") {
			entries, _ := os.ReadDir(folder)
			n += len(entries)
		}
		return n >= drillFiles
	})
	all := time.Since(begin)
	identity := "same"
	if again, err := os.ReadFile(filepath.Join(dir, "node-id")); err != nil || !bytes.Equal(again, id) {
		identity = "differs"
	}
	restored, mismatched, bytesBack := 0, 0, int64(0)
	for name, want := range digest {
		code, _, got, err := c.Do("GET", "/view?type=input&filename="+strings.ReplaceAll(name, " ", "%20"), nil)
		if err == nil && code == 200 && sha256.Sum256(got) == want {
			restored++
			bytesBack += int64(len(got))
		} else {
			mismatched++
		}
	}
	var jobs map[string]doortest.Entry
	c.JSON(t, "GET", "/history", nil, &jobs)
	fmt.Printf("drill place=%s files=%d bytes=%d restored=%d mismatched=%d identity=%s jobs=%d backup_s=%.1f first_page_s=%.1f all_bytes_s=%.1f mb_s=%.0f\n",
		kind(k), len(digest), bytesBack, restored, mismatched, identity, len(jobs), backedUp.Seconds(), page.Seconds(), all.Seconds(), float64(bytesBack)/1e6/(all-page).Seconds())
	if mismatched > 0 || identity != "same" || restored != len(digest) {
		t.Error("not everything came back")
	}
}

func kind(k keeping) string {
	if k.server != nil {
		return "s3"
	}
	return "folder"
}

func globbed(t *testing.T, parts ...string) []string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(parts...))
	if err != nil {
		t.Fatal(err)
	}
	return all
}
