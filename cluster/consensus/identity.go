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

	"github.com/ahelme/comfyume/cluster"
)

// Names in a Log's folder.
const (
	identityFile = "identity.json"
	logFolder    = "log"   // raft's store and snapshots
	asideFolder  = "aside" // histories that this node left behind, see Rejoin
)

// identity is who this log is in the cluster. It is written, flushed, before
// anything is done that relies on it; Pending names what a crash may have left
// half done.
type identity struct {
	Cluster    cluster.WorkshopID `json:"cluster"` // "" = no history yet
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
	id.Incarnation = randomName(8)
	return id, id.write(dir)
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
	if err := replaceFile(filepath.Join(dir, identityFile), append(raw, '\n')); err != nil {
		return fmt.Errorf("write the log's identity: %w", err)
	}
	return nil
}
