package world

import (
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ahelme/comfyume/cluster/tailnet/controltest"
)

// tailnetwork gives every node a network namespace of its own, joined by a
// bridge, and a tailnet whose control server and relay stand on the bridge. A
// node can be cut off as a whole only: two nodes that do not reach each other
// directly would speak through the relay.
type tailnetwork struct {
	w       *World
	control *controltest.Control
	core    string // keys
	gpu     string
	host    byte
}

const hub = "10.77.0.1"

func newTailnet(w *World) (*tailnetwork, error) {
	if !w.cfg.Space.Apart {
		return nil, fmt.Errorf("a tailnet needs namespaces of its own: %s", w.cfg.Space.Why)
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=0755"); err != nil {
		return nil, fmt.Errorf("keep the namespaces' names to ourselves: %w", err)
	}
	for _, line := range []string{"link add chaos0 type bridge", "addr add " + hub + "/24 dev chaos0", "link set chaos0 up"} {
		if err := ip(line); err != nil {
			return nil, err
		}
	}
	c, err := controltest.Start(controltest.Config{IP: netip.MustParseAddr(hub)})
	if err != nil {
		return nil, err
	}
	t := &tailnetwork{w: w, control: c, host: 10}
	t.core = c.NewKey(controltest.KeyOptions{Reusable: true, Tags: []string{"tag:comfyume"}})
	t.gpu = c.NewKey(controltest.KeyOptions{Reusable: true, Ephemeral: true, Tags: []string{"tag:comfyume-gpu"}})
	return t, nil
}

func ip(line string) error {
	out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ip %s: %w: %s", line, err, strings.TrimSpace(string(out)))
	}
	return nil
}

func (t *tailnetwork) join(n *Node) error {
	t.host++
	addr := fmt.Sprintf("10.77.0.%d", t.host)
	for _, line := range []string{
		"netns add " + n.Name,
		fmt.Sprintf("link add v-%s type veth peer name eth0 netns %s", n.Name, n.Name),
		fmt.Sprintf("link set v-%s master chaos0 up", n.Name),
		fmt.Sprintf("-n %s addr add %s/24 dev eth0", n.Name, addr),
		fmt.Sprintf("-n %s link set eth0 up", n.Name),
		fmt.Sprintf("-n %s link set lo up", n.Name),
		fmt.Sprintf("-n %s route add default via %s", n.Name, hub),
	} {
		if err := ip(line); err != nil {
			return err
		}
	}
	n.addr = netip.MustParseAddr(addr)
	n.door, n.site = addr+":8800", addr+":7180"
	n.wrap = []string{"ip", "netns", "exec", n.Name}
	n.args = []string{"--control-url=" + t.control.URL()}
	k := t.gpu
	if n.Core() {
		k = t.core
	}
	n.env = []string{"COMFYUME_TS_AUTHKEY=" + k}
	return nil
}

func (t *tailnetwork) canCut() bool { return true }

// cut takes down the links of nodes that are parted from all others.
func (t *tailnetwork) cut(deaf []pair) error {
	lost := map[string]int{}
	for _, p := range deaf {
		lost[p.from]++
		lost[p.to]++
	}
	var all error
	for _, n := range t.w.Nodes() {
		state := "up"
		if lost[n.Name] >= 2*(len(t.w.Nodes())-1) {
			state = "down"
		}
		all = errors.Join(all, ip(fmt.Sprintf("link set v-%s %s", n.Name, state)))
	}
	return all
}

func (t *tailnetwork) close() error { return t.control.Close() }
