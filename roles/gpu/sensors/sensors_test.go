package sensors_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ahelme/comfyume/roles/gpu/sensors"
)

func fixture(t testing.TB, name string) []byte {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestTwoCards(t *testing.T) {
	got, err := sensors.ParseNVIDIA(fixture(t, "two.csv"))
	want := []sensors.GPU{
		{Index: 0, Name: "NVIDIA H100 80GB HBM3", Total: 81559 << 20, Used: 64211 << 20, Free: 16905 << 20, Load: 97, Heat: 61},
		{Index: 1, Name: "NVIDIA RTX 6000 Ada Generation", Total: 49140 << 20, Used: 12 << 20, Free: 48652 << 20, Load: 0, Heat: 34},
	}
	if d := cmp.Diff(want, got); d != "" || err != nil {
		t.Error(d, err)
	}
}

func TestWhatACardDoesNotTellIsUnknown(t *testing.T) {
	got, err := sensors.ParseNVIDIA(fixture(t, "na.csv"))
	const no = sensors.Unknown
	want := []sensors.GPU{
		{Index: 0, Name: "NVIDIA A100-SXM4-40GB MIG 1g.5gb", Total: no, Used: no, Free: no, Load: no, Heat: 37},
		{Index: 1, Name: "Tesla M60", Total: 8129 << 20, Used: 0, Free: 8129 << 20, Load: no, Heat: no},
	}
	if d := cmp.Diff(want, got); d != "" || err != nil {
		t.Error(d, err)
	}
}

func TestAMD(t *testing.T) {
	got, err := sensors.ParseROCm(fixture(t, "rocm.json"))
	const no = sensors.Unknown
	want := []sensors.GPU{
		{Index: 0, Name: "AMD Instinct MI210", Total: 68702699520, Used: 10850304, Free: 68702699520 - 10850304, Load: 88, Heat: 52},
		{Index: 1, Name: "Radeon RX 7900 XTX", Total: no, Used: no, Free: no, Load: no, Heat: no},
	}
	if d := cmp.Diff(want, got); d != "" || err != nil {
		t.Error(d, err)
	}
}

// tool is a script in place of nvidia-smi.
func tool(t *testing.T, script string) sensors.Reader {
	t.Helper()
	path := filepath.Join(t.TempDir(), "smi")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script), 0o700); err != nil { //nolint:gosec // a program
		t.Fatal(err)
	}
	return sensors.Reader{Within: 500 * time.Millisecond, Path: func(name string) (string, error) {
		if name == string(sensors.NVIDIA) {
			return path, nil
		}
		return "", exec.ErrNotFound
	}}
}

func TestDriverThatHangsIsNotWaitedFor(t *testing.T) {
	began := time.Now()
	_, _, err := tool(t, "exec sleep 60").Read(t.Context())
	if err == nil || !strings.Contains(err.Error(), "does not answer") || time.Since(began) > 5*time.Second {
		t.Errorf("%v after %s", err, time.Since(began))
	}
}

func TestDriverThatIsBrokenIsQuoted(t *testing.T) {
	_, _, err := tool(t, "cat testdata/nodriver.txt; exit 9").Read(t.Context())
	if err == nil || !strings.Contains(err.Error(), "couldn't communicate with the NVIDIA driver") {
		t.Error(err)
	}
}

func TestReadAsksTheToolThatIsThere(t *testing.T) {
	got, from, err := tool(t, "cat testdata/two.csv").Read(t.Context())
	if err != nil || from != sensors.NVIDIA || len(got) != 2 {
		t.Errorf("%v from %q, %v", got, from, err)
	}
}

func TestWorkerServiceFailsOnACPUHost(t *testing.T) { // predecessor 20
	none := sensors.Reader{Path: func(string) (string, error) { return "", exec.ErrNotFound }}
	if _, _, err := none.Read(t.Context()); !errors.Is(err, sensors.ErrNone) {
		t.Error(err)
	}
}

func FuzzParsers(f *testing.F) {
	for _, name := range []string{"two.csv", "na.csv", "nodriver.txt", "rocm.json"} {
		f.Add(fixture(f, name))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, parse := range []func([]byte) ([]sensors.GPU, error){sensors.ParseNVIDIA, sensors.ParseROCm} {
			all, err := parse(raw)
			if err != nil {
				continue
			}
			for _, g := range all {
				if g.Index < 0 || g.Total < sensors.Unknown || g.Used < sensors.Unknown || g.Free < sensors.Unknown || g.Load < sensors.Unknown || g.Heat < sensors.Unknown || len(g.Name) > 100 {
					t.Errorf("%+v", g)
				}
			}
		}
	})
}
