package tailnet

import "net/netip"

// LoopbackUnbound is Loopback on a machine that binds 127.0.0.1 only, as a Mac does.
func LoopbackUnbound(cfg LoopbackConfig) (Network, error) {
	return loopbackOn(cfg, func(netip.Addr) bool { return false })
}
