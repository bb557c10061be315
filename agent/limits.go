package agent

import (
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
)

// memoryLimit is how many bytes this process may use by the control groups that
// it is in, all of which count; 0 if none of them says. root is / but in tests.
//
// It is read back at every start: a limit that somebody has written down and
// nothing enforces is found out here, or by the machine that runs out of memory.
func memoryLimit(root string) int64 {
	groups, err := os.ReadFile(filepath.Join(root, "proc/self/cgroup"))
	if err != nil {
		return 0 // not Linux
	}
	var least int64
	for line := range strings.Lines(string(groups)) {
		part := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(part) < 3 {
			continue
		}
		tree, file := "sys/fs/cgroup", "memory.max" // version 2
		switch {
		case part[1] == "memory":
			tree, file = "sys/fs/cgroup/memory", "memory.limit_in_bytes"
		case part[1] != "":
			continue
		}
		for group := path.Clean("/" + part[2]); ; group = path.Dir(group) {
			raw, err := os.ReadFile(filepath.Join(root, tree, group, file))
			if err == nil {
				n, err := strconv.ParseInt(strings.TrimSpace(string(raw)), 10, 64)
				if err == nil && n < 1<<60 && (least == 0 || n < least) { // version 1 writes "none" as a huge number
					least = n
				}
			}
			if group == "/" {
				break
			}
		}
	}
	return least
}
