package consensus

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/raft"

	"github.com/ahelme/comfyume/cluster"
)

// Recover makes this node the only voter of a new generation, with everything
// that its log holds, and leads. What other nodes hold beyond that is lost to
// the new generation; they find out when they meet it and keep it aside (see
// Salvage). It is for a cluster whose voters are gone.
func (l *Log) Recover() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	who := *l.who.Load()
	if who.Cluster == "" || l.cfg.Fresh == nil {
		return errEmpty
	}
	if err := l.stopEngine(cluster.Errorf(cluster.NoLeader, "this node is becoming the leader of a new generation; try again in a moment")); err != nil {
		l.log.Warn("stopping raft", "err", err)
	}
	before := who.Generation
	who.Generation = cluster.Generation{Number: before.Number + 1, Mark: randomName(4)}
	who.Pending = pendingRecover
	// The generation first: a node alone in its configuration but still of the
	// old generation would fork the log without anybody noticing.
	if err := l.keep(who); err != nil {
		return errors.Join(err, l.start())
	}
	if err := l.finishPending(); err != nil {
		return err
	}
	l.log.Warn("this node leads a new generation", "from", before, "to", who.Generation)
	return l.start()
}

// Rejoin leaves this log's history for a later one that others hold: the log
// is moved aside, and this node is a new, empty member. Its leader has to add it.
func (l *Log) Rejoin(to cluster.Lineage) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	who := *l.who.Load()
	switch {
	case to.Cluster != who.Cluster:
		return cluster.Errorf(cluster.Conflict, "that is another workshop (%s)", to)
	case to.Generation.Compare(who.Generation) <= 0:
		return nil // known already
	}
	if err := l.stopEngine(cluster.Errorf(cluster.NoLeader, "this node is joining a later generation of the table; try again in a moment")); err != nil {
		l.log.Warn("stopping raft", "err", err)
	}
	left, err := json.Marshal(who)
	if err != nil {
		return fmt.Errorf("note the history that is left: %w", err)
	}
	if err := os.WriteFile(filepath.Join(l.logDir(), identityFile), left, 0o600); err != nil {
		return fmt.Errorf("note the history that is left: %w", err)
	}
	who.Generation, who.Incarnation = to.Generation, randomName(8)
	who.Pending = pendingAside
	who.Aside = fmt.Sprintf("%s-%s", l.cfg.Now().UTC().Format("20060102T150405Z"), randomName(2))
	// The new name first: a log that is suddenly empty must not carry the old one.
	if err := l.keep(who); err != nil {
		return errors.Join(err, l.start())
	}
	if err := l.finishPending(); err != nil {
		return err
	}
	l.cfg.Machine.Reset()
	l.log.Warn("left this history for a later generation; what only it had accepted is kept: see raft salvage", "generation", to.Generation, "aside", who.Aside)
	return l.start()
}

// finishPending does what the identity says is half done. Raft is not running.
func (l *Log) finishPending() error {
	who := *l.who.Load()
	switch who.Pending {
	case pendingRecover:
		if err := l.recoverAlone(); err != nil {
			return err
		}
	case pendingAside:
		if err := os.MkdirAll(filepath.Join(l.cfg.Dir, asideFolder), 0o700); err != nil {
			return fmt.Errorf("move the log aside: %w", err)
		}
		to := filepath.Join(l.cfg.Dir, asideFolder, who.Aside)
		if !exists(to) {
			if err := os.Rename(l.logDir(), to); err != nil {
				return fmt.Errorf("move the log aside: %w", err)
			}
			if err := syncFolder(l.cfg.Dir); err != nil {
				return err
			}
		}
	default:
		return nil
	}
	who.Pending, who.Aside = "", ""
	return l.keep(who)
}

// recoverAlone writes the configuration of this node alone behind everything
// in the log. Doing it twice does no harm.
func (l *Log) recoverAlone() error {
	p, err := l.open()
	if err != nil {
		return err
	}
	self := raft.Configuration{Servers: []raft.Server{{ID: p.conf.LocalID, Address: raft.ServerAddress(p.conf.LocalID)}}}
	err = raft.RecoverCluster(p.conf, &fsm{m: l.cfg.Fresh()}, p.store, p.store, p.snaps, p.trans, self)
	if err != nil {
		err = fmt.Errorf("recover from this node's log: %w", err)
	}
	return errors.Join(err, p.close())
}

// Aside is a history that this node left behind.
type Aside struct {
	Name    string          `json:"name"`
	Lineage cluster.Lineage `json:"lineage"`
	Left    time.Time       `json:"left"`
}

// Asides lists the histories that this node left behind, oldest first.
func (l *Log) Asides() ([]Aside, error) {
	dir := filepath.Join(l.cfg.Dir, asideFolder)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the histories left behind: %w", err)
	}
	var out []Aside
	for _, e := range entries {
		a := Aside{Name: e.Name()}
		raw, err := os.ReadFile(filepath.Join(dir, e.Name(), identityFile))
		var who identity
		if err == nil && json.Unmarshal(raw, &who) == nil {
			a.Lineage = who.lineage()
		}
		stamp, _, _ := strings.Cut(e.Name(), "-")
		if a.Left, err = time.Parse("20060102T150405Z", stamp); err == nil {
			out = append(out, a)
		}
	}
	slices.SortFunc(out, func(a, b Aside) int { return cmp.Or(a.Left.Compare(b.Left), cmp.Compare(a.Name, b.Name)) })
	return out, nil
}

// Salvage reads a history that was left behind into a fresh machine, to the
// last entry that this node had, confirmed or not. It changes nothing.
func (l *Log) Salvage(ctx context.Context, name string) (Machine, error) {
	if l.cfg.Fresh == nil || name != filepath.Base(name) || !exists(filepath.Join(l.cfg.Dir, asideFolder, name)) {
		return nil, cluster.Errorf(cluster.NotFound, "no history %q was left behind here: see raft salvage", name)
	}
	dir := filepath.Join(l.cfg.Dir, asideFolder, name)
	store, err := openStore(dir)
	if err != nil {
		return nil, err
	}
	m := l.cfg.Fresh()
	return m, errors.Join(replay(ctx, dir, store, m, newHclog(l.log)), store.Close())
}
