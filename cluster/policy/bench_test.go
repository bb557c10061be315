package policy_test

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/jobs"
	"github.com/ahelme/comfyume/cluster/policy"
)

// TestHundredThousandQueued prints what 100,000 queued jobs of 8 kB of 200 users
// cost: a decision, the memory, and the pause of a snapshot. It takes seconds and
// 1.5 GB, so it runs when COMFYUME_BENCH is set.
func TestHundredThousandQueued(t *testing.T) {
	if os.Getenv("COMFYUME_BENCH") == "" {
		t.Log("COMFYUME_BENCH is not set: not measured")
		return
	}
	before := heap()
	tab := jobs.New()
	for n := range 100_000 {
		body := bytes.Repeat([]byte{byte(n)}, 8<<10)
		model := fmt.Sprintf("m%d.safetensors", n%3)
		c := &jobs.Submit{
			ID: jobs.ID{User: cluster.User(fmt.Sprintf("user%03d", n%200)), Prompt: fmt.Sprintf("p%d", n)}, BodyHash: "h", Body: body, Priority: jobs.Normal,
			Classes: []string{"CLIPTextEncode", "KSampler", "SaveImage", "UNETLoader"}, Models: []string{model}, Form: model,
		}
		mutate, _, err := tab.Plan(c, now)
		if err != nil {
			t.Fatal(err)
		}
		mutate()
	}
	used := heap() - before
	workers := []jobs.Claim{worker("a"), worker("b"), worker("c")}
	for _, mode := range policy.Modes() {
		var took []time.Duration
		cpu := processTime(t)
		for range 1000 {
			at := time.Now()
			if len(policy.Pick(policy.View{Jobs: tab, Idle: workers, Mode: mode, Now: now})) != 3 {
				t.Fatal("not all workers have work")
			}
			took = append(took, time.Since(at))
		}
		cpu = processTime(t) - cpu
		slices.Sort(took)
		at := time.Now()
		policy.Look(policy.View{Jobs: tab, Busy: workers, Mode: mode, Now: now})
		t.Logf("pick mode=%s jobs=100000 users=200 cpu_mean=%s p50=%s p99=%s max=%s forecast=%s", mode, cpu/1000, took[500], took[990], took[999], time.Since(at))
		if cpu/1000 > time.Millisecond {
			t.Errorf("a decision takes %s of a processor", cpu/1000)
		}
	}
	at := time.Now()
	s := tab.Snapshot()
	t.Logf("table jobs=100000 body=8kB heap=%dMB per_job=%dB snapshot_pause=%s rows=%d", used>>20, used/100_000, time.Since(at), len(s.Rows))
}

func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// processTime is what this process has had of the processors: on a machine that
// is shared, the clock on the wall measures the others.
func processTime(t *testing.T) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
