package world

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// insideKey tells a run of this program that it has namespaces of its own.
const insideKey = "CHAOS_INSIDE"

// RunApart runs a command in new namespaces: network, mounts and processes, so
// that all it starts ends with it. Where they are not possible it is run
// without.
func RunApart(cmd *exec.Cmd) error {
	apart := *cmd
	apart.Env = append(os.Environ(), insideKey+"=1")
	apart.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() != 0 {
		apart.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		apart.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}}
		apart.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}}
	}
	if err := apart.Start(); err != nil {
		return cmd.Run()
	}
	return apart.Wait()
}

// Here is what this run has to itself.
func Here() Space {
	if os.Getenv(insideKey) == "" {
		return Space{Why: "namespaces are not possible here"}
	}
	if err := settle(); err != nil {
		return Space{Why: err.Error()}
	}
	return Space{Apart: true}
}

// settle makes the new namespaces usable: what is mounted stays in here, and
// the loopback interface is up.
func settle() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keep mounts private: %w", err)
	}
	if err := loopbackUp(); err != nil {
		return fmt.Errorf("bring the loopback interface up: %w", err)
	}
	return firewall("ip", "input", "")
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req)
}

// attributes let no agent outlive this program.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}

// smallDisk mounts a disk of a few megabytes.
func smallDisk(dir string, size int64) error {
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700", size)); err != nil {
		return fmt.Errorf("mount a small disk: %w", err)
	}
	return nil
}

// freeOf is how many bytes a disk has left.
func freeOf(dir string) (int64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, err
	}
	return int64(s.Bavail) * s.Bsize, nil //nolint:gosec // a small disk
}
