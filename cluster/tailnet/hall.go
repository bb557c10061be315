package tailnet

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/ahelme/comfyume/cluster"
)

// hall is the folder in which the nodes of one machine find each other:
//
//	secret     what all of them know, made once
//	lock       held while a node takes a name and an address
//	ID.node    what a node says of itself; replaced as a whole
//	ID.alive   locked by the node while its process lives
//
// A process id would not do for the last one: it is reused, and it means
// nothing in another container. The kernel drops the lock with the process.
type hall struct {
	dir    string
	secret []byte
}

// registration is one node's file.
type registration struct {
	ID      cluster.NodeID    `json:"id"`
	Name    string            `json:"name"`   // unique in the hall
	Wanted  string            `json:"wanted"` // the name that was asked for
	Tag     string            `json:"tag,omitempty"`
	Addr    netip.Addr        `json:"addr"` // for the others, whatever is bound
	TCP     map[uint16]string `json:"tcp"`  // port → where it really listens
	UDP     map[uint16]string `json:"udp"`
	PID     int               `json:"pid"`     // for people
	Updated int64             `json:"updated"` // ms since 1970
}

func (r registration) peer(online bool) Peer {
	return Peer{ID: r.ID, Name: r.Name, Addr: r.Addr, Tags: r.tags(), Online: online}
}

func (r registration) identity() Identity {
	return Identity{Node: r.ID, Name: r.Name, Tags: r.tags()}
}

func (r registration) tags() []string {
	if r.Tag == "" {
		return nil
	}
	return []string{r.Tag}
}

const (
	nodeSuffix  = ".node"
	aliveSuffix = ".alive"
	secretSize  = 32               // bytes
	hallWait    = 10 * time.Second // for the lock, which is held for milliseconds
)

// openHall makes the folder and its secret when they are not there.
func openHall(dir string) (*hall, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the hall: %w", err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return nil, fmt.Errorf("look at the hall: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, cluster.Errorf(cluster.Invalid, "Other users of this machine could join the workshop through %s; run `chmod 700 %s`.", dir, dir)
	}
	h := &hall{dir: dir}
	return h, h.guard(h.readSecret)
}

// readSecret is called under guard, so that only one node makes it.
func (h *hall) readSecret() error {
	path := filepath.Join(h.dir, "secret")
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		h.secret = random(secretSize)
		if err := write(path, []byte(hex.EncodeToString(h.secret)+"\n"), durable); err != nil {
			return fmt.Errorf("make the hall's secret: %w", err)
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the hall's secret: %w", err)
	}
	h.secret, err = hex.DecodeString(strings.TrimSpace(string(raw)))
	if err != nil || len(h.secret) != secretSize {
		return cluster.Errorf(cluster.Invalid, "The secret in %s is damaged; stop the agents of this machine, remove the file and start them again.", path)
	}
	return nil
}

// guard runs do while no other node takes a name or an address.
func (h *hall) guard(do func() error) error {
	f, err := os.OpenFile(filepath.Join(h.dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("open the hall's lock: %w", err)
	}
	defer func() { _ = f.Close() }() // and with it the lock
	ok, err := lock(f, syscall.LOCK_EX, hallWait)
	if err != nil {
		return fmt.Errorf("lock the hall: %w", err)
	}
	if !ok {
		return cluster.Errorf(cluster.Unavailable, "Another agent of this machine holds %s for more than %s; look for one that is stopped or hangs, and end it.", f.Name(), hallWait)
	}
	return do()
}

// lock takes a lock of the kernel, and gives up after some time.
func lock(f *os.File, how int, patience time.Duration) (bool, error) {
	for begin := time.Now(); ; time.Sleep(2 * time.Millisecond) {
		err := syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB)
		switch {
		case err == nil:
			return true, nil
		case errors.Is(err, syscall.EWOULDBLOCK) || errors.Is(err, syscall.EINTR):
			if time.Since(begin) >= patience {
				return false, nil
			}
		default:
			return false, err
		}
	}
}

func (h *hall) path(id cluster.NodeID, suffix string) string {
	return filepath.Join(h.dir, string(id)+suffix)
}

// list reads all registrations, by id. A damaged one is as good as none: the
// node writes it again when it starts.
func (h *hall) list() ([]registration, error) {
	entries, err := os.ReadDir(h.dir)
	if err != nil {
		return nil, fmt.Errorf("read the hall: %w", err)
	}
	var all []registration
	for _, e := range entries {
		id, ok := strings.CutSuffix(e.Name(), nodeSuffix)
		if !ok || !validID(id) {
			continue
		}
		if r, ok := h.read(cluster.NodeID(id)); ok {
			all = append(all, r)
		}
	}
	return all, nil // ReadDir sorts
}

func (h *hall) read(id cluster.NodeID) (r registration, ok bool) {
	raw, err := os.ReadFile(h.path(id, nodeSuffix))
	if err != nil || json.Unmarshal(raw, &r) != nil {
		return registration{}, false
	}
	return r, r.ID == id && r.Addr.Is4() && r.Name != ""
}

// at finds who has an address.
func (h *hall) at(addr netip.Addr) (registration, bool, error) {
	all, err := h.list()
	if err != nil {
		return registration{}, false, err
	}
	i := slices.IndexFunc(all, func(r registration) bool { return r.Addr == addr })
	if i < 0 {
		return registration{}, false, nil
	}
	return all[i], true, nil
}

func (h *hall) write(r registration) error {
	r.Updated = time.Now().UnixMilli()
	raw, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return fmt.Errorf("write this node's registration: %w", err)
	}
	if err := write(h.path(r.ID, nodeSuffix), append(raw, '\n'), passing); err != nil {
		return fmt.Errorf("write this node's registration: %w", err)
	}
	return nil
}

// alive reports whether the process of a node lives.
func (h *hall) alive(id cluster.NodeID) bool {
	f, err := os.Open(h.path(id, aliveSuffix))
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }()
	got, err := lock(f, syscall.LOCK_SH, 0)
	return err == nil && !got
}

// own locks a node's life; the file must be kept open. It waits a moment,
// because others look at the lock by taking it.
func (h *hall) own(id cluster.NodeID) (*os.File, error) {
	for {
		f, err := os.OpenFile(h.path(id, aliveSuffix), os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return nil, fmt.Errorf("lock this node: %w", err)
		}
		ok, err := lock(f, syscall.LOCK_EX, time.Second)
		if err == nil && !ok {
			err = cluster.Errorf(cluster.Conflict, "Another agent of this machine runs as node %s already; stop it, or start this one with a --state-dir of its own.", id)
		}
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		// A node that was just leaving may have removed the file meanwhile.
		mine, err := f.Stat()
		now, errNow := os.Stat(f.Name())
		if err == nil && errNow == nil && os.SameFile(mine, now) {
			return f, nil
		}
		if err := f.Close(); err != nil {
			return nil, fmt.Errorf("lock this node: %w", err)
		}
	}
}

// forget removes what is left of a node that is gone.
func (h *hall) forget(id cluster.NodeID) error {
	return h.guard(func() error {
		if _, err := os.Stat(h.path(id, nodeSuffix)); !validID(string(id)) || errors.Is(err, fs.ErrNotExist) {
			return cluster.Errorf(cluster.NotFound, "No node %s is known on this machine; `comfyume-agent node ls` lists them.", id)
		}
		if h.alive(id) {
			return cluster.Errorf(cluster.Conflict, "Node %s is running; stop it before it is forgotten.", id)
		}
		return h.remove(id)
	})
}

func (h *hall) remove(id cluster.NodeID) (all error) {
	for _, suffix := range []string{nodeSuffix, aliveSuffix} {
		if err := os.Remove(h.path(id, suffix)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			all = errors.Join(all, err)
		}
	}
	return all
}
