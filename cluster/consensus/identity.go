package consensus

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/ahelme/comfyume/cluster"
)

// Names in a Log's folder.
const (
	identityFile = "identity.json"
	logFolder    = "log"         // raft's store and snapshots
	asideFolder  = "aside"       // histories that this node left behind, see Rejoin
	oldIdentity  = "incarnation" // of a folder from before there was identity.json
)

// identity is who this log is in the cluster. It is written, flushed, before
// anything is done that relies on it; Pending names what a crash may have left
// half done.
type identity struct {
	Cluster    cluster.ClusterID  `json:"cluster"` // "" = no history yet
	Generation cluster.Generation `json:"generation"`
	// Incarnation is new each time the log begins empty: a voter that forgot its
	// votes must never pass for the old one.
	Incarnation string `json:"incarnation"`
	Level       uint32 `json:"level"` // of the table, as far as this node has applied it
	Pending     string `json:"pending,omitempty"`
	Aside       string `json:"aside,omitempty"` // folder of pendingAside
}

// What may be half done.
const (
	pendingRecover = "recover" // the configuration has yet to become this node alone
	pendingAside   = "aside"   // the log has yet to be moved aside
)

func (i identity) lineage() cluster.Lineage {
	return cluster.Lineage{Cluster: i.Cluster, Generation: i.Generation}
}

// readIdentity reads who this log is, or makes a new one without a history.
func readIdentity(dir string) (identity, error) {
	var id identity
	b, err := os.ReadFile(filepath.Join(dir, identityFile))
	switch {
	case err == nil:
		if err := json.Unmarshal(b, &id); err != nil || len(id.Incarnation) < 8 {
			return id, cluster.Errorf(cluster.Invalid, "%s is damaged: restore it from a copy of the state folder, or move the folder %s away and let this node join anew", filepath.Join(dir, identityFile), dir)
		}
		return id, nil
	case !errors.Is(err, fs.ErrNotExist):
		return id, fmt.Errorf("read the log's identity: %w", err)
	}
	old, err := os.ReadFile(filepath.Join(dir, oldIdentity))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return id, fmt.Errorf("read the log's identity: %w", err)
	}
	if id.Incarnation = strings.TrimSpace(string(old)); len(id.Incarnation) >= 8 {
		return id, moveIn(dir)
	}
	id.Incarnation = randomName(8)
	return id, id.write(dir)
}

// moveIn brings the files of a folder from before there was an identity to
// where they are now.
func moveIn(dir string) error {
	if err := os.MkdirAll(filepath.Join(dir, logFolder), 0o700); err != nil {
		return fmt.Errorf("create the log's folder: %w", err)
	}
	for _, name := range []string{"raft.db", "snapshots"} {
		err := os.Rename(filepath.Join(dir, name), filepath.Join(dir, logFolder, name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("move the log to its folder: %w", err)
		}
	}
	return nil
}

func randomName(bytes int) string {
	raw := make([]byte, bytes)
	_, _ = rand.Read(raw) // never fails: crypto/rand ends the program instead
	return hex.EncodeToString(raw)
}

// write keeps the identity: whole or not at all.
func (i identity) write(dir string) error {
	raw, err := json.MarshalIndent(i, "", "  ")
	if err != nil {
		return fmt.Errorf("write the log's identity: %w", err)
	}
	path := filepath.Join(dir, identityFile)
	f, err := os.OpenFile(path+".tmp", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("write the log's identity: %w", err)
	}
	_, err = f.Write(append(raw, '\n'))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write the log's identity: %w", err)
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		return fmt.Errorf("write the log's identity: %w", err)
	}
	return syncFolder(dir)
}

func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("flush the log's folder: %w", err)
	}
	return errors.Join(d.Sync(), d.Close())
}
