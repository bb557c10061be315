//go:build !linux

package comfyui

import (
	"syscall"
	"time"
)

// Spent is the processor time that the process has used: not known here.
func (*Process) Spent() time.Duration { return 0 }

// attributes put the process into a group of its own, as the user if one is
// given. Here a process outlives an agent that is killed; its port is then
// found taken and named.
func attributes(who *syscall.Credential) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Credential: who}
}
