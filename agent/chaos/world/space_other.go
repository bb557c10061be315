//go:build !linux

package world

import (
	"errors"
	"os/exec"
	"syscall"
)

// RunApart runs a command as it is: there are no namespaces here.
func RunApart(cmd *exec.Cmd) error { return cmd.Run() }

// Here is what this run has to itself.
func Here() Space { return Space{Why: "this system has no namespaces"} }

func attributes() *syscall.SysProcAttr { return nil }

func smallDisk(string, int64) error { return errors.ErrUnsupported }

func freeOf(string) (int64, error) { return 0, errors.ErrUnsupported }
