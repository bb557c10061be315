package agent

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"syscall"

	"github.com/ahelme/comfyume/cluster"
)

// listen opens a TCP listener, or says in one sentence why not and what to do.
func listen(flag, addr string) (net.Listener, error) {
	ln, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", addr)
	switch {
	case err == nil:
		return ln, nil
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, cluster.Errorf(cluster.Conflict, "%s is in use by another program: stop that one, or choose another with --%s", addr, flag)
	case errors.Is(err, fs.ErrPermission):
		return nil, cluster.Errorf(cluster.Forbidden, "this user may not listen on %s: take a port of 1024 or above with --%s, or give the binary the right (setcap cap_net_bind_service=+ep)", addr, flag)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, cluster.Errorf(cluster.Invalid, "%s is no address of this machine: choose another with --%s", addr, flag)
	}
	return nil, cluster.Errorf(cluster.Invalid, "cannot listen on %s: %v; choose another with --%s", addr, err, flag)
}
