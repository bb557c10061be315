package doortest_test

import (
	"fmt"
	"os"
	"testing"

	"github.com/ahelme/comfyume/agent/doortest"
)

// TestEmulated runs one job on a binary of another CPU under an emulator.
func TestEmulated(t *testing.T) {
	emulator, bin := os.Getenv("COMFYUME_EMULATOR"), os.Getenv("COMFYUME_EMULATED_BIN")
	if emulator == "" || bin == "" {
		t.Skip("COMFYUME_EMULATOR and COMFYUME_EMULATED_BIN name nothing to run; `make dist` sets them")
	}
	a := doortest.Start(t, doortest.Options{Binary: bin, Wrap: []string{emulator}})
	c := a.Client("user001")
	e, _ := run(t, c, doortest.Inverted(0x654321, 24, "emulated"), "emulated")
	if err := doortest.Uniform(c.Fetch(t, e, "9"), doortest.Invert(0x654321), 24); err != nil {
		t.Fatal(err)
	}
	fmt.Println("dist emulated_job=done")
}
