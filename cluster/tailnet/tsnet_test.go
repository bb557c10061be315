package tailnet_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ahelme/comfyume/cluster"
	"github.com/ahelme/comfyume/cluster/tailnet"
	"github.com/ahelme/comfyume/cluster/tailnet/controltest"
	"github.com/ahelme/comfyume/cluster/tailnet/networktest"
)

func control(t *testing.T, cfg controltest.Config) *controltest.Control {
	t.Helper()
	c, err := controltest.Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// realm is a workshop on a tailnet of its own.
type realm struct {
	control *controltest.Control
	dirs    map[string]string
}

func (r *realm) Open(t *testing.T, host, tag string) tailnet.Network {
	t.Helper()
	dir, known := r.dirs[host]
	cfg := tailnet.Config{Dir: dir, Hostname: hostname(host), Tags: []string{tag}, ControlURL: r.control.URL()}
	if !known { // a known node comes back without a key
		r.dirs[host] = t.TempDir()
		cfg.Dir, cfg.AuthKey = r.dirs[host], r.control.NewKey(controltest.KeyOptions{})
	}
	return joined(t, cfg)
}

func hostname(host string) string {
	name, _, _ := strings.Cut(host, "/")
	return "comfyume-" + name
}

// joined joins within a time that a loaded machine keeps.
func joined(t *testing.T, cfg tailnet.Config) tailnet.Network {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	n, err := tailnet.Tailnet(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

func TestTailnetConforms(t *testing.T) {
	for _, c := range networktest.Checks() {
		t.Run(c.Name, func(t *testing.T) {
			c.Run(t, &realm{control(t, controltest.Config{}), map[string]string{}})
		})
	}
}

func TestAPersonLetsANodeIn(t *testing.T) {
	c := control(t, controltest.Config{})
	asked := make(chan string, 8)
	cfg := tailnet.Config{
		Dir: filepath.Join(t.TempDir(), "tailnet"), Hostname: "mello", Tags: []string{cluster.TagCore}, ControlURL: c.URL(),
		Approve: func(url string) { asked <- url },
	}
	go func() {
		if url := <-asked; !c.Approve(url) {
			t.Errorf("nobody waits at %s", url)
		}
	}()
	n := joined(t, cfg)
	if got := n.Self().Name; got != "mello" {
		t.Errorf("the node's name is %q", got)
	}
	if info, err := os.Stat(cfg.Dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the folder: %v, %v", info.Mode(), err)
	}
	if info, err := os.Stat(filepath.Join(cfg.Dir, "tailscaled.state")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the identity: %v, %v", info, err)
	}
	expiry, err := n.(tailnet.Expirer).KeyExpiry(t.Context())
	if err != nil || !expiry.IsZero() {
		t.Errorf("KeyExpiry = %v, %v", expiry, err)
	}
}

func TestNobodyLetsANodeIn(t *testing.T) {
	c := control(t, controltest.Config{})
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	asked := make(chan string, 8)
	_, err := tailnet.Tailnet(ctx, tailnet.Config{Dir: t.TempDir(), Hostname: "mello", ControlURL: c.URL(), Approve: func(url string) { asked <- url }})
	if cluster.CodeOf(err) != cluster.Unavailable || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("Tailnet = %v", err)
	}
	if url := <-asked; !strings.Contains(err.Error(), url) {
		t.Errorf("the error names no URL: %v", err)
	}
}

func TestNoControlServer(t *testing.T) {
	c := control(t, controltest.Config{})
	url := c.URL()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := tailnet.Tailnet(ctx, tailnet.Config{Dir: t.TempDir(), Hostname: "mello", ControlURL: url, AuthKey: "tskey-auth-x"})
	if cluster.CodeOf(err) != cluster.Unavailable || !strings.Contains(err.Error(), url) {
		t.Fatalf("Tailnet = %v", err)
	}
}

func TestBadKeysAreNamed(t *testing.T) {
	c := control(t, controltest.Config{})
	used := c.NewKey(controltest.KeyOptions{})
	joined(t, tailnet.Config{Dir: t.TempDir(), Hostname: "first", AuthKey: used, ControlURL: c.URL()})
	for why, key := range map[string]string{
		"does not exist": "tskey-auth-wrong",
		"has expired":    c.NewKey(controltest.KeyOptions{Expires: time.Now().Add(-time.Second)}),
		"has been used":  used,
		"not one of":     c.NewKey(controltest.KeyOptions{Tags: []string{cluster.TagGPU}}),
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		_, err := tailnet.Tailnet(ctx, tailnet.Config{Dir: t.TempDir(), Hostname: "mello", Tags: []string{cluster.TagCore}, AuthKey: key, ControlURL: c.URL()})
		cancel()
		if cluster.CodeOf(err) != cluster.Unauthorized || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %v", why, err)
		}
		if strings.Contains(err.Error(), key) {
			t.Errorf("the error shows the key: %v", err)
		}
	}
}

func TestATagThatNobodyOwnsIsNamed(t *testing.T) {
	c := control(t, controltest.Config{})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, err := tailnet.Tailnet(ctx, tailnet.Config{
		Dir: t.TempDir(), Hostname: "mello", Tags: []string{"tag:other"}, ControlURL: c.URL(), AuthKey: c.NewKey(controltest.KeyOptions{}),
	})
	if cluster.CodeOf(err) != cluster.Forbidden || !strings.Contains(err.Error(), "tag:other") {
		t.Errorf("Tailnet = %v", err)
	}
}

func TestANodeWithoutItsTagIsNoMember(t *testing.T) {
	c := control(t, controltest.Config{})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, err := tailnet.Tailnet(ctx, tailnet.Config{
		Dir: t.TempDir(), Hostname: "mello", Tags: []string{cluster.TagCore}, ControlURL: c.URL(),
		AuthKey: c.NewKey(controltest.KeyOptions{Untagged: true}),
	})
	if cluster.CodeOf(err) != cluster.Forbidden || !strings.Contains(err.Error(), cluster.TagCore) {
		t.Errorf("Tailnet = %v", err)
	}
}

func TestAnEphemeralNodeLeavesNothing(t *testing.T) {
	c := control(t, controltest.Config{})
	t.Setenv("TMPDIR", t.TempDir())
	core := joined(t, tailnet.Config{Dir: t.TempDir(), Hostname: "mello", Tags: []string{cluster.TagCore}, AuthKey: c.NewKey(controltest.KeyOptions{}), ControlURL: c.URL()})
	gpu := joined(t, tailnet.Config{Hostname: "verda", Ephemeral: true, Tags: []string{cluster.TagGPU}, AuthKey: c.NewKey(controltest.KeyOptions{}), ControlURL: c.URL()})
	listed := func() bool {
		peers, err := core.Peers(t.Context())
		return err == nil && slices.ContainsFunc(peers, func(p tailnet.Peer) bool { return p.ID == gpu.Self().ID })
	}
	networktest.Await(t, "the ephemeral node is listed", listed)
	if err := gpu.Close(); err != nil {
		t.Fatal(err)
	}
	networktest.Await(t, "the ephemeral node is gone", func() bool { return !listed() })
	left, err := os.ReadDir(os.Getenv("TMPDIR"))
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestAClientSecretMakesTheKeyItself(t *testing.T) {
	c := control(t, controltest.Config{})
	cfg := tailnet.Config{Dir: t.TempDir(), Hostname: "mello", Tags: []string{cluster.TagCore}, ClientSecret: c.ClientSecret(), ControlURL: c.URL(), APIURL: c.URL()}
	first := joined(t, cfg)
	id := first.Self().ID
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	// A member is not ephemeral, and comes back without the API.
	cfg.APIURL = "http://127.0.0.1:1"
	second := joined(t, cfg)
	if got := second.Self().ID; got != id {
		t.Errorf("after a restart the id is %s, want %s", got, id)
	}
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	// A member whose key has expired makes a new one.
	if !c.Expire(id) {
		t.Fatal("control does not know the node")
	}
	cfg.APIURL = c.URL()
	if got := joined(t, cfg).Self().ID; got != id {
		t.Errorf("after the key expired the id is %s, want %s", got, id)
	}
}

func TestAnExpiredNodeIsLetInAgain(t *testing.T) {
	c := control(t, controltest.Config{})
	asked := make(chan string, 8)
	cfg := tailnet.Config{
		Dir: t.TempDir(), Hostname: "mello", Tags: []string{cluster.TagCore}, ControlURL: c.URL(),
		AuthKey: c.NewKey(controltest.KeyOptions{}), Approve: func(url string) { asked <- url },
	}
	first := joined(t, cfg)
	other := joined(t, tailnet.Config{Dir: t.TempDir(), Hostname: "mac", Tags: []string{cluster.TagCore}, ControlURL: c.URL(), AuthKey: c.NewKey(controltest.KeyOptions{})})
	id := first.Self().ID
	back := func() {
		networktest.Await(t, "the node is online", func() bool {
			peers, err := other.Peers(t.Context())
			return err == nil && slices.ContainsFunc(peers, func(p tailnet.Peer) bool { return p.ID == id && p.Online })
		})
	}
	// While it runs: it asks, and is a member again without a restart. The
	// second time, too.
	for range 2 {
		back()
		if !c.Expire(id) {
			t.Fatal("control does not know the node")
		}
		select {
		case url := <-asked:
			if !c.Approve(url) {
				t.Errorf("nobody waits at %s", url)
			}
		case <-time.After(networktest.Patience):
			t.Fatal("the node does not ask to be let in")
		}
	}
	back()
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	// While it was away, and with no key at hand.
	if !c.Expire(id) {
		t.Fatal("control does not know the node")
	}
	cfg.AuthKey = ""
	go func() { c.Approve(<-asked) }()
	if got := joined(t, cfg).Self().ID; got != id {
		t.Errorf("after the key expired the id is %s, want %s", got, id)
	}
}

func TestWhatCannotJoinIsSaidAtOnce(t *testing.T) {
	for what, cfg := range map[string]tailnet.Config{
		"no folder":           {Hostname: "mello"},
		"no name":             {Dir: t.TempDir()},
		"a secret, no tag":    {Dir: t.TempDir(), Hostname: "mello", ClientSecret: "tskey-client-x-y"},
		"a secret as the key": {Dir: t.TempDir(), Hostname: "mello", AuthKey: "tskey-client-x-y"},
	} {
		if _, err := tailnet.Tailnet(t.Context(), cfg); cluster.CodeOf(err) != cluster.Invalid {
			t.Errorf("%s: %v", what, err)
		}
	}
	damaged := t.TempDir()
	if err := os.WriteFile(filepath.Join(damaged, "tailscaled.state"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := tailnet.Tailnet(t.Context(), tailnet.Config{Dir: damaged, Hostname: "mello", Logger: slog.New(slog.DiscardHandler)}); cluster.CodeOf(err) != cluster.Invalid {
		t.Errorf("a damaged identity: %v", err)
	}
}
