package tailnet

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/ahelme/comfyume/cluster"
)

// A datagram in a hall is: magic, sender's id, sender's port, HMAC, payload.
// The HMAC also covers whom it is for, so that it cannot be passed on to
// another node or port.
const (
	packetMagic  = "cyh1"
	packetMAC    = 16 // bytes of the HMAC
	packetHeader = len(packetMagic) + idSize + 2 + packetMAC
	maxPacket    = 65507 // bytes in one UDP datagram
)

// hallPackets is a socket on which only members are heard.
type hallPackets struct {
	net.PacketConn // of the system
	at             netip.AddrPort
	of             *hallNode
}

func (p *hallPackets) LocalAddr() net.Addr { return net.UDPAddrFromAddrPort(p.at) }

func (p *hallPackets) Close() error {
	p.of.drop(p)
	if err := p.PacketConn.Close(); err != nil {
		return err
	}
	return p.of.release(p.of.me.UDP, p.at.Port())
}

func (h *hall) seal(from, to cluster.NodeID, fromPort, toPort uint16, payload []byte) []byte {
	m := hmac.New(sha256.New, h.secret)
	m.Write([]byte("datagram"))
	m.Write([]byte(from))
	m.Write([]byte(to))
	m.Write(binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, fromPort), toPort))
	m.Write(payload)
	return m.Sum(nil)[:packetMAC]
}

// WriteTo sends to the address of a node. What nobody listens for is lost, as
// any datagram may be.
func (p *hallPackets) WriteTo(b []byte, addr net.Addr) (int, error) {
	if len(b) > maxPacket-packetHeader {
		return 0, &net.OpError{Op: "write", Net: "udp", Addr: addr, Err: syscall.EMSGSIZE}
	}
	ap, err := netip.ParseAddrPort(addr.String())
	if err != nil {
		return 0, fmt.Errorf("send to %s: %w", addr, err)
	}
	to := p.of.routes.to(p.of.hall, ap.Addr().Unmap(), ap.Port())
	there, err := netip.ParseAddrPort(to.UDP[ap.Port()])
	if err != nil {
		return len(b), nil // nobody listens there
	}
	me := p.of.me.ID
	raw := append(make([]byte, 0, packetHeader+len(b)), packetMagic...)
	raw = binary.BigEndian.AppendUint16(append(raw, me...), p.at.Port())
	raw = append(raw, p.of.hall.seal(me, to.ID, p.at.Port(), ap.Port(), b)...)
	if _, err := p.PacketConn.WriteTo(append(raw, b...), net.UDPAddrFromAddrPort(there)); err != nil {
		return 0, err
	}
	return len(b), nil
}

// buffers holds the largest datagram each.
var buffers = sync.Pool{New: func() any { return new([maxPacket]byte) }}

// ReadFrom gives the next datagram of a member, with the member's address.
func (p *hallPackets) ReadFrom(b []byte) (int, net.Addr, error) {
	buf := buffers.Get().(*[maxPacket]byte)
	defer buffers.Put(buf)
	for {
		n, _, err := p.PacketConn.ReadFrom(buf[:])
		if err != nil {
			return 0, nil, err
		}
		if payload, from, ok := p.open(buf[:n]); ok {
			return copy(b, payload), net.UDPAddrFromAddrPort(from), nil
		}
	}
}

// open checks a datagram and says whose it is.
func (p *hallPackets) open(raw []byte) (payload []byte, from netip.AddrPort, ok bool) {
	if len(raw) < packetHeader || string(raw[:len(packetMagic)]) != packetMagic {
		return nil, from, false
	}
	raw = raw[len(packetMagic):]
	id, port := cluster.NodeID(raw[:idSize]), binary.BigEndian.Uint16(raw[idSize:])
	mac, payload := raw[idSize+2:idSize+2+packetMAC], raw[idSize+2+packetMAC:]
	if !hmac.Equal(mac, p.of.hall.seal(id, p.of.me.ID, port, p.at.Port(), payload)) || !validID(string(id)) {
		return nil, from, false
	}
	r, ok := p.of.routes.from(p.of.hall, id)
	if !ok {
		return nil, from, false
	}
	p.of.met.Store(r.Addr, r.identity())
	return payload, netip.AddrPortFrom(r.Addr, port), true
}

// routes remembers registrations for a moment: datagrams are many.
type routes struct {
	mu   sync.Mutex
	at   time.Time
	all  map[cluster.NodeID]registration
	addr map[netip.Addr]registration
}

func (r *routes) to(h *hall, addr netip.Addr, port uint16) registration {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refresh(h, r.addr[addr].UDP[port] == "")
	return r.addr[addr]
}

func (r *routes) from(h *hall, id cluster.NodeID) (registration, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refresh(h, r.all[id].ID == "")
	got, ok := r.all[id]
	return got, ok
}

// refresh reads the hall again once in a while: soon when something is not
// known, and not for each datagram to a node that does not exist.
func (r *routes) refresh(h *hall, missing bool) {
	age := time.Since(r.at)
	if age < 20*time.Millisecond || age < acquainted && !missing {
		return
	}
	list, err := h.list()
	if err != nil {
		return // the old ones are as good as any
	}
	r.at, r.all, r.addr = time.Now(), map[cluster.NodeID]registration{}, map[netip.Addr]registration{}
	for _, x := range list {
		r.all[x.ID], r.addr[x.Addr] = x, x
	}
}
