package tailnet

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"

	"github.com/ahelme/comfyume/cluster"
)

// seatFile remembers in the node's own folder which name and address it had,
// so that two nodes that are restarted in another order do not swap them.
const seatFile = "hall-seat.json"

// take gives the node a name and an address in the hall and registers it.
func (h *hall) take(cfg LoopbackConfig, id cluster.NodeID) (r registration, err error) {
	err = h.guard(func() error {
		others, err := h.list()
		if err != nil {
			return err
		}
		names, addrs := map[string]bool{}, map[netip.Addr]bool{}
		for _, o := range others {
			if o.ID != id {
				names[o.Name], addrs[o.Addr] = true, true
			}
		}
		last, ok := h.read(id)
		if !ok {
			last = lastSeat(cfg.Dir)
		}
		r = registration{ID: id, Wanted: cfg.Name, Tag: cfg.Tag, PID: os.Getpid(), TCP: map[uint16]string{}, UDP: map[uint16]string{}}
		r.Name = freeName(cfg.Name, last, names)
		if r.Addr, err = freeAddr(id, last.Addr, addrs); err != nil {
			return err
		}
		return h.write(r)
	})
	if err != nil {
		return r, err
	}
	return r, keepSeat(cfg.Dir, r)
}

func lastSeat(dir string) (r registration) {
	raw, err := os.ReadFile(filepath.Join(dir, seatFile))
	if err != nil || json.Unmarshal(raw, &r) != nil {
		return registration{} // it is a wish only
	}
	return r
}

func keepSeat(dir string, r registration) error {
	if last := lastSeat(dir); last.Name == r.Name && last.Wanted == r.Wanted && last.Addr == r.Addr {
		return nil
	}
	raw, err := json.Marshal(registration{ID: r.ID, Name: r.Name, Wanted: r.Wanted, Addr: r.Addr})
	if err != nil {
		return fmt.Errorf("remember this node's place: %w", err)
	}
	if err := write(filepath.Join(dir, seatFile), raw, passing); err != nil {
		return fmt.Errorf("remember this node's place: %w", err)
	}
	return nil
}

// freeName is the name asked for, the one of last time, or the next number.
func freeName(wanted string, last registration, taken map[string]bool) string {
	if last.Wanted == wanted && last.Name != "" && !taken[last.Name] {
		return last.Name
	}
	name := wanted
	for i := 2; taken[name]; i++ {
		name = wanted + "-" + strconv.Itoa(i)
	}
	return name
}

// freeAddr is the address of last time, the one that the id gives, or the next.
func freeAddr(id cluster.NodeID, last netip.Addr, taken map[netip.Addr]bool) (netip.Addr, error) {
	if inHall(last) && !taken[last] {
		return last, nil
	}
	sum := sha256.Sum256([]byte(id))
	const width = 254 // 1 to 254: neither 0 nor 255
	first := int(sum[0])<<8 | int(sum[1])
	for i := range width * width {
		n := (first + i) % (width * width)
		if a := netip.AddrFrom4([4]byte{127, 77, byte(1 + n/width), byte(1 + n%width)}); !taken[a] {
			return a, nil
		}
	}
	return netip.Addr{}, cluster.Errorf(cluster.Unavailable, "No address is free on this machine; forget nodes that are gone with `comfyume-agent node forget`.")
}

// inHall reports whether an address is one that nodes of a hall have.
func inHall(a netip.Addr) bool {
	if !a.Is4() {
		return false
	}
	b := a.As4()
	return b[0] == 127 && b[1] == 77
}

// bindable reports whether this machine lets us listen on an address: all of
// 127.0.0.0/8 on Linux, 127.0.0.1 only on a Mac.
func bindable(a netip.Addr) bool {
	ln, err := net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(netip.AddrPortFrom(a, 0)))
	if err != nil {
		return false
	}
	return ln.Close() == nil
}
