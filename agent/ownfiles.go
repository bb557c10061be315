package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/ahelme/comfyume/cluster"
)

// What a backup has of a machine, beside files of its state folder.
const (
	ownSettings = "settings.env"
	ownCert     = "tls/cert.pem"
	ownKey      = "tls/key.pem"
)

// ownNames are the files of the state folder that make a machine what it is: its
// place in the network, what it made up itself. The table and the blobs are not
// among them.
func ownNames() []string {
	return []string{credentialsFile, appliedFile, lockFile, "node-id", "signing-key", "meter.json", "hall-seat.json"}
}

// maxOwn bounds one of these files, in bytes.
const maxOwn = 4 << 20

// ownFiles reads what a new machine needs to be this one.
func ownFiles(cfg *Config) (map[string][]byte, error) {
	out := map[string][]byte{}
	add := func(name, path string) error {
		raw, err := os.ReadFile(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return fmt.Errorf("read %s: %w", name, err)
		case len(raw) <= maxOwn:
			out[name] = raw
		}
		return nil
	}
	for _, name := range ownNames() {
		if err := add(name, filepath.Join(cfg.StateDir, name)); err != nil {
			return nil, err
		}
	}
	net := filepath.Join(cfg.StateDir, tailnetFolder)
	err := filepath.WalkDir(net, func(path string, e fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case e.IsDir() || !e.Type().IsRegular() || strings.HasSuffix(path, ".txt") || strings.HasSuffix(path, ".log"):
			return nil // its logs are nobody's identity
		}
		rel, err := filepath.Rel(cfg.StateDir, path)
		if err != nil {
			return err
		}
		return add(filepath.ToSlash(rel), path)
	})
	if err != nil {
		return nil, fmt.Errorf("read the tailnet identity: %w", err)
	}
	if cfg.TLSCert != "" {
		if err := errors.Join(add(ownCert, cfg.TLSCert), add(ownKey, cfg.TLSKey)); err != nil {
			return nil, err
		}
	}
	if cfg.Given != "" {
		out[ownSettings] = []byte(cfg.Given)
	}
	return out, nil
}

// tailnetFolder is where a node's place in the tailnet is kept.
const tailnetFolder = "tailnet"

// ownTarget is where a file of a backup belongs in a state folder; false for a
// name that leads out of it, or that no backup of ours has.
func ownTarget(name string) (string, bool) {
	switch name {
	case ownSettings, ownCert, ownKey:
		return filepath.Join(restoredFolder, filepath.FromSlash(name)), true
	}
	for _, n := range ownNames() {
		if name == n {
			return name, true
		}
	}
	local := filepath.FromSlash(name)
	return local, strings.HasPrefix(name, tailnetFolder+"/") && filepath.IsLocal(local)
}

// restoredFolder holds what a restore brought that is no file of the state folder.
const restoredFolder = "restored"

// readOwn reads a small file of the state folder; "" if it is not there.
func readOwn(dir, name string) (string, error) {
	raw, err := os.ReadFile(filepath.Join(dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", cluster.Errorf(cluster.Unavailable, "%s in the state folder cannot be read: %v", name, err)
	}
	return strings.TrimSpace(string(raw)), nil
}
