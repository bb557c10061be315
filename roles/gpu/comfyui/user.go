package comfyui

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"syscall"
)

// Account is the OS user that runs ComfyUI. The zero value is this agent's own.
type Account struct {
	Name     string
	uid, gid uint32
	groups   []uint32 // render and video, where a GPU's device belongs to them
	other    bool     // it is not this agent's own user
}

// defaultAccounts are tried in order when this agent runs as root: participants'
// workflows and custom nodes are foreign code, and the agent's secrets are root's.
var defaultAccounts = []string{"comfyui", "nobody"}

// FindAccount looks for the user that shall run ComfyUI. "" chooses: another one
// than root, and the agent's own when it is not root.
func FindAccount(name string) (Account, error) {
	if name == "" {
		if os.Geteuid() != 0 {
			return Account{}, nil
		}
		for _, n := range defaultAccounts {
			if a, err := account(n); err == nil {
				return a, nil
			}
		}
		return Account{}, errors.New("this agent runs as root and finds no other user for ComfyUI: make one (useradd --system comfyui), or name one with --comfyui-user")
	}
	a, err := account(name)
	if err != nil {
		return Account{}, fmt.Errorf("there is no user %q on this machine: check --comfyui-user", name)
	}
	if a.other && os.Geteuid() != 0 {
		return Account{}, fmt.Errorf("--comfyui-user=%s: only an agent that runs as root can start ComfyUI as another user", name)
	}
	return a, nil
}

func account(name string) (Account, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return Account{}, err
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return Account{}, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return Account{}, err
	}
	a := Account{Name: name, uid: uint32(uid), gid: uint32(gid), other: int(uid) != os.Geteuid()}
	all, err := u.GroupIds()
	if err != nil {
		return Account{}, err
	}
	for _, g := range all {
		if n, err := strconv.ParseUint(g, 10, 32); err == nil {
			a.groups = append(a.groups, uint32(n))
		}
	}
	return a, nil
}

// credential is for a process that is started as the account.
func (a Account) credential() *syscall.Credential {
	if !a.other {
		return nil
	}
	return &syscall.Credential{Uid: a.uid, Gid: a.gid, Groups: a.groups}
}

// own gives a folder to the account. A link that foreign code has put in its place
// is not followed: root would give away what it leads to.
func (a Account) own(path string) error {
	if !a.other {
		return nil
	}
	if err := os.Lchown(path, int(a.uid), int(a.gid)); err != nil {
		return fmt.Errorf("give %s to %s: %w", path, a.Name, err)
	}
	return nil
}

// open makes the folder above the account's own, and lets the account through it.
func (a Account) open(path string) error {
	if err := os.MkdirAll(path, 0o750); err != nil {
		return fmt.Errorf("make the folder of ComfyUI's working folders: %w", err)
	}
	if !a.other {
		return nil
	}
	if err := os.Chmod(path, 0o711); err != nil { //nolint:gosec // it may be gone through, not read
		return fmt.Errorf("let %s into %s: %w", a.Name, path, err)
	}
	return nil
}
