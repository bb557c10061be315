// Package frontend brings the stock ComfyUI frontend: the pinned wheel of the
// wanted version, checked by its sha256, unpacked once and served from the
// state folder with precompressed twins. It promises that no byte is served
// that the digest did not vouch for. It refuses to patch anything.
package frontend

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/roles/gateway/wheels"
)

// DefaultVersion is what ComfyUI v0.11.0 shipped with.
const DefaultVersion = "1.37.11"

// pins are the digests of the wheels that were tried with this agent.
func pins() map[string]string {
	return map[string]string{
		"1.27.10": "822b2ef715771ec83ad19605d02e25b069991d366b81ccc550ab280ae9c831b8",
		"1.37.11": "6fed139ec942b05430559fa8e45b584029b3ed623899212ec6ffb5b09cdc042c",
		"1.45.21": "8fbce63593bb5ee94c95bf966ddd4d7c35e7719c2bb755c6fb62ac81ca803ce2",
		"1.58.1":  "37912597537a731a8f421179618a736c24184c5bdbfa327f38b2fb7c291852d9",
	}
}

func knownVersions() []string { return slices.Sorted(maps.Keys(pins())) }

// Config of Load.
type Config struct {
	Version string   // "" = DefaultVersion
	Wheel   string   // a local wheel file; "" = look for it
	SHA256  string   // the wheel's digest; "" = the known one of this version
	Dir     string   // folder of ours, where wheels are kept and unpacked
	Search  []string // more folders that may hold the wheel
	Index   string   // package index (simple API); "" = only the machine's pip knows one
	Logger  *slog.Logger
}

// Files are the frontend's static files.
type Files struct {
	version string
	root    string
	byPath  map[string]*Asset
	js      []string

	mu       sync.Mutex
	checked  time.Time
	checkErr error

	small sync.Map     // file on disk -> its bytes
	held  atomic.Int64 // how many bytes those are
}

// Asset is one file. The compressed twins are "" when there are none.
type Asset struct {
	Path, Gzip, Brotli         string // on disk
	Size, GzipSize, BrotliSize int64
	ContentType, ETag          string
	Immutable                  bool // its name holds a hash of its content
	ModTime                    time.Time
	sums                       [3]string // sha256 of the file and of its twins
}

var versionForm = regexp.MustCompile(`^[0-9]+(\.[0-9A-Za-z]+)*$`)

// Load returns the files of the wanted version, fetching and unpacking the
// wheel first if need be. Its errors are one sentence with the cure.
func Load(ctx context.Context, cfg Config) (*Files, error) {
	if cfg.Version == "" {
		cfg.Version = DefaultVersion
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	cfg.Logger = cfg.Logger.With("component", "frontend")
	if !versionForm.MatchString(cfg.Version) {
		return nil, cluster.Errorf(cluster.Invalid, "%q is not a version of the frontend; it looks like %s", cfg.Version, DefaultVersion)
	}
	pin := strings.ToLower(cfg.SHA256)
	if pin == "" {
		pin = pins()[cfg.Version]
	}
	if pin == "" {
		return nil, cluster.Errorf(cluster.Invalid, "frontend %s is not one whose sha256 is known here (%s); give it with --frontend-sha256", cfg.Version, strings.Join(knownVersions(), ", "))
	}
	if !cluster.Ref(pin).Valid() {
		return nil, cluster.Errorf(cluster.Invalid, "--frontend-sha256 has 64 hexadecimal digits")
	}
	tree := filepath.Join(cfg.Dir, cfg.Version+"-"+pin[:12])
	if f, err := open(tree, cfg.Version, pin); err == nil {
		return f, nil
	} else if _, missing := os.Stat(tree); missing == nil {
		cfg.Logger.Warn("the unpacked frontend is not whole; unpacking it again", "err", err)
	}
	if err := sweep(cfg.Dir); err != nil {
		return nil, fmt.Errorf("clear what a killed start left: %w", err)
	}
	wheel, err := cfg.Wheel, error(nil)
	if wheel != "" {
		err = wheels.Check(wheel, pin)
	} else {
		from := wheels.Source{Dir: filepath.Join(cfg.Dir, "wheels"), Search: cfg.Search, Index: cfg.Index, Logger: cfg.Logger}
		wheel, err = from.Find(ctx, wheels.Wheel{Title: "ComfyUI frontend", Distribution: "comfyui-frontend-package", Version: cfg.Version, SHA256: pin})
	}
	if err != nil {
		return nil, err
	}
	begin := time.Now()
	if err := unpack(wheel, tree, pin); err != nil {
		return nil, fmt.Errorf("unpack the frontend: %w", err)
	}
	cfg.Logger.Info("frontend unpacked", "version", cfg.Version, "took", time.Since(begin).Round(time.Millisecond))
	return open(tree, cfg.Version, pin)
}

// sweep removes temporary folders and downloads of starts that were killed:
// each holds up to 100 MB. Young ones may belong to a start that is running.
func sweep(dir string) error {
	for _, form := range []string{"unpack-*", "wheels/pip-*", "wheels/wheel-*"} {
		left, err := filepath.Glob(filepath.Join(dir, filepath.FromSlash(form)))
		if err != nil {
			return err
		}
		for _, path := range left {
			if info, err := os.Stat(path); err != nil || time.Since(info.ModTime()) < time.Hour {
				continue
			}
			if err := os.RemoveAll(path); err != nil {
				return err
			}
		}
	}
	return nil
}

// Version that is served.
func (f *Files) Version() string { return f.version }

// Lookup returns the file at a path below the root, without a leading slash;
// "" is index.html.
func (f *Files) Lookup(path string) (*Asset, bool) {
	if path == "" {
		path = "index.html"
	}
	a, ok := f.byPath[path]
	return a, ok
}

// Bounds of what is served from memory, in bytes: most files of a page are small,
// and opening one costs more than sending it.
const (
	maxSmall = 32 << 10
	maxHeld  = 6 << 20
)

// Small returns what stands in a file of an Asset, or its twin, from memory; nil
// if it is large, or is not what the digest vouches for. Nobody writes to it.
func (f *Files) Small(a *Asset, file string) []byte {
	if b, ok := f.small.Load(file); ok {
		return b.([]byte)
	}
	i := slices.Index([]string{a.Path, a.Gzip, a.Brotli}, file)
	if i < 0 || []int64{a.Size, a.GzipSize, a.BrotliSize}[i] > maxSmall || f.held.Load() > maxHeld {
		return nil
	}
	raw, err := os.ReadFile(file)
	sum := sha256.Sum256(raw)
	if err != nil || hex.EncodeToString(sum[:]) != a.sums[i] {
		return nil
	}
	if _, before := f.small.LoadOrStore(file, raw); !before {
		f.held.Add(int64(len(raw)))
	}
	return raw
}

// Extensions lists the frontend's own extension scripts as a server does.
func (f *Files) Extensions() []string { return append([]string(nil), f.js...) }

// Verify reads every file against its digest, at most every interval, and
// returns the result with its time.
func (f *Files) Verify(interval time.Duration) (at time.Time, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if time.Since(f.checked) > interval {
		f.checkErr = f.verify()
		f.checked = time.Now()
	}
	return f.checked, f.checkErr
}

func (f *Files) verify() error {
	for path, a := range f.byPath {
		for i, file := range []string{a.Path, a.Gzip, a.Brotli} {
			if file == "" {
				continue
			}
			sum, err := wheels.Sum(file)
			if err != nil {
				return fmt.Errorf("frontend file %s: %w", path, err)
			}
			if sum != a.sums[i] {
				return fmt.Errorf("frontend file %s is not what was unpacked; restart the agent to unpack it again", path)
			}
		}
	}
	return nil
}
