package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/peer"
	"github.com/ahelme/comfyume/cluster/state"
)

// startKeeping looks after the files that this node keeps: it deletes what nothing
// names, and reads all of them again by and by.
func (c *core) startKeeping(s *swarm, stack *stack) {
	dir := filepath.Join(s.cfg.StateDir, "blobs")
	c.sweep = peer.NewSweep(peer.SweepConfig{
		Local: s.blobs, Mirror: c.mirror, Named: c.namedNow, Against: func() (string, error) { return c.againstSweeping(dir) },
		Trash: s.cfg.RetainTrash, Damaged: s.cfg.RetainDamaged, Logger: s.cfg.Logger,
	})
	c.scrub = peer.NewScrub(peer.ScrubConfig{
		Local: s.blobs, Mirror: c.mirror, Named: c.named, State: filepath.Join(dir, "scrubbed"), Logger: s.cfg.Logger,
	})
	stack.run("sweep", c.sweep.Run)
	stack.run("scrub", c.scrub.Run)
}

// named is what this node's table names.
func (c *core) named() map[cluster.Ref]bool {
	out := map[cluster.Ref]bool{}
	for _, ref := range c.machine.Refs(cluster.Change{Tables: map[string]uint64{"all": 1}}) {
		if ref.Valid() {
			out[ref] = true
		}
	}
	return out
}

// confirmWithin bounds the question to the leader.
const confirmWithin = 30 * time.Second

// confirmed commits an entry of our own and waits until it is applied here: this
// node's table has all that was committed when this was called. It returns the
// entry's index.
func (c *core) confirmed(ctx context.Context) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, confirmWithin)
	defer cancel()
	out, err := c.propose.Propose(ctx, &state.Noop{})
	if err == nil {
		err = c.machine.Await(ctx, out.Index)
	}
	return out.Index, err
}

// caughtUp fails unless this node's table is the newest.
func (c *core) caughtUp(ctx context.Context) error {
	_, err := c.confirmed(ctx)
	return err
}

// namedNow is what the table names after all that was committed when this was
// called. That an entry of our own went through proves it: a leader that others
// have left behind commits none.
func (c *core) namedNow(ctx context.Context) (map[cluster.Ref]bool, error) {
	index, err := c.confirmed(ctx)
	if err != nil {
		return nil, err
	}
	generation := c.raft.Lineage()
	named := c.named()
	// A table that is being fetched anew is empty for a moment.
	if at, _ := c.machine.Applied(); at < index || c.machine.Halted() != nil || c.raft.Lineage() != generation {
		return nil, cluster.Errorf(cluster.Unavailable, "this node's table is being read anew")
	}
	return named, nil
}

// againstSweeping is why the files in a folder are not to be deleted from: those of
// a history that was left behind can still be brought back, and those that another
// workshop stored are not ours to judge.
func (c *core) againstSweeping(dir string) (string, error) {
	asides, err := c.raft.Asides()
	if err != nil {
		return "", err
	}
	if len(asides) > 0 {
		return "this node left a history behind whose files can still be brought back: comfyume-agent raft salvage", nil
	}
	id, path := string(c.raft.Lineage().Cluster), filepath.Join(dir, "workshop")
	if id == "" {
		return "this node is not part of a workshop yet", nil
	}
	raw, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", os.WriteFile(path, []byte(id+"\n"), 0o600)
	case err != nil:
		return "", err
	case strings.TrimSpace(string(raw)) != id:
		return fmt.Sprintf("the files in %s were stored by another workshop; if they may be deleted, remove %s", dir, path), nil
	}
	return "", nil
}

// maxLost bounds the names of missing files in a report.
const maxLost = 500

// atRisk counts the files that are on one machine only, of those machines that keep
// files and answer.
func atRisk(all []heardOf, now time.Time) (files, keepers int) {
	lost := map[string]int{}
	here, more := 0, 0
	for _, h := range all {
		if h.Space == nil || !h.Space.Keeper || now.Sub(h.at) > fresh {
			continue
		}
		keepers++
		here = h.Space.Here
		for _, ref := range h.Lost {
			lost[ref]++
		}
		more += max(0, h.Missing-len(h.Lost))
	}
	if keepers == 1 {
		return here, 1
	}
	for _, n := range lost {
		if n == keepers-1 {
			files++
		}
	}
	if keepers == 2 {
		files += more // whose names were too many to tell
	}
	return files, keepers
}

// scrubWithin is when every file must have been read again.
const scrubWithin = 8 * 24 * time.Hour

// checkScrub tells when files have not been read for long.
func checkScrub(status func() peer.Scrubbed, now func() time.Time) check {
	return check{
		name: "scrub", every: 10 * time.Second, fresh: time.Minute,
		cure: "see the log for disk errors; the agent must run for some hours a week",
		do: func(context.Context) (string, error) {
			s := status()
			detail := fmt.Sprintf("every file was read again at %s, %d were damaged so far", time.UnixMilli(s.Finished).Format(time.DateTime), s.Damaged)
			if s.Finished == 0 {
				detail = fmt.Sprintf("the first round is not done yet, %s read, %d were damaged so far", humanize.Bytes(uint64(max(0, s.Read))), s.Damaged)
			}
			since := s.Finished
			if since == 0 {
				since = s.Began // the first round
			}
			if age := now().Sub(time.UnixMilli(since)); since > 0 && age > scrubWithin {
				return "", cluster.Errorf(cluster.Unavailable, "not every file has been read for %d days: %s", int(age.Hours()/24), detail)
			}
			return detail, nil
		},
	}
}
