package blob

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/ahelme/comfyume/cluster"
)

// maxVerified bounds what is remembered as verified; over it, old ones are
// simply verified again.
const maxVerified = 100_000

func stampOf(info fs.FileInfo) stamp { return stamp{info.Size(), info.ModTime().UnixNano()} }

func (d *Dir) remember(ref Ref, info fs.FileInfo) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.verified) >= maxVerified {
		clear(d.verified)
	}
	d.verified[ref] = stampOf(info)
}

// verify reads the whole blob once per process, and again when the file's size
// or time has changed. A damaged one is set aside, never handed out.
func (d *Dir) verify(ref Ref, path string, info fs.FileInfo) error {
	d.mu.Lock()
	known := d.verified[ref] == stampOf(info)
	d.mu.Unlock()
	if known {
		return nil
	}
	_, err, _ := d.checks.Do(string(ref), func() (any, error) {
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("verify a blob: %w", err)
		}
		defer f.Close()
		sum := sha256.New()
		if _, err := io.Copy(sum, f); err != nil {
			return nil, fmt.Errorf("verify a blob: %w", err)
		}
		if hex.EncodeToString(sum.Sum(nil)) == string(ref) {
			d.remember(ref, info)
			return nil, nil
		}
		aside := filepath.Join(d.cfg.Path, "quarantine", string(ref))
		if err := os.Rename(path, aside); err != nil {
			return nil, fmt.Errorf("set a damaged blob aside: %w", err)
		}
		d.blobs.Add(-1)
		d.bytes.Add(-info.Size())
		d.cfg.Logger.Error("a stored file is damaged and was set aside", "ref", ref.Short(), "bytes", info.Size(), "moved_to", aside)
		return nil, cluster.Errorf(cluster.Internal, "this file's stored copy is damaged and was set aside; tell the instructor (digest %s)", ref.Short())
	})
	return err
}
