package agent

import (
	"os"
	"path/filepath"
	"testing"
)

// TestLimitSilentlyNotEnforced: what counts is what the kernel says, not what was
// written into somebody's file.
func TestLimitSilentlyNotEnforced(t *testing.T) { // predecessor 16
	for name, c := range map[string]struct {
		files map[string]string
		want  int64
	}{
		"none":                 {nil, 0},
		"not enforced":         {map[string]string{"proc/self/cgroup": "0::/system.slice/comfyume.service\n", "sys/fs/cgroup/system.slice/comfyume.service/memory.max": "max\n"}, 0},
		"its own":              {map[string]string{"proc/self/cgroup": "0::/system.slice/comfyume.service\n", "sys/fs/cgroup/system.slice/comfyume.service/memory.max": "2147483648\n"}, 2 << 30},
		"of the group above":   {map[string]string{"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/memory.max": "1073741824\n", "sys/fs/cgroup/a/b/memory.max": "2147483648\n"}, 1 << 30},
		"of the container":     {map[string]string{"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "536870912\n"}, 512 << 20},
		"version 1":            {map[string]string{"proc/self/cgroup": "12:cpu,cpuacct:/x\n4:memory:/docker/x\n", "sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes": "1073741824\n"}, 1 << 30},
		"version 1, unlimited": {map[string]string{"proc/self/cgroup": "4:memory:/docker/x\n", "sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes": "9223372036854771712\n"}, 0},
		"nonsense":             {map[string]string{"proc/self/cgroup": "memory\n0::../../..\n", "sys/fs/cgroup/memory.max": "many\n"}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			for file, text := range c.files {
				p := filepath.Join(root, file)
				if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if got := memoryLimit(root); got != c.want {
				t.Errorf("%d, want %d", got, c.want)
			}
		})
	}
}
