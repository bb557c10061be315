package world

import (
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
)

// firewall replaces all rules of ours: one nft table with one chain.
func firewall(family, hook, rules string) error {
	text := "flush ruleset\n"
	if rules != "" {
		text += fmt.Sprintf("table %s chaos {\n chain cut {\n  type filter hook %s priority 0; policy accept;\n%s }\n}\n", family, hook, rules)
	}
	cmd := exec.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("nft: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// CanCut reports whether nodes can be parted here.
func (w *World) CanCut() bool { return w.net.canCut() }

var errNoCut = errors.New("nodes cannot be parted here")

// Cut parts two groups in both directions until heal is called.
func (w *World) Cut(from, to []*Node) (heal func() error, err error) { return w.part(from, to, true) }

// Deafen lets to hear nothing of from; the other direction works.
func (w *World) Deafen(from, to []*Node) (heal func() error, err error) {
	return w.part(from, to, false)
}

// Isolate parts a node from all others.
func (w *World) Isolate(n *Node) (heal func() error, err error) {
	return w.Cut([]*Node{n}, w.others(n))
}

func (w *World) part(from, to []*Node, both bool) (func() error, error) {
	if !w.CanCut() {
		return func() error { return nil }, errNoCut
	}
	var mine []pair
	for _, a := range from {
		for _, b := range to {
			if a == b {
				continue
			}
			mine = append(mine, pair{a.Name, b.Name})
			if both {
				mine = append(mine, pair{b.Name, a.Name})
			}
		}
	}
	heal := func() error { return w.count(mine, -1) }
	return heal, w.count(mine, +1)
}

// count adds to how many partitions part each pair.
func (w *World) count(pairs []pair, n int) error {
	w.mu.Lock()
	for _, p := range pairs {
		if w.cuts[p] += n; w.cuts[p] <= 0 {
			delete(w.cuts, p)
		}
	}
	w.mu.Unlock()
	return w.applyCuts()
}

func (w *World) applyCuts() error {
	w.cutting.Lock()
	defer w.cutting.Unlock()
	w.mu.Lock()
	var deaf []pair
	for p := range w.cuts {
		deaf = append(deaf, p)
	}
	w.mu.Unlock()
	slices.SortFunc(deaf, func(a, b pair) int { return strings.Compare(a.from+" "+a.to, b.from+" "+b.to) })
	err := w.net.cut(deaf)
	w.changed()
	return err
}

// others are all nodes but n.
func (w *World) others(n *Node) (out []*Node) {
	for _, o := range w.Nodes() {
		if o != n {
			out = append(out, o)
		}
	}
	return out
}

// reaches reports whether two nodes hear each other. The lock is held.
func (w *World) reaches(a, b *Node) bool {
	return w.cuts[pair{a.Name, b.Name}] == 0 && w.cuts[pair{b.Name, a.Name}] == 0
}
