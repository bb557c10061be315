package doortest_test

import (
	"bufio"
	"bytes"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ahelme/comfyume/agent/doortest"
)

// TestImportIsKilledHalfWay: the agent, or the node that leads, dies while files
// come in; the same command goes on where it was.
func TestImportIsKilledHalfWay(t *testing.T) {
	t.Run("the agent", func(t *testing.T) {
		a := doortest.Start(t, doortest.Options{})
		killed(t, a, a, 4) // no agent answers
	})
	t.Run("the leader", func(t *testing.T) {
		hall := doortest.Hall(t)
		lead := doortest.Start(t, doortest.Options{Roles: "queue", Hall: hall, Name: "mac"})
		killed(t, doortest.Start(t, doortest.Options{Roles: "gateway", Hall: hall, Name: "mello"}), lead, 1, 5) // it does not answer, or nobody leads
	})
}

// killed imports into a, kills one node when a third is taken, wants one of the
// exit codes, and imports again when the node is back.
func killed(t *testing.T, a, victim *doortest.Agent, codes ...int) {
	t.Helper()
	const n = 60
	old := newOldTree(t)
	want := map[string][]byte{}
	for i := range n {
		name := fmt.Sprintf("take_%05d_.png", i+1)
		want["/view?type=output&filename="+name] = old.write(t, "outputs/user001/"+name, old.noise(200_000))
	}
	args := []string{"import", "v1", "--outputs=" + filepath.Join(old.dir, "outputs")}
	cmd := exec.Command(doortest.Binary(t), append(args, "--state-dir="+a.StateDir)...)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	took := 0
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), "took ") {
			if took++; took == n/3 {
				victim.Kill()
			}
		}
	}
	if err := cmd.Wait(); !slices.Contains(codes, exitCode(err)) || !strings.Contains(stderr.String(), "import again to go on") || took == n {
		t.Fatalf("%d of %d were taken: %v, %s", took, n, err, stderr.String())
	}
	victim.Launch(t)
	a.Ready(t, time.Minute)
	var already, again, bytes int
	out := ""
	doortest.Until(t, time.Minute, "the import goes on", func() bool { // a door is called ready for some seconds without a leader
		out, err = cli(t, a, args...)
		return err == nil
	})
	if _, err := fmt.Sscanf(out[strings.Index(out, "import v1: "):], "import v1: files=%d bytes=%d already=%d", &again, &bytes, &already); err != nil {
		t.Fatal(err, out)
	}
	if already < took || already+again != n {
		t.Errorf("%d were taken before, the second import found %d and took %d of %d", took, already, again, n)
	}
	finds(t, a.Client("user001"), want)
	if blobs, err := filepath.Glob(filepath.Join(a.StateDir, "blobs", "blobs", "*", "*")); err != nil || len(blobs) < n || len(blobs) > n+5 {
		t.Errorf("%d files are stored for %d, %v", len(blobs), n, err)
	}
}
