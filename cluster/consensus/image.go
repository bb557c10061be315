package consensus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/ahelme/comfyume/cluster"
)

// Image describes a snapshot of the table that has left its log.
type Image struct {
	Lineage cluster.Lineage `cbor:"1,keyasint" json:"lineage"`
	Index   uint64          `cbor:"2,keyasint" json:"index"`
	Term    uint64          `cbor:"3,keyasint" json:"term"`
	Size    int64           `cbor:"4,keyasint" json:"size"` // bytes
	Level   uint32          `cbor:"5,keyasint" json:"level"`
	Made    int64           `cbor:"6,keyasint" json:"made"` // milliseconds since 1970
	// Servers and their index are raft's configuration at Index, for a replica
	// that begins from here.
	Servers       []Server `cbor:"7,keyasint" json:"servers"`
	ServersIndex  uint64   `cbor:"8,keyasint" json:"servers_index"`
	SnapshotShape int      `cbor:"9,keyasint" json:"snapshot_shape"` // raft's snapshot version
}

// Snapshot writes the state down now, lets the log be cut behind it, and opens
// it for reading. The reader must be closed.
func (l *Log) Snapshot() (Image, io.ReadCloser, error) {
	e := l.engine.Load()
	if e == nil {
		return Image{}, nil, l.stopped()
	}
	f := e.raft.Snapshot()
	err := f.Error()
	var meta *raft.SnapshotMeta
	var body io.ReadCloser
	switch {
	case errors.Is(err, raft.ErrNothingNewToSnapshot):
		list, lerr := e.snaps.List()
		if lerr != nil || len(list) == 0 {
			return Image{}, nil, cluster.Errorf(cluster.NotFound, "the table is empty: there is nothing to write down")
		}
		meta, body, err = e.snaps.Open(list[0].ID)
	case err == nil:
		meta, body, err = f.Open()
	}
	if err != nil && strings.HasPrefix(err.Error(), "cannot take snapshot now") { // raft has no name for it
		return Image{}, nil, cluster.Errorf(cluster.Unavailable, "this machine is still applying a change of the table's members; try again in a moment")
	}
	if err != nil {
		return Image{}, nil, fmt.Errorf("write the state down: %w", err)
	}
	im := Image{
		Lineage: l.Lineage(), Index: meta.Index, Term: meta.Term, Size: meta.Size, Level: l.who.Load().Level,
		Made: l.cfg.Now().UnixMilli(), ServersIndex: meta.ConfigurationIndex, SnapshotShape: int(meta.Version),
	}
	for _, s := range meta.Configuration.Servers {
		node, incarnation := parseServer(string(s.ID))
		im.Servers = append(im.Servers, Server{Node: node, Incarnation: incarnation, Voter: s.Suffrage == raft.Voter})
	}
	return im, body, nil
}

// Restore replaces the table everywhere by an image's; only the leader can.
// Whatever was accepted after the image was made is gone.
func (l *Log) Restore(ctx context.Context, im Image, body io.Reader) error {
	e := l.engine.Load()
	if e == nil {
		return l.stopped()
	}
	timeout := 2 * time.Minute
	if d, ok := ctx.Deadline(); ok {
		timeout = time.Until(d)
	}
	meta := &raft.SnapshotMeta{Version: raft.SnapshotVersionMax, Index: im.Index, Term: im.Term, Size: im.Size}
	if err := e.raft.Restore(meta, body, timeout); err != nil {
		return fmt.Errorf("restore the table: %w", proposeError(err))
	}
	return nil
}

// Refetch replaces this node's state by an image of the leader's, keeping its
// log and its vote: the entries are the same for all, what this node made of
// them was not.
func (l *Log) Refetch(im Image, body io.Reader) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if im.Lineage != l.Lineage() {
		return cluster.Errorf(cluster.Conflict, "the image is of another history (%s)", im.Lineage)
	}
	if err := l.stopEngine(cluster.Errorf(cluster.NoLeader, "this node is fetching the table anew; try again in a moment")); err != nil {
		l.log.Warn("stopping raft", "err", err)
	}
	if err := l.install(im, body); err != nil {
		return err
	}
	l.cfg.Machine.Reset()
	return l.start()
}

// install makes an image the newest snapshot of the folder.
func (l *Log) install(im Image, body io.Reader) (err error) {
	p, err := l.open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	var conf raft.Configuration
	for _, s := range im.Servers {
		suffrage := raft.Nonvoter
		if s.Voter {
			suffrage = raft.Voter
		}
		conf.Servers = append(conf.Servers, raft.Server{ID: s.id(), Address: raft.ServerAddress(s.id()), Suffrage: suffrage})
	}
	sink, err := p.snaps.Create(raft.SnapshotVersion(im.SnapshotShape), im.Index, im.Term, conf, im.ServersIndex, p.trans)
	if err != nil {
		return fmt.Errorf("install the table: %w", err)
	}
	if n, err := io.Copy(sink, body); err != nil || n != im.Size {
		return errors.Join(fmt.Errorf("install the table: got %d bytes of %d", n, im.Size), err, sink.Cancel())
	}
	if err := sink.Close(); err != nil {
		return fmt.Errorf("install the table: %w", err)
	}
	list, err := p.snaps.List()
	if err != nil {
		return fmt.Errorf("list the snapshots: %w", err)
	}
	if list[0].Index != im.Index {
		return cluster.Errorf(cluster.Unavailable, "this node's own snapshot is newer than the leader's; fetching the table again")
	}
	return nil
}

// replay applies a folder's snapshot and every entry behind it.
func replay(ctx context.Context, dir string, store raft.LogStore, m Machine, logger hclog.Logger) error {
	snaps, err := raft.NewFileSnapshotStoreWithLogger(dir, keptSnapshots, logger)
	if err != nil {
		return fmt.Errorf("open the snapshots' folder: %w", err)
	}
	list, err := snaps.List()
	if err != nil {
		return fmt.Errorf("list the snapshots: %w", err)
	}
	drive := &fsm{m: m}
	first, err := store.FirstIndex()
	if err != nil {
		return fmt.Errorf("read the log: %w", err)
	}
	if len(list) > 0 {
		_, body, err := snaps.Open(list[0].ID)
		if err != nil {
			return fmt.Errorf("open the snapshot: %w", err)
		}
		if err := drive.Restore(body); err != nil {
			return err
		}
		first = max(first, list[0].Index+1)
	}
	last, err := store.LastIndex()
	if err != nil {
		return fmt.Errorf("read the log: %w", err)
	}
	for i := max(first, 1); i <= last && ctx.Err() == nil; i++ {
		var entry raft.Log
		if err := store.GetLog(i, &entry); err != nil {
			return fmt.Errorf("read entry %d: %w", i, err)
		}
		if entry.Type == raft.LogCommand {
			drive.Apply(&entry)
		}
	}
	return context.Cause(ctx)
}
