// Package tailnettest is a tailnet in memory, for tests in virtual time
// (testing/synctest) and in real time. It promises to behave as a tailnet
// does: a cut is silence and not an error, streams stall and go on after it, a
// killed machine never answers, everybody is known by name, tag and address.
// It refuses to use the system: no sockets, no goroutines of its own, only
// timers, so that a bubble ends when the nodes are closed.
//
//	fabric.go  who there is and who reaches whom    node.go    one machine
//	stream.go  connections, dialed and accepted     packet.go  datagrams
package tailnettest

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/tailnet"
)

// Fabric is one tailnet. Its methods may be called at any time, from the
// bubble in which it was made.
type Fabric struct {
	mu      sync.Mutex
	devices map[string]*device
	byAddr  map[netip.Addr]*device
	cuts    map[pair]bool
	losses  map[pair]*loss
	delay   time.Duration
	joined  int           // machines ever, for their addresses
	changed chan struct{} // closed and replaced when a waiting dial should look again
}

// device is a machine as the tailnet knows it, running or not.
type device struct {
	peer  tailnet.Peer
	login string
	live  *node // nil while it is off
	// refuses says that the host of a crashed process answers for it.
	refuses bool
}

// pair is two ids in order.
type pair [2]string

func pairOf(a, b string) pair {
	if a > b {
		a, b = b, a
	}
	return pair{a, b}
}

type loss struct {
	share float64
	rand  *rand.Rand
}

// New makes a tailnet without machines.
func New() *Fabric {
	return &Fabric{
		devices: map[string]*device{}, byAddr: map[netip.Addr]*device{}, cuts: map[pair]bool{}, losses: map[pair]*loss{},
		changed: make(chan struct{}),
	}
}

// Join starts a machine. An id that was closed, killed or has crashed comes
// back as itself, with the address and the name it had. A machine without tags
// is a person's. Join panics when the machine runs already.
func (f *Fabric) Join(id, name string, tags ...string) tailnet.Network {
	f.mu.Lock()
	defer f.mu.Unlock()
	d := f.devices[id]
	if d == nil {
		f.joined++
		n := f.joined
		d = &device{peer: tailnet.Peer{ID: cluster.NodeID(id), Name: f.freeName(name), Addr: netip.AddrFrom4([4]byte{100, 64, byte(n >> 8), byte(n)})}}
		f.devices[id], f.byAddr[d.peer.Addr] = d, d
	}
	if d.live != nil {
		panic("tailnettest: " + id + " runs already")
	}
	d.peer.Tags, d.login, d.refuses = slices.Clone(tags), "", false
	if len(tags) == 0 {
		d.login = name + "@example.com"
	}
	d.live = newNode(f, d)
	f.stir()
	return d.live
}

// freeName makes a name unique as a control server does.
func (f *Fabric) freeName(wanted string) string {
	for i := 0; ; i++ {
		name := wanted
		if i > 0 {
			name += "-" + strconv.Itoa(i)
		}
		taken := false
		for _, d := range f.devices {
			taken = taken || d.peer.Name == name
		}
		if !taken {
			return name
		}
	}
}

// Remove takes a machine that is off out of the tailnet: nobody knows it any
// more, and it would come back as another one. It panics when it runs.
func (f *Fabric) Remove(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	d := f.device(id)
	if d.live != nil {
		panic("tailnettest: " + id + " runs")
	}
	delete(f.byAddr, d.peer.Addr)
	delete(f.devices, id)
}

// Cut makes all between two machines silent: streams stall, datagrams are
// lost, dials wait. Peers still show each other as online, as on a tailnet.
func (f *Fabric) Cut(a, b string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cut(a, b)
}

func (f *Fabric) cut(a, b string) {
	f.device(a)
	f.device(b)
	f.cuts[pairOf(a, b)] = true
	f.lose(a, b)
}

// Heal ends the cut between two machines: what was stalled is delivered.
func (f *Fabric) Heal(a, b string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.cuts, pairOf(a, b))
	f.stir()
}

// Isolate cuts a machine off from all others that have ever joined.
func (f *Fabric) Isolate(a string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.device(a)
	for b := range f.devices {
		if a != b {
			f.cut(a, b)
		}
	}
}

// HealAll ends all cuts. Losses and the delay stay.
func (f *Fabric) HealAll() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.cuts)
	f.stir()
}

// Lose drops a share (0 to 1) of the datagrams between two machines, the same
// ones for the same seed and order of sending. 0 ends it.
func (f *Fabric) Lose(a, b string, share float64, seed uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.device(a)
	f.device(b)
	f.losses[pairOf(a, b)] = &loss{share, rand.New(rand.NewPCG(seed, 1))}
	if share == 0 {
		delete(f.losses, pairOf(a, b))
	}
}

// Delay sets how long everything is under way, in one direction, from now on.
func (f *Fabric) Delay(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.delay = d
}

// Kill ends a machine as a power cut does: for the others it is silent, and
// no stream to it ends by itself. What the machine's own code calls fails with
// net.ErrClosed from now on. Its Network may be closed afterwards.
func (f *Fabric) Kill(a string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := f.device(a).live; n != nil {
		n.end(killed)
	}
}

// Crash ends a machine's process while its host lives: streams to it are
// reset and dials refused. (On a tailnet proper the process is the host, so
// that is Kill; with a loopback network it is this.)
func (f *Fabric) Crash(a string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	d := f.device(a)
	if d.live != nil {
		d.live.end(crashed)
	}
	d.refuses = true
	f.stir()
}

// device finds a machine; a test that names one that never joined is wrong.
func (f *Fabric) device(id string) *device {
	d := f.devices[id]
	if d == nil {
		panic(fmt.Sprintf("tailnettest: no machine %q has joined", id))
	}
	return d
}

// open reports whether something sent now from one to the other arrives.
func (f *Fabric) open(a, b *device) bool {
	return !f.cuts[pairOf(string(a.peer.ID), string(b.peer.ID))]
}

// stir moves what a change of the fabric may have freed.
func (f *Fabric) stir() {
	close(f.changed)
	f.changed = make(chan struct{})
	// In a fixed order, so that a run can be repeated.
	for _, d := range f.sorted() {
		if d.live == nil {
			continue
		}
		for _, e := range d.live.order {
			e.pump()
			e.far.pump()
		}
	}
}

// lose drops what a dead sender had under way when the path was cut: nobody
// sends it again.
func (f *Fabric) lose(a, b string) {
	for _, d := range []*device{f.devices[a], f.devices[b]} {
		if d.live == nil {
			continue
		}
		for _, e := range d.live.order {
			if e.far.node.state != running && pairOf(string(e.far.node.dev.peer.ID), string(d.peer.ID)) == pairOf(a, b) {
				e.in = nil
			}
		}
	}
}

func (f *Fabric) sorted() []*device {
	all := make([]*device, 0, len(f.devices))
	for _, d := range f.devices {
		all = append(all, d)
	}
	slices.SortFunc(all, func(a, b *device) int { return cmp.Compare(a.peer.ID, b.peer.ID) })
	return all
}
