//go:build !linux

package world

import "errors"

func newTailnet(*World) (network, error) {
	return nil, errors.New("this system has no network namespaces")
}
