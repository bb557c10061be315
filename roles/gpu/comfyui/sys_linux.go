package comfyui

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// attributes put the process into a group of its own, as the user if one is
// given, and let it die with this agent, so that no orphan keeps the GPU's
// memory and the port. The thread that starts it must live as long as it.
func attributes(who *syscall.Credential) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Credential: who, Pdeathsig: syscall.SIGKILL}
}

// hertz is the unit of processor time in /proc: 100 on every Linux of today.
const hertz = 100

// Spent is the processor time that the process has used, 0 when it does not run.
func (p *Process) Spent() time.Duration {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.State().PID))
	if err != nil {
		return 0
	}
	// The name in parentheses may hold anything; utime and stime are the 12th and
	// 13th field after it (proc_pid_stat(5)).
	_, rest, _ := strings.Cut(string(raw), ") ")
	f := strings.Fields(rest)
	if len(f) < 13 {
		return 0
	}
	user, _ := strconv.ParseInt(f[11], 10, 64)
	system, _ := strconv.ParseInt(f[12], 10, 64)
	return time.Duration(user+system) * time.Second / hertz
}
