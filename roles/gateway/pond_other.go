//go:build !linux

package gateway

// pond is empty here: each socket has a goroutine that waits for it.
type pond struct{}

func newPond() (*pond, error) { return &pond{}, nil }

func (*pond) run()           {}
func (*pond) close()         {}
func (*pond) add(*sock) bool { return false }
func (*pond) remove(*sock)   {}
